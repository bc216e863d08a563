/** Disks that fill up: a worker's job goes elsewhere, an owner waits for room rather than forget. */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { z } from 'zod'
import { NodeView, Status } from '../../src/wire/api.ts'
import { openMesh, problem, submitted, until } from './meshes.ts'

/** A file system of its own for the data directory of a node; undefined where none may be mounted. */
function mountSmall(directory: string, sizeMiB: number): Disposable | undefined {
  mkdirSync(directory, { recursive: true })
  const { status } = spawnSync('mount', [
    '-t',
    'tmpfs',
    '-o',
    `size=${sizeMiB}m`,
    'tmpfs',
    directory,
  ])
  if (status !== 0) return undefined
  return { [Symbol.dispose]: () => void spawnSync('umount', ['-l', directory]) }
}

const NO_MOUNT = 'no small file system can be mounted here'

test(
  'full-disk: what does not fit at one worker is built at another',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    using small = mountSmall(join(mesh.directory, 'w1'), 24)
    if (small === undefined) return t.skip(NO_MOUNT)
    const root = await mesh.start({ name: 'root', role: 'root,store' })
    const w1 = { name: 'w1', role: 'worker', listen: 'none', cpus: 1, parents: [root] }
    await mesh.start(w1)
    const desk = mesh.desk(root)
    await desk.untilReady('w1')
    const writeGraph = (retries: number): string =>
      desk.write(
        'graph.mesh.toml',
        `mesh = 1
[derivation.big]
builder = "/bin/sh"
args = ["-c", 'head -c 40000000 /dev/zero > $out']
run.retries = ${retries}
[derivation.fits]
builder = "/bin/sh"
args = ["-c", 'echo fits > $out']
`,
      )
    writeGraph(2)
    const alone = await desk.mesh('submit', 'graph.mesh.toml', '-k', '--json')
    const { failures, jobs } = submitted(alone)
    assert.deepEqual([alone.code, failures[0]?.code, jobs.built], [73, 'MESH0503', 1], alone.stdout)
    assert.match(failures[0]?.message ?? '', /3 attempts failed.*the disk of w1 is full/)
    await mesh.start({ ...w1, name: 'w2', cpus: 4 })
    await desk.untilReady('w1', 'w2')
    // The first attempt is to be at w1, whichever of the two would be faster.
    assert.equal((await desk.mesh('drain', 'w2')).code, 0)
    writeGraph(20)
    const following = desk.follow('submit', 'graph.mesh.toml', '--json')
    await until('w1 to have failed', async () => {
      const again = await desk.jobs()
      return again.find(
        ({ name, state, attempts }) =>
          name === 'big' && state !== 'failed' && attempts.some((each) => each.state === 'lost'),
      )
    })
    assert.equal((await desk.mesh('undrain', 'w2')).code, 0)
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
    const { attempts } = await desk.job('big')
    assert.deepEqual(
      [attempts[0]?.node, attempts.at(-1)?.node, attempts.at(-1)?.state],
      ['w1', 'w2', 'done'],
    )
    assert.equal(statSync(join(desk.directory, 'result/big')).size, 40_000_000)
  },
)

test('full-disk: an owner without room waits for it', { timeout: 120_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const data = join(mesh.directory, 'root')
  using small = mountSmall(data, 24)
  if (small === undefined) return t.skip(NO_MOUNT)
  const root = await mesh.start({ name: 'root', role: 'root' })
  await mesh.start({ name: 'w1', role: 'worker,store', listen: 'none', cpus: 4, parents: [root] })
  const desk = mesh.desk(root)
  await desk.untilReady('w1')
  const filler = join(data, 'filler')
  spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4096'])
  desk.write(
    'graph.mesh.toml',
    // Longer than what a page of the journal may have room for.
    `mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\nargs = ["-c", 'echo a > $out', "${'x'.repeat(9_000)}"]\n`,
  )
  const following = desk.follow('submit', 'graph.mesh.toml', '--json')
  const status = await until('the owner to tell', async () => {
    const now = await desk.ask(Status, '/api/status')
    return now !== undefined && now.problems.length > 0 ? now : undefined
  })
  assert.match(status.problems.join(), /journal.*no space|journal.*ENOSPC/i)
  rmSync(filler)
  const ended = await following.ended
  assert.equal(ended.code, 0, ended.stderr)
  assert.deepEqual((await desk.ask(Status, '/api/status'))?.problems, [])
})

test(
  'full-disk: a node without room says so, and takes no work until it has some',
  { timeout: 180_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const data = join(mesh.directory, 'w1')
    using small = mountSmall(data, 48)
    if (small === undefined) return t.skip(NO_MOUNT)
    const root = await mesh.start({ name: 'root', role: 'root' })
    const w1 = await mesh.start({
      name: 'w1',
      role: 'worker,store',
      listen: 'none',
      cpus: 1,
      parents: [root],
    })
    const [desk, there] = [mesh.desk(root), mesh.desk(w1)]
    await desk.untilReady('w1')
    const filler = join(data, 'filler')
    spawnSync('dd', ['if=/dev/zero', `of=${filler}`, 'bs=1M', 'count=45'])
    there.write('big', Buffer.alloc(4_000_000, 'big'))
    const put = await there.mesh('put', 'big', '--json')
    assert.deepEqual([put.code, problem(put).code], [73, 'MESH0503'], put.stdout)
    const node = await until('w1 to say that it is full', async () => {
      const nodes = await desk.ask(z.array(NodeView), '/api/nodes')
      return nodes?.find(({ name, state }) => name === 'w1' && state === 'full')
    })
    assert.match(node.note, /w1 has [\d.]+ MiB free: no new jobs until well over 12 MiB are/)
    assert.match((await desk.mesh('nodes')).stdout, /w1 +full .*MiB free/)
    desk.write(
      'graph.mesh.toml',
      `mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\nargs = ["-c", 'echo a > $out']\n`,
    )
    const following = desk.follow('submit', 'graph.mesh.toml', '--json')
    const waiting = await until('the job to wait', async () => {
      const [job] = await desk.jobs()
      return job?.why?.class === 'away' ? job : undefined
    })
    assert.match(waiting.why?.text ?? '', /w1 \(full: .*MiB free/)
    assert.match((await desk.mesh('why', waiting.id)).stdout, /make room on w1 +mesh gc/)
    assert.deepEqual(waiting.attempts, [])
    rmSync(filler)
    const ended = await following.ended
    assert.equal(ended.code, 0, ended.stderr)
  },
)
