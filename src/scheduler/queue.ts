/**
 * Waiting jobs by requirement class, so that neither a long queue nor many nodes cost: putting a job in
 * and taking it out is logarithmic in its class, whatever else waits.
 */
import { WAIT_MS_DEFAULT } from '../wire/api.ts'
import { Deadlines } from './indexed-heap.ts'
import { JobClass, type Aside, type Item, type Score } from './classes.ts'
import type { Core } from './core.ts'
import { EMULATION_SPEED } from './isolation.ts'
import { LargestNeed } from './largest-need.ts'
import { requirementOf, withMemory, type Requirement } from './match.ts'
import { barredFrom, type Job, type Step } from './model.ts'
import { compareRank, rankOf } from './rank.ts'

/** Jobs that are judged anew in one sweep; the others have their turn in the next ones. */
const SWEPT_MAX = 4_096

export class Queues {
  readonly #core: Core
  readonly largest = new LargestNeed()
  readonly #classes = new Map<string, JobClass>()
  /** The one entry of each queued job. An entry whose job no longer waits is dropped when it is met. */
  readonly #items = new Map<Job, Item>()
  /** Classes whose first job may be able to start. */
  readonly #active = new Set<JobClass>()
  /** When those set aside are judged anew. */
  readonly #asides = new Deadlines<Item>()
  /** When the first of those who wait for a job has waited for long enough. */
  readonly #limits = new Deadlines<Job>()
  readonly #scores = new Map<string, number>()
  #scoreStamp = 0
  #swept: Iterator<Item> | undefined

  constructor(core: Core) {
    this.#core = core
  }

  get all(): IterableIterator<JobClass> {
    return this.#classes.values()
  }
  get active(): ReadonlySet<JobClass> {
    return this.#active
  }
  get jobCount(): number {
    return this.#items.size
  }
  /** When one that is set aside is due; infinity for never. */
  get nextAsideMs(): number {
    return this.#asides.nextMs
  }

  /** Of a user, until somebody is granted something: lower goes first. */
  readonly score: Score = (user) => {
    const known = this.#scores.get(user)
    if (known !== undefined) return known
    const score = this.#core.shares.score(user)
    this.#scores.set(user, score)
    return score
  }

  forgetScores(): void {
    this.#scores.clear()
    this.#scoreStamp += 1
  }

  /** Puts a waiting job where it belongs now; it leaves the place that it had. */
  put(job: Job): void {
    const estimate = this.estimateOf(job)
    const requirement = this.requirementOf(job, estimate.memoryBytes)
    const barred = barredFrom(job)
    const avoid = this.#core.builders.avoidedBy(job)
    const key = [requirement.key, ...namesOf('avoid', avoid), ...namesOf('cut', barred)].join(' ')
    const rank = rankOf(job, estimate)
    const { user, isShared } = this.#usersOf(job)
    const before = this.#items.get(job)
    if (before !== undefined) {
      if (before.home.key === key && before.user === user && compareRank(before.rank, rank) === 0)
        return
      this.remove(job)
    }
    let home = this.#classes.get(key)
    if (home === undefined) {
      home = new JobClass({ key, requirement, avoid, cut: barred })
      this.#classes.set(key, home)
      this.largest.see(requirement.cpusMin, this.#core.moment.nowMs)
      this.#core.classes.changed()
    }
    const item: Item = {
      job,
      rank,
      estimate,
      emulationSpeed: EMULATION_SPEED,
      home,
      user,
      isShared,
      heldSinceMs: before?.heldSinceMs,
      farSinceMs: before?.farSinceMs,
      postponedUntilMs: before?.postponedUntilMs,
      inputs: undefined,
      heapAt: -1,
    }
    // The class as a name: the job of a class that is gone waits nowhere.
    job.queue = home.key
    this.#items.set(job, item)
    home.add(item)
    this.#limits.set(job, waitEndMs(job))
    this.#core.waiting.wakeClass(home)
  }

  /** What a node must have for the job: what its waiters ask for, and the memory that it is known to need where they did not say. */
  requirementOf(job: Job, learntBytes = this.estimateOf(job).memoryBytes): Requirement {
    const requirement = requirementOf(job.waiters)
    if (requirement.memoryBytes > 0 || learntBytes <= 0) return requirement
    const largest = this.#core.profiles.largestMemory(requirement)
    return withMemory(requirement, Math.min(stepOf(learntBytes), largest))
  }

  estimateOf(job: Job): Item['estimate'] {
    for (const { derivation } of job.waiters) return this.#core.state.estimates.of(derivation)
    throw new Error('a job that is queued has a waiter')
  }

  emulationSpeedOf(job: Job): number {
    for (const { derivation } of job.waiters)
      return this.#core.state.estimates.emulationSpeedOf(derivation)
    throw new Error('a job that is queued has a waiter')
  }

  /** Of the users that wait for it the one who has had least. */
  userOf(job: Job): string {
    return this.#usersOf(job).user
  }

  #usersOf(job: Job): Pick<Item, 'user' | 'isShared'> {
    let user: string | undefined
    let isShared = false
    for (const { request } of job.waiters) {
      const other = request.wire.user
      if (user === undefined) user = other
      if (other === user) continue
      isShared = true
      const { shares } = this.#core
      if (shares.score(other) < shares.score(user)) user = other
    }
    return { user: user ?? '', isShared }
  }

  /** The class that the job waits in. */
  of(job: Job): JobClass | undefined {
    return this.#items.get(job)?.home
  }

  /** The one of the class that goes first, also when it is set aside. */
  head(home: JobClass): Item | undefined {
    const first = this.first(home)
    if (first !== undefined) return first
    for (const item of home.aside.keys()) return item
    return undefined
  }

  /** The first of those that are not set aside, and that wait. */
  first(home: JobClass): Item | undefined {
    for (;;) {
      const item = home.first(this.score, this.#scoreStamp)
      if (item === undefined || isWaiting(item.job)) return item
      this.remove(item.job)
    }
  }

  itemOf(job: Job): Item | undefined {
    return this.#items.get(job)
  }

  remove(job: Job): void {
    const item = this.#items.get(job)
    job.queue = undefined
    if (item === undefined) return
    this.#items.delete(job)
    this.#limits.delete(job)
    const { home } = item
    this.#forgetAside(item)
    home.remove(item)
    if (!home.isEmpty) return
    this.#classes.delete(home.key)
    this.#active.delete(home)
    this.#core.reservations.classGone(home)
  }

  // ---- which classes are looked at

  activate(home: JobClass, state: 'fresh' | 'woken'): void {
    if (home.state !== 'fresh') home.state = state
    this.#active.add(home)
  }

  block(home: JobClass): void {
    home.state = 'blocked'
    this.#active.delete(home)
  }

  // ---- jobs that do not start on purpose

  setAside(item: Item, why: Aside): void {
    item.home.setAside(item, why)
    this.#asides.set(item, why.untilMs)
  }

  /** Looks at it again, with all that are of its class. */
  putBack(item: Item): void {
    if (!item.home.aside.has(item)) return
    this.#forgetAside(item)
    item.home.putBack(item)
  }

  #forgetAside(item: Item): void {
    this.#asides.delete(item)
    const why = item.home.aside.get(item)
    if (why !== undefined) this.#core.forecast.unpromise(why.node, item)
  }

  putBackDue(nowMs: number): void {
    for (const item of this.#asides.takeDue(nowMs)) {
      this.putBack(item)
      this.#core.waiting.wakeClass(item.home)
    }
  }

  // ---- what is judged anew now and then

  /** Drops entries whose job no longer waits, and puts the others where they belong now; a part of them at a time. */
  sweep(): void {
    for (let left = Math.min(SWEPT_MAX, this.#items.size); left > 0; left -= 1) {
      this.#swept ??= this.#items.values()
      const { value, done } = this.#swept.next()
      if (done === true) {
        this.#swept = undefined
        continue
      }
      if (!isWaiting(value.job)) this.remove(value.job)
      else this.put(value.job)
    }
  }

  /** Jobs of which somebody has waited for long enough; they stay where they are. */
  takeOverdue(nowMs: number): Job[] {
    return this.#limits.takeDue(nowMs)
  }

  /** The job goes on waiting: for those whose limit has not come. */
  waitOn(job: Job): void {
    if (this.#items.has(job)) this.#limits.set(job, waitEndMs(job))
  }

  /** No job is open any more. */
  clear(): void {
    for (const job of [...this.#items.keys()]) this.remove(job)
  }
}

const isWaiting = ({ phase, waiters }: Job): boolean => phase === 'waiting' && waiters.size > 0

/** When the least patient of those who wait for the job gives it up. */
function waitEndMs(job: Job): number {
  let limitMs = Number.POSITIVE_INFINITY
  for (const step of job.waiters) limitMs = Math.min(limitMs, waitLimitOf(step))
  return job.waitingSinceMs + limitMs
}

export function waitLimitOf({ request }: Step): number {
  return request.wire.waitLimitMs ?? WAIT_MS_DEFAULT
}

const MEMORY_STEP_MIN = 64 * 2 ** 20

/** The next of four steps per doubling, so that what was learnt of many jobs makes few classes. */
function stepOf(bytes: number): number {
  if (bytes <= MEMORY_STEP_MIN) return MEMORY_STEP_MIN
  const quarter = 2 ** Math.floor(Math.log2(bytes)) / 4
  return Math.ceil(bytes / quarter) * quarter
}

const namesOf = (what: string, peerIds: ReadonlySet<string>): string[] =>
  peerIds.size === 0 ? [] : [`${what} ${[...peerIds].toSorted().join()}`]
