/**
 * The owner is somewhere up the tree: requests are kept here until it has them, questions are passed on,
 * and this node's worker works for it.
 */
import type { Logger } from 'pino'
import { deadline, sleep, type Clock } from '../base/clock.ts'
import { MeshError, messageOf } from '../base/errors.ts'
import type { Random } from '../base/random.ts'
import type { RequestView } from '../wire/api.ts'
import type { TokenHolder } from '../wire/access-token.ts'
import { Announced, type Announcement } from '../wire/announcement.ts'
import { encodeObject } from '../wire/cbor.ts'
import type { RequestWire } from '../wire/facts.ts'
import {
  ApiAnswer,
  Checked,
  Done,
  FEATURE_ANNOUNCE,
  FEATURE_TOKEN,
  Located,
  Owner as OwnerAnswer,
  Token,
  type Call,
  type Question,
} from '../wire/work-messages.ts'
import { answerChild, type ApiCall, type Authority } from './authority.ts'
import type { Blobs } from './blobs/blobs.ts'
import { Finding } from './finding.ts'
import { holdsEnd, linesOf } from './owner/event-feed.ts'
import { checkBlobs, keepBlobs, type CaredStore } from './blobs/look-after-blobs.ts'
import { moveBlobs } from './blobs/move-blobs.ts'
import { openOutbox, OUTBOX_MAX, type Outbox } from './outbox.ts'
import { createParents, type Parents, type ParentStatus } from './links/parents.ts'
import type { LinkHandlers, PeerLink } from './links/peer-link.ts'
import { problemAnswer } from './doors/problem.ts'
import { WorkerSession, type Sessions } from './worker-session.ts'

/** How long a user waits for the owner before hearing that the request is kept here. */
const FORWARD_MS = 5_000
/** How long the owner may take to answer a question. */
const ANSWER_MS = 15_000
const RETRY_MS = 500

export interface RemoteDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly blobs: Blobs
  readonly store: CaredStore
  readonly sessions: Sessions
  /** Opens a link to a parent at one address. */
  readonly connect: (
    address: string,
    handlers: LinkHandlers,
    signal: AbortSignal,
  ) => Promise<PeerLink>
  /** Called with each new parent: the owner may be another one. */
  readonly onParent: () => void
}

export async function openRemoteAuthority(
  deps: RemoteDeps,
  options: { readonly directory: string; readonly addresses: readonly string[] },
): Promise<Authority> {
  return new RemoteAuthority(
    deps,
    await openOutbox({ directory: options.directory }),
    options.addresses,
  )
}

class RemoteAuthority implements Authority {
  readonly #deps: RemoteDeps
  readonly finding: Finding
  readonly #outbox: Outbox
  readonly #parents: Parents
  #session: WorkerSession | undefined
  #forwarding: Promise<void> | undefined
  #hasWarned = false

  constructor(deps: RemoteDeps, outbox: Outbox, addresses: readonly string[]) {
    const { clock, random, log, sessions, blobs } = deps
    this.#deps = deps
    this.#outbox = outbox
    this.finding = new Finding({
      clock,
      random,
      log,
      blobs,
      index: {
        ask: (question, signal) =>
          this.#link().call({ ...question, method: 'locate' }, Located, { signal }),
        announce: (announcement, signal) => this.#announce(announcement, signal),
      },
    })
    this.#parents = createParents(
      {
        clock,
        random,
        log: log.child({ component: 'parents' }),
        connect: (address, { signal }) =>
          deps.connect(
            address,
            {
              onCall: (call, options) => this.#serveParent(call, options),
              onDesired: (message) => this.#session?.take(message),
            },
            signal,
          ),
      },
      {
        addresses,
        onLink: (link) => {
          const session = new WorkerSession(sessions, (make) => link.requestSync(make))
          this.#session = session
          sessions.use(session)
          void link.closed.then(() => sessions.drop(session))
          this.finding.reached(link.peerId)
          deps.onParent()
          this.#forward().catch((error: unknown) =>
            log.info({ reason: messageOf(error) }, 'requests could not be handed over yet'),
          )
        },
      },
    )
  }

  start(): void {
    this.#parents.start()
  }
  beat(): void {
    // The worker's session says that this node lives; nothing else is due.
  }
  parents(): readonly ParentStatus[] {
    return this.#parents.status()
  }
  parentId(): string | undefined {
    return this.#parents.link()?.peerId
  }
  problems(): string[] {
    return this.#parents.link() === undefined ? ['the root is not reached'] : []
  }

  /** A child of this node: its questions are passed on, but work comes from the root alone. */
  attach(link: PeerLink): LinkHandlers {
    const { log } = this.#deps
    return {
      onCall: answerChild(this),
      onSync: (message) => {
        if (this.#hasWarned || message.environments.length === 0) return
        this.#hasWarned = true
        log.warn(
          { node: link.remote.record.name },
          'a worker hangs below this node, which has a parent: it gets no work here; attach it to the root',
        )
      },
    }
  }

  async #serveParent(
    call: Call,
    { signal, peerId: parentId }: { readonly signal: AbortSignal; readonly peerId: string },
  ): Promise<Uint8Array<ArrayBuffer>> {
    if (call.method === 'appeared') {
      this.finding.finder.appeared(call.digests)
      return encodeObject(Done, { ok: true, bytes: 0, message: '' })
    }
    if (call.method === 'check')
      return encodeObject(Checked, await checkBlobs(this.#deps.store, call.entries, signal))
    if (call.method === 'keep')
      return encodeObject(Done, keepBlobs(this.#deps.store.leases, parentId, call))
    if (call.method !== 'pull' && call.method !== 'push')
      throw new MeshError('MESH0603', `a parent does not ask for ${call.method}`)
    return encodeObject(Done, await moveBlobs(this.#deps.blobs, call, signal))
  }

  /** Throws MESH0120. */
  #link(): PeerLink {
    const link = this.#parents.link()
    if (link === undefined) throw unreachable(this.#parents.status())
    return link
  }

  handOver(request: RequestWire, signal: AbortSignal): Promise<OwnerAnswer> {
    return this.#link().call({ method: 'submit', request }, OwnerAnswer, { signal })
  }

  /** A child is not told when something appears: it asks again. */
  async locate(question: Question, _asker: string, signal: AbortSignal): Promise<Located> {
    const link = this.#parents.link()
    if (link === undefined) return { peers: [], providers: [] }
    return link.call({ ...question, method: 'locate', watch: [] }, Located, { signal })
  }

  announce(): Promise<Announced> {
    return Promise.reject(
      new MeshError('MESH0603', 'this node has a parent and keeps no index for its children'),
    )
  }

  async #announce(announcement: Announcement, signal: AbortSignal): Promise<Announced> {
    const link = this.#link()
    if (!link.remote.features.includes(FEATURE_ANNOUNCE))
      throw new MeshError('MESH0121', `${link.remote.record.name} keeps no index: upgrade it`)
    return link.call({ method: 'announce', ...announcement }, Announced, { signal })
  }

  async token({ holder, certificate }: TokenHolder, signal: AbortSignal): Promise<string> {
    const link = this.#link()
    if (!link.remote.features.includes(FEATURE_TOKEN))
      throw new MeshError('MESH0121', `${link.remote.record.name} gives no tokens: upgrade it`)
    const call = { method: 'token', holder, certificate } as const
    return (await link.call(call, Token, { signal })).token
  }

  get waiting(): ReadonlyMap<string, RequestWire> {
    return this.#outbox.waiting
  }

  /** Resolves when the request is journaled here, and the owner has it or could not be asked in time. */
  async submit(request: RequestWire): Promise<void> {
    const outbox = this.#outbox
    const { clock, log } = this.#deps
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
      const limit = deadline(
        clock,
        ANSWER_MS,
        () => new MeshError('MESH0120', 'the parent did not answer in time'),
      )
      try {
        const owner = await this.handOver(request, limit.signal)
        log.info({ request: request.id, owner: owner.name }, 'request was handed over')
      } finally {
        limit.cancel()
      }
      await outbox.remove(request.id)
    }
  }

  async answer(call: ApiCall): Promise<ApiAnswer> {
    const local = this.#localAnswer(call.path)
    if (local !== undefined) return local
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

  /** What can be said of a request that has not reached its owner. */
  #localAnswer(path: string): ApiAnswer | undefined {
    const id = /^\/api\/requests\/([^/?]+)$/.exec(path)?.[1]
    const request = id === undefined ? undefined : this.waiting.get(id)
    if (request !== undefined) return { status: 200, body: JSON.stringify(this.#view(request)) }
    if (/^\/api\/requests$/.test(path) && this.#parents.link() === undefined)
      return {
        status: 200,
        body: JSON.stringify([...this.waiting.values()].map((waiting) => this.#view(waiting))),
      }
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
      notices: [unreachable(this.#parents.status()).message],
    }
  }

  async *events(id: string, hops: number, signal: AbortSignal): AsyncIterable<string> {
    const { clock } = this.#deps
    let hasTold = false
    while (!signal.aborted) {
      const request = this.waiting.get(id)
      const link = this.#parents.link()
      if (request !== undefined || link === undefined) {
        if (request !== undefined && !hasTold) {
          hasTold = true
          const at = new Date(clock.wallMs()).toISOString()
          const text = `${unreachable(this.#parents.status()).message}; the request is kept and sent when the root is back`
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

  async [Symbol.asyncDispose](): Promise<void> {
    this.finding[Symbol.dispose]()
    await this.#parents.stop()
    await this.#outbox[Symbol.asyncDispose]()
  }
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
