/**
 * How long each step of a request keeps the end of its graph waiting, by what is learnt of durations.
 *
 * Worked out when a request is accepted or recovered, and again when a step has ended much sooner or later
 * than was expected: at most once per request in a few seconds, in one pass over its steps.
 */
import type { Fact } from '../wire/facts.ts'
import type { Core } from './core.ts'
import { topological } from './make-request.ts'
import { isAhead, type Request, type Step } from './model.ts'

/** Between two passes over one request. */
const REFRESH_MS = 3_000
/** A step that took so many times more, or less, than expected changes what is expected of others. */
const SURPRISE_FACTOR = 1.5
/** Smaller changes leave a waiting job where it stands. */
const CHANGE_FACTOR = 1.1
/** Steps that are looked at in one event; the rest of the requests has its turn in the next. */
const STEPS_PER_PASS = 50_000

export class CriticalPaths {
  readonly #core: Core
  /** Requests to go over again, and not before when. */
  readonly #due = new Map<Request, number>()
  readonly #lastMs = new WeakMap<Request, number>()

  constructor(core: Core) {
    this.#core = core
  }

  /** The state is replayed. */
  recover(): void {
    for (const request of this.#core.state.requests.values())
      if (request.state === 'active') this.#measure(request)
  }

  /** The fact has become true: a request that begins, or begins again, is measured before its steps are queued. */
  followed(fact: Fact): void {
    if (fact.type !== 'accepted' && fact.type !== 'retried') return
    const id = fact.type === 'accepted' ? fact.request.id : fact.request
    const request = this.#core.state.requests.get(id)
    if (request !== undefined) this.#measure(request)
  }

  /** A run of the step took `durationMs` at speed 1, where `expectedMs` had been expected. */
  ended(step: Step, durationMs: number, expectedMs: number): void {
    const ratio = durationMs / Math.max(1, expectedMs)
    if (ratio < SURPRISE_FACTOR && ratio > 1 / SURPRISE_FACTOR) return
    const { request } = step
    if (request.state !== 'active' || this.#due.has(request)) return
    const sinceMs = this.#lastMs.get(request) ?? Number.NEGATIVE_INFINITY
    this.#due.set(request, Math.max(this.#core.moment.nowMs, sinceMs + REFRESH_MS))
  }

  nextDeadlineMs(): number {
    let next = Number.POSITIVE_INFINITY
    for (const dueMs of this.#due.values()) next = Math.min(next, dueMs)
    return next
  }

  /** Goes over what is due, and puts waiting jobs where they belong now. */
  tick(): void {
    let left = STEPS_PER_PASS
    for (const [request, dueMs] of this.#due) {
      if (dueMs > this.#core.moment.nowMs || left <= 0) continue
      this.#due.delete(request)
      left -= request.steps.size
      if (request.state !== 'active') continue
      for (const step of this.#measure(request))
        if (step.job?.phase === 'waiting' && step.job.queue !== undefined)
          this.#core.queues.put(step.job)
    }
  }

  /** Returns the steps that changed much. */
  #measure(request: Request): Step[] {
    const { estimates } = this.#core.state
    const changed: Step[] = []
    let cpuMs = 0
    let count = 0
    this.#lastMs.set(request, this.#core.moment.nowMs)
    for (const step of topological([...request.steps.values()]).toReversed()) {
      let afterMs = 0
      for (const dependent of step.dependents) afterMs = Math.max(afterMs, dependent.criticalMs)
      const own = isAhead(step) ? estimates.of(step.derivation) : undefined
      const criticalMs = (own?.durationMs ?? 0) + afterMs
      if (own !== undefined) {
        cpuMs += own.durationMs * Math.max(own.cpuShare, step.derivation.needs.cpus.min)
        count += 1
      }
      if (isAhead(step) && differs(step.criticalMs, criticalMs)) changed.push(step)
      step.criticalMs = criticalMs
    }
    request.ahead = { cpuMs, count }
    return changed
  }
}

function differs(a: number, b: number): boolean {
  return a > b * CHANGE_FACTOR || b > a * CHANGE_FACTOR
}
