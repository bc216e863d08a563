/** Results that this node answered for and that those above have not heard of yet. */
import type { SignedResult } from '../../wire/result.ts'
import { OFFERED_RESULTS_MAX } from '../../wire/work-messages.ts'

/** Of more the oldest are not offered: whoever needs one above builds it again. */
const UNSHARED_MAX = 10_000

export class Unshared {
  readonly #results = new Set<SignedResult>()
  #isSharing = false

  get size(): number {
    return this.#results.size
  }

  add(results: readonly SignedResult[]): void {
    for (const result of results) this.#results.add(result)
    for (const oldest of this.#results) {
      if (this.#results.size <= UNSHARED_MAX) return
      this.#results.delete(oldest)
    }
  }

  /** Hands all of them over, some at a time; what `tell` throws ends it, and leaves the rest for another time. */
  async share(tell: (results: readonly SignedResult[]) => Promise<void>): Promise<void> {
    if (this.#isSharing) return
    this.#isSharing = true
    try {
      while (this.#results.size > 0) {
        const some = [...this.#results].slice(0, OFFERED_RESULTS_MAX)
        await tell(some)
        for (const result of some) this.#results.delete(result)
      }
    } finally {
      this.#isSharing = false
    }
  }
}
