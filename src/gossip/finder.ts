/**
 * Finds out who has blobs, with few questions: what is wanted at the same time goes into one message to each
 * index node, a digest is asked for once however many want it, and what nobody had is not asked for again
 * for a while. A blob that the index knows nothing of may still be in a store: each store node gets one
 * batched `have`.
 *
 * The answers are hints for a fetcher. Nothing here throws for a peer that cannot be asked.
 */
import type { Logger } from 'pino'
import { deadline, type Clock, type Timer } from '../base/clock.ts'
import { MeshError } from '../base/errors.ts'
import type { BlobRef, Digest } from '../wire/digest.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import {
  ABSENT_ITEMS_MAX,
  LOCATE_ITEMS_MAX,
  type Located,
  type Question,
} from '../wire/work-messages.ts'
import { ANNOUNCE_BYTES_MIN } from './announcer.ts'
import type { BlobDirectory } from './directory.ts'
import { NobodyCache } from './nobody-cache.ts'
import { orAborted } from '../base/or-aborted.ts'
import { StoreAsker } from './store-asker.ts'

/** How long an index node may take. */
const ASK_MS = 5_000
/** Digests in one search that are watched at once; of bigger ones only those that were asked for before. */
const WATCHED_AT_ONCE_MAX = 16
/** Digests that are searched for at a time; one more is not found. */
const SEARCHES_MAX = 1_000_000
/** How long reports of absence gather. */
const ABSENT_MS = 2_000

interface FinderDeps {
  readonly clock: Clock
  readonly log: Logger
  /** Who is to be asked. */
  readonly directory: () => BlobDirectory
  readonly ask: (indexNode: string, question: Question, signal: AbortSignal) => Promise<Located>
  /** Which of the digests the store node has, by position. */
  readonly has: (
    store: PeerRecord,
    digests: readonly Digest[],
    signal: AbortSignal,
  ) => Promise<readonly boolean[]>
}

interface Found {
  /** Those that should have it, best first. */
  readonly providers: readonly PeerRecord[]
  /** Those that may have it all the same. */
  readonly perhaps: readonly PeerRecord[]
  /** Others that are fetching it. */
  readonly swarm: readonly PeerRecord[]
  /** Store nodes, for what is known of nobody. */
  readonly stores: readonly PeerRecord[]
}

interface Flight {
  readonly ref: BlobRef
  readonly found: Promise<Found>
  readonly settle: (found: Found) => void
  /** What it finds out was overtaken: somebody has it. */
  hasAppeared: boolean
}

const NOBODY: Found = { providers: [], perhaps: [], swarm: [], stores: [] }

export class Finder implements Disposable {
  readonly #deps: FinderDeps
  readonly #lifetime = new AbortController()
  readonly #stores: StoreAsker
  readonly #nobody = new NobodyCache()
  readonly #flights = new Map<Digest, Flight>()
  /** Those of them that no question has left for. */
  #gathered: Flight[] = []
  #absent: [Digest, string][] = []
  #absentTimer: Timer | undefined
  readonly #counts = { questions: 0, digests: 0 }

  constructor(deps: FinderDeps) {
    this.#deps = deps
    this.#stores = new StoreAsker(deps, this.#lifetime.signal)
  }

  /** Since the start: questions to index nodes, to store nodes, and digests that were searched for. */
  get counts(): { readonly questions: number; readonly haves: number; readonly digests: number } {
    return { ...this.#counts, haves: this.#stores.haves }
  }

  /**
   * Who has what. `within`: the refs are parts of that tree; the small ones are where it is, and are not
   * asked for one by one. Throws only the reason of `signal`.
   */
  async locate(
    refs: readonly BlobRef[],
    options: { readonly within?: BlobRef | undefined; readonly signal: AbortSignal },
  ): Promise<Located> {
    const { within, signal } = options
    const found = new Map<Digest, Found>()
    const isPart = ({ digest, size }: BlobRef): boolean =>
      within !== undefined && digest !== within.digest && size < ANNOUNCE_BYTES_MIN
    const parts = refs.filter(isPart)
    await this.#searchAll(
      [
        ...refs.filter((ref) => !isPart(ref)),
        ...(within !== undefined && parts.length > 0 ? [within] : []),
      ],
      found,
      signal,
    )
    const root = (within === undefined ? undefined : found.get(within.digest)) ?? NOBODY
    if (root.providers.length === 0) await this.#searchAll(parts, found, signal)
    else
      for (const { digest } of refs) {
        const one = found.get(digest) ?? { ...NOBODY, perhaps: root.stores }
        if (isNobody(one)) found.set(digest, { ...one, providers: root.providers })
      }
    return asLocated(found, refs)
  }

  /** The index says that somebody has these. */
  appeared(digests: Iterable<Digest>): void {
    for (const digest of digests) {
      this.#nobody.delete(digest)
      const flight = this.#flights.get(digest)
      if (flight !== undefined) flight.hasAppeared = true
    }
  }

  /** Another index is asked from now on, or the same one anew: it may know more. */
  forgetNobody(): void {
    this.#nobody.clear()
    for (const flight of this.#flights.values()) flight.hasAppeared = true
  }

  /** The peer did not have it: those that keep the record are told. Reports beyond a bound are dropped. */
  absent(digest: Digest, peerId: string): void {
    if (this.#absent.length >= ABSENT_ITEMS_MAX) this.#absent.shift()
    this.#absent.push([digest, peerId])
    this.#absentTimer ??= this.#deps.clock.setTimer(ABSENT_MS, () => {
      this.#absentTimer = undefined
      void this.#tellAbsent()
    })
  }

  [Symbol.dispose](): void {
    this.#absentTimer?.cancel()
    this.#lifetime.abort(new MeshError('MESH0108', 'the node is stopping'))
  }

  async #searchAll(
    refs: readonly BlobRef[],
    found: Map<Digest, Found>,
    signal: AbortSignal,
  ): Promise<void> {
    const searches = refs.map(async (ref) => found.set(ref.digest, await this.#search(ref)))
    await orAborted(Promise.all(searches), signal)
  }

  /** Never rejects. */
  async #search(ref: BlobRef): Promise<Found> {
    const { digest } = ref
    const perhaps = this.#nobody.find(digest, this.#deps.clock.nowMs())
    if (perhaps !== undefined) return { ...NOBODY, perhaps }
    const existing = this.#flights.get(digest)
    if (existing !== undefined) return existing.found
    if (this.#flights.size >= SEARCHES_MAX) return NOBODY
    const { promise: found, resolve: settle } = Promise.withResolvers<Found>()
    const flight = { ref, found, settle, hasAppeared: false }
    this.#flights.set(digest, flight)
    this.#gathered.push(flight)
    // What is wanted in one turn of the event loop travels together.
    if (this.#gathered.length === 1) setImmediate(() => void this.#fly())
    return found
  }

  async #fly(): Promise<void> {
    const flights = this.#gathered
    this.#gathered = []
    this.#counts.digests += flights.length
    const found = new Map<Digest, Found>()
    const watched = new Set<Digest>()
    try {
      await this.#askIndex(
        flights.map(({ ref }) => ref),
        found,
        watched,
      )
      const unknown = new Map([...found].filter(([, one]) => isNobody(one)))
      const inStores = await this.#stores.ask(unknown)
      const nowMs = this.#deps.clock.nowMs()
      for (const { ref, hasAppeared } of flights) {
        const { digest, size } = ref
        const { have, perhaps } = inStores.get(digest) ?? { have: [], perhaps: [] }
        if (inStores.has(digest)) found.set(digest, { ...NOBODY, providers: have, perhaps })
        // Small blobs come with their trees, unannounced: no word of them is to be waited for.
        const isWatched = watched.has(digest) && size >= ANNOUNCE_BYTES_MIN
        if (inStores.has(digest) && have.length === 0 && !hasAppeared)
          this.#nobody.note(digest, { isWatched, perhaps }, nowMs)
        else if (found.has(digest)) this.#nobody.delete(digest)
      }
    } finally {
      for (const { ref, settle } of flights) {
        this.#flights.delete(ref.digest)
        settle(found.get(ref.digest) ?? NOBODY)
      }
    }
  }

  /** Each of its index nodes is asked for a digest until one knows somebody. */
  async #askIndex(
    refs: readonly BlobRef[],
    found: Map<Digest, Found>,
    watched: Set<Digest>,
  ): Promise<void> {
    const directory = this.#deps.directory()
    const isWatched = ({ digest }: BlobRef): boolean =>
      refs.length <= WATCHED_AT_ONCE_MAX || this.#nobody.has(digest)
    let left = [...refs]
    for (let replica = 0; left.length > 0; replica++) {
      const groups = Map.groupBy(left, ({ digest }) => directory.indexNodesOf(digest)[replica])
      left = []
      const asking = [...groups].map(async ([indexNode, group]) => {
        if (indexNode === undefined) return
        for (let at = 0; at < group.length; at += LOCATE_ITEMS_MAX) {
          const some = group.slice(at, at + LOCATE_ITEMS_MAX)
          const watch = some.filter(isWatched).map(({ digest }) => digest)
          const answer = await this.#ask(indexNode, { ...PLAIN, refs: some, watch })
          if (answer === undefined) {
            left.push(...group.slice(at))
            return
          }
          for (const digest of answer.watching ?? []) watched.add(digest)
          for (const [digest, one] of foundIn(answer, some)) {
            found.set(digest, one)
            if (isNobody(one)) left.push(...some.filter((ref) => ref.digest === digest))
          }
        }
      })
      await Promise.all(asking)
    }
  }

  /** Undefined when it does not answer. */
  async #ask(indexNode: string, question: Question): Promise<Located | undefined> {
    const { clock, log, ask } = this.#deps
    const limit = deadline(
      clock,
      ASK_MS,
      () => new MeshError('MESH0120', `no answer within ${ASK_MS / 1000} s`),
      this.#lifetime.signal,
    )
    this.#counts.questions += 1
    try {
      return await ask(indexNode, question, limit.signal)
    } catch (error) {
      log.debug({ err: error, peer: indexNode }, 'blobs could not be located')
      return undefined
    } finally {
      limit.cancel()
    }
  }

  async #tellAbsent(): Promise<void> {
    const directory = this.#deps.directory()
    const reports = this.#absent.flatMap((report) =>
      directory.indexNodesOf(report[0]).map((indexNode) => ({ indexNode, report })),
    )
    this.#absent = []
    const telling = [...Map.groupBy(reports, ({ indexNode }) => indexNode)].map(
      ([indexNode, some]) =>
        this.#ask(indexNode, { ...PLAIN, absent: some.map(({ report }) => report) }),
    )
    await Promise.all(telling)
  }
}

const PLAIN: Question = { refs: [], entries: [], failed: [], asksStores: true }

const isNobody = ({ providers, swarm }: Found): boolean =>
  providers.length === 0 && swarm.length === 0

/** What the answer says of each digest that was asked for. */
function foundIn(answer: Located, refs: readonly BlobRef[]): Map<Digest, Found> {
  const peersAt = (indexes: readonly number[] | undefined): PeerRecord[] =>
    (indexes ?? []).flatMap((at) => answer.peers[at] ?? [])
  const providers = new Map(answer.providers)
  const swarm = new Map(answer.swarm)
  const stores = peersAt(answer.stores)
  return new Map(
    refs.map(({ digest }) => [
      digest,
      {
        ...NOBODY,
        providers: peersAt(providers.get(digest)),
        swarm: peersAt(swarm.get(digest)),
        stores,
      },
    ]),
  )
}

function asLocated(found: ReadonlyMap<Digest, Found>, refs: readonly BlobRef[]): Located {
  const peers: PeerRecord[] = []
  const indexes = new Map<string, number>()
  const indexOf = (peer: PeerRecord): number => {
    const index = indexes.get(peer.peerId) ?? peers.push(peer) - 1
    indexes.set(peer.peerId, index)
    return index
  }
  const providers: Located['providers'] = []
  const swarm: NonNullable<Located['swarm']> = []
  for (const { digest } of refs) {
    const one = found.get(digest) ?? NOBODY
    const named = new Set([...one.providers, ...one.perhaps].map(indexOf))
    if (named.size > 0) providers.push([digest, [...named]])
    if (one.swarm.length > 0) swarm.push([digest, one.swarm.map(indexOf)])
  }
  return { peers, providers, swarm }
}
