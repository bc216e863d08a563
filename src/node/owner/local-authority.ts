/** This node owns its requests: the scheduler with its driver, its nodes, and the knowledge of who has what. */
import type { Logger } from 'pino'
import { deadline, type Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { totals } from '../../scheduler/views.ts'
import type { ActionCache } from '../../store/action-cache.ts'
import type { RequestWire } from '../../wire/facts.ts'
import type { Signer } from '../../wire/result.ts'
import {
  Done,
  type ApiAnswer,
  type Call,
  type Located,
  type Owner as OwnerAnswer,
  type PeerRecord,
} from '../../wire/work-messages.ts'
import { answerChild, type ApiCall, type Authority } from '../authority.ts'
import type { Blobs, LocateQuery } from '../blobs/blobs.ts'
import { Children } from './children.ts'
import { eventsOf, linesOf } from './event-feed.ts'
import { openJournal, type Journal } from './journal.ts'
import { Locator, RELAY_MS } from './locator.ts'
import { moveBlobs } from '../blobs/move-blobs.ts'
import { Owner } from './owner.ts'
import { OwnerApi } from './owner-api.ts'
import type { LinkHandlers, PeerLink } from '../links/peer-link.ts'
import { WorkerSession, type Sessions } from '../worker-session.ts'

export interface LocalDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly actions: ActionCache
  readonly blobs: Blobs
  readonly signer: Signer
  /** Where this node's own worker is told of its connection. */
  readonly sessions: Sessions
  readonly self: () => PeerRecord
}

/** Replays the journal; throws MESH0105, MESH0106. */
export async function openLocalAuthority(
  deps: LocalDeps,
  options: {
    readonly directory: string
    readonly hello: { mesh: string; protocols: readonly string[]; boot: string }
  },
): Promise<LocalAuthority> {
  const journal = await openJournal({ directory: options.directory })
  const authority = new LocalAuthority(deps, journal, options.hello)
  await authority.owner.start()
  return authority
}

class LocalAuthority implements Authority {
  readonly owner: Owner
  readonly #deps: LocalDeps
  readonly #journal: Journal
  readonly #hello: {
    readonly mesh: string
    readonly protocols: readonly string[]
    readonly boot: string
  }
  readonly #locator: Locator
  readonly #children: Children
  readonly #api: OwnerApi
  readonly #lifetime = new AbortController()
  /** Requests whose sources are on their way to a store node. */
  readonly #detaching = new Set<string>()
  readonly waiting: ReadonlyMap<string, RequestWire> = new Map()

  constructor(
    deps: LocalDeps,
    journal: Journal,
    hello: { readonly mesh: string; readonly protocols: readonly string[]; readonly boot: string },
  ) {
    const { clock, log, actions, blobs, signer, self } = deps
    this.#deps = deps
    this.#journal = journal
    this.#hello = hello
    this.owner = new Owner({
      clock,
      log: log.child({ component: 'owner' }),
      journal,
      actions,
      signer,
      ownBlobBytes: () => blobs.movedBytes,
      onResult: (result, peerId) => this.#locator.addResult(result, peerId),
    })
    this.#locator = new Locator({
      clock,
      log: log.child({ component: 'locator' }),
      scheduler: this.owner.scheduler,
      self,
      callDown: (peerId, call, signal) => this.#callDown(peerId, call, signal),
    })
    this.#children = new Children({
      owner: this.owner,
      locator: this.#locator,
      log: log.child({ component: 'children' }),
    })
    this.#api = new OwnerApi({ owner: this.owner, actions, self })
  }

  totals(): ReturnType<typeof totals> {
    return totals(this.owner.scheduler)
  }

  get epoch(): number {
    return this.owner.scheduler.state.epoch
  }

  async submit(request: RequestWire): Promise<void> {
    await this.owner.submit(request)
    const accepted = this.owner.scheduler.state.requests.get(request.id)
    if (accepted !== undefined) this.#locator.addSources(accepted)
    this.#makeDetachable()
  }

  async handOver(request: RequestWire): Promise<OwnerAnswer> {
    await this.submit(request)
    const { name, peerId } = this.#deps.self()
    return { name, peerId }
  }

  answer(call: ApiCall): Promise<ApiAnswer> {
    return this.#api.answer(call)
  }

  async *events(request: string, _hops: number, signal: AbortSignal): AsyncIterable<string> {
    const { clock, self } = this.#deps
    const both = AbortSignal.any([signal, this.#lifetime.signal])
    const events = eventsOf(
      { owner: this.owner, clock, ownerName: self().name },
      this.#api.findRequest(request),
      both,
    )
    for await (const gathered of events) yield linesOf(gathered)
  }

  locate(query: LocateQuery, asker: string, signal: AbortSignal): Promise<Located> {
    return this.#locator.locate(query, asker, signal)
  }

  parents(): readonly never[] {
    return []
  }
  parentId(): undefined {
    return undefined
  }
  problems(): string[] {
    return this.owner.problem === undefined ? [] : [this.owner.problem]
  }

  attach(link: PeerLink): LinkHandlers {
    return this.#children.attach(link, answerChild(this))
  }

  /** Makes this node a node of its own scheduler; messages cross on the next turn of the event loop. */
  start(self: PeerRecord): void {
    const { sessions } = this.#deps
    const { mesh, protocols, boot } = this.#hello
    let seq = 0
    let isSyncAsked = false
    let isDesiredAsked = false
    const session = new WorkerSession(sessions.worker, sessions.offer, (make) => {
      if (isSyncAsked) return
      isSyncAsked = true
      setImmediate(() => {
        isSyncAsked = false
        this.owner.sync(self.peerId, make())
      })
    })
    this.owner.attach(self, { mesh, protocols }, boot, {
      requestDesired: () => {
        if (isDesiredAsked) return
        isDesiredAsked = true
        setImmediate(() => {
          isDesiredAsked = false
          const message = this.#children.desired(self.peerId, (seq += 1))
          if (message !== undefined) session.take(message)
        })
      },
    })
    sessions.use(session)
    for (const request of this.owner.scheduler.state.requests.values())
      this.#locator.addSources(request)
    this.#makeDetachable()
  }

  beat(): void {
    this.#children.heartbeat()
    this.#makeDetachable()
  }

  /** Gets the sources of every active request to a store node, one try per request at a time. */
  #makeDetachable(): void {
    for (const request of this.owner.scheduler.state.requests.values()) {
      const { id } = request.wire
      if (request.state !== 'active' || request.detachable || this.#detaching.has(id)) continue
      this.#detaching.add(id)
      void this.#locator
        .makeDetachable(request, this.#lifetime.signal)
        .then(
          (isDone) => {
            if (isDone) this.owner.apply({ type: 'detachable', request: id })
          },
          (error: unknown) =>
            this.#deps.log.debug(
              { err: error, request: id },
              'request could not be made detachable',
            ),
        )
        .finally(() => this.#detaching.delete(id))
    }
  }

  async #callDown(
    peerId: string,
    call: Extract<Call, { method: 'pull' | 'push' }>,
    signal: AbortSignal,
  ): Promise<Done> {
    const { clock, blobs, self } = this.#deps
    const limit = deadline(
      clock,
      RELAY_MS,
      () => new MeshError('MESH0505', 'moving blobs took too long'),
      signal,
    )
    try {
      if (peerId === self().peerId) return await moveBlobs(blobs, call, limit.signal)
      const link = this.#children.link(peerId)
      if (link === undefined) return { ok: false, bytes: 0, message: `${peerId} is not connected` }
      return await link.call(call, Done, { signal: limit.signal })
    } finally {
      limit.cancel()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new MeshError('MESH0108', 'the node is stopping'))
    this.#children.close()
    await this.owner.stop()
    await this.#journal[Symbol.asyncDispose]()
  }
}

export type { LocalAuthority }
