/**
 * What people say of requests and jobs: go first, wait, go on, stop, try again. Each is a fact, and said
 * twice it is as if it was said once.
 */
import type { DrainOrder } from '../wire/api.ts'
import type { SlotsOrder } from '../wire/slots.ts'
import type { Core } from './core.ts'
import { isLive, type Job, type Request, type Step } from './model.ts'
import { isSelected, parseSelector } from './selector.ts'
import { stepsToTryAgain } from './try-again.ts'

/** What a lever is about: a whole request, or one derivation of it. */
export interface Target {
  readonly request: string
  readonly derivation: string | undefined
}

export type Lever =
  | { readonly kind: 'boost'; readonly target: Target; readonly priority: number }
  | { readonly kind: 'hold'; readonly target: Target; readonly reason: string }
  | { readonly kind: 'release'; readonly target: Target }
  /** Only of one derivation: a request is cancelled by the event of that name. */
  | { readonly kind: 'cancel'; readonly target: Target }
  | { readonly kind: 'retry'; readonly target: Target; readonly rebind: boolean }
  /** The selector was parsed before. */
  | { readonly kind: 'drain'; readonly order: DrainOrder }
  | { readonly kind: 'undrain'; readonly selector: string }
  /** The selector was parsed before. */
  | { readonly kind: 'slots'; readonly order: SlotsOrder }
  /** Only of one derivation; null: what its job asks for by itself. */
  | { readonly kind: 'size'; readonly target: Target; readonly cpus: number | null }

export class Levers {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  pull(lever: Lever, by: string): void {
    switch (lever.kind) {
      case 'drain':
        this.#core.drains.drain(lever.order, by)
        return
      case 'undrain':
        this.#undrain(lever.selector)
        return
      case 'slots':
        this.#core.slots.order(lever.order, by)
        return
      case 'boost':
      case 'hold':
      case 'release':
      case 'cancel':
      case 'retry':
      case 'size':
        break
    }
    const request = this.#core.state.requests.get(lever.target.request)
    if (request === undefined) return
    const { derivation } = lever.target
    const step = derivation === undefined ? undefined : request.steps.get(derivation)
    if (step === undefined && derivation !== undefined) return
    const said = { request: request.wire.id, ...(derivation === undefined ? {} : { derivation }) }
    const fact = { ...said, by, atWall: this.#core.moment.wallMs }
    switch (lever.kind) {
      case 'boost': {
        const { priority } = lever
        if ((step ?? request).boost === priority && (step !== undefined || !hasBoosts(request)))
          return
        this.#core.fact({ type: 'boosted', ...fact, priority })
        this.#requeue(request, step)
        return
      }
      case 'hold': {
        const { hold } = step ?? request
        if (hold?.reason === lever.reason) return
        this.#core.fact({ type: 'held', ...fact, reason: lever.reason })
        this.#requeue(request, step)
        return
      }
      case 'release':
        if ((step ?? request).hold === undefined && (step !== undefined || !hasHolds(request)))
          return
        this.#core.fact({ type: 'released', ...fact })
        this.#released(request, step)
        return
      case 'cancel':
        if (step !== undefined) this.#cancel(step, by)
        return
      case 'retry':
        this.#retry(request, derivation, lever.rebind, by)
        return
      case 'size':
        if (step !== undefined) this.#size(step, lever.cpus, by)
        return
    }
  }

  /** What runs gets as many as its node has for it, at once; what waits asks for as many. */
  #size(step: Step, cpus: number | null, by: string): void {
    if ((step.slots?.cpus ?? null) === cpus) return
    const { job, request, derivation } = step
    this.#core.fact({
      type: 'sized',
      request: request.wire.id,
      derivation: derivation.name,
      cpus,
      by,
      atWall: this.#core.moment.wallMs,
    })
    this.#requeue(request, step)
    if (job !== undefined) this.#core.allotments.sized(job)
  }

  /** Also lifts the quarantine of the nodes that are meant: whoever undrains a node vouches for it. */
  #undrain(selector: string): void {
    this.#core.drains.undrain(selector)
    const terms = parseSelector(selector)
    for (const node of this.#core.nodes.values())
      if (isSelected(terms, node)) this.#core.quarantine.pardon(node.peerId)
  }

  /** Waiting jobs stand where they belong now; people see the change. */
  #requeue(request: Request, step: Step | undefined): void {
    for (const { job, phase } of step === undefined ? request.steps.values() : [step])
      if (phase === 'open' && job?.phase === 'waiting') this.#core.waiting.enqueue(job)
    this.#show(request, step)
  }

  /** The time that it was held is no time that it waited for a node. */
  #released(request: Request, step: Step | undefined): void {
    for (const { job } of step === undefined ? request.steps.values() : [step])
      if (job?.phase === 'waiting') job.waitingSinceMs = this.#core.moment.nowMs
    this.#requeue(request, step)
  }

  #cancel(step: Step, by: string): void {
    if (step.phase !== 'blocked' && step.phase !== 'open') return
    const { job, request, derivation } = step
    this.#core.fact({
      type: 'cancelled',
      request: request.wire.id,
      derivation: derivation.name,
      by,
      atWall: this.#core.moment.wallMs,
    })
    if (job !== undefined) this.#core.waiting.left(job)
    this.#core.requests.notice(request, `${derivation.name} was cancelled by ${by}`)
    this.#show(request, undefined)
    this.#core.requests.closeIfSettled(request)
  }

  #retry(request: Request, derivation: string | undefined, rebind: boolean, by: string): void {
    const steps = stepsToTryAgain(request, derivation, rebind)
    if (steps.length === 0) return
    const { moment } = this.#core
    const wasActive = request.state === 'active'
    const left = new Set<Job>()
    for (const { phase, job } of steps) if (phase === 'open' && job !== undefined) left.add(job)
    this.#core.fact({
      type: 'retried',
      request: request.wire.id,
      ...(derivation === undefined ? {} : { derivation }),
      rebind,
      by,
      atWall: moment.wallMs,
    })
    if (!wasActive) request.rootBytesBefore = moment.ownBlobBytes - request.rootBytes
    for (const job of left) this.#leave(job, by)
    for (const step of steps) this.#core.steps.open(step)
    this.#show(request, undefined)
    this.#core.requests.closeIfSettled(request)
  }

  /** What runs for nobody else ends now, or the step would join it again and be bound to its userland. */
  #leave(job: Job, by: string): void {
    this.#core.waiting.left(job)
    if (job.waiters.size > 0) return
    for (const attempt of job.attempts)
      if (isLive(attempt))
        this.#core.outcomes.endAttempt(attempt, 'cancelled', `${by} had it started over`)
  }

  #show(request: Request, step: Step | undefined): void {
    for (const each of step === undefined ? request.steps.values() : [step])
      if (each.phase !== 'done') this.#core.effects.push({ type: 'step', step: each })
    this.#core.effects.push({ type: 'request', request })
  }
}

function hasBoosts({ steps }: Request): boolean {
  for (const { boost } of steps.values()) if (boost !== undefined) return true
  return false
}

function hasHolds({ steps }: Request): boolean {
  for (const { hold } of steps.values()) if (hold !== undefined) return true
  return false
}
