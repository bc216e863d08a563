/** Small pieces that the daemon is put together from. */
import type { Server } from 'node:http'
import { statfs } from 'node:fs/promises'
import { networkInterfaces } from 'node:os'
import type { Logger } from 'pino'
import { z } from 'zod'
import type { Clock } from '../base/clock.ts'
import { MeshError, messageOf } from '../base/errors.ts'
import type { Executor } from '../build/executor.ts'
import type { Worker } from '../build/worker.ts'
import { formatBytes } from '../scheduler/match.ts'
import { Event, Status } from '../wire/api.ts'
import { encodeObject, parseWith } from '../wire/cbor.ts'
import { BlobRefJson } from '../wire/digest.ts'
import { ApiAnswer, type Call, type Done, type PeerRecord } from '../wire/work-messages.ts'
import type { Blobs } from './blobs.ts'
import type { Children } from './children.ts'
import type { Config } from './config.ts'
import type { Authority } from './entry.ts'
import { eventsOf } from './event-feed.ts'
import type { Locator } from './locator.ts'
import type { LogTarget, OwnerApi } from './owner-api.ts'
import type { Owner } from './owner.ts'
import { type Offer, WorkerSession } from './worker-session.ts'

/** Hops that a question may take up the tree: beyond it two nodes name each other as parents. */
const HOPS_MAX = 8

/** What the owner counts, as `GET /api/totals`. */
export const Totals = z.object({
  nodes: Status.shape.nodes,
  cpus: Status.shape.cpus,
  jobs: Status.shape.jobs,
  activeRequests: z.int(),
  root: z.object({ name: z.string(), peerId: z.string() }),
})

/** This node answers for requests itself. */
export function localAuthorityOf(deps: {
  readonly owner: Owner
  readonly ownerApi: OwnerApi
  readonly locator: Locator
  readonly clock: Clock
  readonly ownerName: string
  /** A request was accepted: its sources should get to a store node. */
  readonly onSubmitted: () => void
}): Authority {
  const { owner, ownerApi, locator, clock, ownerName } = deps
  return {
    waiting: new Map(),
    async submit(request) {
      await owner.submit(request)
      const accepted = owner.scheduler.state.requests.get(request.id)
      if (accepted !== undefined) locator.addSources(accepted)
      deps.onSubmitted()
    },
    answer: (call) => ownerApi.answer(call),
    async *events(id, signal) {
      yield* eventsOf({ owner, clock, ownerName }, ownerApi.findRequest(id), signal)
    },
  }
}

/** Carries out what a parent asks of the blobs here. Never throws but for an abort. */
export async function moveBlobs(blobs: Blobs, call: Extract<Call, { method: 'pull' | 'push' }>, signal: AbortSignal): Promise<Done> {
  try {
    const bytes =
      call.method === 'pull' ? await blobs.pull(call.entries, call.from, signal) : await blobs.push(call.entries, call.to, signal)
    return { ok: true, bytes, message: '' }
  } catch (error) {
    signal.throwIfAborted()
    return { ok: false, bytes: 0, message: messageOf(error).slice(0, 4096) }
  }
}

/** Makes this node a node of its own scheduler; messages cross on the next turn of the event loop. */
export function attachSelf(deps: {
  readonly owner: Owner
  readonly children: Children
  readonly worker: Worker | undefined
  readonly offer: Offer | undefined
  readonly record: PeerRecord
  readonly version: { readonly mesh: string; readonly protocols: readonly string[] }
  readonly boot: string
}): WorkerSession {
  const { owner, children, record } = deps
  let seq = 0
  let isSyncAsked = false
  let isDesiredAsked = false
  const session = new WorkerSession(deps.worker, deps.offer, (make) => {
    if (isSyncAsked) return
    isSyncAsked = true
    setImmediate(() => {
      isSyncAsked = false
      owner.sync(record.peerId, make())
    })
  })
  owner.attach(record, deps.version, deps.boot, {
    requestDesired() {
      if (isDesiredAsked) return
      isDesiredAsked = true
      setImmediate(() => {
        isDesiredAsked = false
        const message = children.desired(record.peerId, (seq += 1))
        if (message !== undefined) session.take(message)
      })
    },
  })
  return session
}

/** Asks the owner where the log of a job is. */
export async function locateLog(authority: Authority, job: string, attempt: number, user: string): Promise<LogTarget> {
  const answer = await authority.answer({
    verb: 'GET',
    path: `/api/jobs/${encodeURIComponent(job)}/log-target?attempt=${attempt}`,
    body: '',
    user,
  })
  const body: unknown = JSON.parse(answer.body)
  if (answer.status === 200) return parseWith(LogTargetJson, body, 'place of a log')
  const { code, detail, hints } = parseWith(ProblemBody, body, 'problem')
  throw new MeshError(code === 'MESH0601' || code === 'MESH0602' || code === 'MESH0120' ? code : 'MESH0505', detail, { hints })
}

const LogTargetJson = z
  .object({ attempt: z.string(), peerId: z.string(), blob: BlobRefJson.optional(), isLive: z.boolean() })
  .transform((target): LogTarget => ({ ...target, blob: target.blob }))
const ProblemBody = z.object({ code: z.string(), detail: z.string(), hints: z.array(z.string()) })

export async function* encodeEvents(events: AsyncIterable<Event>): AsyncIterable<Uint8Array<ArrayBuffer>> {
  for await (const event of events) yield encodeObject(ApiAnswer, { status: 200, body: JSON.stringify(event) })
}

export async function* encodeAnswers(answers: AsyncIterable<ApiAnswer>): AsyncIterable<Uint8Array<ArrayBuffer>> {
  for await (const answer of answers) yield encodeObject(ApiAnswer, answer)
}

/** Throws MESH0505 for a question that goes in circles. */
export function nextHop(hops: number): number {
  if (hops >= HOPS_MAX) throw new MeshError('MESH0505', `a question went through ${HOPS_MAX} nodes without reaching a root: do two of them name each other as parents?`)
  return hops + 1
}

export async function freeBytes(path: string): Promise<number> {
  const { bavail, bsize } = await statfs(path)
  return bavail * bsize
}

export async function refreshDisk(offer: Offer, path: string, log: Logger): Promise<void> {
  try {
    offer.capacity = { ...offer.capacity, diskBytes: await freeBytes(path) }
  } catch (error) {
    log.warn({ err: error, path }, 'free disk space could not be read')
  }
}

export function splitAddress(address: string): { readonly peerId: string | undefined; readonly transport: string } {
  const match = /^(.*)\/p2p\/([^/]+)$/.exec(address)
  return { peerId: match?.[2], transport: match?.[1] ?? address }
}

/** A parent named with its peer id is admitted without being listed. */
export function isParent(config: Config, peerId: string): boolean {
  return config.parents.some((address) => splitAddress(address).peerId === peerId)
}

/** The URL that other nodes use: an address that they can reach where the server listens on all. */
export function urlOf(server: Server, host: string): string {
  const address = server.address()
  const port = typeof address === 'object' && address !== null ? address.port : 0
  let name = host
  if (host === '0.0.0.0' || host === '::') {
    const outer = Object.values(networkInterfaces())
      .flatMap((list) => list ?? [])
      .find((item) => !item.internal && item.family === (host === '::' ? 'IPv6' : 'IPv4'))
    name = outer?.address ?? '127.0.0.1'
  }
  return `http://${name.includes(':') ? `[${name}]` : name}:${port}`
}

export async function closeServer(server: Server): Promise<void> {
  server.closeAllConnections()
  await new Promise<void>((resolve) => server.close(() => resolve()))
}

/** What the start-up banner says of the worker. */
export function describeWorker(executor: Executor, offer: Offer): string[] {
  const { capacity, environments } = offer
  const kinds = environments.map((environment) => `${environment.system} ${environment.isolation} (${environment.label})`)
  const walls = executor.sandbox.method === 'none' ? 'no walls: only unsealed builds' : `sealed builds by ${executor.sandbox.method}`
  return [`${capacity.cpus} cpus, ${formatBytes(capacity.memoryBytes)} memory, ${formatBytes(capacity.diskBytes)} disk; ${kinds.join(', ')}; ${walls}`]
}
