/**
 * Waiting jobs, one queue per distinct requirement, so that neither a long queue nor many nodes cost:
 * what holds for the head of a queue holds for all of it.
 */
import type { Job } from './model.ts'
import { requirementOf, type Requirement } from './match.ts'

/** What goes first: priority, then what holds up most, then who came first. */
export interface Rank {
  readonly priority: number
  readonly height: number
  readonly seq: number
  readonly index: number
}

function rankOf(job: Job): Rank {
  let priority = 0
  let height = 0
  let seq = Number.MAX_SAFE_INTEGER
  let index = Number.MAX_SAFE_INTEGER
  for (const step of job.waiters) {
    priority = Math.max(priority, step.request.wire.priority)
    height = Math.max(height, step.height)
    if (step.request.seq < seq) {
      seq = step.request.seq
      index = step.index
    }
  }
  return { priority, height, seq, index }
}

/** Negative when `a` goes before `b`. */
export function compareRank(a: Rank, b: Rank): number {
  return b.priority - a.priority || b.height - a.height || a.seq - b.seq || a.index - b.index
}

interface Item {
  readonly job: Job
  readonly rank: Rank
}

export interface Queue {
  readonly key: string
  readonly requirement: Requirement
  /** Nodes that failed the jobs of this queue; used only while no other node matches. */
  readonly avoid: ReadonlySet<string>
  /** Nodes that an input of these jobs has no way to. */
  readonly cut: ReadonlySet<string>
  /** Worst first, so that the head is popped from the end. */
  readonly items: Item[]
}

export class Queues {
  readonly #queues = new Map<string, Queue>()
  /** The one entry of each queued job. An entry whose job no longer waits is dropped when it is met. */
  readonly #items = new Map<Job, Item>()

  get all(): IterableIterator<Queue> {
    return this.#queues.values()
  }

  /** Puts a waiting job where it belongs now; it leaves the place that it had. */
  put(job: Job): void {
    const requirement = requirementOf(job.waiters)
    const key = [requirement.key, ...namesOf('avoid', job.avoid), ...namesOf('cut', job.cut)].join(
      ' ',
    )
    const rank = rankOf(job)
    const before = this.#items.get(job)
    if (before !== undefined && job.queue === key && compareRank(before.rank, rank) === 0) return
    this.#remove(job)
    let queue = this.#queues.get(key)
    if (queue === undefined) {
      queue = { key, requirement, avoid: new Set(job.avoid), cut: job.cut, items: [] }
      this.#queues.set(key, queue)
    }
    const item = { job, rank }
    job.queue = key
    this.#items.set(job, item)
    queue.items.splice(placeOf(queue.items, rank), 0, item)
  }

  /** The first job of the queue that still waits, and its rank. */
  head(queue: Queue): Item | undefined {
    for (let item = queue.items.at(-1); item !== undefined; item = queue.items.at(-1)) {
      if (item.job.phase === 'waiting') return item
      this.#remove(item.job)
    }
    return undefined
  }

  /** Takes the head that `head` gave out of the queue. */
  take(queue: Queue): void {
    const item = queue.items.at(-1)
    if (item !== undefined) this.#remove(item.job)
  }

  /** Drops every entry whose job no longer waits, also behind a head that no node takes. */
  sweep(): void {
    for (const { job } of [...this.#items.values()]) if (job.phase !== 'waiting') this.#remove(job)
  }

  of(job: Job): Queue | undefined {
    return job.queue === undefined ? undefined : this.#queues.get(job.queue)
  }

  #remove(job: Job): void {
    const item = this.#items.get(job)
    const queue = this.of(job)
    job.queue = undefined
    if (item === undefined || queue === undefined) return
    this.#items.delete(job)
    queue.items.splice(queue.items.indexOf(item, placeOf(queue.items, item.rank)), 1)
    if (queue.items.length === 0) this.#queues.delete(queue.key)
  }
}

const namesOf = (what: string, peerIds: ReadonlySet<string>): string[] =>
  peerIds.size === 0 ? [] : [`${what} ${[...peerIds].toSorted().join()}`]

/** Index of the first item that is not worse than `rank`. */
function placeOf(items: readonly Item[], rank: Rank): number {
  let low = 0
  let high = items.length
  while (low < high) {
    const middle = (low + high) >>> 1
    const item = items[middle]
    if (item !== undefined && compareRank(item.rank, rank) > 0) low = middle + 1
    else high = middle
  }
  return low
}
