/**
 * The node as the door of its users: takes their requests, keeps them until their owner has them, and
 * answers what only the owner knows by asking it.
 */
import type { Logger } from 'pino'
import { deadline, sleep, type Clock } from '../base/clock.ts'
import { MeshError, messageOf } from '../base/errors.ts'
import { checkGraph } from '../scheduler/check-request.ts'
import { Event, Submission, type RequestView } from '../wire/api.ts'
import { parseWith } from '../wire/cbor.ts'
import type { RequestWire } from '../wire/facts.ts'
import { RequestId } from '../wire/names.ts'
import { ApiAnswer, Owner as OwnerAnswer, type PeerRecord } from '../wire/work-messages.ts'
import { OUTBOX_MAX, type Outbox } from './outbox.ts'
import { problemAnswer } from './owner-api.ts'
import type { ParentStatus } from './parents.ts'
import type { PeerLink } from './peer-link.ts'

/** How long a user waits for the owner before hearing that the request is kept here. */
const FORWARD_MS = 5_000
/** How long the owner may take to answer a question. */
const ANSWER_MS = 15_000
const RETRY_MS = 500

/** Who answers for requests: this node itself, or somebody reached through the parent. */
export interface Authority {
  submit(request: RequestWire): Promise<void>
  answer(call: { verb: 'GET' | 'POST'; path: string; body: string; user: string }): Promise<ApiAnswer>
  events(id: string, signal: AbortSignal): AsyncIterable<Event>
  /** Submissions that the owner does not have yet. */
  readonly waiting: ReadonlyMap<string, RequestWire>
}

/** Parses and checks what a user submits. Throws MESH0202-0211. */
export function requestFrom(
  id: string,
  body: unknown,
  by: { readonly entry: PeerRecord; readonly user: string; readonly wallMs: number },
): RequestWire {
  const submission = parseWith(Submission, body, 'submission')
  checkGraph(submission.graph)
  return {
    id: parseWith(RequestId, id, 'request id'),
    user: by.user,
    entry: { peerId: by.entry.peerId, name: by.entry.name },
    graph: submission.graph,
    priority: submission.priority,
    keepGoing: submission.keepGoing,
    noWait: submission.noWait,
    submittedAtWall: by.wallMs,
  }
}

export interface RemoteDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly outbox: Outbox
  readonly link: () => PeerLink | undefined
  readonly parents: () => readonly ParentStatus[]
}

/** The owner is somewhere up the tree. */
export class RemoteAuthority implements Authority {
  readonly #deps: RemoteDeps
  #forwarding: Promise<void> | undefined

  constructor(deps: RemoteDeps) {
    this.#deps = deps
  }

  get waiting(): ReadonlyMap<string, RequestWire> {
    return this.#deps.outbox.waiting
  }

  /** Resolves when the request is journaled here, and the owner has it or could not be asked in time. */
  async submit(request: RequestWire): Promise<void> {
    const { outbox, clock, log } = this.#deps
    if (outbox.waiting.size >= OUTBOX_MAX)
      throw new MeshError('MESH0303', `${OUTBOX_MAX} requests wait for the root to be reachable already`)
    await outbox.put(request)
    const limit = deadline(clock, FORWARD_MS, () => new MeshError('MESH0120', 'the root did not answer in time'))
    try {
      await Promise.race([this.forward(), rejection(limit.signal)])
    } catch (error) {
      log.info({ request: request.id, reason: messageOf(error) }, 'request is kept until the root is back')
    } finally {
      limit.cancel()
    }
  }

  /** Sends all that waits; called at every new link. */
  forward(): Promise<void> {
    this.#forwarding ??= this.#forwardAll().finally(() => {
      this.#forwarding = undefined
    })
    return this.#forwarding
  }

  async #forwardAll(): Promise<void> {
    const { outbox, link, clock, log } = this.#deps
    for (const request of outbox.waiting.values()) {
      const parent = link()
      if (parent === undefined) throw unreachable(this.#deps.parents())
      const limit = deadline(clock, ANSWER_MS, () => new MeshError('MESH0120', 'the parent did not answer in time'))
      try {
        const owner = await parent.call({ method: 'submit', request }, OwnerAnswer, { signal: limit.signal })
        log.info({ request: request.id, owner: owner.name }, 'request was handed over')
      } finally {
        limit.cancel()
      }
      await outbox.remove(request.id)
    }
  }

  async answer(call: { verb: 'GET' | 'POST'; path: string; body: string; user: string }): Promise<ApiAnswer> {
    const local = this.#localAnswer(call.path)
    if (local !== undefined) return local
    const link = this.#deps.link()
    if (link === undefined) return problemAnswer(unreachable(this.#deps.parents()))
    const limit = deadline(this.#deps.clock, ANSWER_MS, () => new MeshError('MESH0120', `the root did not answer within ${ANSWER_MS / 1000} s`))
    try {
      return await link.call({ method: 'api', ...call, hops: 0 }, ApiAnswer, { signal: limit.signal })
    } catch (error) {
      return problemAnswer(error)
    } finally {
      limit.cancel()
    }
  }

  /** What can be said of a request that has not reached its owner. */
  #localAnswer(path: string): ApiAnswer | undefined {
    const id = /^\/api\/requests\/([^/?]+)$/.exec(path)?.[1]
    const request = id === undefined ? undefined : this.waiting.get(id)
    if (request !== undefined) return { status: 200, body: JSON.stringify(this.#view(request)) }
    if (/^\/api\/requests$/.test(path) && this.#deps.link() === undefined)
      return { status: 200, body: JSON.stringify([...this.waiting.values()].map((waiting) => this.#view(waiting))) }
    return undefined
  }

  #view(request: RequestWire): RequestView {
    return {
      id: request.id,
      name: request.graph.name,
      user: request.user,
      state: 'waiting',
      accepted: 'local',
      owner: '',
      detachable: false,
      submittedAt: new Date(request.submittedAtWall).toISOString(),
      endedAt: null,
      counts: { total: request.graph.derivations.length, built: 0, cached: 0, failed: 0, cancelled: 0, running: 0, waiting: request.graph.derivations.length },
      outputs: {},
      bytes: { peer: 0, mirror: 0, local: 0, root: 0 },
      wallMs: Math.max(0, this.#deps.clock.wallMs() - request.submittedAtWall),
      serialMs: 0,
      ranLocally: 0,
      failures: [],
      exit: 0,
      notices: [unreachable(this.#deps.parents()).message],
    }
  }

  async *events(id: string, signal: AbortSignal): AsyncIterable<Event> {
    const { clock } = this.#deps
    let hasTold = false
    while (!signal.aborted) {
      const request = this.waiting.get(id)
      const link = this.#deps.link()
      if (request !== undefined || link === undefined) {
        if (request !== undefined && !hasTold) {
          hasTold = true
          const at = new Date(clock.wallMs()).toISOString()
          yield { type: 'request', at, request: this.#view(request) }
          yield { type: 'notice', at, text: `${unreachable(this.#deps.parents()).message}; the request is kept and sent when the root is back` }
        }
        await sleep(clock, RETRY_MS, signal)
        continue
      }
      try {
        for await (const { status, body } of link.stream({ method: 'events', request: id, hops: 0 }, ApiAnswer, { signal })) {
          if (status !== 200) throw new MeshError('MESH0601', `request ${id} is not known to the root`)
          const event = parseWith(Event, JSON.parse(body), 'event')
          yield event
          if (event.type === 'end') return
        }
      } catch (error) {
        signal.throwIfAborted()
        if (error instanceof MeshError && (error.code === 'MESH0601' || error.code === 'MESH0602')) throw error
        this.#deps.log.info({ request: id, reason: messageOf(error) }, 'events broke off')
        await sleep(clock, RETRY_MS, signal)
      }
    }
  }
}

/** MESH0120 with each address and its own result. */
export function unreachable(parents: readonly ParentStatus[]): MeshError {
  const tried = parents.map(({ address, error }) => `${address}: ${error ?? 'being tried'}`)
  return new MeshError('MESH0120', `the root cannot be reached: ${tried.join('; ')}`, {
    hints: ['what was accepted is kept and sent when the root is back', 'see more: mesh status'],
  })
}

function rejection(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason), { once: true })
  })
}
