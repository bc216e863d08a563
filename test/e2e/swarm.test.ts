/**
 * Real daemons that want one big blob at once: what the one that has it sends, and who gets it although a
 * quarter of them, or the origin, is killed midway.
 */
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { fetchInto, metric } from '../../bench/daemon-api.ts'
import { openCluster, until, type Cluster, type Daemon } from '../../scripts/cluster.ts'
import { sha256 } from '../../src/wire/digest.ts'
import type { Entry } from '../../src/wire/tree.ts'

const BLOB_BYTES = 64 * 1024 * 1024
const PEERS = 8

interface Farm {
  readonly cluster: Cluster
  readonly origin: Daemon
  readonly peers: readonly Daemon[]
  readonly entry: Entry & { readonly kind: 'file' }
}

async function openFarm(t: TestContext): Promise<Farm> {
  const cluster = await openCluster('mesh-swarm', { signal: t.signal })
  t.after(() => cluster[Symbol.asyncDispose]())
  const http = ['--http', '127.0.0.1:0']
  const root = await cluster.start({ name: 'root', role: 'root', args: http })
  const below = { parents: [root], args: http }
  const origin = await cluster.start({ name: 'origin', role: 'store', ...below })
  const peers: Daemon[] = []
  for (let at = 0; at < PEERS; at++)
    peers.push(await cluster.start({ name: `peer-${at}`, role: 'client', ...below }))
  const bytes = randomBytes(BLOB_BYTES)
  const path = join(cluster.directory, 'blob')
  writeFileSync(path, bytes)
  const put = await cluster.mesh(origin, ['put', path])
  assert.equal(put.code, 0, put.stderr)
  const entry = {
    kind: 'file',
    digest: sha256(bytes),
    size: BLOB_BYTES,
    executable: false,
  } as const
  return { cluster, origin, peers, entry }
}

const sentBy = (daemon: Daemon): Promise<number> =>
  metric(daemon, 'mesh_transfer_bytes', 'direction="sent"')

function assertHas(peer: Daemon, { digest }: Farm['entry']): void {
  const path = join(peer.directory, 'store', 'blob', digest.slice(0, 2), digest)
  assert.equal(sha256(readFileSync(path)), digest, peer.name)
}

test('swarm: eight daemons get a blob at once, and its origin sends it once', async (t) => {
  const { origin, peers, entry } = await openFarm(t)
  await Promise.all(peers.map((peer) => fetchInto(peer, entry)))
  for (const peer of peers) assertHas(peer, entry)
  const egress = (await sentBy(origin)) / BLOB_BYTES
  t.diagnostic(`the origin sent ${egress.toFixed(3)} blobs`)
  assert(egress <= 1.1, `${egress} blobs`)
})

test('swarm: with a quarter killed midway all others get the blob', async (t) => {
  const { origin, peers, entry } = await openFarm(t)
  const doomed = peers.slice(0, PEERS / 4)
  const fetching = Promise.allSettled(peers.map((peer) => fetchInto(peer, entry)))
  await until('half a copy to be out', async () =>
    (await sentBy(origin)) > BLOB_BYTES / 2 ? true : undefined,
  )
  await Promise.all(doomed.map((peer) => peer.kill()))
  const ended = (await fetching).slice(doomed.length)
  assert.deepEqual(
    ended.map(({ status }) => status),
    ended.map(() => 'fulfilled'),
  )
  for (const peer of peers.slice(doomed.length)) assertHas(peer, entry)
  const egress = (await sentBy(origin)) / BLOB_BYTES
  t.diagnostic(`the origin sent ${egress.toFixed(3)} blobs`)
  assert(egress <= 1.3, `${egress} blobs`)
})

test('swarm: the origin is killed when one daemon has the blob, and the others get it from each other', async (t) => {
  const { origin, peers, entry } = await openFarm(t)
  const fetching = peers.map((peer) => fetchInto(peer, entry))
  // Whoever has all of it is proof that each chunk is out.
  await Promise.race(fetching)
  await origin.kill()
  await Promise.all(fetching)
  for (const peer of peers) assertHas(peer, entry)
})
