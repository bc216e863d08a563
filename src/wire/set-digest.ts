/**
 * 32 bytes and a count that stand for a set of digests, whatever the order in which it came about: all
 * members XORed. Digests are as good as random, so two sets that are not equal do not meet by accident; a
 * node that constructs such sets deceives others about nothing but its own blobs.
 */
import { digestBytes, digestFromBytes, type Digest } from './digest.ts'
import type { Fingerprint } from './announcement.ts'

export class SetDigest {
  readonly #bytes = new Uint8Array(32)
  #count = 0

  /** The caller knows that it is not in the set. */
  include(digest: Digest): void {
    this.#mix(digest)
    this.#count += 1
  }

  /** The caller knows that it is in the set. */
  exclude(digest: Digest): void {
    this.#mix(digest)
    this.#count -= 1
  }

  get value(): Fingerprint {
    return { digest: digestFromBytes(this.#bytes), count: this.#count }
  }

  #mix(digest: Digest): void {
    const other = digestBytes(digest)
    for (let at = 0; at < other.length; at++)
      this.#bytes[at] = (this.#bytes[at] ?? 0) ^ (other[at] ?? 0)
  }
}

export function isSameSet(a: Fingerprint | null, b: Fingerprint | null): boolean {
  return a === null || b === null ? a === b : a.digest === b.digest && a.count === b.count
}
