/**
 * Who has which blob, as far as this node was told: up to 8 peers per digest, a bounded number of digests.
 *
 * A record is a hint. A wrong one costs one question, so the oldest are simply dropped when the table is
 * full. Pure: the caller brings the time.
 */
import type { Digest } from '../wire/digest.ts'

export const PROVIDERS_PER_DIGEST_MAX = 8
const PROVIDED_DIGESTS_MAX = 200_000

export interface Provider {
  readonly peerId: string
  readonly atMs: number
}

export class ProviderTable {
  /** Least recently announced digest first, and in each the least recently announced peer first. */
  readonly #providers = new Map<Digest, Map<string, number>>()
  readonly #digestsMax: number

  constructor(options: { readonly digestsMax?: number } = {}) {
    this.#digestsMax = options.digestsMax ?? PROVIDED_DIGESTS_MAX
  }

  get size(): number {
    return this.#providers.size
  }

  add(digest: Digest, peerId: string, atMs: number): void {
    const peers = this.#providers.get(digest) ?? new Map<string, number>()
    this.#providers.delete(digest)
    this.#providers.set(digest, peers)
    peers.delete(peerId)
    peers.set(peerId, atMs)
    if (peers.size > PROVIDERS_PER_DIGEST_MAX) dropFirst(peers)
    if (this.#providers.size > this.#digestsMax) dropFirst(this.#providers)
  }

  /** The peer answered that it does not have it. */
  forget(peerId: string, digest: Digest): void {
    const peers = this.#providers.get(digest)
    if (peers?.delete(peerId) === true && peers.size === 0) this.#providers.delete(digest)
  }

  /** The peer left. O(table). */
  forgetPeer(peerId: string): void {
    for (const digest of this.#providers.keys()) this.forget(peerId, digest)
  }

  /** Newest first. */
  of(digest: Digest): Provider[] {
    const peers = this.#providers.get(digest) ?? []
    return [...peers].map(([peerId, atMs]) => ({ peerId, atMs })).toReversed()
  }
}

function dropFirst(map: Map<string, unknown>): void {
  for (const key of map.keys()) {
    map.delete(key)
    return
  }
}
