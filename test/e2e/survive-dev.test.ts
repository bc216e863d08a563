/** A submitter that is killed once it is no longer needed, and requests that were made while the root was away. */
import assert from 'node:assert/strict'
import { existsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { freePort, openMesh, submitted, tcp } from './meshes.ts'

/** Waits for a file of the host before it uses its source. */
const gated = (gate: string): string => `mesh = 1
[derivation.slow]
builder = "/bin/sh"
args = ["-c", 'until [ -e ${gate} ]; do sleep 0.05; done; tr a-z A-Z < $text > $out']
inputs.text = { path = "./text" }
sealed = false
[derivation.whole]
builder = "/bin/sh"
args = ["-c", 'mkdir $out; cp $slow $out/loud; cp $tree/deep/file $out/deep']
inputs.slow = { output = "slow" }
inputs.tree = { path = "./tree" }
sealed = false
`

test(
  'survive-dev: a detached request completes without its submitter',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const client = { name: 'dev', role: 'client', parents: [root] }
    const [dev] = await Promise.all([
      mesh.start(client),
      mesh.start({
        name: 'w1',
        role: 'worker,store',
        listen: 'none',
        parents: [root],
        args: ['--isolation', 'host'],
      }),
    ])
    const desk = mesh.desk(dev)
    await desk.untilReady('w1')
    const gate = join(mesh.directory, 'gate')
    desk.write('text', 'quiet\n')
    desk.write('tree/deep/file', 'down here\n')
    const detached = await desk.mesh('submit', '-d', desk.write('graph.mesh.toml', gated(gate)))
    assert.equal(detached.code, 0, detached.stderr)
    const id = detached.stdout.trim()
    assert.match(id, /^r-[a-z0-9]+$/)
    const request = await desk.request()
    assert.deepEqual([request?.id, request?.detachable, request?.accepted], [id, true, 'owned'])

    await dev.kill()
    writeFileSync(gate, '')
    const office = mesh.desk(root)
    await office.untilRequest('done', ({ state }) => state === 'done')

    await mesh.start(client)
    const done = await desk.untilRequest('seen done', ({ state }) => state === 'done')
    assert.equal(done.id, id)
    const got = await desk.mesh('get', id, '-o', 'outputs')
    assert.equal(got.code, 0, got.stderr)
    assert.equal(desk.read('outputs/loud'), 'QUIET\n')
    assert.equal(desk.read('outputs/deep'), 'down here\n')
  },
)

test(
  'survive-dev: what is submitted while the root is away is kept, and done when it is back',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const listen = tcp(await freePort())
    const parent = ['--parent', listen]
    const client = { name: 'dev', role: 'client', args: parent }
    const dev = await mesh.start(client)
    const desk = mesh.desk(dev)
    const gate = join(mesh.directory, 'gate')
    writeFileSync(gate, '')
    desk.write('text', 'quiet\n')
    desk.write('tree/deep/file', 'down here\n')
    const file = desk.write('graph.mesh.toml', gated(gate))
    const following = desk.follow('submit', file, '--json', '--progress', 'plain')
    const waiting = await desk.untilRequest('accepted here', () => true)
    assert.deepEqual(
      [waiting.accepted, waiting.state, waiting.detachable],
      ['local', 'waiting', false],
    )
    assert.match(waiting.notices.join(), /root cannot be reached/)

    await dev.kill()
    await mesh.start(client)
    const kept = await desk.untilRequest('still there', () => true)
    assert.deepEqual([kept.id, kept.accepted], [waiting.id, 'local'])
    assert.equal(following.child.exitCode, null, following.output.stderr)

    await mesh.start({ name: 'root', role: 'root', listen })
    await mesh.start({
      name: 'w1',
      role: 'worker,store',
      listen: 'none',
      args: [...parent, '--isolation', 'host'],
    })
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    assert.match(ended.stderr, /MESH0120|root cannot be reached/)
    assert.equal(submitted(ended).request, waiting.id)
    assert(existsSync(join(desk.directory, 'result/whole/loud')))
    assert.equal((await desk.request())?.accepted, 'owned')
  },
)
