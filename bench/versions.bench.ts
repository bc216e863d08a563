/**
 * The next version of a tree: a node that has typescript 5.9.2 unpacked fetches 5.9.3. The share of its
 * bytes that had to move, against fetching each changed file whole.
 *
 * Both come from the npm registry; without it there are no figures.
 */
import { mkdir, readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { openCluster, run, type Cluster, type Daemon } from '../scripts/cluster.ts'
import { parseCid, sha256 } from '../src/wire/digest.ts'
import { fetchInto, metric } from './daemon-api.ts'
import { figure, type Context, type Subject } from './subject.ts'

const PACKAGE = 'typescript'
const VERSIONS = ['5.9.2', '5.9.3'] as const

async function unpack(cluster: Cluster, version: string): Promise<string> {
  const directory = join(cluster.directory, version)
  await mkdir(directory)
  const script = `cd ${directory} && npm pack --silent ${PACKAGE}@${version} && tar xf ./*.tgz`
  const { code, stderr } = await run('/bin/sh', ['-euc', script])
  if (code !== 0) throw new Error(`no ${PACKAGE}@${version} from the registry: ${stderr}`)
  return join(directory, 'package')
}

/** Puts the tree at the origin and has the peer fetch it; gives the blob bytes that the peer received. */
async function move(
  cluster: Cluster,
  origin: Daemon,
  peer: Daemon,
  directory: string,
): Promise<number> {
  const put = await cluster.mesh(origin, ['put', directory])
  const digest = parseCid(put.stdout.trim())?.digest
  if (digest === undefined) throw new Error(`mesh put ended with ${put.code}: ${put.stderr}`)
  const head = await fetch(`${origin.file.http}/cas/${digest}`, { method: 'HEAD' })
  const before = await metric(peer, 'mesh_transfer_bytes', 'received')
  await fetchInto(peer, { kind: 'dir', digest, size: Number(head.headers.get('content-length')) })
  return (await metric(peer, 'mesh_transfer_bytes', 'received')) - before
}

/** Sizes of the files below, by digest. */
async function filesOf(directory: string): Promise<Map<string, number>> {
  const sizes = new Map<string, number>()
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) {
      const bytes = await readFile(join(entry.parentPath, entry.name))
      sizes.set(sha256(bytes), bytes.byteLength)
    }
  return sizes
}

const total = (sizes: Iterable<number>): number => [...sizes].reduce((sum, size) => sum + size, 0)

export const subject: Subject = {
  name: 'versions',
  async run({ signal, log }: Context) {
    await using cluster = await openCluster('mesh-bench', { signal })
    const [older, newer] = [await unpack(cluster, VERSIONS[0]), await unpack(cluster, VERSIONS[1])]
    const root = await cluster.start({ name: 'root', role: 'root' })
    const origin = await cluster.start({ name: 'origin', role: 'store', parents: [root] })
    const peer = await cluster.start({ name: 'peer', role: 'client', parents: [root] })
    await move(cluster, origin, peer, older)
    const moved = await move(cluster, origin, peer, newer)
    const [had, has] = [await filesOf(older), await filesOf(newer)]
    const bytes = total(has.values())
    const changed = total([...has].filter(([digest]) => !had.has(digest)).map(([, size]) => size))
    log(`${moved} of ${bytes} bytes moved; ${changed} in files that changed`)
    const share = figure((100 * moved) / bytes, '%')
    return {
      [`${PACKAGE} ${VERSIONS[0]} to ${VERSIONS[1]}, bytes moved`]: {
        ...share,
        peer: Number(((100 * changed) / bytes).toPrecision(4)),
        ratio: Number((moved / changed).toPrecision(4)),
      },
    }
  },
}
