/**
 * Two nodes that cannot reach each other exchange blobs through a node with the store role that both can
 * dial, and never through one without it.
 */
import assert from 'node:assert/strict'
import { existsSync, readdirSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import type { DaemonOptions } from '../../scripts/cluster.ts'
import { sha256 } from '../../src/wire/digest.ts'
import { starFor } from '../support/netns.ts'
import { openMesh, submitted, until, type Daemon, type Mesh } from './meshes.ts'

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
/** No part of it is like another: what is equal travels once. */
const BIG = Array.from({ length: BIG_BYTES / 64 }, (_, at) => sha256(`${at}`)).join('')

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
): Promise<Daemon> {
  const root = await mesh.start({ name: 'root', role: 'root', ...place.hub })
  const [dev] = await Promise.all([
    mesh.start({ name: 'dev', role: 'client', listen: 'none', ...place.outer(0, root) }),
    mesh.start({ name: 'w1', role: 'worker', listen: 'none', ...place.outer(1, root) }),
  ])
  const desk = mesh.desk(dev)
  await desk.untilReady('dev', 'w1')
  desk.write('tree/deep/file', 'quiet\n')
  desk.write('big', BIG)
  desk.write('graph.mesh.toml', GRAPH)
  const following = desk.follow('submit', 'graph.mesh.toml', '--json')
  const waiting = await until('the job to wait for a way', async () => {
    const job = (await desk.jobs()).find(({ name }) => name === 'loud')
    return job?.why?.class === 'unreachable' ? job : undefined
  })
  const why = await desk.mesh('why', waiting.id)
  assert.match(why.stdout, /input (?:tree|big) is at dev, and no way leads from there to w1/)
  assert.match(why.stdout, /inputs within reach +(?:\S.*)?no cut off/)
  assert.match(why.stdout, /start a node with role store that both can dial/)
  assert.deepEqual(waiting.attempts, [], 'what the records rule out is not tried')
  assert.deepEqual(blobsOf(root), [], 'a root without a store carries nothing')

  const store = await mesh.start({ name: 's1', role: 'store', parents: [root], ...place.hub })
  const together = await following.ended
  assert.equal(together.code, 0, together.stdout)
  assert.equal(desk.read('result/loud/loud'), 'QUIET\n')
  assert.equal(desk.read('result/loud/big').length, BIG_BYTES)
  assert.equal(submitted(together).bytes.root, 0)
  assert.deepEqual(blobsOf(root), [])
  // The tree, its directory, its file, the big file; the same of the output, of which the big one is known.
  assert(blobsOf(store).length >= 6, 'both ways led through the store')
  return root
}

test('relay: nodes that listen nowhere meet at a store', { timeout: 120_000 }, async (t) => {
  await using mesh = await openMesh(t)
  const root = await check(mesh, {
    hub: {},
    outer: (_machine, parent) => ({
      args: ['--http', 'none'],
      parents: parent === undefined ? [] : [parent],
    }),
  })
  const metrics = await (await fetch(`${root.file.http}/metrics`)).text()
  const [, relayed = ''] = /^mesh_relayed_bytes_total (\d+)$/m.exec(metrics) ?? []
  // The input went there and the output came back, or lay there already.
  assert(Number(relayed) >= BIG_BYTES, `${relayed} bytes by way of the store`)
  assert(Number(relayed) < 3 * BIG_BYTES, `${relayed} bytes by way of the store`)
})

test('relay: nodes in networks of their own meet at a store', { timeout: 120_000 }, async (t) => {
  const star = starFor(t, 2)
  if (star === undefined) return
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
