/** What was asked for outlives the nodes that made it, and what vanishes all the same is made again. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { existsSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { openMesh, submitted, type Daemon, type Mesh } from './meshes.ts'

const SIZE = 300_000
const graph = (name: string, extra = ''): string => `mesh = 1
[derivation.${name}]
builder = "/bin/sh"
args = ["-c", 'head -c ${SIZE} /dev/zero | tr "\\\\000" "${name[0]}" > $out']
${extra}`
const digestOf = (name: string): string =>
  createHash('sha256')
    .update((name[0] ?? '').repeat(SIZE))
    .digest('hex')
const blobPath = (daemon: Daemon, digest: string): string =>
  join(daemon.directory, 'store', 'blob', digest.slice(0, 2), digest)

async function open(mesh: Mesh): Promise<{ root: Daemon; dev: Daemon; w1: Daemon }> {
  const root = await mesh.start({ name: 'root', role: 'root' })
  const [dev, w1] = await Promise.all([
    mesh.start({ name: 'dev', role: 'client', parents: [root] }),
    worker(mesh, root, 'w1'),
  ])
  return { root, dev, w1 }
}

const worker = (mesh: Mesh, root: Daemon, name: string, cpus = 1): Promise<Daemon> =>
  mesh.start({
    name,
    role: 'worker,store',
    listen: 'none',
    cpus,
    parents: [root],
    args: ['--isolation', 'host'],
  })

test(
  'durability: what is done is on two stores, and outlives the one that made it',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const { root, dev, w1 } = await open(mesh)
    const s1 = await mesh.start({ name: 's1', role: 'store', parents: [root] })
    const desk = mesh.desk(dev)
    await desk.untilReady('w1', 's1')
    const file = desk.write('graph.mesh.toml', graph('made', 'sealed = false\n'))
    const detached = await desk.mesh('submit', '-d', file)
    assert.equal(detached.code, 0, detached.stderr)
    const done = await desk.untilRequest('done', ({ state }) => state === 'done')
    assert.deepEqual([done.replicas, done.notices], [2, []])
    for (const daemon of [w1, s1])
      assert(existsSync(blobPath(daemon, digestOf('made'))), daemon.directory)
    assert(!existsSync(blobPath(root, digestOf('made'))))
    assert.equal(done.bytes.root, 0)

    await w1.kill()
    const got = await desk.mesh('get', done.id, '-o', 'got')
    assert.equal(got.code, 0, got.stderr)
    assert.equal(desk.read('got').length, SIZE)
    assert.equal((await desk.job('made')).rewinds, 0)
  },
)

test(
  'durability: a second store that comes later gets what is done',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const { root, dev } = await open(mesh)
    const desk = mesh.desk(dev)
    await desk.untilReady('w1')
    const file = desk.write('graph.mesh.toml', graph('made', 'sealed = false\n'))
    const ended = await desk.mesh('submit', '--json', file)
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal(submitted(ended).replicas, 2, 'its own store, and the copy that is here')
    const other = desk.write('other.mesh.toml', graph('other', 'sealed = false\n'))
    assert.equal((await desk.mesh('submit', '-d', other)).code, 0)
    const done = await desk.untilRequest('done', ({ state }) => state === 'done')
    assert.equal(done.replicas, 1)
    const listed = await desk.mesh('jobs', '--requests')
    assert.match(listed.stdout, /COPIES/)

    const s1 = await mesh.start({ name: 's1', role: 'store', parents: [root] })
    await desk.untilRequest('copied', ({ replicas }) => replicas === 2)
    assert(existsSync(blobPath(s1, digestOf('other'))))
    assert(!existsSync(blobPath(s1, digestOf('made'))), 'the client has that one')
    const why = await desk.mesh('why', done.id)
    assert.match(why.stdout, /kept by w1, s1/)
  },
)

for (const [who, isElsewhere] of [
  ['another node', true],
  ['the node that has lost it', false],
] as const)
  test(
    `durability: a removed blob that ${who} needs is made again`,
    { timeout: 120_000 },
    async (t) => {
      await using mesh = await openMesh(t)
      const { root, dev, w1 } = await open(mesh)
      const desk = mesh.desk(dev)
      await desk.untilReady('w1')
      const gate = join(mesh.directory, 'gate')
      const used = `sealed = false
[derivation.used]
builder = "/bin/sh"
args = ["-c", 'until [ -e ${gate} ]; do sleep 0.05; done; wc -c < $made > $out']
inputs.made = { output = "made" }
inputs.slow = { output = "slow" }
needs.cpus = ${isElsewhere ? 2 : 1}
sealed = false
[derivation.slow]
builder = "/bin/sh"
args = ["-c", 'until [ -e ${gate} ]; do sleep 0.05; done; echo slow > $out']
sealed = false
`
      const file = desk.write('graph.mesh.toml', graph('made', used))
      const following = desk.follow('submit', '--json', '--progress', 'plain', file)
      await desk.untilJob('made', 'done')
      await desk.untilJob('slow', 'building')
      rmSync(blobPath(w1, digestOf('made')))
      if (isElsewhere) {
        await worker(mesh, root, 'w2', 2)
        await desk.untilReady('w2')
      }
      writeFileSync(gate, '')
      const ended = await following.ended
      assert.equal(ended.code, 0, ended.stderr)
      assert.equal(desk.read('result/used').trim(), String(SIZE))
      const made = await desk.job('made')
      assert.equal(made.rewinds, 1)
      assert.equal((await desk.job('used')).attempts.at(-1)?.node, isElsewhere ? 'w2' : 'w1')
      const request = await desk.untilRequest('there', () => true)
      assert.match(request.notices.join(), /an output of made was lost[\s\S]*built again, 1 of 3/)
    },
  )

test(
  'durability: a stored result whose bytes are gone is built again',
  { timeout: 120_000 },
  async (t) => {
    await using mesh = await openMesh(t)
    const { dev, w1 } = await open(mesh)
    const desk = mesh.desk(dev)
    await desk.untilReady('w1')
    const file = desk.write('graph.mesh.toml', graph('made', 'sealed = false\n'))
    assert.equal((await desk.mesh('submit', '-d', file)).code, 0)
    await desk.untilRequest('done', ({ state }) => state === 'done')
    rmSync(blobPath(w1, digestOf('made')))
    const ended = await desk.mesh('submit', '--json', file)
    assert.equal(ended.code, 0, ended.stderr)
    assert.equal(desk.read('result/made').length, SIZE)
    assert.deepEqual(submitted(ended).jobs, { built: 1, cached: 0, failed: 0, cancelled: 0 })
  },
)
