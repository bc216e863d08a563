/**
 * Notices a build that runs more jobs than it was given: a recipe with `make -j8` of its own leaves the
 * jobserver, and nothing else would tell.
 *
 * Pure. A peak is no overuse (a pipe of two programs counts as two), so it has to last.
 */

/** Looks in a row that must all be over. */
const LOOKS = 3
/** Allowed beside the number: a quarter of it, and at least this. */
const SLACK = 1.25

export class Overuse {
  #looks = 0
  #least = Number.POSITIVE_INFINITY
  #isTold = false

  /** Processors that it kept busy at least, once that has been too much for long; then never again. */
  look(busy: number, jobs: number): number | undefined {
    if (busy <= jobs + Math.max(SLACK, jobs / 4)) {
      this.#looks = 0
      this.#least = Number.POSITIVE_INFINITY
      return undefined
    }
    this.#looks++
    this.#least = Math.min(this.#least, busy)
    if (this.#looks < LOOKS || this.#isTold) return undefined
    this.#isTold = true
    return this.#least
  }
}
