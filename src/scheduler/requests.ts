/** Requests from their acceptance to their end, and how many of them are kept. */
import type { Failure } from '../wire/api.ts'
import type { RequestWire } from '../wire/facts.ts'
import type { Core } from './core.ts'
import { makeRequest } from './make-request.ts'
import type { Job, Request, Step } from './model.ts'

/** Requests that are not finished; over it a submit answers "try later". */
const ACTIVE_REQUESTS_MAX = 10_000
/** Finished requests and steps that are kept for `mesh jobs`; the oldest request goes first. */
const FINISHED_REQUESTS_MAX = 10_000
export const FINISHED_STEPS_MAX = 10_000

export class Requests {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  /** Whether one more fits. */
  get hasRoom(): boolean {
    const { requests, finished } = this.#core.state
    return requests.size - finished.size < ACTIVE_REQUESTS_MAX
  }

  /** Whether each derivation could be built by some node that is known here, when that is free. */
  couldBuild(wire: RequestWire): boolean {
    const steps = [...makeRequest(wire, 0).steps.values()]
    return steps.every((step) => this.#core.steps.isPossible([step]))
  }

  submit(wire: RequestWire): void {
    if (this.#core.state.requests.has(wire.id)) return
    // Only the owner itself audits.
    const { audits: _audits, ...asked } = wire
    this.#core.fact({ type: 'accepted', request: asked })
    const request = this.#core.state.requests.get(wire.id)
    if (request === undefined) return
    request.rootBytesBefore = this.#core.moment.ownBlobBytes
    this.#core.effects.push({ type: 'request', request })
    for (const step of request.steps.values()) this.#core.steps.open(step)
  }

  cancel(id: string): void {
    const request = this.#core.state.requests.get(id)
    if (request?.state === 'active') this.close(request, 'cancelled')
  }

  left(id: string): void {
    const request = this.#core.state.requests.get(id)
    if (request?.takesCopy !== true) return
    this.#core.fact({ type: 'left', request: id })
    this.#core.effects.push({ type: 'request', request })
    this.#core.replicas.left(request)
  }

  detachable(id: string): void {
    const request = this.#core.state.requests.get(id)
    if (request === undefined || request.detachable) return
    this.#core.fact({ type: 'detachable', request: id })
    this.#core.effects.push({ type: 'request', request })
    // Sources are at a store node now.
    this.#core.reach.refresh()
  }

  close(request: Request, state: 'done' | 'failed' | 'cancelled'): void {
    const jobs = new Set<Job>()
    const replicas = state === 'done' ? this.#core.replicas.countOf(request) : undefined
    for (const step of request.steps.values())
      if (step.phase === 'open' && step.job !== undefined) jobs.add(step.job)
    this.#core.fact({
      type: 'closed',
      request: request.wire.id,
      state,
      rootBytes: Math.max(0, this.#core.moment.ownBlobBytes - request.rootBytesBefore),
      ...(replicas === undefined ? {} : { replicas }),
      atWall: this.#core.moment.wallMs,
    })
    for (const job of jobs) this.#core.waiting.left(job)
    for (const step of request.steps.values())
      if (step.phase === 'cancelled') this.#core.effects.push({ type: 'step', step })
    this.#core.effects.push({ type: 'request', request })
    this.#evict()
  }

  closeIfSettled(request: Request): void {
    if (request.state !== 'active') return
    const hasFailed = request.failedCount > 0
    const isCancelled = request.cancelledCount > 0
    const goesOn = request.wire.keepGoing || request.isPartial
    if (request.unsettledCount > 0 && (goesOn || !(hasFailed || isCancelled))) return
    if (hasFailed) this.close(request, 'failed')
    else if (isCancelled) this.close(request, 'cancelled')
    else this.#core.replicas.settle(request)
  }

  /** Forgets finished requests beyond the limits, but never the one that has just ended. */
  #evict(): void {
    const { state } = this.#core
    for (const request of state.finished) {
      const { size } = state.finished
      if (
        size <= 1 ||
        (size <= FINISHED_REQUESTS_MAX && state.finishedStepCount <= FINISHED_STEPS_MAX)
      )
        return
      this.#core.fact({ type: 'evicted', request: request.wire.id })
    }
  }

  failStep(step: Step, reason: Failure): void {
    if (step.phase !== 'open' && step.phase !== 'blocked') return
    const job = step.job
    this.#core.fact({
      type: 'failed',
      request: step.request.wire.id,
      derivation: step.derivation.name,
      failure: reason,
    })
    if (job !== undefined) this.#core.waiting.left(job)
    this.#core.effects.push({ type: 'step', step }, { type: 'request', request: step.request })
    this.closeIfSettled(step.request)
  }

  notice(request: Request, text: string): void {
    this.#core.fact({ type: 'noticed', request: request.wire.id, text: text.slice(0, 4096) })
    this.#core.effects.push({ type: 'request', request })
  }
}
