/**
 * Whose turn it is: users in groups, by what they have had of the processors lately and have now.
 *
 * A score is the processors that somebody has had on average over the half-life, and those that run for
 * them now, divided by their weight; the lowest goes first. Groups come before users: a user's score is
 * that of the group, and among users of one group their own decides.
 */
import { matchesGlob } from '../base/glob.ts'
import type { Fact } from '../wire/facts.ts'
import type { Core } from './core.ts'
import { isLive, type Job } from './model.ts'

interface ShareGroup {
  readonly name: string
  /** Patterns of users, `*` for any run of characters; the first group that has one that fits takes the user. */
  readonly users: readonly string[]
  readonly weight: number
}

export interface ShareOptions {
  readonly halfLifeMs?: number
  readonly groups?: readonly ShareGroup[]
}

export interface ShareView {
  readonly user: string
  readonly group: string
  readonly weight: number
  readonly score: number
  readonly runningCpus: number
  readonly usedCpuMs: number
}

const GROUP_DEFAULT = 'default'
/** What a user's own score adds to that of the group at most: enough to order equal groups, never unequal ones. */
const WITHIN_GROUP = 1e-6
/** Use is summed up over a group's users this often; what runs is counted at once. */
const GROUP_USE_MS = 1_000
/** Processors are counted in millionths, so that parts of them add up to nothing again. */
const MILLIONTHS = 1e6
/** Which group a user is in is remembered for so many; beyond it, it is found out anew. */
const GROUPS_KNOWN_MAX = 10_000

interface Group {
  readonly name: string
  readonly weight: number
  readonly users: readonly string[]
  /** In millionths. */
  running: number
}

export class Shares {
  readonly #core: Core
  readonly #groups: readonly Group[]
  readonly #fallback: Group
  /** The group of a user, as found out before. */
  readonly #known = new Map<string, Group>()
  /** Millionths of processors by user, of attempts that run now. */
  readonly #running = new Map<string, number>()
  /** By job: who it is charged to now, and the part of each in millionths. */
  readonly #charged = new Map<Job, { readonly users: readonly string[]; readonly part: number }>()
  /** Decayed use of each group, and when it was summed up. */
  #groupUse: { readonly wallMs: number; readonly usedMs: ReadonlyMap<Group, number> } | undefined

  constructor(core: Core, { groups = [] }: ShareOptions = {}) {
    this.#core = core
    const made = groups.map(({ name, users, weight }): Group => ({
      name,
      weight,
      users,
      running: 0,
    }))
    this.#fallback = made.find(({ name }) => name === GROUP_DEFAULT) ?? {
      name: GROUP_DEFAULT,
      weight: 1,
      users: [],
      running: 0,
    }
    this.#groups = made.includes(this.#fallback) ? made : [...made, this.#fallback]
  }

  /** Lower goes first. O(1), but for the first call of a moment where there are several groups: O(users). */
  score(user: string): number {
    const group = this.#groupOf(user)
    const own = this.#cpusOf(user)
    // One group needs no comparison, and the plain number tells people more.
    if (this.#groups.length === 1) return own
    const running = group.running / MILLIONTHS
    const cpus = (this.#usedBy(group) / this.#halfLifeMs + running) / group.weight
    return cpus + (WITHIN_GROUP * own) / (1 + own)
  }

  /** Processors that run for the user now. */
  runningCpus(user: string): number {
    return (this.#running.get(user) ?? 0) / MILLIONTHS
  }

  /** Everybody who has had something lately or has now, the next one to be served first. */
  view(): ShareView[] {
    const { usage } = this.#core.state
    return [...new Set([...usage.users, ...this.#running.keys()])]
      .map((user) => {
        const { name, weight } = this.#groupOf(user)
        return {
          user,
          group: name,
          weight,
          score: this.score(user),
          runningCpus: this.runningCpus(user),
          usedCpuMs: Math.round(usage.of(user, this.#core.moment.wallMs)),
        }
      })
      .toSorted((a, b) => a.score - b.score || (a.user < b.user ? -1 : 1))
  }

  /** The state is replayed: counts what runs. */
  recover(): void {
    for (const jobs of this.#core.state.openJobs.values())
      for (const job of jobs) this.jobChanged(job)
  }

  /** The fact has become true: whoever it concerns is counted anew. */
  followed(fact: Fact): void {
    const { state } = this.#core
    if ('attempt' in fact) this.jobChanged(state.attempts.get(fact.attempt)?.job)
    if ('job' in fact) this.jobChanged(state.jobs.get(fact.job))
    if (fact.type === 'accepted') return
    if (fact.type === 'evicted') {
      // What is forgotten with a request may still be counted, if it ran for nobody.
      for (const job of [...this.#charged.keys()]) if (!state.jobs.has(job.id)) this.jobChanged(job)
    } else if ('request' in fact) {
      const steps = state.requests.get(fact.request)?.steps
      if ('derivation' in fact && fact.derivation !== undefined)
        this.jobChanged(steps?.get(fact.derivation)?.job)
      else if (fact.type === 'closed' || fact.type === 'retried' || fact.type === 'cancelled')
        for (const step of steps?.values() ?? []) this.jobChanged(step.job)
    }
  }

  /** Its live attempts, their allotments or its waiters are others now. */
  jobChanged(job: Job | undefined): void {
    if (job === undefined) return
    const before = this.#charged.get(job)
    let cpus = 0
    for (const attempt of job.attempts) if (isLive(attempt)) cpus += attempt.allotted
    if (before === undefined && cpus === 0) return
    for (const user of before?.users ?? []) this.#add(user, -(before?.part ?? 0))
    this.#charged.delete(job)
    if (cpus === 0) return
    const users = new Set<string>()
    for (const { request } of job.waiters.size > 0 ? job.waiters : job.shownBy)
      users.add(request.wire.user)
    const part = Math.round((cpus * MILLIONTHS) / Math.max(1, users.size))
    for (const user of users) this.#add(user, part)
    this.#charged.set(job, { users: [...users], part })
  }

  #add(user: string, millionths: number): void {
    const now = (this.#running.get(user) ?? 0) + millionths
    if (now === 0) this.#running.delete(user)
    else this.#running.set(user, now)
    this.#groupOf(user).running += millionths
  }

  get #halfLifeMs(): number {
    return this.#core.state.usage.halfLifeMs
  }

  #cpusOf(user: string): number {
    const usedMs = this.#core.state.usage.of(user, this.#core.moment.wallMs)
    return usedMs / this.#halfLifeMs + this.runningCpus(user)
  }

  #usedBy(group: Group): number {
    const { moment, state } = this.#core
    const ageMs = moment.wallMs - (this.#groupUse?.wallMs ?? Number.NEGATIVE_INFINITY)
    if (this.#groupUse === undefined || ageMs < 0 || ageMs >= GROUP_USE_MS) {
      const usedMs = new Map<Group, number>()
      for (const user of state.usage.users) {
        const of = this.#groupOf(user)
        usedMs.set(of, (usedMs.get(of) ?? 0) + state.usage.of(user, moment.wallMs))
      }
      this.#groupUse = { wallMs: moment.wallMs, usedMs }
    }
    return this.#groupUse.usedMs.get(group) ?? 0
  }

  #groupOf(user: string): Group {
    const known = this.#known.get(user)
    if (known !== undefined) return known
    const group =
      this.#groups.find(({ users }) => users.some((pattern) => matchesGlob(pattern, user))) ??
      this.#fallback
    if (this.#known.size >= GROUPS_KNOWN_MAX) this.#known.clear()
    this.#known.set(user, group)
    return group
  }
}
