/**
 * The owner's knowledge of who has what, from what its nodes announce and from what it sees of results:
 * answers `locate`, tells those that wait for a blob, brings those together that fetch the same one, sends
 * hints along with grants, carries blobs by way of a store node between peers that cannot reach each other,
 * and makes requests detachable.
 */
import type { Logger } from 'pino'
import { sleep, type Clock } from '../../base/clock.ts'
import type { Random } from '../../base/random.ts'
import { ProviderTable } from '../../gossip/provider-table.ts'
import { SwarmTracker } from '../../gossip/swarm-tracker.ts'
import { Watches } from '../../gossip/watches.ts'
import type { Request } from '../../scheduler/model.ts'
import { inputsOf } from '../../wire/derivation.ts'
import type { Action } from '../../wire/action.ts'
import type { Announced, Announcement } from '../../wire/announcement.ts'
import { isChunked } from '../../wire/chunk-list.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import type { ActionResult } from '../../wire/result.ts'
import { blobOf, type Entry } from '../../wire/tree.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import { LOCATE_ITEMS_MAX, type Located, type Question } from '../../wire/work-messages.ts'
import { carry, type CallCarrier } from './carry.ts'

/** Store nodes that are named for a blob nobody is known to have. */
const GUESSES_MAX = 8
/** Peers named in one message. */
const PEERS_NAMED_MAX = 256
/** Announced digests that are taken in, about a quarter of a processor; more of them wait. */
const ANNOUNCED_PER_MS = 80
/** How long one store node may take to get what two others need, before the next is tried. */
export const RELAY_MS = 60_000

export interface LocatorDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  /** Of a node that is there, at any depth below. */
  readonly recordOf: (peerId: string) => PeerRecord | undefined
  /** Store nodes that are there, at any depth below. */
  readonly stores: () => readonly PeerRecord[]
  readonly self: () => PeerRecord
  /** Calls a connected child, or this node itself. */
  readonly callDown: CallCarrier
  /** Tells a node that somebody has these. What is lost on the way is asked for again some time. */
  readonly tell: (peerId: string, digests: Digest[]) => void
}

export interface Hints {
  readonly hints: [Digest, number[]][]
  readonly peers: PeerRecord[]
}

export class Locator {
  readonly #deps: LocatorDeps
  readonly #table = new ProviderTable()
  readonly #swarms: SwarmTracker
  readonly #watches = new Watches()
  /** When the next announcement may be taken in. */
  #announceAtMs = 0
  /** What went by way of store nodes between others since the start. */
  relayedBytes = 0

  constructor(deps: LocatorDeps) {
    this.#deps = deps
    this.#swarms = new SwarmTracker(deps)
  }

  add(entry: Entry, peerId: string): void {
    const blob = blobOf(entry)
    if (blob !== undefined) this.#addAll([blob.digest], peerId)
  }

  addResult(result: ActionResult, peerId: string): void {
    const blobs = Object.values(result.outputs).flatMap((entry) => blobOf(entry) ?? [])
    this.#addAll(
      [...blobs, result.log].map(({ digest }) => digest),
      peerId,
    )
  }

  /** The sources of a request are at the node that was asked. */
  addSources(request: Request): void {
    const sources = sourcesOf(request).flatMap((entry) => blobOf(entry) ?? [])
    this.#addAll(
      sources.map(({ digest }) => digest),
      request.wire.entry.peerId,
    )
  }

  #addAll(digests: readonly Digest[], peerId: string): void {
    const nowMs = this.#deps.clock.nowMs()
    for (const digest of digests) this.#table.add(digest, peerId, nowMs)
    this.#appeared(digests, peerId)
  }

  /**
   * A node says what it has. All of them say all they have when an owner comes back: that is taken in little
   * by little, so that leases are served meanwhile.
   */
  async announce(
    announcement: Announcement,
    peerId: string,
    signal: AbortSignal,
  ): Promise<Announced> {
    const { clock } = this.#deps
    const { added, gone } = announcement
    const nowMs = clock.nowMs()
    const atMs = Math.max(nowMs, this.#announceAtMs)
    this.#announceAtMs = atMs + (added.length + gone.length) / ANNOUNCED_PER_MS
    if (atMs > nowMs) await sleep(clock, atMs - nowMs, signal)
    const held = this.#table.announce(peerId, announcement, this.#deps.clock.nowMs())
    this.#appeared(announcement.added, peerId)
    return { held }
  }

  /** A node is there again, and with it what it had. */
  attached(peerId: string): void {
    const watched = [...this.#watches.digests()]
    this.#appeared(
      watched.filter((digest) => this.providersOf(digest).includes(peerId)),
      peerId,
    )
  }

  /** What it has is remembered; what it was about to get is not. */
  detached(peerId: string): void {
    this.#swarms.forgetPeer(peerId)
    this.#watches.forgetPeer(peerId)
  }

  #appeared(digests: readonly Digest[], peerId: string): void {
    const nowMs = this.#deps.clock.nowMs()
    const told = new Map<string, Digest[]>()
    for (const digest of digests) {
      this.#swarms.leave(digest, peerId)
      for (const watcher of this.#watches.take(digest, nowMs))
        if (watcher !== peerId) told.set(watcher, [...(told.get(watcher) ?? []), digest])
    }
    for (const [watcher, some] of told)
      for (let at = 0; at < some.length; at += LOCATE_ITEMS_MAX)
        this.#deps.tell(watcher, some.slice(at, at + LOCATE_ITEMS_MAX))
  }

  /** What an action's worker should ask first. */
  hintsFor(action: Action): Hints {
    const named = new NamedPeers()
    const hints: [Digest, number[]][] = []
    for (const entry of [...action.inputs.map(([, input]) => input), ...(action.image ?? [])]) {
      const blob = blobOf(entry)
      if (blob === undefined) continue
      const indexes = named.indexesOf(this.#reachableOf(blob.digest))
      if (indexes.length > 0) hints.push([blob.digest, indexes])
    }
    return { hints, peers: named.peers }
  }

  /** Whoever has it as far as is known, those that are away included; newest record first. */
  providersOf(digest: Digest): string[] {
    return this.#table.of(digest, this.#deps.clock.nowMs())
  }

  /** Those that can be asked. */
  #reachableOf(digest: Digest): PeerRecord[] {
    return this.#recordsOf(this.providersOf(digest))
  }

  #recordsOf(peerIds: readonly string[]): PeerRecord[] {
    return peerIds.flatMap((peerId) => this.#recordOf(peerId) ?? [])
  }

  #recordOf(peerId: string): PeerRecord | undefined {
    if (peerId === this.#deps.self().peerId) return this.#deps.self()
    return this.#deps.recordOf(peerId)
  }

  #stores(except: ReadonlySet<string>): PeerRecord[] {
    return this.#deps.stores().filter(({ peerId }) => !except.has(peerId))
  }

  /** Answers `asker`. With `entries` the providers could not be used: a store node gets them first. */
  async locate(question: Question, asker: string, signal: AbortSignal): Promise<Located> {
    const { refs, entries, asksStores = false, absent = [] } = question
    for (const [digest, peerId] of absent) this.#table.forget(peerId, digest)
    if (entries.length > 0) {
      const store = await this.#relay(question, asker, signal)
      return { peers: store === undefined ? [] : [store], providers: [] }
    }
    const named = new NamedPeers()
    // A blob inside a tree is in no table; a store node may have it all the same.
    const stores = refs.length === 0 ? [] : this.#stores(new Set([asker])).slice(0, GUESSES_MAX)
    const located = {
      providers: new Array<[Digest, number[]]>(),
      swarm: new Array<[Digest, number[]]>(),
      watching: new Array<Digest>(),
    }
    const watch = new Set(question.watch)
    for (const ref of refs) {
      const { digest } = ref
      const others = this.#reachableOf(digest).filter(({ peerId }) => peerId !== asker)
      const swarm = named.indexesOf(this.#joinSwarm(ref, asker, others.length > 0))
      if (swarm.length > 0) located.swarm.push([digest, swarm])
      const providers = named.indexesOf(others.length > 0 || asksStores ? others : stores)
      if (providers.length > 0) located.providers.push([digest, providers])
      else if (watch.has(digest) && this.#watches.add(digest, asker, this.#deps.clock.nowMs()))
        located.watching.push(digest)
    }
    return {
      ...located,
      ...(asksStores ? { stores: named.indexesOf(stores) } : {}),
      peers: named.peers,
    }
  }

  /**
   * Whoever asks for a blob that travels in parts has parts of it soon. A swarm begins with somebody who has
   * the whole, and outlives it: what nobody ever had is not to be hoped for from each other.
   */
  #joinSwarm({ digest, size }: BlobRef, asker: string, hasProvider: boolean): PeerRecord[] {
    const nowMs = this.#deps.clock.nowMs()
    if (!isChunked(size) || (!hasProvider && !this.#swarms.isOn(digest, nowMs))) return []
    this.#swarms.join(digest, asker, nowMs)
    return this.#recordsOf(this.#swarms.others(digest, asker, nowMs))
  }

  /** Gets the entries to a store node that the asker can use; undefined when no way is found. */
  async #relay(
    { entries, failed }: Question,
    asker: string,
    signal: AbortSignal,
  ): Promise<PeerRecord | undefined> {
    const providers = new Map<string, PeerRecord>()
    for (const { digest } of entries.flatMap((entry) => blobOf(entry) ?? []))
      for (const record of this.#reachableOf(digest))
        if (record.peerId !== asker) providers.set(record.peerId, record)
    for (const store of this.#stores(new Set([asker, ...failed]))) {
      const bytes = await this.#carry(entries, [...providers.values()], store, signal)
      if (bytes === undefined) continue
      this.relayedBytes += bytes
      return store
    }
    return undefined
  }

  /** Brings the entries to the store, and gives the bytes that moved; undefined when there is no way. */
  async #carry(
    entries: readonly Entry[],
    providers: readonly PeerRecord[],
    store: PeerRecord,
    signal: AbortSignal,
  ): Promise<number | undefined> {
    const { log, callDown } = this.#deps
    const { bytes, problems } = await carry(callDown, { entries, providers, store }, signal)
    if (bytes !== undefined) for (const entry of entries) this.add(entry, store.peerId)
    else log.debug({ store: store.name, problems }, 'carrying was not possible')
    return bytes
  }

  /**
   * Gets the sources of a request to a store node, so that its submitter may go. True once that is so,
   * false when no store node could get them now.
   */
  async makeDetachable(request: Request, signal: AbortSignal): Promise<boolean> {
    const sources = sourcesOf(request)
    const entry = request.wire.entry.peerId
    const from = this.#recordOf(entry)
    if (sources.length === 0 || from?.roles.includes('store') === true) return true
    if (from === undefined) return false
    for (const store of this.#stores(new Set([entry])))
      if ((await this.#carry(sources, [from], store, signal)) !== undefined) return true
    this.#deps.log.debug({ request: request.wire.id }, 'sources are at no store node yet')
    return false
  }
}

/** The peers of a message, each once, and their places in it. */
class NamedPeers {
  readonly peers: PeerRecord[] = []
  readonly #indexes = new Map<string, number>()

  /** Leaves out those for which there is no room. */
  indexesOf(peers: readonly PeerRecord[]): number[] {
    const indexes: number[] = []
    for (const peer of peers) {
      const known = this.#indexes.get(peer.peerId)
      if (known === undefined && this.peers.length >= PEERS_NAMED_MAX) continue
      const index = known ?? this.peers.push(peer) - 1
      this.#indexes.set(peer.peerId, index)
      indexes.push(index)
    }
    return indexes
  }
}

/** What the submitter alone has at first: the entries that the graph names, without duplicates. */
function sourcesOf(request: Request): Entry[] {
  const sources = new Map<Digest, Entry>()
  for (const { derivation } of request.steps.values())
    for (const input of inputsOf(derivation)) {
      if (input.kind !== 'entry') continue
      const blob = blobOf(input.entry)
      if (blob !== undefined) sources.set(blob.digest, input.entry)
    }
  return [...sources.values()]
}
