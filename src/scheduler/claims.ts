/**
 * Which running jobs come before what waits, and before others, on the machine that they run on, and with how
 * many processors: those of which a person said so, and big ones.
 *
 * A running job is big while it, with all that needs it, would outlast the rest of its request if it had only
 * its least: then every processor more lets the request end sooner. What waits stands back for it only where it would come later anyhow: it is of no higher class (priority and age), its user
 * has had no less, and it holds up less. So a big job neither passes over a share nor a priority, and all big jobs
 * together leave a part of every machine to the others. A job that lasts much longer than it ever did is not big.
 */
import type { Item } from './classes.ts'
import type { Core } from './core.ts'
import { cpuRangeOf } from './cpu-range.ts'
import { isOpen } from './kinds.ts'
import type { Attempt, Claim, NodeEntry } from './model.ts'
import { rankOf } from './rank.ts'
import { cpusOf } from './subtree-offer.ts'

/** What lasts for less is not worth moving others for. */
const BIG_MS_MIN = 60_000
/** Of the processors of a machine those that its big jobs hold before others. */
export const BIG_PART = 0.75
/** It runs for so many times what nine of ten take: its estimate tells nothing any more. */
const OVERDUE_FACTOR = 2
/** A difference in shares of so many processors is none: else two users would hand one to and fro. */
const SHARE_SLACK_CPUS = 1

/** What waiting jobs are held against. */
export interface BigJob {
  /** Expected time to the end of its graph. */
  readonly pathMs: number
  readonly urgency: number
  readonly user: string
}

export class Claims {
  readonly #core: Core
  #counted = { turn: -1, cpus: 0 }

  constructor(core: Core) {
    this.#core = core
  }

  /** Undefined for one that is not big; whose duration was not learnt never is. */
  bigOf(attempt: Attempt, node: NodeEntry): BigJob | undefined {
    const { job } = attempt
    const { min, max } = cpuRangeOf(job)
    if (max <= min || job.waiters.size === 0 || attempt.isAway) return undefined
    const { estimates } = this.#core.state
    const [step] = job.waiters
    if (step === undefined) return undefined
    const estimate = estimates.of(step.derivation, attempt.machine !== undefined)
    if (estimate.sampleCount === 0) return undefined
    const { nowMs } = this.#core.moment
    const forMs = nowMs - this.#core.forecast.begunMs(attempt)
    if (forMs > (OVERDUE_FACTOR * estimate.durationP90Ms) / node.speed) return undefined
    let afterMs = 0
    for (const waiter of job.waiters) {
      const ownMs = estimates.of(waiter.derivation).durationMs
      afterMs = Math.max(afterMs, waiter.criticalMs - ownMs)
    }
    const leftMs = Math.max(0, this.#core.forecast.endMs(attempt, node) - nowMs)
    const pathMs = leftMs + afterMs
    if (pathMs < BIG_MS_MIN) return undefined
    const slowestMs = leftMs * Math.max(1, estimate.cpuShare / min) + afterMs
    if (slowestMs <= this.#restMs(attempt)) return undefined
    return { pathMs, urgency: rankOf(job, estimate).urgency, user: this.#core.queues.userOf(job) }
  }

  /** What is ahead of the requests that it runs for would take so long if they had all there is. */
  #restMs({ job }: Attempt): number {
    let restMs = 0
    for (const { request } of job.waiters) {
      const { cpuMs, count } = request.ahead
      const part = count === 0 ? 0 : Math.min(1, request.unsettledCount / count)
      restMs = Math.max(restMs, (cpuMs * part) / this.#cpus)
    }
    return restMs
  }

  /** Of all nodes that take jobs. */
  get #cpus(): number {
    const { turn, nodes } = this.#core
    if (this.#counted.turn !== turn) {
      let cpus = 0
      for (const node of nodes.values()) if (isOpen(node)) cpus += cpusOf(node).total
      this.#counted = { turn, cpus }
    }
    return Math.max(1, this.#counted.cpus)
  }

  /** Whether the waiting job, which could start with what the big one has or may get, stands back for it. */
  standsBack(item: Pick<Item, 'rank' | 'user'>, big: BigJob): boolean {
    const { rank, user } = item
    if (rank.urgency > big.urgency || rank.criticalMs >= big.pathMs) return false
    return this.mayPass(big.user, user)
  }

  /** Whether one more processor may go to `user` though `other` wants it: the other one has had no less. */
  mayPass(user: string, other: string): boolean {
    const { score } = this.#core.queues
    return user === other || score(other) >= score(user) - SHARE_SLACK_CPUS
  }

  /** What a subtree is told of an attempt below it: only there its machine is known. */
  claimBelow(attempt: Attempt, node: NodeEntry): Claim | undefined {
    const { asked, max } = cpuRangeOf(attempt.job)
    if (asked !== undefined) return { cpus: asked, why: 'person' }
    const big = this.bigOf(attempt, node)
    if (big === undefined) return undefined
    for (const home of this.#core.queues.all) {
      const item = this.#core.queues.first(home)
      if (item !== undefined && !this.standsBack(item, big)) return undefined
    }
    return { cpus: max, why: 'big' }
  }
}
