/**
 * Who is fetching which big blob: those that have parts of it. Asking who has it is joining, so a crowd that
 * wants the same blob at once costs one question each; whoever does not ask again in time has left.
 *
 * Bounded in blobs and in peers of each; the one that was joined longest ago goes. Pure.
 */
import { randomFraction, type Random } from '../base/random.ts'
import type { Digest } from '../wire/digest.ts'

/** A partial provider is named for this long after it asked. */
export const PARTIAL_MS = 120_000
/** Partial providers that one asker hears of. */
export const SWARM_PEERS_MAX = 16
const SWARMS_MAX = 1_000
const PARTIALS_PER_SWARM_MAX = 1_024

export class SwarmTracker {
  readonly #random: Random
  /** Each with its peers and when they are given up, both in the order of the last join. */
  readonly #swarms = new Map<Digest, Map<string, number>>()

  constructor(deps: { readonly random: Random }) {
    this.#random = deps.random
  }

  /** Whether anybody is still at it. */
  isOn(digest: Digest, nowMs: number): boolean {
    return this.#pruned(digest, nowMs) !== undefined
  }

  join(digest: Digest, peerId: string, nowMs: number): void {
    const peers = this.#pruned(digest, nowMs) ?? new Map<string, number>()
    this.#swarms.delete(digest)
    this.#swarms.set(digest, peers)
    peers.delete(peerId)
    peers.set(peerId, nowMs + PARTIAL_MS)
    if (peers.size > PARTIALS_PER_SWARM_MAX) dropFirst(peers)
    if (this.#swarms.size > SWARMS_MAX) dropFirst(this.#swarms)
  }

  /** It has all of the blob, or nothing. */
  leave(digest: Digest, peerId: string): void {
    const peers = this.#swarms.get(digest)
    if (peers?.delete(peerId) === true && peers.size === 0) this.#swarms.delete(digest)
  }

  /** O(swarms). */
  forgetPeer(peerId: string): void {
    for (const digest of this.#swarms.keys()) this.leave(digest, peerId)
  }

  /** Up to SWARM_PEERS_MAX at random, without the asker. */
  others(digest: Digest, asker: string, nowMs: number): string[] {
    const peers = [...(this.#pruned(digest, nowMs)?.keys() ?? [])].filter((peer) => peer !== asker)
    const chosen: string[] = []
    while (chosen.length < SWARM_PEERS_MAX && peers.length > 0) {
      const at = Math.floor(randomFraction(this.#random) * peers.length)
      const last = peers.pop()
      const one = at === peers.length ? last : peers[at]
      if (last === undefined || one === undefined) break
      if (at < peers.length) peers[at] = last
      chosen.push(one)
    }
    return chosen
  }

  /** Without those whose time is over. */
  #pruned(digest: Digest, nowMs: number): Map<string, number> | undefined {
    const peers = this.#swarms.get(digest)
    if (peers === undefined) return undefined
    for (const [peerId, untilMs] of peers) {
      if (untilMs > nowMs) return peers
      peers.delete(peerId)
    }
    this.#swarms.delete(digest)
    return undefined
  }
}

function dropFirst(map: Map<string, unknown>): void {
  for (const key of map.keys()) {
    map.delete(key)
    return
  }
}
