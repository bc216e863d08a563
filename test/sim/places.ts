/** Where each blob is in a simulation: at which workers, and at which it ever was. */
import type { Digest } from '../../src/wire/digest.ts'

export class Places {
  readonly #now = new Map<Digest, Set<string>>()
  readonly #ever = new Map<Digest, Set<string>>()
  readonly #everywhere = new Set<Digest>()

  add(digest: Digest, peerId: string): void {
    for (const places of [this.#now, this.#ever])
      places.set(digest, (places.get(digest) ?? new Set()).add(peerId))
  }

  /** Some mirror has it for good. */
  addEverywhere(digest: Digest): void {
    this.#everywhere.add(digest)
  }

  has(digest: Digest, peerId: string): boolean {
    return this.#everywhere.has(digest) || this.#now.get(digest)?.has(peerId) === true
  }

  /** Whether the peer had it at some time. */
  had(digest: Digest, peerId: string): boolean {
    return this.#ever.get(digest)?.has(peerId) === true
  }

  isLost(digest: Digest): boolean {
    return !this.#everywhere.has(digest) && (this.#now.get(digest)?.size ?? 0) === 0
  }

  /** Takes it from everybody; false when nobody had it. */
  lose(digest: Digest): boolean {
    return this.#now.delete(digest)
  }
}
