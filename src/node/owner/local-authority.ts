/** This node owns its requests: the scheduler with its driver, its nodes, and the knowledge of who has what. */
import type { Logger } from 'pino'
import { z } from 'zod'
import { deadline, type Clock } from '../../base/clock.ts'
import type { Random } from '../../base/random.ts'
import { MeshError } from '../../base/errors.ts'
import type { ShareOptions } from '../../scheduler/shares.ts'
import { standingView, type StandingView } from '../../scheduler/standing-view.ts'
import { totals } from '../../scheduler/views.ts'
import type { ActionCache } from '../../store/action-cache.ts'
import type { Digest } from '../../wire/digest.ts'
import type { RequestWire } from '../../wire/facts.ts'
import type { Announced, Announcement } from '../../wire/announcement.ts'
import { mintToken, TOKEN_MS, type TokenHolder } from '../../wire/access-token.ts'
import { decodeObject, encodeCbor } from '../../wire/cbor.ts'
import type { SignedResult, Signer } from '../../wire/result.ts'
import type { Entry } from '../../wire/tree.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import {
  Call,
  Checked,
  Done,
  FEATURE_IMAGES,
  FEATURE_KEEP,
  RESULT_KEYS_MAX,
  type ApiAnswer,
  type Located,
  type Owner as OwnerAnswer,
  type Question,
} from '../../wire/work-messages.ts'
import { answerChild, type ApiCall, type Authority } from '../authority.ts'
import type { Blobs } from '../blobs/blobs.ts'
import { Finding } from '../finding.ts'
import { Children } from './children.ts'
import { eventsOf, linesOf } from './event-feed.ts'
import { openJournal, type Journal } from './journal.ts'
import { holdImages } from '../images/hold-images.ts'
import { ImageApi } from '../images/image-api.ts'
import { ImageKeeper } from '../images/image-keeper.ts'
import { Locator, RELAY_MS } from './locator.ts'
import { checkBlobs, keepBlobs, type CaredStore } from '../blobs/look-after-blobs.ts'
import { moveBlobs } from '../blobs/move-blobs.ts'
import type { Carry } from './carry.ts'
import { LeaseSets } from './lease-sets.ts'
import { Replicator } from './replicator.ts'
import { Survey } from './survey.ts'
import { Owner } from './owner.ts'
import { OwnerApi } from './owner-api.ts'
import type { LinkHandlers, PeerLink } from '../links/peer-link.ts'
import { WorkerSession, type Sessions } from '../worker-session.ts'

/** How long a node may take to hear that something appeared. */
const TELL_MS = 15_000
/** Results of one job that are told: one for each environment that it was built in. */
const RESULTS_PER_KEY_MAX = 4

/** Whoever asked reads it; who only passes it on need not. */
const AnyAnswer = z.unknown()

export interface LocalDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly actions: ActionCache
  readonly blobs: Blobs
  readonly store: CaredStore
  readonly signer: Signer
  /** Where this node's own worker is told of its connection. */
  readonly sessions: Sessions
  readonly self: () => PeerRecord
  /** This node may have a parent, whose leases it passes on. */
  readonly hasParents: boolean
  readonly takesChildren: boolean
  /** Of the finished jobs those that are built again on idle nodes, from 0 to 1. */
  readonly auditShare: number
  /** How the nodes are divided among users. */
  readonly shares: ShareOptions
}

/** The way up of a node that has parents. */
interface ParentPort {
  /** The parent should hear what is here now. */
  sync(): void
  belowChanged(): void
  /** Never throws. */
  results(keys: readonly Digest[]): Promise<readonly SignedResult[]>
  /** Results that those above do not know. */
  committed(results: readonly SignedResult[]): void
  ask(question: Question, signal: AbortSignal): Promise<Located>
  announce(announcement: Announcement, signal: AbortSignal): Promise<Announced>
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
  readonly finding: Finding
  readonly #deps: LocalDeps
  readonly #journal: Journal
  readonly #hello: {
    readonly mesh: string
    readonly protocols: readonly string[]
    readonly boot: string
  }
  readonly #locator: Locator
  readonly #replicator: Replicator
  readonly #leaseSets: LeaseSets
  readonly #imageKeeper: ImageKeeper
  readonly #children: Children
  readonly #api: OwnerApi
  readonly #survey: Survey
  readonly #lifetime = new AbortController()
  #parent: ParentPort | undefined
  /** Requests whose sources are on their way to a store node. */
  readonly #detaching = new Set<string>()
  readonly waiting: ReadonlyMap<string, RequestWire> = new Map()

  constructor(
    deps: LocalDeps,
    journal: Journal,
    hello: { readonly mesh: string; readonly protocols: readonly string[]; readonly boot: string },
  ) {
    const { clock, random, log, actions, blobs, signer, self } = deps
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
      providersOf: (digest) => this.#locator.providersOf(digest),
      onCopy: (copy) => this.#replicator.copy(copy),
      onCheck: (attempt, asks) => this.#replicator.check(attempt, asks),
      hasParents: deps.hasParents,
      takesChildren: deps.takesChildren,
      auditShare: deps.auditShare,
      shares: deps.shares,
      onUplink: () => this.#parent?.sync(),
      resultsAbove: (keys) => this.#parent?.results(keys) ?? Promise.resolve([]),
      onCommitted: (signed) => this.#parent?.committed([signed]),
    })
    this.#locator = new Locator({
      clock,
      random,
      log: log.child({ component: 'locator' }),
      recordOf: (peerId) => this.#recordOf(peerId),
      stores: () => this.owner.scheduler.stores(),
      self,
      callDown: (peerId, call, signal) => this.#callDown(peerId, call, signal),
      tell: (peerId, digests) => void this.#tell(peerId, digests),
    })
    this.#replicator = new Replicator({
      clock,
      log: log.child({ component: 'replicator' }),
      apply: (event) => this.owner.apply(event),
      recordOf: (peerId) => this.#recordOf(peerId),
      providersOf: (digest) => this.#locator.providersOf(digest),
      onCopied: (entry, peerId) => this.#locator.add(entry, peerId),
      carry: (peerId, call, limit) => this.#carry(peerId, call, limit),
      check: (peerId, entries, limit) => this.#check(peerId, entries, limit),
    })
    this.#leaseSets = new LeaseSets({
      clock,
      log: log.child({ component: 'lease-sets' }),
      state: this.owner.scheduler.state,
      providersOf: (digest) =>
        this.#locator.providersOf(digest).filter((peerId) => this.#recordOf(peerId) !== undefined),
      call: (peerId, keep, limit) => this.#keep(peerId, keep, limit),
    })
    this.#imageKeeper = new ImageKeeper({
      clock,
      log: log.child({ component: 'images' }),
      images: this.owner.scheduler.state.images,
      selfId: signer.peerId,
      stores: () => this.owner.scheduler.stores(),
      recordOf: (peerId) => this.#recordOf(peerId),
      providersOf: (digest) => this.#locator.providersOf(digest),
      onKept: (entry, peerId) => this.#locator.add(entry, peerId),
      carry: (peerId, call, limit) => this.#carry(peerId, call, limit),
      hold: (peerId, hold, limit) => this.#holdImages(peerId, hold, limit),
    })
    this.finding = new Finding({
      clock,
      random,
      log,
      blobs,
      index: {
        ask: (question, signal) =>
          this.#parent?.ask(question, signal) ?? this.locate(question, self().peerId, signal),
        announce: (announcement, signal) =>
          this.#parent?.announce(announcement, signal) ??
          this.announce(announcement, self().peerId, signal),
      },
    })
    this.#children = new Children({
      owner: this.owner,
      locator: this.#locator,
      log: log.child({ component: 'children' }),
      self,
      onBelow: () => this.#parent?.belowChanged(),
    })
    this.#survey = new Survey({
      clock,
      owner: this.owner,
      self,
      subtrees: () => this.#children.subtrees,
    })
    this.#api = new OwnerApi({
      owner: this.owner,
      actions,
      self,
      survey: this.#survey,
      images: new ImageApi({
        images: this.owner.scheduler.state.images,
        wallMs: () => clock.wallMs(),
        record: (fact) => this.owner.applyDurably({ type: 'image', fact }),
        keeper: this.#imageKeeper,
        onChange: () => this.#imageKeeper.changed(this.#lifetime.signal),
      }),
      signal: this.#lifetime.signal,
    })
  }

  /** Questions that are not for this node alone go up from now on. */
  useParent(parent: ParentPort): void {
    this.#parent = parent
  }

  get requestCount(): number {
    return this.owner.scheduler.state.requests.size
  }
  ownsRequest(id: string): boolean {
    return this.owner.scheduler.state.requests.has(id)
  }
  /** Whether an id, or the beginning of one, is of a request or job that this node answers for. */
  knows(id: string): boolean {
    const { requests, steps } = this.owner.scheduler.state
    if (requests.has(id) || steps.has(id)) return true
    if (requests.size === 0 || !/^[rj]-[a-z0-9]{3,}$/.test(id)) return false
    const ids = id.startsWith('r-') ? requests.keys() : steps.keys()
    for (const known of ids) if (known.startsWith(id)) return true
    return false
  }
  /** Somebody at or below this node builds. */
  get hasWorkers(): boolean {
    for (const { connected, environments } of this.owner.scheduler.nodes.values())
      if (connected && environments.length > 0) return true
    return false
  }

  /** Who has told this node to take nothing new. */
  get ownDrain(): StandingView['drain'] {
    const { scheduler } = this.owner
    const self = scheduler.nodes.get(this.#deps.self().peerId)
    return self === undefined ? undefined : standingView(scheduler, self, this.owner.moment()).drain
  }

  totals(): ReturnType<typeof totals> {
    return totals(this.owner.scheduler)
  }

  /** Peers that are known to have it, this node among them. */
  providersOf(digest: Digest): readonly string[] {
    return this.#locator.providersOf(digest)
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

  locate(question: Question, asker: string, signal: AbortSignal): Promise<Located> {
    return this.#locator.locate(question, asker, signal)
  }

  announce(announcement: Announcement, from: string, signal: AbortSignal): Promise<Announced> {
    return this.#locator.announce(announcement, from, signal)
  }

  /** Blob bytes that went between others by way of store nodes, since the start. */
  get relayedBytes(): number {
    return this.#locator.relayedBytes
  }

  async token(holder: TokenHolder): Promise<string> {
    const { clock, signer } = this.#deps
    return mintToken(holder, clock.wallMs() + TOKEN_MS, signer)
  }

  /** What is stored here; empty where nothing is. */
  async results(keys: readonly Digest[]): Promise<readonly SignedResult[]> {
    const { actions } = this.#deps
    const found: SignedResult[] = []
    for (const key of keys)
      for (const action of (await actions.actionsOf(key)).slice(0, RESULTS_PER_KEY_MAX)) {
        const cached = await actions.find(action)
        if (cached?.result.jobKey === key) found.push(cached.signed)
      }
    return found
  }

  /** Takes in what a child, or a node below it, answered for. */
  async offer(results: readonly SignedResult[], child: string): Promise<void> {
    const { members } = this.owner.scheduler
    const isBelow = (peerId: string): boolean =>
      peerId === child || members.of(peerId)?.via === child
    const taken = await this.owner.take(
      results,
      ({ builder }, ownerId) => isBelow(ownerId) && isBelow(builder.peerId),
    )
    this.#parent?.committed(taken)
  }

  /** The way up is there again: what waits here may have been built above meanwhile. */
  async lookAbove(): Promise<void> {
    const keys: Digest[] = []
    for (const [job] of this.owner.scheduler.state.openJobs.values())
      if (job !== undefined) keys.push(job.key)
    for (let at = 0; at < keys.length; at += RESULT_KEYS_MAX) {
      const results = await this.#parent?.results(keys.slice(at, at + RESULT_KEYS_MAX))
      if (results !== undefined) await this.owner.take(results, () => true)
    }
  }

  parents(): readonly never[] {
    return []
  }
  hopTo(peerId: string): string | undefined {
    return this.owner.scheduler.members.of(peerId)?.via
  }
  problems(): string[] {
    return this.owner.problem === undefined ? [] : [this.owner.problem]
  }

  attach(link: PeerLink, onCall = answerChild(this)): LinkHandlers {
    return this.#children.attach(link, onCall)
  }

  /** A call of a node above for one below. */
  async passDown(
    { to, call }: Extract<Call, { method: 'down' }>,
    signal: AbortSignal,
  ): Promise<Uint8Array<ArrayBuffer>> {
    const inner = decodeObject(Call, call, 'call that is passed down')
    const answer = await this.#children.call(to, inner, AnyAnswer, signal)
    if (answer === undefined) throw new MeshError('MESH0505', `${to} is not below this node`)
    return encodeCbor(answer)
  }

  /** A question of the API about the nodes at and below this one. */
  survey(call: Extract<Call, { method: 'survey' }>, signal: AbortSignal): Promise<ApiAnswer> {
    return this.#survey.answer(call, signal)
  }

  /** Makes this node a node of its own scheduler; messages cross on the next turn of the event loop. */
  start(self: PeerRecord): void {
    const { sessions } = this.#deps
    const { mesh, protocols, boot } = this.#hello
    let seq = 0
    let isSyncAsked = false
    let isDesiredAsked = false
    const session = new WorkerSession(sessions, (make) => {
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
    this.finding.reached(self.peerId)
    for (const request of this.owner.scheduler.state.requests.values())
      this.#locator.addSources(request)
    this.#makeDetachable()
  }

  beat(): void {
    this.#children.heartbeat()
    this.#makeDetachable()
    this.#leaseSets.beat(this.#lifetime.signal)
    this.#imageKeeper.beat(this.#lifetime.signal)
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

  async #tell(peerId: string, digests: Digest[]): Promise<void> {
    const { clock, log, self } = this.#deps
    if (peerId === self().peerId) {
      this.finding.finder.appeared(digests)
      return
    }
    const limit = deadline(clock, TELL_MS, () => new MeshError('MESH0120', 'no answer in time'))
    try {
      const link = this.#children.link(peerId)
      await link?.call({ method: 'appeared', digests }, Done, { signal: limit.signal })
    } catch (error) {
      log.debug({ err: error, peer: peerId }, 'node was not told what appeared')
    } finally {
      limit.cancel()
    }
  }

  async #callDown(
    peerId: string,
    call: Extract<Call, { method: 'pull' | 'push' }>,
    signal: AbortSignal,
  ): Promise<Done> {
    const limit = deadline(
      this.#deps.clock,
      RELAY_MS,
      () => new MeshError('MESH0505', 'moving blobs took too long'),
      signal,
    )
    try {
      return await this.#carry(peerId, call, limit.signal)
    } finally {
      limit.cancel()
    }
  }

  /** Only an abort throws. */
  async #carry(peerId: string, call: Carry, signal: AbortSignal): Promise<Done> {
    const { blobs, self } = this.#deps
    if (peerId === self().peerId) return await moveBlobs(blobs, call, signal)
    return (
      (await this.#children.call(peerId, call, Done, signal)) ?? {
        ok: false,
        bytes: 0,
        message: `${peerId} is not connected`,
      }
    )
  }

  async #check(peerId: string, entries: readonly Entry[], signal: AbortSignal): Promise<Checked> {
    const { store, self } = this.#deps
    if (peerId === self().peerId) return checkBlobs(store, entries, signal)
    const link = this.#children.link(peerId)
    if (link?.remote.features.includes(FEATURE_KEEP) === false) return { held: [] }
    const call: Call = { method: 'check', entries: [...entries] }
    return (await this.#children.call(peerId, call, Checked, signal)) ?? { held: [] }
  }

  async #keep(
    peerId: string,
    keep: Extract<Call, { method: 'keep' }>,
    signal: AbortSignal,
  ): Promise<Done> {
    const { store, self } = this.#deps
    if (peerId === self().peerId) return keepBlobs(store.leases, peerId, keep)
    const link = this.#children.link(peerId)
    // A node that does not know the call keeps what it was told as well as it can.
    const taken = { ok: true, bytes: 0, message: '' }
    if (link?.remote.features.includes(FEATURE_KEEP) === false) return taken
    return (await this.#children.call(peerId, keep, Done, signal)) ?? taken
  }

  async #holdImages(
    peerId: string,
    hold: Extract<Call, { method: 'images' }>,
    signal: AbortSignal,
  ): Promise<Done> {
    const { clock, store, self } = this.#deps
    if (peerId === self().peerId) return holdImages({ clock, pins: store.pins }, hold)
    const link = this.#children.link(peerId)
    // An older node keeps what the lease sets name, which the images are part of.
    const taken = { ok: true, bytes: 0, message: '' }
    if (link?.remote.features.includes(FEATURE_IMAGES) === false) return taken
    const answer = await this.#children.call(peerId, hold, Done, signal)
    return answer ?? { ok: false, bytes: 0, message: 'it is not connected' }
  }

  /** Of a node that is connected, or of this one. */
  #recordOf(peerId: string): PeerRecord | undefined {
    if (peerId === this.#deps.self().peerId) return this.#deps.self()
    return this.owner.scheduler.recordOf(peerId)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new MeshError('MESH0108', 'the node is stopping'))
    this.finding[Symbol.dispose]()
    this.#replicator[Symbol.dispose]()
    this.#children.close()
    await this.owner.stop()
    await this.#journal[Symbol.asyncDispose]()
  }
}

export type { LocalAuthority }
