/**
 * How many processors jobs ask for at most these days. Where a job may come that needs most of a machine,
 * small ones are put together, so that whole machines stay free for it; else they are spread, since jobs
 * that share a machine are in each other's way.
 */
/** A class of jobs is remembered for so long. */
const REMEMBERED_MS = 3_600_000
/** A job that needs this part of a machine hardly finds room among others. */
const LARGE_PART = 0.5

export class LargestNeed {
  #cpus = 1
  #atMs = Number.NEGATIVE_INFINITY

  /** Jobs that need so many processors have come. */
  see(cpus: number, nowMs: number): void {
    if (cpus < this.#cpus && nowMs - this.#atMs < REMEMBERED_MS) return
    this.#cpus = cpus
    this.#atMs = nowMs
  }

  /** Which of machines of so many processors small jobs are given. */
  orderOn(cpus: number): 'roomiest' | 'tightest' {
    return this.#cpus > 1 && this.#cpus >= LARGE_PART * cpus && this.#cpus <= cpus
      ? 'tightest'
      : 'roomiest'
  }
}
