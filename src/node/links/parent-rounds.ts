/**
 * Which parent is tried next, and after what wait: a pure state machine, which the supervisor of links and
 * the simulator follow alike. Parents are tried in the order of preference, with a wait after each round.
 */
import { backoffMs } from '../../base/backoff.ts'
import type { Random } from '../../base/random.ts'

/** Waits between rounds over all parents. */
const BACKOFF = { firstMs: 250, maxMs: 15_000 } as const
/** A link that lived this long is replaced at once; one that ended earlier counts as a failed try. */
const STABLE_MS = 10_000

export class ParentRounds {
  readonly #count: number
  #at = 0
  #rounds = 0

  /** `count` is how many parents there are. */
  constructor(count: number) {
    this.#count = count
  }

  /** The parent to try, by its place in the order of preference, and how long to wait before. */
  next(random: Random): { readonly at: number; readonly delayMs: number } {
    const isNewRound = this.#at === 0 && this.#rounds > 0
    return { at: this.#at, delayMs: isNewRound ? backoffMs(random, this.#rounds, BACKOFF) : 0 }
  }

  /** It could not be reached. */
  failed(): void {
    this.#at += 1
    if (this.#at < this.#count) return
    this.#at = 0
    this.#rounds += 1
  }

  /** The link to it has ended. One that ends at once, as that of a ring does, must not keep the next parent from its turn. */
  ended(livedMs: number): void {
    if (livedMs < STABLE_MS) {
      this.failed()
      return
    }
    this.#at = 0
    this.#rounds = 0
  }
}
