/**
 * One blob of 256 MiB from a node to another, over HTTP, HTTPS and libp2p: found, sent, checked and stored.
 * Beside it, where nginx is installed: `curl | sha256sum` of such a file, which finds and stores nothing.
 */
import { writeFile } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import { join } from 'node:path'
import { z } from 'zod'
import { lastJson, openCluster, run, type DaemonOptions } from '../scripts/cluster.ts'
import { submit } from '../scripts/small-mesh.ts'
import { JobView } from '../src/wire/api.ts'
import { findNginx, startNginx } from './nginx.ts'
import {
  compared,
  figure,
  median,
  timed,
  type Context,
  type Figure,
  type Subject,
} from './subject.ts'

const BLOB_MIB = 256
const ROUNDS = 3

/** `source` is made on the small node; `copy` fits only on the large one, which must fetch it. */
function graph(salt: string): string {
  const builder = '/bin/sh'
  return JSON.stringify({
    mesh: 1,
    derivation: {
      source: {
        builder,
        args: ['-euc', `head -c ${BLOB_MIB * 2 ** 20} /dev/urandom > "$out"`],
        env: { SALT: salt },
      },
      copy: {
        builder,
        args: ['-euc', 'wc -c < "$source" > "$out"'],
        inputs: { source: { output: 'source.out' } },
        needs: { memory: '2 GiB' },
      },
    },
  })
}

/** Median MiB/s of the fetch phase on a node that has not got the blob. */
async function meshRate(how: Partial<DaemonOptions>, { signal }: Context): Promise<number> {
  await using cluster = await openCluster('mesh-bench', { signal })
  const root = await cluster.start({ name: 'root', role: 'root' })
  const worker = { role: 'worker,store', cpus: 1, parents: [root] } as const
  const dev = await cluster.start({ name: 'dev', role: 'client', parents: [root] })
  await cluster.start({
    ...worker,
    name: 'small',
    ...how,
    args: ['--memory', '1 GiB', ...(how.args ?? [])],
  })
  const file = join(cluster.directory, 'graph.json')
  const samples: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    await writeFile(file, graph(`round ${round}`))
    // Only the small node is there for the first half.
    const part = ['submit', file, '-A', 'source', '-o', join(cluster.directory, 'part')]
    const made = await cluster.mesh(dev, part)
    if (made.code !== 0) throw new Error(`mesh submit ended with ${made.code}: ${made.stderr}`)
    const large = await cluster.start({
      ...worker,
      name: `large-${round}`,
      args: ['--memory', '4 GiB'],
    })
    const { request } = await submit(cluster, dev, file)
    const jobs = z
      .array(JobView)
      .parse(lastJson(await cluster.mesh(dev, ['jobs', request, '--json'])))
    const copy = jobs.find((job) => job.name === 'copy')
    const fetchMs = copy?.attempts.at(-1)?.phases.fetch
    if (fetchMs === undefined)
      throw new Error(`${request}: the job did not say how long it fetched`)
    samples.push(BLOB_MIB / (fetchMs / 1000))
    await large.stop()
  }
  return median(samples)
}

/** Median MiB/s of `curl | sha256sum` from nginx with sendfile; undefined where nginx is not installed. */
async function nginxRate({ signal, log }: Context): Promise<number | undefined> {
  const program = await findNginx()
  if (program === undefined) {
    log('nginx is not installed: no figures of a peer')
    return undefined
  }
  await using scratch = await openCluster('mesh-bench', { signal })
  const { directory } = scratch
  await run('/bin/sh', [
    '-euc',
    `head -c ${BLOB_MIB * 2 ** 20} /dev/urandom > ${directory}/blob; chmod 755 ${directory}`,
  ])
  await using nginx = await startNginx({ program, directory, scratch: join(directory, 'nginx') })
  const samples: number[] = []
  for (let round = 0; round < ROUNDS; round++) {
    const fetchBlob = `curl -sf ${nginx.url}/blob | sha256sum`
    const wallMs = await timed(() => run('/bin/sh', ['-euc', fetchBlob], {}, signal))
    samples.push(BLOB_MIB / (wallMs / 1000))
  }
  return median(samples)
}

/** Median MiB/s over TLS: a node at another address than loopback is read that way, also from this machine. */
async function httpsRate(context: Context): Promise<number | undefined> {
  const address = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4')?.address
  if (address === undefined) {
    context.log('this machine has no address but loopback: nothing goes over TLS')
    return undefined
  }
  const args = ['--http', `${address}:0`, '--allow', 'any']
  return meshRate({ listen: 'none', args }, context)
}

export const subject: Subject = {
  name: 'transfer',
  async run(context) {
    const peer = await nginxRate(context)
    if (peer !== undefined) context.log(`nginx and curl ${peer.toFixed()} MiB/s`)
    const against = (rate: number): Figure =>
      peer === undefined
        ? figure(rate, 'MiB/s', 'nginx is not installed')
        : compared(rate, 'MiB/s', peer)
    const http = await meshRate({ listen: 'none' }, context)
    context.log(`HTTP ${http.toFixed()} MiB/s`)
    const https = await httpsRate(context)
    if (https !== undefined) context.log(`HTTPS ${https.toFixed()} MiB/s`)
    const libp2p = await meshRate({ args: ['--http', 'none'] }, context)
    context.log(`libp2p ${libp2p.toFixed()} MiB/s`)
    return {
      'over HTTP': against(http),
      ...(https === undefined ? {} : { 'over HTTPS': against(https) }),
      'over libp2p': against(libp2p),
    }
  },
}
