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
import type { ChunkIndex } from '../../store/chunks/chunk-index.ts'
import { SourceHealth } from '../../store/fetch/source-health.ts'
import { openFetcher, type FetchedBytes, type Fetcher } from '../../store/fetcher.ts'
import { openHttpSource, type HttpSource } from '../../store/http-source.ts'
import type { PartialBlobs } from '../../store/partial/partial-blobs.ts'
import { orAborted } from '../../base/or-aborted.ts'
import type { SwarmPeer } from '../../store/swarm/swarm-fetch.ts'
import { Swarms } from '../../store/swarm/swarms.ts'
import { cidOf, type BlobRef, type Digest } from '../../wire/digest.ts'
import { CAS_FRAME_BYTES_MAX, type FrameChannel } from '../../wire/frame-channel.ts'
import { blobOf, decodeTree, type Entry } from '../../wire/tree.ts'
import { OBJECT_BYTES_MAX } from '../../wire/cbor.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import { CAS_PROTOCOL, type Located } from '../../wire/work-messages.ts'
import type { DataPlane } from '../data-plane/data-plane.ts'
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
  /** The tree that the refs are parts of: the small ones are looked for where it is. */
  readonly within?: BlobRef
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
  /** The records of others as they may be used, and how their HTTP side is spoken to. */
  readonly peers: Pick<DataPlane, 'find' | 'openHttp'>
  /** With them big blobs are exchanged in parts; without, they are fetched whole. */
  readonly parts?: BlobParts | undefined
  /** Told of what others may ask for by name and is here now, with all that is in it. */
  readonly onRoot: (root: BlobRef) => void
}

export interface BlobParts {
  readonly partials: PartialBlobs
  readonly chunks: Pick<ChunkIndex, 'listOf' | 'encodedListOf'>
}

export class Blobs implements AsyncDisposable {
  /** For answering other nodes: counts what it gives. */
  readonly served: ReadMeter
  readonly fetcher: Fetcher
  readonly #deps: BlobsDeps
  readonly #selfId: string
  readonly #http = new Map<string, HttpSource>()
  readonly mirrors: readonly HttpSource[]
  /** What is known of all sources. */
  readonly health: SourceHealth
  readonly #links = new Map<string, CasLink>()
  readonly #opening = new Map<string, Promise<CasLink>>()
  readonly #accepted = new Set<CasLink>()
  readonly #swarms: Swarms | undefined
  readonly #swarmPeers = new WeakMap<BlobSource, SwarmPeer>()
  readonly #closing = new AbortController()
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
    this.mirrors = options.mirrors.map((url) =>
      openHttpSource({ clock: deps.clock }, { url, kind: 'mirror' }),
    )
    this.health = new SourceHealth({ random: deps.random })
    this.#swarms = this.#openSwarms(deps.parts)
    this.fetcher = openFetcher(
      {
        swarms: this.#swarms,
        health: this.health,
        store: deps.store,
        clock: deps.clock,
        log: deps.log,
        random: deps.random,
        locate: async (refs, asked) => this.#locateSources(refs, asked),
      },
      { mirrors: this.mirrors },
    )
  }

  #openSwarms(parts: BlobParts | undefined): Swarms | undefined {
    if (parts === undefined) return undefined
    return new Swarms({
      ...this.#deps,
      health: this.health,
      partials: parts.partials,
      listOf: (digest) => parts.chunks.listOf(digest),
      peerOf: (source) => this.#swarmPeers.get(source),
      findPeers: (ref, { signal }) => this.#findSwarm(ref, signal),
      onServed: (byteCount) => {
        this.served.bytes += byteCount
      },
    })
  }

  /** Whoever has the blob or is fetching it; asking is joining. */
  async #findSwarm(ref: BlobRef, signal: AbortSignal): Promise<SwarmPeer[]> {
    const located = await this.#deps.locate({ refs: [ref], entries: [], failed: [] }, signal)
    const peersAt = (named: Located['providers']): PeerRecord[] =>
      this.#others(named.flatMap(([, indexes]) => indexes.flatMap((at) => located.peers[at] ?? [])))
    return [
      ...peersAt(located.providers).map((peer) => this.#swarmPeer(peer)),
      ...peersAt(located.swarm ?? []).map((peer) => this.#swarmPeer(peer, false)),
    ]
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
      return await this.#fetchTree(entry, { hints: this.sourcesOf(peers), signal })
    } catch (error) {
      if (!(error instanceof MeshError) || error.code !== 'MESH0501') throw error
      signal.throwIfAborted()
      const failed = peers.map((peer) => peer.peerId)
      const located = await this.#deps.locate({ refs: [blob], entries: [entry], failed }, signal)
      if (located.peers.length === 0) throw error
      return await this.#fetchTree(entry, { hints: this.sourcesOf(located.peers), signal })
    }
  }

  async #fetchTree(
    entry: Entry,
    options: { readonly hints: readonly BlobSource[]; readonly signal: AbortSignal },
  ): Promise<FetchedBytes> {
    const fetched = await this.fetcher.fetchTree(entry, options)
    const root = blobOf(entry)
    if (root !== undefined) this.#deps.onRoot(root)
    return fetched
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
    for (const source of [...this.#httpSources(this.#others(peers)), ...this.mirrors]) {
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
    options: { readonly within?: BlobRef | undefined; readonly signal: AbortSignal },
  ): Promise<ReadonlyMap<Digest, readonly BlobSource[]>> {
    const { within, signal } = options
    const query = { refs, entries: [], failed: [], ...(within === undefined ? {} : { within }) }
    const located = await this.#deps.locate(query, signal)
    const found = new Map<Digest, readonly BlobSource[]>()
    for (const [digest, indexes] of located.providers)
      found.set(digest, this.sourcesOf(indexes.flatMap((at) => located.peers[at] ?? [])))
    return found
  }

  /** HTTP first where a peer has it: a third of the cost. */
  sourcesOf(peers: readonly PeerRecord[]): BlobSource[] {
    const others = this.#others(peers).map((peer) => this.#swarmPeer(peer))
    return [...others.flatMap(({ http }) => http), ...others.flatMap(({ linked }) => linked)]
  }

  #swarmPeer(
    peer: PeerRecord,
    hasAll = true,
  ): SwarmPeer & {
    readonly http: readonly BlobSource[]
    readonly linked: readonly BlobSource[]
  } {
    const { peerId, addresses } = peer
    const http = this.#httpSources([peer])
    const isInReach = addresses.length > 0 || this.#deps.host.isConnected(peerId)
    const linked = isInReach ? [this.#peerSource(peer)] : []
    const sources = [...http, ...linked]
    const link = (signal: AbortSignal): Promise<CasLink> => this.#link(peer, signal)
    const swarmPeer = { peerId, hasAll, sources, link, http, linked }
    for (const source of sources) this.#swarmPeers.set(source, swarmPeer)
    return swarmPeer
  }

  /** Without this node, and without those whose records they did not sign. */
  #others(peers: readonly PeerRecord[]): PeerRecord[] {
    return peers.flatMap((peer) =>
      peer.peerId === this.#selfId ? [] : (this.#deps.peers.find(peer) ?? []),
    )
  }

  #httpSources(peers: readonly PeerRecord[]): HttpSource[] {
    return peers.flatMap((peer) => (peer.http === null ? [] : [this.#httpSource(peer, peer.http)]))
  }

  #httpSource(peer: PeerRecord, url: string): HttpSource {
    // A peer that has another certificate is another place, whatever its address.
    const key = `${url} ${peer.tls ?? ''}`
    let source = this.#http.get(key)
    if (source === undefined) {
      source = this.#deps.peers.openHttp(peer, url)
      if (this.#http.size >= SOURCES_MAX) this.#dropOldest()
    } else {
      this.#http.delete(key)
    }
    this.#http.set(key, source)
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
      async chunkList(digest, options) {
        return (await open(options.signal)).source.chunkList?.(digest, options)
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
      // For all who want it: the first of them may leave before it is open.
      opening = this.#openLink(peer).finally(() => this.#opening.delete(peer.peerId))
      this.#opening.set(peer.peerId, opening)
    }
    return orAborted(opening, signal)
  }

  async #openLink(peer: PeerRecord): Promise<CasLink> {
    const { host } = this.#deps
    const { signal } = this.#closing
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
    const { clock, log, parts } = this.#deps
    return openCasLink(
      { channel, clock, log },
      {
        store: this.served,
        swarms: this.#swarms,
        encodedListOf: parts && ((digest) => parts.chunks.encodedListOf(digest)),
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
      const moved = await this.#fetchTree(entry, { hints, signal })
      bytes += moved.peer + moved.mirror
    })
    return bytes
  }

  /** Offers trees of this node to a store node, which takes what it lacks. */
  async push(entries: readonly Entry[], to: PeerRecord, signal: AbortSignal): Promise<number> {
    const refs = new Map<Digest, BlobRef>()
    for (const entry of entries) await this.#collect(entry, refs)
    const [peer] = this.#others([to])
    if (peer === undefined)
      throw new MeshError('MESH0210', `${to.name} did not sign its record: nothing is sent there`)
    const link = await this.#link(peer, signal)
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
    this.#closing.abort(new Error('the node is stopping'))
    this.#swarms?.[Symbol.dispose]()
    for (const link of [...this.#links.values(), ...this.#accepted]) link.close()
    await Promise.all(
      [...this.#http.values(), ...this.mirrors].map((source) => source[Symbol.asyncDispose]()),
    )
  }
}
