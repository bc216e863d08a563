/**
 * Who has which blob, as far as an index node was told: up to 8 peers per digest, a bounded number of
 * digests.
 *
 * A record is a lease. Where a peer announced its blobs itself, all its records live as long as its last
 * renewal says, whatever their number; what this node concluded by itself (the results of a build, what it
 * had moved) lives on its own. A wrong record costs one question, so the oldest are simply dropped when the
 * table is full, and dead ones when they are come across. Pure: the caller brings the time.
 */
import {
  ANNOUNCED_MAX,
  ANNOUNCED_MS,
  type Announcement,
  type Fingerprint,
} from '../wire/announcement.ts'
import type { Digest } from '../wire/digest.ts'
import { oldestOf } from './oldest.ts'
import { isSameSet } from '../wire/set-digest.ts'

export const PROVIDERS_PER_DIGEST_MAX = 8
const PROVIDED_DIGESTS_MAX = 200_000
/** Beyond it the announcements of those that were heard of longest ago are forgotten. */
const PEERS_MAX = 10_000

/** What a peer announced. */
interface Announcer {
  readonly peerId: string
  /** Records of an earlier one do not count. */
  generation: number
  held: Fingerprint | null
  untilMs: number
  /** Live announced records. */
  count: number
}

interface Record {
  readonly peer: Announcer
  /** When what this node concluded by itself ends; 0 without that. */
  untilMs: number
  /** In which the peer announced it; -1 when it did not. */
  generation: number
}

export class ProviderTable {
  /** Least recently added digest first, and in each the least recently added peer first. */
  readonly #records = new Map<Digest, Record[]>()
  /** The one that was heard of longest ago first. */
  readonly #peers = new Map<string, Announcer>()
  readonly #digestsMax: number

  constructor(options: { readonly digestsMax?: number } = {}) {
    this.#digestsMax = options.digestsMax ?? PROVIDED_DIGESTS_MAX
  }

  /** Digests, those included whose records are dead but were not come across. */
  get size(): number {
    return this.#records.size
  }

  /** This node knows by itself that the peer has it. */
  add(digest: Digest, peerId: string, nowMs: number): void {
    this.#put(digest, this.#peer(peerId), nowMs).untilMs = nowMs + ANNOUNCED_MS
  }

  /**
   * Takes in what the peer says of itself, when it starts from what is held here; gives what is held after
   * that. A repeated one changes nothing but the lease.
   */
  announce(
    peerId: string,
    { from, added, gone, to }: Announcement,
    nowMs: number,
  ): Fingerprint | null {
    const peer = this.#peer(peerId)
    if (peer.untilMs <= nowMs) startOver(peer)
    const isRepeated = isSameSet(peer.held, to)
    if (!isRepeated) {
      if (from === null) startOver(peer)
      else if (!isSameSet(peer.held, from)) return peer.held
    }
    peer.held = to
    peer.untilMs = nowMs + ANNOUNCED_MS
    if (isRepeated) return to
    for (const digest of gone) this.forget(peerId, digest)
    for (const digest of added) {
      if (peer.count >= ANNOUNCED_MAX) break
      const record = this.#put(digest, peer, nowMs)
      if (record.generation === peer.generation) continue
      record.generation = peer.generation
      peer.count += 1
    }
    return to
  }

  /** The peer does not have it. */
  forget(peerId: string, digest: Digest): void {
    const records = this.#records.get(digest)
    const at = records?.findIndex(({ peer }) => peer.peerId === peerId) ?? -1
    if (records === undefined || at === -1) return
    this.#removed(records.splice(at, 1))
    if (records.length === 0) this.#records.delete(digest)
  }

  /** Nothing that the peer announced counts any more. O(1). */
  forgetPeer(peerId: string): void {
    const peer = this.#peers.get(peerId)
    if (peer === undefined) return
    startOver(peer)
    this.#peers.delete(peerId)
  }

  /** Records that the peer announced and that are here. */
  announcedBy(peerId: string): number {
    return this.#peers.get(peerId)?.count ?? 0
  }

  /** Newest first. */
  of(digest: Digest, nowMs: number): string[] {
    const records = this.#records.get(digest)
    if (records === undefined) return []
    const live = this.#live(digest, records, nowMs)
    return live.map(({ peer }) => peer.peerId).toReversed()
  }

  /** Drops the dead ones. */
  #live(digest: Digest, records: Record[], nowMs: number): Record[] {
    const live = records.filter((record) => isLive(record, nowMs))
    if (live.length === records.length) return records
    this.#removed(records.filter((record) => !isLive(record, nowMs)))
    if (live.length === 0) this.#records.delete(digest)
    else this.#records.set(digest, live)
    return live
  }

  /** The record, as the newest of its digest. */
  #put(digest: Digest, peer: Announcer, nowMs: number): Record {
    const records = this.#live(digest, this.#records.get(digest) ?? [], nowMs)
    this.#records.delete(digest)
    for (const oldest of oldestOf(this.#records, this.#digestsMax)) this.#drop(oldest)
    this.#records.set(digest, records)
    const at = records.findIndex((record) => record.peer.peerId === peer.peerId)
    const [old] = at === -1 ? [] : records.splice(at, 1)
    // A peer that was forgotten meanwhile is another announcer.
    const record = old?.peer === peer ? old : { peer, untilMs: old?.untilMs ?? 0, generation: -1 }
    records.push(record)
    if (records.length > PROVIDERS_PER_DIGEST_MAX) this.#removed(records.splice(0, 1))
    return record
  }

  #drop(digest: Digest): void {
    this.#removed(this.#records.get(digest) ?? [])
    this.#records.delete(digest)
  }

  #removed(records: readonly Record[]): void {
    for (const { peer, generation } of records) if (generation === peer.generation) peer.count -= 1
  }

  #peer(peerId: string): Announcer {
    const peer = this.#peers.get(peerId) ?? {
      peerId,
      generation: 0,
      held: null,
      untilMs: 0,
      count: 0,
    }
    this.#peers.delete(peerId)
    for (const oldest of oldestOf(this.#peers, PEERS_MAX)) this.forgetPeer(oldest)
    this.#peers.set(peerId, peer)
    return peer
  }
}

function startOver(peer: Announcer): void {
  peer.generation += 1
  peer.held = null
  peer.count = 0
}

function isLive({ peer, untilMs, generation }: Record, nowMs: number): boolean {
  return untilMs > nowMs || (generation === peer.generation && peer.untilMs > nowMs)
}
