/**
 * A tree of 10,000 files of 4 KiB from a node to another: found, sent, checked and stored, and how many
 * questions that took. Beside it, nginx and one curl with a connection that is kept, which checks and
 * indexes nothing.
 */
import { randomBytes } from 'node:crypto'
import { mkdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { openCluster, run, type Cluster, type Daemon } from '../scripts/cluster.ts'
import { parseCid } from '../src/wire/digest.ts'
import { OBJECT_BYTES_MAX } from '../src/wire/cbor.ts'
import { fetchInto, metric } from './daemon-api.ts'
import { findNginx, startNginx } from './nginx.ts'
import { compared, figure, median, timed, type Context, type Subject } from './subject.ts'

const FILES = 10_000
const FILE_BYTES = 4096
const DIRECTORIES = 100
const ROUNDS = 3

/** Paths of the files below `directory`. */
async function makeTree(directory: string): Promise<string[]> {
  const paths: string[] = []
  for (let at = 0; at < DIRECTORIES; at++) {
    await mkdir(join(directory, `d${at}`), { recursive: true })
    for (let file = 0; file < FILES / DIRECTORIES; file++) {
      const path = `d${at}/f${file}`
      await writeFile(join(directory, path), randomBytes(FILE_BYTES))
      paths.push(path)
    }
  }
  return paths
}

async function meshRate(
  cluster: Cluster,
  origin: Daemon,
  peer: Daemon,
  round: number,
): Promise<{ readonly filesPerS: number; readonly lookupsPerBlob: number }> {
  const directory = join(cluster.directory, `tree-${round}`)
  await makeTree(directory)
  const put = await cluster.mesh(origin, ['put', directory])
  const digest = parseCid(put.stdout.trim())?.digest
  if (digest === undefined) throw new Error(`mesh put ended with ${put.code}: ${put.stderr}`)
  const head = await fetch(`${origin.file.http}/cas/${digest}`, { method: 'HEAD' })
  const size = Number(head.headers.get('content-length'))
  if (size > OBJECT_BYTES_MAX) throw new Error(`a tree of ${size} bytes`)
  const before = await metric(peer, 'mesh_lookup_messages')
  const wallMs = await timed(() => fetchInto(peer, { kind: 'dir', digest, size }))
  const messages = (await metric(peer, 'mesh_lookup_messages')) - before
  return { filesPerS: FILES / (wallMs / 1000), lookupsPerBlob: messages / FILES }
}

async function nginxRate(cluster: Cluster, program: string): Promise<number> {
  const directory = join(cluster.directory, 'static')
  const paths = await makeTree(directory)
  await run('chmod', ['-R', 'a+rX', cluster.directory])
  await using nginx = await startNginx({
    program,
    directory,
    scratch: join(cluster.directory, 'nginx'),
  })
  const list = join(cluster.directory, 'urls')
  const samples: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const out = join(cluster.directory, `got-${round}`)
    await writeFile(
      list,
      paths.map((path) => `url = ${nginx.url}/${path}\noutput = ${out}/${path}\n`).join(''),
    )
    const wallMs = await timed(async () => {
      const { code, stderr } = await run('curl', ['-sf', '--create-dirs', '-K', list])
      if (code !== 0) throw new Error(`curl ended with ${code}: ${stderr}`)
    })
    samples.push(FILES / (wallMs / 1000))
  }
  return median(samples)
}

export const subject: Subject = {
  name: 'small-files',
  async run({ signal, log }: Context) {
    await using cluster = await openCluster('mesh-bench', { signal })
    const program = await findNginx()
    const peerRate = program === undefined ? undefined : await nginxRate(cluster, program)
    if (peerRate === undefined) log('nginx is not installed: no figures of a peer')
    const root = await cluster.start({ name: 'root', role: 'root' })
    const origin = await cluster.start({ name: 'origin', role: 'store', parents: [root] })
    const peer = await cluster.start({ name: 'peer', role: 'client', parents: [root] })
    const rates: number[] = []
    let lookups = 0
    for (let round = 0; round < ROUNDS; round++) {
      const { filesPerS, lookupsPerBlob } = await meshRate(cluster, origin, peer, round)
      log(`${filesPerS.toFixed()} files/s, ${lookupsPerBlob.toFixed(4)} questions per blob`)
      rates.push(filesPerS)
      lookups = Math.max(lookups, lookupsPerBlob)
    }
    const rate = median(rates)
    return {
      '10,000 files of 4 KiB':
        peerRate === undefined ? figure(rate, 'files/s') : compared(rate, 'files/s', peerRate),
      'questions per blob': figure(lookups, 'messages'),
    }
  },
}
