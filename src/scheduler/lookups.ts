/**
 * Jobs whose stored result is looked up just now: the successors of what has just ended, or the rest of a
 * request that has just come. Most of them will wait for a node in a moment, so a lesser job does not take
 * the best node before that is known.
 */
import type { Core } from './core.ts'
import type { Item } from './classes.ts'
import { IndexedHeap, type HeapMember } from './indexed-heap.ts'
import type { Job } from './model.ts'
import { compareRank, rankOf, type Rank } from './rank.ts'

/** A job is put off for so long at most, once, and a look-up that takes longer is not waited for. */
export const LOOKUP_GRACE_MS = 25
/** Look-ups that are remembered; of more the others are not waited for. */
const PENDING_MAX = 50_000
/** A job that takes less than this is started at once: it is soon out of the way. */
const DURATION_MS_MIN = 500

interface Pending extends HeapMember {
  readonly job: Job
  readonly user: string
  readonly rank: Rank
  readonly sinceMs: number
}

export class Lookups {
  readonly #core: Core
  readonly #heap = new IndexedHeap<Pending>((a, b) => compareRank(a.rank, b.rank))
  readonly #byJob = new Map<Job, Pending>()

  /** Look-ups that have ended, or are not waited for any more. */
  endCount = 0

  constructor(core: Core) {
    this.#core = core
  }

  begun(job: Job): void {
    this.ended(job)
    const [step] = job.waiters
    if (step === undefined || this.#byJob.size >= PENDING_MAX) return
    const pending = {
      job,
      user: step.request.wire.user,
      rank: rankOf(job, this.#core.state.estimates.of(step.derivation)),
      sinceMs: this.#core.moment.nowMs,
      heapAt: -1,
    }
    this.#byJob.set(job, pending)
    this.#heap.add(pending)
  }

  ended(job: Job): void {
    const pending = this.#byJob.get(job)
    if (pending === undefined) return
    this.endCount += 1
    this.#byJob.delete(job)
    this.#heap.remove(pending)
  }

  /** Until when the item waits for one that would go before it; undefined where there is none. */
  waitedForBy({ rank, user, estimate }: Item): number | undefined {
    if (estimate.durationMs < DURATION_MS_MIN) return undefined
    for (let first = this.#heap.first; first !== undefined; first = this.#heap.first) {
      const untilMs = first.sinceMs + LOOKUP_GRACE_MS
      if (untilMs <= this.#core.moment.nowMs || first.job.phase !== 'lookup') {
        this.ended(first.job)
        continue
      }
      const { score } = this.#core.queues
      const isAhead =
        (first.user === user || score(first.user) <= score(user)) &&
        compareRank(first.rank, rank) < 0
      return isAhead ? untilMs : undefined
    }
    return undefined
  }
}
