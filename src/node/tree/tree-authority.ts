/**
 * A node that has parents: what is submitted here goes up to its owner, questions follow it, and the leases
 * that come down are passed on by the node's own scheduler. While no parent can be reached for a while the
 * node is the head of what hangs below it: it then answers for what is submitted there, until that is done.
 */
import type { Logger } from 'pino'
import { deadline, sleep, type Clock } from '../../base/clock.ts'
import { MeshError, messageOf } from '../../base/errors.ts'
import type { Random } from '../../base/random.ts'
import type { RequestView } from '../../wire/api.ts'
import type { TokenHolder } from '../../wire/access-token.ts'
import { Announced, type Announcement } from '../../wire/announcement.ts'
import { decodeObject, encodeObject } from '../../wire/cbor.ts'
import type { Digest } from '../../wire/digest.ts'
import type { RequestWire } from '../../wire/facts.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import type { SignedResult } from '../../wire/result.ts'
import {
  ApiAnswer,
  Call,
  Checked,
  Done,
  FEATURE_ANNOUNCE,
  FEATURE_TOKEN,
  FEATURE_TREE,
  Located,
  Owner as OwnerAnswer,
  Results,
  Token,
  type Question,
} from '../../wire/work-messages.ts'
import { answerChild, type ApiCall, type Authority } from '../authority.ts'
import type { Blobs } from '../blobs/blobs.ts'
import { checkBlobs, keepBlobs, type CaredStore } from '../blobs/look-after-blobs.ts'
import { moveBlobs } from '../blobs/move-blobs.ts'
import { problemAnswer } from '../doors/problem.ts'
import type { Finding } from '../finding.ts'
import { holdImages } from '../images/hold-images.ts'
import type { ParentStatus } from '../links/parents.ts'
import type { LinkHandlers, PeerLink } from '../links/peer-link.ts'
import { openOutbox, OUTBOX_MAX, type Outbox } from '../outbox.ts'
import { holdsEnd, linesOf } from '../owner/event-feed.ts'
import type { LocalAuthority } from '../owner/local-authority.ts'
import { Unshared } from './unshared.ts'
import { Uplink } from './uplink.ts'

/** How long a user waits for the owner before hearing that the request is kept here. */
const FORWARD_MS = 5_000
/** How long the owner may take to answer a question. */
const ANSWER_MS = 15_000
/** How long a job may be held up by asking above for a stored result. */
const RESULTS_MS = 3_000
const RETRY_MS = 500

export interface TreeDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly blobs: Blobs
  readonly store: CaredStore
  /** Answers for what this node owns, and passes leases on. */
  readonly local: LocalAuthority
  readonly self: () => PeerRecord
  /** Opens a link to a parent at one address. */
  readonly connect: (
    address: string,
    handlers: LinkHandlers,
    signal: AbortSignal,
  ) => Promise<PeerLink>
  /** Called with each new parent: the owner may be another one. */
  readonly onParent: () => void
}

export async function openTreeAuthority(
  deps: TreeDeps,
  options: { readonly directory: string; readonly addresses: readonly string[] },
): Promise<Authority> {
  const outbox = await openOutbox({ directory: options.directory })
  return new TreeAuthority(deps, outbox, options.addresses)
}

class TreeAuthority implements Authority {
  readonly #deps: TreeDeps
  readonly #local: LocalAuthority
  readonly #outbox: Outbox
  readonly #uplink: Uplink
  #forwarding: Promise<void> | undefined
  #isAdopting = false
  readonly #unshared = new Unshared()
  /** Requests that a parent may have taken over although its answer was not heard. */
  readonly #offered = new Set<string>()

  constructor(deps: TreeDeps, outbox: Outbox, addresses: readonly string[]) {
    const { clock, random, log, local, self } = deps
    this.#deps = deps
    this.#local = local
    this.#outbox = outbox
    this.#uplink = new Uplink(
      {
        clock,
        random,
        log: log.child({ component: 'uplink' }),
        self,
        scheduler: local.owner.scheduler,
        apply: (event) => local.owner.apply(event),
        connect: deps.connect,
        serve: (call, options) => this.#serveParent(call, options),
        onWay: (parent) => this.finding.reached(parent),
        onLink: () => {
          deps.onParent()
          void this.#settleOffered()
          this.#forwardSoon()
        },
        onKnown: () => void this.#reconcile(),
      },
      addresses,
    )
    local.useParent({
      sync: () => this.#uplink.request(),
      belowChanged: () => this.#uplink.belowChanged(),
      results: (keys) => this.#resultsAbove(keys),
      committed: (results) => this.#unshared.add(results),
      ask: (question, signal) => this.locate(question, self().peerId, signal),
      announce: (announcement, signal) => this.announce(announcement, self().peerId, signal),
    })
  }

  get finding(): Finding {
    return this.#local.finding
  }

  start(self: PeerRecord): void {
    this.#local.start(self)
    this.#uplink.start()
  }

  beat(): void {
    this.#local.beat()
    this.#uplink.beat()
    if (this.#unshared.size > 0) void this.#reconcile()
    if (this.#outbox.waiting.size === 0) return
    if (this.#isHead) this.#adopt()
    else if (this.#uplink.link() !== undefined) this.#forwardSoon()
  }

  #forwardSoon(): void {
    this.#forward().catch((error: unknown) =>
      this.#deps.log.info({ reason: messageOf(error) }, 'requests could not be handed over yet'),
    )
  }

  parents(): readonly ParentStatus[] {
    return this.#uplink.status()
  }
  hopTo(peerId: string): string | undefined {
    return this.#local.hopTo(peerId) ?? this.#uplink.link()?.peerId
  }
  problems(): string[] {
    const own = this.#local.problems()
    return this.#uplink.link() === undefined ? [...own, 'the root is not reached'] : own
  }

  attach(link: PeerLink): LinkHandlers {
    return this.#local.attach(link, answerChild(this))
  }

  // ---- what the parent asks

  async #serveParent(
    call: Call,
    { signal, peerId: parentId }: { readonly signal: AbortSignal; readonly peerId: string },
  ): Promise<Uint8Array<ArrayBuffer>> {
    const { store, blobs, self } = this.#deps
    switch (call.method) {
      case 'appeared':
        this.finding.finder.appeared(call.digests)
        return encodeObject(Done, { ok: true, bytes: 0, message: '' })
      case 'check':
        return encodeObject(Checked, await checkBlobs(store, call.entries, signal))
      case 'keep':
        return encodeObject(Done, keepBlobs(store.leases, parentId, call))
      case 'images':
        return encodeObject(Done, holdImages({ clock: this.#deps.clock, pins: store.pins }, call))
      case 'pull':
      case 'push':
        return encodeObject(Done, await moveBlobs(blobs, call, signal))
      case 'survey':
        return encodeObject(ApiAnswer, await this.#local.survey(call, signal))
      case 'down': {
        if (call.to !== self().peerId) return this.#local.passDown(call, signal)
        const inner = decodeObject(Call, call.call, 'call that was passed down')
        if (inner.method === 'down') throw new MeshError('MESH0603', 'a call that goes down twice')
        return this.#serveParent(inner, { signal, peerId: parentId })
      }
      case 'submit':
      case 'api':
      case 'events':
      case 'locate':
      case 'announce':
      case 'token':
      case 'results':
      case 'offer':
      case 'below':
        throw new MeshError('MESH0603', `a parent does not ask for ${call.method}`)
    }
  }

  /** Throws MESH0120. */
  #link(): PeerLink {
    const link = this.#uplink.link()
    if (link === undefined) throw unreachable(this.#uplink.status())
    return link
  }

  // ---- requests

  get waiting(): ReadonlyMap<string, RequestWire> {
    return this.#outbox.waiting
  }

  /** Cut off from all parents, with somebody at or below it who builds. */
  get #isHead(): boolean {
    return this.#uplink.isCutOff && this.#local.hasWorkers
  }

  /** Healing moves no request: what could not be built here would wait for ever. It is kept for the root. */
  #answersFor(request: RequestWire): boolean {
    if (this.#local.ownsRequest(request.id)) return true
    const isHead = this.#uplink.link() === undefined && this.#isHead
    return isHead && (this.#uplink.isTop || this.#local.owner.scheduler.couldBuild(request))
  }

  handOver(request: RequestWire, signal: AbortSignal, hops: number): Promise<OwnerAnswer> {
    if (this.#answersFor(request)) return this.#local.handOver(request)
    return this.#link().call({ method: 'submit', request, hops }, OwnerAnswer, { signal })
  }

  /** Resolves when the request is journaled here, and the owner has it or could not be asked in time. */
  async submit(request: RequestWire): Promise<void> {
    const outbox = this.#outbox
    const { clock, log } = this.#deps
    if (this.#answersFor(request)) {
      await this.#local.submit(request)
      return
    }
    if (outbox.waiting.size >= OUTBOX_MAX)
      throw new MeshError(
        'MESH0303',
        `${OUTBOX_MAX} requests wait for the root to be reachable already`,
      )
    await outbox.put(request)
    const limit = deadline(
      clock,
      FORWARD_MS,
      () => new MeshError('MESH0120', 'the root did not answer in time'),
    )
    try {
      await Promise.race([this.#forward(), rejection(limit.signal)])
    } catch (error) {
      log.info(
        { request: request.id, reason: messageOf(error) },
        'request is kept until the root is back',
      )
    } finally {
      limit.cancel()
    }
  }

  /** Sends all that waits; called at every new link. */
  #forward(): Promise<void> {
    this.#forwarding ??= this.#forwardAll().finally(() => {
      this.#forwarding = undefined
    })
    return this.#forwarding
  }

  async #forwardAll(): Promise<void> {
    const outbox = this.#outbox
    const { clock, log } = this.#deps
    for (const request of outbox.waiting.values()) {
      if (this.#local.ownsRequest(request.id)) continue
      const limit = deadline(
        clock,
        ANSWER_MS,
        () => new MeshError('MESH0120', 'the parent did not answer in time'),
      )
      try {
        if (this.#uplink.link() !== undefined) this.#offered.add(request.id)
        const owner = await this.handOver(request, limit.signal, 0)
        log.info({ request: request.id, owner: owner.name }, 'request was handed over')
      } finally {
        limit.cancel()
      }
      this.#offered.delete(request.id)
      await outbox.remove(request.id)
    }
  }

  /** Nobody above can be reached: what waits to be handed over is answered for here. */
  #adopt(): void {
    if (this.#isAdopting) return
    this.#isAdopting = true
    void this.#adoptAll()
      .catch((error: unknown) =>
        this.#deps.log.warn({ err: error }, 'waiting requests could not be taken over'),
      )
      .finally(() => {
        this.#isAdopting = false
      })
  }

  async #adoptAll(): Promise<void> {
    for (const request of [...this.#outbox.waiting.values()]) {
      if (!this.#answersFor(request)) continue
      await this.#local.submit(request)
      await this.#outbox.remove(request.id)
      this.#deps.log.info({ request: request.id }, 'no parent is reached: this node answers for it')
    }
  }

  /** A parent that may have taken over what this node has answered for since need not build it too. */
  async #settleOffered(): Promise<void> {
    for (const id of [...this.#offered]) {
      if (!this.#local.ownsRequest(id)) continue
      const path = `/api/requests/${id}/cancel`
      const { status } = await this.#askUp({ verb: 'POST', path, body: '', user: '', hops: 0 })
      if (status === 200 || status === 404) this.#offered.delete(id)
    }
  }

  /** Those above hear what was built here while they were away, and the other way round. Never throws. */
  async #reconcile(): Promise<void> {
    const link = this.#uplink.link()
    if (link?.remote.features.includes(FEATURE_TREE) !== true) return
    const { clock, log } = this.#deps
    const limit = deadline(
      clock,
      ANSWER_MS,
      () => new MeshError('MESH0120', 'results were not taken in time'),
    )
    try {
      await this.#unshared.share(async (results) => {
        await link.call({ method: 'offer', results: [...results] }, Done, { signal: limit.signal })
      })
      await this.#local.lookAbove()
    } catch (error) {
      log.info({ reason: messageOf(error) }, 'results could not be exchanged yet')
    } finally {
      limit.cancel()
    }
  }

  offer(results: readonly SignedResult[], child: string): Promise<void> {
    return this.#local.offer(results, child)
  }

  // ---- questions

  async answer(call: ApiCall): Promise<ApiAnswer> {
    const id = /^\/api\/(?:requests|jobs)\/([^/?]+)/.exec(call.path)?.[1]
    // In a ring the word that somebody else need not build it comes back to the one who said it.
    if (id !== undefined && call.verb === 'POST' && call.user === '' && this.#offered.has(id))
      return problemAnswer(new MeshError('MESH0505', `${id} is being settled by this node itself`))
    if (id !== undefined && this.#local.knows(decodeURIComponent(id)))
      return this.#local.answer(call)
    const waiting = id === undefined ? undefined : this.waiting.get(id)
    if (waiting !== undefined && /^\/api\/requests\/[^/?]+$/.test(call.path))
      return { status: 200, body: JSON.stringify(this.#view(waiting)) }
    const isList = call.verb === 'GET' && /^\/api\/(?:requests|jobs)(?:\?|$)/.test(call.path)
    if (this.#uplink.link() === undefined) return this.#answerAlone(call)
    const above = await this.#askUp(call)
    if (!isList || above.status !== 200 || this.#local.requestCount === 0) return above
    return joinLists(above, await this.#local.answer(call))
  }

  /** What can be said while nobody above is reached. */
  async #answerAlone(call: ApiCall): Promise<ApiAnswer> {
    const isList = /^\/api\/requests(?:\?|$)/.test(call.path)
    // Names of images are the root's: what this node knows of them would not be what they mean.
    const isForRoot = /^\/api\/images(?:[/?]|$)/.test(call.path) && !this.#uplink.isTop
    if (isForRoot) return problemAnswer(unreachable(this.#uplink.status()))
    if (!this.#uplink.isCutOff && !isList) return problemAnswer(unreachable(this.#uplink.status()))
    const local = await this.#local.answer(call)
    if (!isList || local.status !== 200 || this.waiting.size === 0) return local
    const kept = [...this.waiting.values()].map((request) => this.#view(request))
    return joinLists({ status: 200, body: JSON.stringify(kept) }, local)
  }

  async #askUp(call: ApiCall): Promise<ApiAnswer> {
    const limit = deadline(
      this.#deps.clock,
      ANSWER_MS,
      () => new MeshError('MESH0120', `the root did not answer within ${ANSWER_MS / 1000} s`),
    )
    try {
      return await this.#link().call({ method: 'api', ...call }, ApiAnswer, {
        signal: limit.signal,
      })
    } catch (error) {
      return problemAnswer(error)
    } finally {
      limit.cancel()
    }
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
      counts: {
        total: request.graph.derivations.length,
        built: 0,
        cached: 0,
        failed: 0,
        cancelled: 0,
        running: 0,
        waiting: request.graph.derivations.length,
      },
      outputs: {},
      bytes: { peer: 0, mirror: 0, local: 0, root: 0 },
      wallMs: Math.max(0, this.#deps.clock.wallMs() - request.submittedAtWall),
      serialMs: 0,
      ranLocally: 0,
      failures: [],
      exit: 0,
      replicas: null,
      notices: [unreachable(this.#uplink.status()).message],
    }
  }

  async *events(id: string, hops: number, signal: AbortSignal): AsyncIterable<string> {
    const { clock } = this.#deps
    let hasTold = false
    while (!signal.aborted) {
      if (this.#local.ownsRequest(id)) {
        yield* this.#local.events(id, hops, signal)
        return
      }
      const request = this.waiting.get(id)
      const link = this.#uplink.link()
      if (request !== undefined || link === undefined) {
        if (request !== undefined && !hasTold) {
          hasTold = true
          const at = new Date(clock.wallMs()).toISOString()
          const text = `${unreachable(this.#uplink.status()).message}; the request is kept and sent when the root is back`
          yield linesOf([
            { type: 'request', at, request: this.#view(request) },
            { type: 'notice', at, text },
          ])
        }
        await sleep(clock, RETRY_MS, signal)
        continue
      }
      try {
        for await (const { status, body } of link.stream(
          { method: 'events', request: id, hops },
          ApiAnswer,
          { signal },
        )) {
          if (status !== 200)
            throw new MeshError('MESH0601', `request ${id} is not known to the root`)
          // Passed on as it came: whoever reads it parses it.
          yield body
          if (holdsEnd(body)) return
        }
      } catch (error) {
        signal.throwIfAborted()
        if (error instanceof MeshError && (error.code === 'MESH0601' || error.code === 'MESH0602'))
          throw error
        this.#deps.log.info({ request: id, reason: messageOf(error) }, 'events broke off')
        await sleep(clock, RETRY_MS, signal)
      }
    }
  }

  // ---- blobs and results

  /** The index is at the root; while that is not reached, what hangs below this node knows of itself. */
  async locate(question: Question, asker: string, signal: AbortSignal): Promise<Located> {
    const link = this.#uplink.link()
    if (link === undefined) return this.#local.locate(question, asker, signal)
    if (asker === this.#deps.self().peerId)
      return link.call({ ...question, method: 'locate' }, Located, { signal })
    // Whoever is not connected to the index is not told by it when something appears: it asks again.
    return link.call({ ...question, method: 'locate', watch: [], asker }, Located, { signal })
  }

  /** Taken in here too, for the time when the root is not reached. */
  async announce(
    announcement: Announcement,
    from: string,
    signal: AbortSignal,
  ): Promise<Announced> {
    const here = await this.#local.announce(announcement, from, signal)
    const link = this.#uplink.link()
    if (link === undefined) return here
    if (!link.remote.features.includes(FEATURE_ANNOUNCE))
      throw new MeshError('MESH0121', `${link.remote.record.name} keeps no index: upgrade it`)
    const of = from === this.#deps.self().peerId ? {} : { of: from }
    return link.call({ method: 'announce', ...announcement, ...of }, Announced, { signal })
  }

  async token(to: TokenHolder, signal: AbortSignal): Promise<string> {
    const link = this.#uplink.link()
    if (link === undefined && this.#uplink.isCutOff) return this.#local.token(to)
    if (link?.remote.features.includes(FEATURE_TOKEN) === false)
      throw new MeshError('MESH0121', `${link.remote.record.name} gives no tokens: upgrade it`)
    const { holder, certificate } = to
    const call = { method: 'token', holder, certificate } as const
    return (await this.#link().call(call, Token, { signal })).token
  }

  async results(keys: readonly Digest[], signal: AbortSignal): Promise<readonly SignedResult[]> {
    const here = await this.#local.results(keys)
    return here.length > 0 ? here : this.#resultsAbove(keys, signal)
  }

  /** Never throws: what cannot be asked is built. */
  async #resultsAbove(
    keys: readonly Digest[],
    signal?: AbortSignal,
  ): Promise<readonly SignedResult[]> {
    const link = this.#uplink.link()
    if (link?.remote.features.includes(FEATURE_TREE) !== true) return []
    const limit = deadline(
      this.#deps.clock,
      RESULTS_MS,
      () => new MeshError('MESH0120', 'stored results were not told in time'),
      signal,
    )
    try {
      const call: Call = { method: 'results', keys: [...keys] }
      return (await link.call(call, Results, { signal: limit.signal })).results
    } catch (error) {
      this.#deps.log.debug({ reason: messageOf(error) }, 'no stored results from above')
      return []
    } finally {
      limit.cancel()
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#uplink[Symbol.asyncDispose]()
    await this.#local[Symbol.asyncDispose]()
    await this.#outbox[Symbol.asyncDispose]()
  }
}

/** Two answers that are arrays, the first one's items first. */
function joinLists(a: ApiAnswer, b: ApiAnswer): ApiAnswer {
  if (b.status !== 200) return a
  const lists: unknown[] = [a, b].map(({ body }): unknown => JSON.parse(body))
  return { status: 200, body: JSON.stringify(lists.flat()) }
}

/** MESH0120 with each address and its own result. */
function unreachable(parents: readonly ParentStatus[]): MeshError {
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
