/**
 * The blobs of this node and of everybody else: turns peer records into sources, fetches what is missing,
 * answers other nodes, and moves trees to and from store nodes when two peers cannot reach each other.
 */
import type { Logger } from 'pino'
import { deadline, type Clock } from '../../base/clock.ts'
import type { Random } from '../../base/random.ts'
import { MeshError, messageOf } from '../../base/errors.ts'
import { mapLimited } from '../../files/map-limited.ts'
import { SourceError, type BlobSource } from '../../store/blob-source.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import { openCasLink, type CasLink } from '../../store/cas-link.ts'
import { openFetcher, type FetchedBytes, type Fetcher } from '../../store/fetcher.ts'
import { openHttpSource, type HttpSource } from '../../store/http-source.ts'
import { cidOf, type BlobRef, type Digest } from '../../wire/digest.ts'
import { CAS_FRAME_BYTES_MAX, type FrameChannel } from '../../wire/frame-channel.ts'
import { blobOf, decodeTree, type Entry } from '../../wire/tree.ts'
import { OBJECT_BYTES_MAX } from '../../wire/cbor.ts'
import { CAS_PROTOCOL, type Located, type PeerRecord } from '../../wire/work-messages.ts'
import type { Host } from '../links/libp2p-host.ts'
import { ReadMeter } from './read-meter.ts'

/** HTTP sources and CAS links kept open; beyond it the one that was used longest ago is closed. */
const SOURCES_MAX = 256
const ENTRIES_AT_ONCE = 8
/** How long one source may take to tell the size of a blob. */
const HEAD_MS = 5_000

export interface LocateQuery {
  readonly refs: readonly BlobRef[]
  /** Whole trees that are wanted although `failed` could not be used. */
  readonly entries: readonly Entry[]
  readonly failed: readonly string[]
}
/** Asks whoever knows: the owner's table, here or at the parent. */
type Locate = (query: LocateQuery, signal: AbortSignal) => Promise<Located>

export interface BlobsDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly store: BlobStore
  readonly host: Host
  readonly locate: Locate
}

export class Blobs implements AsyncDisposable {
  /** For answering other nodes: counts what it gives. */
  readonly served: ReadMeter
  readonly fetcher: Fetcher
  readonly #deps: BlobsDeps
  readonly #selfId: string
  readonly #http = new Map<string, HttpSource>()
  readonly #mirrors: readonly HttpSource[]
  readonly #links = new Map<string, CasLink>()
  readonly #opening = new Map<string, Promise<CasLink>>()
  readonly #accepted = new Set<CasLink>()
  readonly #isStore: boolean

  constructor(
    deps: BlobsDeps,
    options: {
      readonly selfId: string
      readonly isStore: boolean
      readonly mirrors: readonly string[]
    },
  ) {
    this.#deps = deps
    this.#selfId = options.selfId
    this.#isStore = options.isStore
    this.served = new ReadMeter(deps.store)
    this.#mirrors = options.mirrors.map((url) =>
      openHttpSource({ clock: deps.clock }, { url, kind: 'mirror' }),
    )
    this.fetcher = openFetcher(
      {
        store: deps.store,
        clock: deps.clock,
        log: deps.log,
        random: deps.random,
        locate: async (refs, { signal }) => this.#locateSources(refs, signal),
      },
      { mirrors: this.#mirrors },
    )
  }

  /** Payload sent to and received from other nodes and mirrors since the start. */
  get movedBytes(): number {
    return this.served.bytes + this.fetcher.totals.peer + this.fetcher.totals.mirror
  }

  /**
   * Brings everything of the entry into the store: from the peers, whoever else has it, mirrors, or by way
   * of a store node that both sides reach. Throws MESH0501.
   */
  async obtain(
    entry: Entry,
    options: { readonly peers: readonly PeerRecord[]; readonly signal: AbortSignal },
  ): Promise<FetchedBytes> {
    const { signal, peers } = options
    const blob = blobOf(entry)
    if (blob === undefined) return { local: 0, peer: 0, mirror: 0 }
    try {
      return await this.fetcher.fetchTree(entry, { hints: this.sourcesOf(peers), signal })
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'MESH0501') throw error
      signal.throwIfAborted()
      const failed = peers.map((peer) => peer.peerId)
      const located = await this.#deps.locate({ refs: [blob], entries: [entry], failed }, signal)
      if (located.peers.length === 0) throw error
      return await this.fetcher.fetchTree(entry, { hints: this.sourcesOf(located.peers), signal })
    }
  }

  /** Brings many entries into the store, with few questions. Throws MESH0501. */
  async obtainAll(entries: readonly Entry[], signal: AbortSignal): Promise<void> {
    const refs = entries.flatMap((entry) =>
      entry.kind === 'file' ? [{ digest: entry.digest, size: entry.size }] : [],
    )
    try {
      await this.fetcher.fetchAll(refs, { signal })
    } catch (error) {
      signal.throwIfAborted()
      this.#deps.log.debug({ err: error }, 'blobs are fetched one by one')
    }
    await mapLimited(entries, ENTRIES_AT_ONCE, (entry) => this.obtain(entry, { peers: [], signal }))
  }

  /**
   * Like `obtain` for a single blob whose size may not be known, or with `isTree` for all that is in that
   * tree. Undefined when nobody seems to have it.
   */
  async obtainBlob(
    digest: Digest,
    { size, isTree = false }: { readonly size: number | undefined; readonly isTree?: boolean },
    signal: AbortSignal,
  ): Promise<BlobRef | undefined> {
    const own = await this.#deps.store.sizeOf(digest)
    if (own !== undefined && !isTree) return { digest, size: own }
    const known = own ?? size ?? (await this.#askSize(digest, signal))
    if (known === undefined) return undefined
    const ref = { digest, size: known }
    if (isTree) {
      // Nobody is known to have what is in it; those who have the tree have that too.
      const { peers } = await this.#deps.locate({ refs: [ref], entries: [], failed: [] }, signal)
      await this.obtain({ kind: 'dir', ...ref }, { peers, signal })
    } else await this.obtain({ kind: 'file', ...ref, executable: false }, { peers: [], signal })
    return ref
  }

  async #askSize(digest: Digest, signal: AbortSignal): Promise<number | undefined> {
    const { peers } = await this.#deps.locate(
      { refs: [{ digest, size: 0 }], entries: [], failed: [] },
      signal,
    )
    const sources = peers.flatMap(({ peerId, http, name }) =>
      peerId === this.#selfId || http === null ? [] : [this.#httpSource(http, name)],
    )
    for (const source of [...sources, ...this.#mirrors]) {
      const limit = deadline(
        this.#deps.clock,
        HEAD_MS,
        () => new SourceError('stalled', `did not answer for ${HEAD_MS / 1000} s`),
        signal,
      )
      try {
        const size = await source.sizeOf(digest, { signal: limit.signal })
        if (size !== undefined) return size
      } catch (error) {
        signal.throwIfAborted()
        this.#deps.log.debug(
          { err: error, source: source.name },
          'source could not be asked for a size',
        )
      } finally {
        limit.cancel()
      }
    }
    return undefined
  }

  async #locateSources(
    refs: readonly BlobRef[],
    signal: AbortSignal,
  ): Promise<ReadonlyMap<Digest, readonly BlobSource[]>> {
    const located = await this.#deps.locate({ refs, entries: [], failed: [] }, signal)
    const found = new Map<Digest, readonly BlobSource[]>()
    for (const [digest, indexes] of located.providers)
      found.set(digest, this.sourcesOf(indexes.flatMap((at) => located.peers[at] ?? [])))
    return found
  }

  /** HTTP first where a peer has it: a third of the cost. */
  sourcesOf(peers: readonly PeerRecord[]): BlobSource[] {
    const sources: BlobSource[] = []
    const others = peers.filter((peer) => peer.peerId !== this.#selfId)
    for (const peer of others)
      if (peer.http !== null) sources.push(this.#httpSource(peer.http, peer.name))
    for (const peer of others)
      if (peer.addresses.length > 0 || this.#deps.host.isConnected(peer.peerId))
        sources.push(this.#peerSource(peer))
    return sources
  }

  #httpSource(url: string, name: string): HttpSource {
    let source = this.#http.get(url)
    if (source === undefined) {
      source = openHttpSource(
        { clock: this.#deps.clock },
        { url, kind: 'peer', name: `${name} (${url})` },
      )
      if (this.#http.size >= SOURCES_MAX) this.#dropOldest()
    } else {
      this.#http.delete(url)
    }
    this.#http.set(url, source)
    return source
  }

  #dropOldest(): void {
    for (const [url, source] of this.#http) {
      this.#http.delete(url)
      const closing = source[Symbol.asyncDispose]()
      closing.then(undefined, (error: unknown) =>
        this.#deps.log.debug({ err: error }, 'source was not closed'),
      )
      return
    }
  }

  /** A source that opens its link when it is first asked. */
  #peerSource(peer: PeerRecord): BlobSource {
    const open = (signal: AbortSignal): Promise<CasLink> => this.#link(peer, signal)
    return {
      name: `${peer.name} (libp2p)`,
      kind: 'peer',
      async fetch(ref, options) {
        return (await open(options.signal)).source.fetch(ref, options)
      },
      async *fetchMany(refs, options) {
        const { source } = await open(options.signal)
        if (source.fetchMany !== undefined) yield* source.fetchMany(refs, options)
      },
      async has(digests, options) {
        const { source } = await open(options.signal)
        return (await source.has?.(digests, options)) ?? digests.map(() => false)
      },
    }
  }

  async #link(peer: PeerRecord, signal: AbortSignal): Promise<CasLink> {
    const existing = this.#links.get(peer.peerId)
    if (existing !== undefined) return existing
    let opening = this.#opening.get(peer.peerId)
    if (opening === undefined) {
      opening = this.#openLink(peer, signal).finally(() => this.#opening.delete(peer.peerId))
      this.#opening.set(peer.peerId, opening)
    }
    return opening
  }

  async #openLink(peer: PeerRecord, signal: AbortSignal): Promise<CasLink> {
    const { host } = this.#deps
    let channel: FrameChannel
    try {
      channel = await host.open({ peerId: peer.peerId, addresses: peer.addresses }, CAS_PROTOCOL, {
        frameBytesMax: CAS_FRAME_BYTES_MAX,
        signal,
      })
    } catch (error) {
      throw new SourceError('failed', `cannot reach ${peer.name}: ${messageOf(error)}`, {
        cause: error,
      })
    }
    const link = this.#wrap(channel)
    this.#links.set(peer.peerId, link)
    void link.closed.then(() => {
      if (this.#links.get(peer.peerId) === link) this.#links.delete(peer.peerId)
    })
    if (this.#links.size > SOURCES_MAX) {
      const [oldest] = this.#links.values()
      oldest?.close()
    }
    return link
  }

  /** Answers a peer that opened a channel. */
  accept(channel: FrameChannel): void {
    const link = this.#wrap(channel)
    this.#accepted.add(link)
    void link.closed.then(() => this.#accepted.delete(link))
  }

  #wrap(channel: FrameChannel): CasLink {
    const { clock, log } = this.#deps
    return openCasLink(
      { channel, clock, log },
      {
        store: this.served,
        // Only a store node takes what others offer: no other role carries bytes that are not its own.
        ...(this.#isStore
          ? {
              onOffer: async (refs, source, signal) => {
                await this.fetcher.fetchAll(refs, { hints: [source], signal })
              },
            }
          : {}),
      },
    )
  }

  /** Fetches trees from the peers. Gives the bytes that moved. */
  async pull(
    entries: readonly Entry[],
    from: readonly PeerRecord[],
    signal: AbortSignal,
  ): Promise<number> {
    const hints = this.sourcesOf(from)
    let bytes = 0
    await mapLimited(entries, ENTRIES_AT_ONCE, async (entry) => {
      const moved = await this.fetcher.fetchTree(entry, { hints, signal })
      bytes += moved.peer + moved.mirror
    })
    return bytes
  }

  /** Offers trees of this node to a store node, which takes what it lacks. */
  async push(entries: readonly Entry[], to: PeerRecord, signal: AbortSignal): Promise<number> {
    const refs = new Map<Digest, BlobRef>()
    for (const entry of entries) await this.#collect(entry, refs)
    const link = await this.#link(to, signal)
    const before = this.served.bytes
    await link.offer([...refs.values()], { signal })
    return this.served.bytes - before
  }

  async #collect(entry: Entry, refs: Map<Digest, BlobRef>): Promise<void> {
    const blob = blobOf(entry)
    if (blob === undefined || refs.has(blob.digest)) return
    refs.set(blob.digest, blob)
    if (entry.kind !== 'dir') return
    const bytes = await this.#deps.store.read(entry.digest, OBJECT_BYTES_MAX)
    if (bytes === undefined)
      throw new MeshError('MESH0501', `tree ${cidOf(entry.digest, 'object')} is not here`)
    for (const { entry: child } of decodeTree(bytes)) await this.#collect(child, refs)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const link of [...this.#links.values(), ...this.#accepted]) link.close()
    await Promise.all(
      [...this.#http.values(), ...this.#mirrors].map((source) => source[Symbol.asyncDispose]()),
    )
  }
}
