/** The steps of requests: which job each waits at, what it is pinned to, and what is run again. */
import assert from 'node:assert/strict'
import { derivedId } from '../base/random.ts'
import { jobKey, resolveDerivation } from '../wire/derivation.ts'
import type { Digest } from '../wire/digest.ts'
import type { Userland } from '../wire/environment.ts'
import type { ActionResult } from '../wire/result.ts'
import type { Core } from './core.ts'
import { fitsBinding, fitsStep, mayHaveUserland, mayShareRun, mergeUserlands } from './match.ts'
import { isLive, REWINDS_MAX, sameOutputs, type Job, type Request, type Step } from './model.ts'
import { isAudit, isAuditJob, voteOfAttempt, votesWantedBy } from './votes.ts'

/** What of a result is kept with a step. */
export type Pinnable = Pick<ActionResult, 'action' | 'outputs' | 'exitCode' | 'userland'> & {
  readonly log: ActionResult['log'] | null
  readonly builder: Pick<ActionResult['builder'], 'peerId' | 'system'>
}

export class Steps {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  /** Lets a step whose inputs are all known join its job. */
  open(step: Step): void {
    const { request } = step
    if (step.phase !== 'blocked' || request.state !== 'active') return
    if (step.dependencies.some((dependency) => dependency.phase !== 'done')) return
    const resolved = resolveDerivation(
      step.derivation,
      (name, output) => request.steps.get(name)?.outputs?.[output],
    )
    if (resolved === undefined) return
    const key = jobKey(resolved)
    const existing = this.jobFor(step, key)
    const runs = step.earlier.length + (step.job === undefined ? 0 : 1)
    const id = existing?.id ?? (runs === 0 ? step.id : derivedId('j', `${step.id}/${runs}`))
    this.#core.fact({
      type: 'joined',
      request: request.wire.id,
      derivation: step.derivation.name,
      job: id,
      key,
    })
    const job = this.#core.state.jobs.get(id)
    if (job === undefined) return
    this.#core.effects.push({ type: 'step', step })
    this.#core.waiting.keep(job)
    if (existing === undefined) {
      job.waitingSinceMs = this.#core.moment.nowMs
      if (job.rebuild) this.#core.waiting.enqueue(job)
      else {
        this.#core.lookups.begun(job)
        this.#core.effects.push({ type: 'lookup', job: id, key })
      }
      return
    }
    this.#core.verify.joined(step, job)
    // The joined job may now be asked for more, or sooner, than before.
    if (job.phase === 'waiting') this.#core.waiting.enqueue(job)
    const live = job.attempts.find(isLive)
    if (live !== undefined) {
      this.bind([step], live.system, live.userland)
      this.#core.effects.push({ type: 'desired', peerId: live.node.peerId })
    }
  }

  /** The open job of the key that the step may wait at; one that runs already before others. */
  jobFor(step: Step, key: Digest): Job | undefined {
    const fitting = [...(this.#core.state.openJobs.get(key) ?? [])].filter((job) =>
      this.#canJoin(step, job),
    )
    return fitting.find(({ phase }) => phase === 'leased') ?? fitting[0]
  }

  /** Whether the step may wait at the job: the same look-up rule, userlands that may be mixed, and no asking for too much. */
  #canJoin(step: Step, job: Job): boolean {
    if (job.phase === 'closed') return false
    // What was stored, or voted for before, may be just the outputs that were lost.
    const isOld = job.phase === 'lookup' || job.votes.length > 0
    if (step.rebuild && !job.rebuild && isOld) return false
    if (![...job.waiters].every((other) => mayShareRun(step, other))) return false
    // What an audit builds is not for use, and is given up as soon as somebody needs its node.
    if (isAudit(step) || isAuditJob(job)) return false
    if (!this.#core.verify.fits(step, job)) return false
    if (job.phase !== 'leased')
      return this.isPossible([...job.waiters, step], job) || !this.isPossible([step])
    return job.attempts.filter(isLive).every(({ userland, system }) => {
      const isBound = step.request.bindings.has(system)
      return (
        !isBound || (fitsStep(userland, system, step) && this.#isServed(step, system, userland))
      )
    })
  }

  /** Whether a machine is there for the rest of the step's request once something made with `userland` is mixed into it. */
  #isServed(step: Step, system: string, userland: Userland | null): boolean {
    if (userland === null) return true
    const merged = mergeUserlands(step.request.bindings.get(system), userland)
    for (const node of this.#core.nodes.values())
      if (node.connected && mayHaveUserland(node, system, merged)) return true
    // Whoever made it may be about to come back.
    return this.#core.isRecovering
  }

  /** Whether there are nodes that may ever run a job of these waiters, as many as are to; `job` is theirs where they have one. */
  isPossible(waiters: readonly Step[], job?: Job): boolean {
    return this.#core.builders.areEnough(waiters, job)
  }

  /** What the steps wait for is made with `userland`: so is all else of their requests from now on. */
  bind(steps: Iterable<Step>, system: string, userland: Userland | null): void {
    if (userland === null) return
    const changed: Request[] = []
    for (const { request } of steps) {
      const bound = request.bindings.get(system)
      assert(fitsBinding(userland, bound), `${request.wire.id} is bound to another userland`)
      const merged = mergeUserlands(bound, userland)
      if (
        bound !== undefined &&
        Object.keys(merged.tools).length === Object.keys(bound.tools).length
      )
        continue
      this.#core.fact({ type: 'bound', request: request.wire.id, system, userland: merged })
      changed.push(request)
    }
    // Their other waiting jobs move to nodes that match. Only now: on the way steps may join other runs.
    for (const request of changed)
      for (const { phase, job } of request.steps.values())
        if (phase === 'open' && job?.phase === 'waiting' && job.queue !== undefined)
          this.#core.waiting.enqueue(job)
  }

  /** The step goes back to wait for its inputs; its job, if nobody else needs it, is given up. */
  reopen(step: Step): void {
    const job = step.job
    this.#core.fact({
      type: 'reopened',
      request: step.request.wire.id,
      derivation: step.derivation.name,
    })
    if (job !== undefined) this.#core.waiting.left(job)
    this.#core.requests.closeIfSettled(step.request)
  }

  /** Makes the producer of a lost output run again; false when it did so too often. */
  rewind(producer: Step, what: string): boolean {
    if (producer.rewinds >= REWINDS_MAX) return false
    this.#core.fact({
      type: 'rewound',
      request: producer.request.wire.id,
      derivation: producer.derivation.name,
    })
    this.#core.requests.notice(
      producer.request,
      `an output of ${producer.derivation.name} was lost (${what}); it is built again, ${producer.rewinds} of ${REWINDS_MAX}`,
    )
    this.open(producer)
    this.#core.requests.closeIfSettled(producer.request)
    return true
  }

  lost(requestId: string, derivation: string): void {
    const step = this.#core.state.requests.get(requestId)?.steps.get(derivation)
    if (step === undefined || step.phase !== 'done' || step.request.state === 'cancelled') return
    if (this.rewind(step, 'asked for after the request was done')) return
    this.#core.requests.notice(
      step.request,
      `an output of ${derivation} was lost again and is not built more than ${REWINDS_MAX} times`,
    )
  }

  lookedUp(id: string, results: readonly ActionResult[]): void {
    const job = this.#core.state.jobs.get(id)
    if (job === undefined || job.phase !== 'lookup') return
    this.#core.lookups.ended(job)
    const hasWorkers = [...this.#core.nodes.values()].some(
      (node) => node.connected && node.environments.length > 0,
    )
    for (const result of results) {
      const { userland, builder } = result
      // Binding a request to a userland that no machine has any more would strand what is not cached.
      const takers = [...job.waiters].filter(
        (step) =>
          fitsStep(userland, builder.system, step) &&
          (!hasWorkers || this.#isServed(step, builder.system, userland)),
      )
      const few = takers.filter((step) => votesWantedBy(step) <= 1)
      this.pinAll(job, few, result, true)
      this.#core.verify.lookedUp(job, new Set(takers), result)
    }
    if (job.waiters.size === 0) return
    job.waitingSinceMs = this.#core.moment.nowMs
    this.#core.waiting.enqueue(job)
  }

  /** Somebody else has answered for the same job: who waits for it here need not have it built again. */
  found(result: ActionResult): void {
    const { userland, builder, jobKey: key } = result
    for (const job of [...(this.#core.state.openJobs.get(key) ?? [])]) {
      if (job.phase === 'lookup' || job.rebuild) continue
      const takers = [...job.waiters].filter(
        (step) =>
          !step.rebuild &&
          votesWantedBy(step) <= 1 &&
          fitsStep(userland, builder.system, step) &&
          this.#isServed(step, builder.system, userland),
      )
      this.pinAll(job, takers, result, true)
      if (takers.length === 0 || job.waiters.size > 0) continue
      for (const attempt of job.attempts)
        if (isLive(attempt))
          this.#core.outcomes.endAttempt(attempt, 'superseded', `${builder.name} was first`)
    }
  }

  /** Gives the result, on which `agreed` nodes agree, to those `takers` that wait for the job. */
  pinAll(
    job: Job,
    takers: readonly Step[],
    result: Pinnable,
    cached: boolean,
    agreed: number = 1,
  ): void {
    if (takers.length === 0) return
    const { peerId, system } = result.builder
    this.bind(takers, system, result.userland)
    const storeName = this.#core.replicas.storeName(peerId)
    for (const step of takers) {
      if (!job.waiters.has(step)) continue
      const before = step.outputs
      this.#core.fact({
        type: 'pinned',
        request: step.request.wire.id,
        derivation: step.derivation.name,
        action: result.action,
        outputs: result.outputs,
        cached,
        log: result.log,
        exitCode: result.exitCode,
        ...(agreed > 1 ? { agreed } : {}),
        ...(storeName === undefined ? {} : { store: { peerId, name: storeName } }),
      })
      if (before !== undefined && !sameOutputs(before, result.outputs)) {
        this.#core.requests.notice(
          step.request,
          `${step.derivation.name} gave other outputs when it was built again: it is not reproducible; what was built from the first ones keeps them`,
        )
        const earlier = step.earlier.flatMap(({ attempts }) => attempts)
        this.#core.verify.differ(
          'rebuilt',
          step,
          voteOfAttempt(earlier.findLast(isDone), before),
          voteOfAttempt(job.attempts.findLast(isDone), result.outputs),
        )
        // What has not started yet takes the new ones.
        for (const dependent of step.dependents)
          if (dependent.phase === 'open' && dependent.job?.phase !== 'leased')
            this.reopen(dependent)
      }
      this.#core.effects.push({ type: 'step', step }, { type: 'request', request: step.request })
      for (const dependent of step.dependents) this.open(dependent)
      this.#core.requests.closeIfSettled(step.request)
    }
  }
}

const isDone = ({ state }: { readonly state: string }): boolean => state === 'done'
