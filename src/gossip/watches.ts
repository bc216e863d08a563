/**
 * "Tell me when": who waits for a digest that nobody has. One word for each, when somebody has it; without
 * it, the wait ends by itself. So a digest that does not exist costs nothing while it is wanted. Pure.
 */
import type { Digest } from '../wire/digest.ts'

/** A wait that is not renewed ends after this. */
export const WATCH_MS = 3600_000
const WATCHES_PER_PEER_MAX = 4_096
const WATCHES_MAX = 100_000

interface Watch {
  readonly digest: Digest
  readonly peerId: string
  untilMs: number
}

export class Watches {
  readonly #byDigest = new Map<Digest, Map<string, Watch>>()
  readonly #byPeer = new Map<string, Set<Digest>>()
  /** The one that was renewed longest ago first; all last equally long. */
  readonly #inOrder = new Set<Watch>()

  get size(): number {
    return this.#inOrder.size
  }

  /** False when there is no room: the peer has to ask again by itself. */
  add(digest: Digest, peerId: string, nowMs: number): boolean {
    const old = this.#byDigest.get(digest)?.get(peerId)
    if (old !== undefined) {
      this.#inOrder.delete(old)
      old.untilMs = nowMs + WATCH_MS
      this.#inOrder.add(old)
      return true
    }
    if (this.#isFullFor(peerId)) this.#prune(nowMs)
    if (this.#isFullFor(peerId)) return false
    const digests = this.#byPeer.get(peerId) ?? new Set()
    const watch = { digest, peerId, untilMs: nowMs + WATCH_MS }
    const peers = this.#byDigest.get(digest) ?? new Map<string, Watch>()
    this.#byDigest.set(digest, peers.set(peerId, watch))
    this.#byPeer.set(peerId, digests.add(digest))
    this.#inOrder.add(watch)
    return true
  }

  /** What anybody waits for. */
  digests(): IterableIterator<Digest> {
    return this.#byDigest.keys()
  }

  /** The digest has come: gives those that waited, and their waits are over. */
  take(digest: Digest, nowMs: number): string[] {
    const watches = [...(this.#byDigest.get(digest)?.values() ?? [])]
    for (const watch of watches) this.#remove(watch)
    return watches.filter(({ untilMs }) => untilMs > nowMs).map(({ peerId }) => peerId)
  }

  forgetPeer(peerId: string): void {
    for (const digest of this.#byPeer.get(peerId) ?? []) {
      const watch = this.#byDigest.get(digest)?.get(peerId)
      if (watch !== undefined) this.#remove(watch)
    }
  }

  #isFullFor(peerId: string): boolean {
    const peerCount = this.#byPeer.get(peerId)?.size ?? 0
    return peerCount >= WATCHES_PER_PEER_MAX || this.#inOrder.size >= WATCHES_MAX
  }

  #prune(nowMs: number): void {
    for (const watch of this.#inOrder) {
      if (watch.untilMs > nowMs) return
      this.#remove(watch)
    }
  }

  #remove(watch: Watch): void {
    const { digest, peerId } = watch
    this.#inOrder.delete(watch)
    const peers = this.#byDigest.get(digest)
    if (peers?.delete(peerId) === true && peers.size === 0) this.#byDigest.delete(digest)
    const digests = this.#byPeer.get(peerId)
    if (digests?.delete(digest) === true && digests.size === 0) this.#byPeer.delete(peerId)
  }
}
