/**
 * Sixteen machines that want the same 32 MiB at once, each behind a link of limited rate: what the one
 * that has it sends, and how long it takes until the last has it. Beside it, the same from nginx.
 *
 * Ideal is the time that one copy takes on one link. What is sent is counted at the link: headers,
 * retransmissions and control messages included.
 */
import { randomBytes } from 'node:crypto'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { openCluster, run, until, type Cluster, type Daemon } from '../scripts/cluster.ts'
import { openLan, type Lan } from '../scripts/lan.ts'
import { sha256 } from '../src/wire/digest.ts'
import type { Entry } from '../src/wire/tree.ts'
import { fetchInto } from './daemon-api.ts'
import { findNginx, startNginx } from './nginx.ts'
import { figure, timed, type Context, type Figure, type Subject } from './subject.ts'

const PEERS = 16
const KILLED = PEERS / 4
const BLOB_BYTES = 32 * 2 ** 20
const RATE_MBIT_PER_S = 20
const IDEAL_MS = (BLOB_BYTES * 8) / (RATE_MBIT_PER_S * 1000)
/** Hosts of the LAN. */
const ROOT = 0
const ORIGIN = 1
const FIRST_PEER = 2

interface Farm {
  readonly cluster: Cluster
  readonly lan: Lan
  readonly origin: Daemon
  readonly peers: readonly Daemon[]
}

async function openFarm(cluster: Cluster, lan: Lan): Promise<Farm> {
  const start = (host: number, name: string, role: string, parents: Daemon[]): Promise<Daemon> =>
    cluster.start({
      name,
      role,
      parents,
      listen: `/ip4/${lan.address(host)}/tcp/0`,
      within: lan.at(host),
      args: ['--http', `${lan.address(host)}:0`, '--allow', 'any'],
    })
  const root = await start(ROOT, 'root', 'root', [])
  const origin = await start(ORIGIN, 'origin', 'store', [root])
  const peers: Daemon[] = []
  for (let at = 0; at < PEERS; at++)
    peers.push(await start(FIRST_PEER + at, `peer-${at}`, 'client', [root]))
  return { cluster, lan, origin, peers }
}

async function put({ cluster, origin }: Farm): Promise<Entry> {
  const bytes = randomBytes(BLOB_BYTES)
  const path = join(cluster.directory, 'blob')
  await writeFile(path, bytes)
  const { code, stderr } = await cluster.mesh(origin, ['put', path])
  if (code !== 0) throw new Error(`mesh put ended with ${code}: ${stderr}`)
  return { kind: 'file', digest: sha256(bytes), size: BLOB_BYTES, executable: false }
}

interface Outcome {
  readonly egress: number
  readonly wallMs: number
}

/** All peers at once; with `killed`, the first of them die once the origin has sent half a copy. */
async function fetchAtOnce(farm: Farm, killed: number): Promise<Outcome> {
  const { lan } = farm
  const entry = await put(farm)
  const before = lan.sentBytes(ORIGIN)
  const sent = (): number => lan.sentBytes(ORIGIN) - before
  const wallMs = await timed(async () => {
    const doomed = farm.peers.slice(0, killed)
    const fetching = farm.peers.map((peer, at) => {
      const done = fetchInto(peer, entry)
      return at < killed ? done.catch(() => undefined) : done
    })
    if (killed > 0) {
      await until('half a copy to be out', async () => sent() > BLOB_BYTES / 2 || undefined)
      await Promise.all(doomed.map((peer) => peer.kill()))
    }
    await Promise.all(fetching)
  })
  return { egress: sent() / BLOB_BYTES, wallMs }
}

async function fromNginx(cluster: Cluster, lan: Lan, program: string): Promise<Outcome> {
  await using nginx = await startNginx({
    program,
    directory: cluster.directory,
    scratch: join(cluster.directory, 'nginx'),
    address: lan.address(ORIGIN),
    within: lan.at(ORIGIN),
  })
  await run('chmod', ['755', cluster.directory])
  const before = lan.sentBytes(ORIGIN)
  const wallMs = await timed(() =>
    Promise.all(
      Array.from({ length: PEERS }, async (_, at) => {
        const [command = '', ...args] = [
          ...lan.at(FIRST_PEER + at),
          ...['/bin/sh', '-euc', `curl -sf ${nginx.url}/blob | sha256sum`],
        ]
        const { code, stderr } = await run(command, args)
        if (code !== 0) throw new Error(`curl ended with ${code}: ${stderr}`)
      }),
    ),
  )
  return { egress: (lan.sentBytes(ORIGIN) - before) / BLOB_BYTES, wallMs }
}

const copies = (ours: Outcome, peer?: Outcome): Figure =>
  peer === undefined
    ? figure(ours.egress, 'x the blob')
    : { ...figure(ours.egress, 'x the blob'), peer: Number(peer.egress.toPrecision(4)) }
const time = (ours: Outcome, peer?: Outcome): Figure =>
  peer === undefined
    ? figure(ours.wallMs / IDEAL_MS, 'x ideal')
    : {
        ...figure(ours.wallMs / IDEAL_MS, 'x ideal'),
        peer: Number((peer.wallMs / IDEAL_MS).toPrecision(4)),
      }

export const subject: Subject = {
  name: 'swarm',
  async run({ signal, log }: Context) {
    using lan = openLan({ hosts: FIRST_PEER + PEERS, mbitPerS: RATE_MBIT_PER_S })
    await using cluster = await openCluster('mesh-bench', { signal })
    const farm = await openFarm(cluster, lan)
    const all = await fetchAtOnce(farm, 0)
    log(`${PEERS} at once: ${all.egress.toFixed(2)} copies, ${(all.wallMs / 1000).toFixed(1)} s`)
    const some = await fetchAtOnce(farm, KILLED)
    log(`${KILLED} killed: ${some.egress.toFixed(2)} copies, ${(some.wallMs / 1000).toFixed(1)} s`)
    const program = await findNginx()
    const nginx = program === undefined ? undefined : await fromNginx(cluster, lan, program)
    return {
      [`${PEERS} at once, sent by the origin`]: copies(all, nginx),
      [`${PEERS} at once, time to the last`]: time(all, nginx),
      [`${KILLED} of ${PEERS} killed midway, sent by the origin`]: copies(some),
      [`${KILLED} of ${PEERS} killed midway, time to the last`]: time(some),
    }
  },
}
