/**
 * What a dead mirror costs a node that has a good one besides, and what sixteen readers at once cost the
 * origin behind a mirror node.
 */
import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:net'
import { once } from 'node:events'
import { join } from 'node:path'
import { openCluster, run, type Cluster } from '../scripts/cluster.ts'
import { sha256 } from '../src/wire/digest.ts'
import type { Entry } from '../src/wire/tree.ts'
import { fetchInto, metric } from './daemon-api.ts'
import { findNginx, startNginx } from './nginx.ts'
import { figure, median, timed, type Context, type Figures, type Subject } from './subject.ts'

const BLOBS = 24
const BLOB_BYTES = 20_000
const READERS = 16
const BIG_BYTES = 64 * 2 ** 20

/** Writes a blob into a static mirror's directory. */
async function addBlob(directory: string): Promise<Entry> {
  const bytes = randomBytes(BLOB_BYTES)
  const digest = sha256(bytes)
  const place = join(directory, 'cas/sha256', digest.slice(0, 2))
  await mkdir(place, { recursive: true })
  await writeFile(join(place, digest), bytes)
  return { kind: 'file', digest, size: BLOB_BYTES, executable: false }
}

/** Takes connections and never answers. */
async function openBlackHole(): Promise<Server> {
  const server = createServer((socket) => socket.on('error', () => socket.destroy()))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  return server
}

function portOf(server: Server): number {
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('a TCP server has a port')
  return address.port
}

/** Milliseconds of each fetch by a new node with these mirrors, one after the other. */
async function latencies(
  cluster: Cluster,
  name: string,
  mirrors: readonly string[],
  entries: readonly Entry[],
): Promise<number[]> {
  const node = await cluster.start({
    name,
    role: 'root,store',
    args: mirrors.flatMap((url) => ['--mirror', url]),
  })
  const samples: number[] = []
  for (const entry of entries) samples.push(await timed(() => fetchInto(node, entry)))
  await node.stop()
  return samples
}

async function deadMirror(cluster: Cluster, program: string): Promise<Figures> {
  const directory = join(cluster.directory, 'static')
  const entries: Entry[] = []
  for (let at = 0; at < BLOBS; at++) entries.push(await addBlob(directory))
  await run('chmod', ['-R', 'a+rX', cluster.directory])
  const scratch = join(cluster.directory, 'nginx')
  await using nginx = await startNginx({ program, directory, scratch })
  const hole = await openBlackHole()
  const dead = `http://127.0.0.1:${portOf(hole)}`
  const good = await latencies(cluster, 'good', [nginx.url], entries)
  const both = await latencies(cluster, 'both', [dead, nginx.url], entries)
  hole.close()
  return {
    'first blob beside a dead mirror, added': figure((both[0] ?? 0) - (good[0] ?? 0), 'ms'),
    'the next ones, added (median)': figure(median(both.slice(1)) - median(good.slice(1)), 'ms'),
    'the next ones, added (worst)': figure(
      Math.max(...both.slice(1)) - median(good.slice(1)),
      'ms',
    ),
  }
}

/** Many readers of a mirror node that has nothing at first. */
async function pullThrough(cluster: Cluster): Promise<Figures> {
  const origin = await cluster.start({ name: 'origin', role: 'root,store' })
  const mirror = await cluster.start({
    name: 'mirror',
    role: 'mirror',
    args: ['--mirror', origin.file.http],
  })
  const path = join(cluster.directory, 'big')
  const bytes = randomBytes(BIG_BYTES)
  await writeFile(path, bytes)
  const put = await cluster.mesh(origin, ['put', path])
  if (put.code !== 0) throw new Error(`mesh put ended with ${put.code}: ${put.stderr}`)
  const before = await metric(origin, 'mesh_transfer_bytes', 'sent')
  const url = `${mirror.file.http}/cas/${sha256(bytes)}`
  const wallMs = await timed(() =>
    Promise.all(
      Array.from({ length: READERS }, async () => {
        const { stdout } = await run('/bin/sh', ['-euc', `curl -sf ${url} | sha256sum`])
        if (!stdout.startsWith(sha256(bytes))) throw new Error(`a reader got ${stdout}`)
      }),
    ),
  )
  const sent = (await metric(origin, 'mesh_transfer_bytes', 'sent')) - before
  return {
    [`${READERS} readers of a mirror node, sent by the origin`]: figure(
      sent / BIG_BYTES,
      'x the blob',
    ),
    [`${READERS} readers of a mirror node, all together`]: figure(
      (READERS * BIG_BYTES) / 2 ** 20 / (wallMs / 1000),
      'MiB/s',
    ),
  }
}

export const subject: Subject = {
  name: 'mirror',
  async run({ signal, log }: Context) {
    await using cluster = await openCluster('mesh-bench', { signal })
    const program = await findNginx()
    if (program === undefined) log('nginx is not installed: no figures of a good mirror')
    const dead = program === undefined ? {} : await deadMirror(cluster, program)
    return { ...dead, ...(await pullThrough(cluster)) }
  },
}
