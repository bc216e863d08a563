/**
 * Two nodes that cannot reach each other exchange blobs through a node with the store role that both can
 * dial, and never through one without it.
 */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { DaemonOptions } from '../../scripts/cluster.ts'
import { messageOf } from '../../src/base/errors.ts'
import { openStar, type Star } from '../support/netns.ts'
import { openMesh, submitted, type Daemon, type Mesh } from './meshes.ts'

const GRAPH = `mesh = 1
[derivation.loud]
builder = "/bin/sh"
args = ["-c", 'mkdir $out; tr a-z A-Z < $tree/deep/file > $out/loud; cat $big > $out/big']
inputs.tree = { path = "./tree" }
inputs.big = { path = "./big" }
[derivation.loud.run]
retries = 0
`
const BIG_BYTES = 6 * 1024 * 1024

function blobsOf(daemon: Daemon): string[] {
  const directory = join(daemon.directory, 'store', 'blob')
  if (!existsSync(directory)) return []
  return readdirSync(directory, { recursive: true, encoding: 'utf8' }).filter((name) =>
    statSync(join(directory, name)).isFile(),
  )
}

/** Root and store are at the hub; `dev` and `w1` can only dial out. */
async function check(
  mesh: Mesh,
  place: {
    readonly hub: Partial<DaemonOptions>
    outer(machine: number, root?: Daemon): Partial<DaemonOptions>
  },
): Promise<void> {
  const root = await mesh.start({ name: 'root', role: 'root', ...place.hub })
  const [dev] = await Promise.all([
    mesh.start({ name: 'dev', role: 'client', listen: 'none', ...place.outer(0, root) }),
    mesh.start({ name: 'w1', role: 'worker', listen: 'none', ...place.outer(1, root) }),
  ])
  const desk = mesh.desk(dev)
  await desk.untilReady('dev', 'w1')
  desk.write('tree/deep/file', 'quiet\n')
  desk.write('big', Buffer.alloc(BIG_BYTES, 'mesh'))
  desk.write('graph.mesh.toml', GRAPH)
  const apart = await desk.mesh('submit', 'graph.mesh.toml', '--json')
  const [failure] = submitted(apart).failures
  assert.deepEqual([apart.code, failure?.code], [75, 'MESH0501'], apart.stdout)
  assert.deepEqual(blobsOf(root), [], 'a root without a store carries nothing')

  const store = await mesh.start({ name: 's1', role: 'store', parents: [root], ...place.hub })
  await desk.untilReady('s1')
  const together = await desk.mesh('submit', 'graph.mesh.toml', '--json')
  assert.equal(together.code, 0, together.stdout)
  assert.equal(desk.read('result/loud/loud'), 'QUIET\n')
  assert.equal(desk.read('result/loud/big').length, BIG_BYTES)
  assert.equal(submitted(together).bytes.root, 0)
  assert.deepEqual(blobsOf(root), [])
  // The tree, its directory, its file, the big file; the same of the output, of which the big one is known.
  assert(blobsOf(store).length >= 6, 'both ways led through the store')
}

test('relay: nodes that listen nowhere meet at a store', { timeout: 120_000 }, async (t) => {
  await using mesh = await openMesh(t)
  await check(mesh, {
    hub: {},
    outer: (_machine, root) => ({
      args: ['--http', 'none'],
      parents: root === undefined ? [] : [root],
    }),
  })
})

test('relay: nodes in networks of their own meet at a store', { timeout: 120_000 }, async (t) => {
  let star: Star
  try {
    star = openStar(2)
  } catch (error) {
    t.skip(`no network namespaces can be made here: ${messageOf(error)}`)
    return
  }
  t.after(() => star[Symbol.dispose]())
  await using mesh = await openMesh(t)
  await check(mesh, {
    hub: {
      within: star.atHub,
      listen: '/ip4/0.0.0.0/tcp/0',
      args: ['--allow', 'any', '--http', '0.0.0.0:0'],
    },
    outer: (machine, root) => {
      const [, port = ''] = /\/tcp\/(\d+)/.exec(root?.file.listen[0] ?? '') ?? []
      return {
        within: star.at(machine),
        args: ['--parent', `/ip4/${star.hubAddress(machine)}/tcp/${port}`],
      }
    },
  })
})
