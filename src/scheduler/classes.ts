/**
 * One requirement class: all waiting jobs that the same nodes can run. What holds for one of them holds
 * for all, so that nodes are looked at once per class and not once per job.
 *
 * Inside a class each user has an account, a heap of jobs by rank: the account whose user has had the least
 * goes first. A job that could start and does not, on purpose, is set aside with its reason, and the next
 * one is looked at.
 */
import type { Estimate } from './estimates.ts'
import { IndexedHeap, type HeapMember } from './indexed-heap.ts'
import type { Requirement } from './match.ts'
import type { Job, NodeEntry } from './model.ts'
import { compareRank, type Rank } from './rank.ts'
import type { BigInputs } from './transfer.ts'

/** Jobs of a class that are set aside at most; further ones start wherever they can. */
const ASIDE_MAX = 64

/** A waiting job where it stands. */
export interface Item extends HeapMember {
  readonly job: Job
  readonly rank: Rank
  /** As it was when it was queued, or when a node was last chosen for it. */
  estimate: Estimate
  /** How fast it runs in an emulated environment, to a native one; as old as the estimate. */
  emulationSpeed: number
  readonly home: JobClass
  /** The user that it stands under: of its waiters' the one who has had least. */
  readonly user: string
  /** Its waiters belong to several users. */
  readonly isShared: boolean
  /** When a free node was declined first. */
  heldSinceMs: number | undefined
  /** When a node far from its inputs was declined first. */
  farSinceMs: number | undefined
  /** Until when it lets others go before it that are about to be queued; set when it does so first. */
  postponedUntilMs: number | undefined
  /** Its largest inputs with those that have them; looked up again after a while. */
  inputs: BigInputs | undefined
}

/**
 * Why a job that could start does not. `held-for`: `node` is busy and is expected to end it sooner all the
 * same. `near-inputs`: `node` has its inputs. `reserved`: the room that is left is kept for a big job.
 */
export interface Aside {
  readonly kind: 'held-for' | 'near-inputs' | 'reserved'
  readonly node: NodeEntry
  /** When it is judged anew at the latest. */
  readonly untilMs: number
  /** When `node` is expected to have room, or to be needed. */
  readonly atMs: number
  /** When the job is expected to end there; infinity where that is not known. */
  readonly finishAtMs: number
}

interface Account {
  readonly user: string
  readonly heap: IndexedHeap<Item>
}

export type Score = (user: string) => number

export class JobClass {
  readonly key: string
  readonly requirement: Requirement
  /** Nodes that failed the jobs of this class; used only while no other node matches. */
  readonly avoid: ReadonlySet<string>
  /** Nodes that these jobs cannot be granted to. */
  readonly cut: ReadonlySet<string>
  /**
   * `fresh`: any node may be able to start its first job. `woken`: only nodes that have changed may.
   * `blocked`: none is.
   */
  state: 'fresh' | 'woken' | 'blocked' = 'fresh'
  /** Jobs that could wait at another job, or fail at once, when no node can ever run them. */
  readonly fickle = new Set<Job>()
  readonly aside = new Map<Item, Aside>()
  readonly #accounts = new Map<string, Account>()
  #first: Item | undefined
  #firstStamp: number | undefined

  constructor(options: Pick<JobClass, 'key' | 'requirement' | 'avoid' | 'cut'>) {
    this.key = options.key
    this.requirement = options.requirement
    this.avoid = options.avoid
    this.cut = options.cut
  }

  get size(): number {
    let size = this.aside.size
    for (const { heap } of this.#accounts.values()) size += heap.size
    return size
  }
  get isEmpty(): boolean {
    return this.#accounts.size === 0 && this.aside.size === 0
  }
  /** The one that goes first comes last. O(n log n): for those who ask where a job stands. */
  get items(): Item[] {
    return [...this.all()].toSorted((a, b) => compareRank(b.rank, a.rank))
  }
  /** In no useful order. */
  *all(): Generator<Item> {
    for (const { heap } of this.#accounts.values()) yield* heap.members
    yield* this.aside.keys()
  }

  add(item: Item): void {
    this.#firstStamp = undefined
    let account = this.#accounts.get(item.user)
    if (account === undefined) {
      account = {
        user: item.user,
        heap: new IndexedHeap<Item>((a, b) => compareRank(a.rank, b.rank)),
      }
      this.#accounts.set(item.user, account)
    }
    account.heap.add(item)
    const { waiters } = item.job
    let isFickle = waiters.size > 1
    if (!isFickle) for (const { request } of waiters) isFickle = request.wire.noWait
    if (isFickle) this.fickle.add(item.job)
  }

  remove(item: Item): void {
    this.#take(item)
    this.aside.delete(item)
    this.fickle.delete(item.job)
  }

  /** The first of those that are not set aside. Asked again with the same `stamp` the scores are taken to be the same. */
  first(score: Score, stamp?: number): Item | undefined {
    if (stamp !== undefined && stamp === this.#firstStamp) return this.#first
    this.#first = this.#find(score)
    this.#firstStamp = stamp
    return this.#first
  }

  #find(score: Score): Item | undefined {
    let best: Item | undefined
    let bestScore = 0
    for (const { user, heap } of this.#accounts.values()) {
      const item = heap.first
      if (item === undefined) continue
      if (this.#accounts.size === 1) return item
      const itemScore = score(user)
      if (
        best === undefined ||
        itemScore < bestScore ||
        (itemScore === bestScore && compareRank(item.rank, best.rank) < 0)
      ) {
        best = item
        bestScore = itemScore
      }
    }
    return best
  }

  setAside(item: Item, why: Aside): void {
    this.#take(item)
    this.aside.set(item, why)
  }

  /** It is looked at again. */
  putBack(item: Item): void {
    if (this.aside.delete(item)) this.add(item)
  }

  #take(item: Item): void {
    this.#firstStamp = undefined
    const account = this.#accounts.get(item.user)
    if (account === undefined) return
    account.heap.remove(item)
    if (account.heap.size === 0) this.#accounts.delete(item.user)
  }
}

/** Negative when `a` goes before `b`: whose user has had less, then by rank. */
export function compareItems(a: Item, b: Item, score: Score): number {
  return (a.user === b.user ? 0 : score(a.user) - score(b.user)) || compareRank(a.rank, b.rank)
}

/** Whether the class may have one more that is set aside. */
export function hasRoomAside(home: JobClass): boolean {
  return home.aside.size < ASIDE_MAX
}
