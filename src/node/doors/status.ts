/** `mesh status`: what this node knows of itself, and what the owner counts. */
import { z } from 'zod'
import { Status } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import type { Authority } from '../authority.ts'

/** The owner's answer to `GET /api/totals`. */
const Totals = z.object({
  nodes: Status.shape.nodes,
  cpus: Status.shape.cpus,
  jobs: Status.shape.jobs,
  activeRequests: z.int(),
  root: z.object({ name: z.string(), peerId: z.string() }),
})

/** What is said while the owner cannot be asked. */
const NOTHING: Omit<z.infer<typeof Totals>, 'root'> = {
  nodes: { ready: 0, draining: 0, full: 0, lost: 0, sleeping: 0, waking: 0, broken: 0 },
  cpus: { total: 0, busy: 0 },
  jobs: { waiting: 0, running: 0 },
  activeRequests: 0,
}

export async function statusOf(
  authority: Authority,
  own: {
    readonly record: PeerRecord
    readonly version: string
    readonly user: string
    readonly store: Status['store']
    readonly draining: boolean
    /** By an operator, here or above. */
    readonly drain: Status['drain']
  },
): Promise<Status> {
  const answer = await authority.answer({
    verb: 'GET',
    path: '/api/totals',
    body: '',
    user: own.user,
    hops: 0,
  })
  const totals =
    answer.status === 200 ? parseWith(Totals, JSON.parse(answer.body), 'totals') : undefined
  const { nodes, cpus, jobs, activeRequests } = totals ?? NOTHING
  return {
    v: 1,
    name: own.record.name,
    peerId: own.record.peerId,
    roles: own.record.roles,
    version: own.version,
    root: {
      name: totals?.root.name ?? null,
      peerId: totals?.root.peerId ?? null,
      connected: totals !== undefined,
    },
    parents: [...authority.parents()],
    nodes,
    cpus,
    jobs,
    requests: { active: activeRequests, local: authority.waiting.size },
    store: own.store,
    draining: own.draining || own.drain !== undefined,
    ...(own.drain === undefined ? {} : { drain: own.drain }),
    problems: authority.problems(),
  }
}
