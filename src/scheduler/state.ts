/**
 * The durable state of an owner and the one function that changes it: `evolve(fact)`.
 *
 * Replaying a journal and running live go through the same code, so what was durable before a crash is
 * what is there after it. Nothing here decides; facts about what is no longer known are ignored.
 */
import assert from 'node:assert/strict'
import { resolveDerivation } from '../wire/derivation.ts'
import type { Fact, NodeRef, RequestWire } from '../wire/facts.ts'
import { Estimates } from './estimates.ts'
import { Images } from './images.ts'
import { learnFrom, restore, type LearntState } from './learnt.ts'
import { makeRequest } from './make-request.ts'
import {
  isLive,
  NOBODY,
  NOWHERE,
  runnerOf,
  sameOutputs,
  type Attempt,
  type Job,
  type Request,
  type Step,
} from './model.ts'
import { NodeFacts } from './node-facts.ts'
import { stepsToTryAgain } from './try-again.ts'
import { UsageTable } from './usage.ts'
import { Comparisons, hasVoted, votesWantedBy } from './votes.ts'

/** Notices kept per request; later ones are dropped. */
const NOTICES_MAX = 50
/** Store nodes that are remembered per step; later ones are not. */
const STORES_MAX = 8

export class State implements LearntState {
  epoch = 0
  readonly estimates = new Estimates()
  readonly usage: UsageTable
  readonly requests = new Map<string, Request>()
  readonly steps = new Map<string, Step>()
  readonly jobs = new Map<string, Job>()
  readonly attempts = new Map<string, Attempt>()
  /** Jobs that are not closed, by key. Several only where requests are bound to different userlands. */
  readonly openJobs = new Map<string, Set<Job>>()
  /** Requests that are not active; the one that ended first comes first. */
  readonly finished = new Set<Request>()
  finishedStepCount = 0
  /** Builds that were compared. */
  readonly comparisons = new Comparisons()
  /** Drains, quarantine, and what nodes died of. */
  readonly nodeFacts = new NodeFacts()
  /** What images are called. */
  readonly images = new Images()
  /** `factSeq` of the last epoch. */
  epochSeq = 0
  /** `factSeq` when an attempt was forgotten last. */
  forgottenSeq = 0
  /** Facts applied so far. */
  factSeq = 0
  #requestSeq = 0

  constructor({ halfLifeMs }: { readonly halfLifeMs?: number | undefined } = {}) {
    this.usage = new UsageTable(halfLifeMs)
  }

  evolve(fact: Fact): void {
    this.factSeq += 1
    switch (fact.type) {
      case 'epoch':
        this.epoch = fact.epoch
        this.epochSeq = this.factSeq
        return
      case 'accepted':
        this.#accept(fact.request)
        return
      case 'image-set':
      case 'image-removed':
        this.images.evolve(fact)
        return
      case 'joined':
        this.#join(fact)
        return
      case 'granted':
        this.#grant(fact)
        return
      case 'adopted':
      case 'ended':
        this.#changeAttempt(fact)
        return
      case 'raised': {
        const job = this.jobs.get(fact.job)
        if (job !== undefined) job.memoryFloorBytes = fact.memoryBytes
        return
      }
      case 'learnt':
        restore(this, fact)
        return
      case 'evicted':
        this.#evict(fact.request)
        return
      case 'voted': {
        const job = this.jobs.get(fact.job)
        if (job !== undefined && !hasVoted(job, fact.vote)) job.votes.push(fact.vote)
        return
      }
      case 'verified':
      case 'diverged':
      case 'audited':
        this.comparisons.evolve(fact)
        return
      case 'detachable':
      case 'left':
      case 'bound':
      case 'noticed':
      case 'closed':
        this.#changeRequest(fact)
        return
      case 'pinned':
      case 'stored':
      case 'failed':
      case 'rewound':
      case 'reopened':
        this.#changeStep(fact)
        return
      case 'boosted':
      case 'held':
      case 'released':
      case 'cancelled':
      case 'retried':
      case 'sized':
        this.#pull(fact)
        return
      case 'drained':
      case 'undrained':
      case 'slotted':
      case 'unslotted':
      case 'quarantined':
      case 'pardoned':
      case 'killed':
        this.nodeFacts.evolve(fact, this.factSeq)
        return
    }
  }

  #accept(wire: RequestWire): void {
    if (this.requests.has(wire.id)) return
    const request = makeRequest(wire, (this.#requestSeq += 1))
    this.requests.set(wire.id, request)
    for (const step of request.steps.values()) this.steps.set(step.id, step)
  }

  #changeRequest(
    fact: Extract<Fact, { type: 'detachable' | 'left' | 'bound' | 'noticed' | 'closed' }>,
  ): void {
    const request = this.requests.get(fact.request)
    if (request === undefined) return
    switch (fact.type) {
      case 'detachable':
        request.detachable = true
        return
      case 'left':
        request.takesCopy = false
        return
      case 'bound':
        request.bindings.set(fact.system, fact.userland)
        return
      case 'noticed':
        if (request.notices.length < NOTICES_MAX) request.notices.push(fact.text)
        return
      case 'closed':
        request.state = fact.state
        request.endedAtWall = fact.atWall
        request.rootBytes = fact.rootBytes
        request.replicasAtEnd = fact.replicas
        for (const step of request.steps.values())
          if (step.phase === 'blocked' || step.phase === 'open') this.#settle(step, 'cancelled')
        this.finished.add(request)
        this.finishedStepCount += request.steps.size
        return
    }
  }

  #join(fact: Extract<Fact, { type: 'joined' }>): void {
    const step = this.requests.get(fact.request)?.steps.get(fact.derivation)
    if (step === undefined) return
    let job = this.jobs.get(fact.job)
    if (job === undefined) {
      const resolved = resolveDerivation(
        step.derivation,
        (name, output) => step.request.steps.get(name)?.outputs?.[output],
      )
      assert(resolved !== undefined, 'a step joins a job only when it is resolved')
      job = {
        id: fact.job,
        key: fact.key,
        resolved,
        rebuild: step.rebuild,
        waiters: new Set(),
        shownBy: new Set(),
        attempts: [],
        phase: 'lookup',
        infraFailures: 0,
        avoid: new Set(),
        memoryFloorBytes: 0,
        votesWanted: 1,
        votes: [],
        notBeforeMs: 0,
        abandonedAtMs: undefined,
        waitingSinceMs: 0,
        queue: undefined,
        cut: NOWHERE,
        refusedBy: NOBODY,
      }
      this.jobs.set(job.id, job)
      const open = this.openJobs.get(job.key)
      if (open === undefined) this.openJobs.set(job.key, new Set([job]))
      else open.add(job)
    }
    job.waiters.add(step)
    job.votesWanted = Math.max(job.votesWanted, votesWantedBy(step))
    job.shownBy.add(step)
    if (step.job !== undefined && step.job !== job) step.earlier.push(step.job)
    step.job = job
    step.key = fact.key
    setPhase(step, 'open')
  }

  #grant(fact: Extract<Fact, { type: 'granted' }>): void {
    const job = this.jobs.get(fact.job)
    if (job === undefined) return
    const attempt: Attempt = {
      id: fact.attempt,
      job,
      n: job.attempts.length + 1,
      node: fact.node,
      runner: undefined,
      boot: fact.boot,
      system: fact.system,
      machine: fact.machine,
      isolation: fact.isolation,
      label: fact.label,
      action: fact.action,
      userland: fact.userland,
      cpus: fact.cpus,
      memoryBytes: fact.memoryBytes,
      diskBytes: fact.diskBytes,
      startedAtWall: fact.atWall,
      state: 'leased',
      phases: {},
      usage: null,
      measured: undefined,
      bytes: { peer: 0, mirror: 0, local: 0 },
      error: null,
      cause: undefined,
      log: null,
      exitCode: null,
      endedAtWall: undefined,
      allotted: fact.cpus,
      factSeq: this.factSeq,
      leaseUntilMs: Number.POSITIVE_INFINITY,
      confirmed: false,
      sentSeq: 0,
      waitedIn: undefined,
      isAway: false,
      missing: undefined,
    }
    job.attempts.push(attempt)
    job.phase = 'leased'
    this.attempts.set(attempt.id, attempt)
  }

  #changeAttempt(fact: Extract<Fact, { type: 'adopted' | 'ended' }>): void {
    const attempt = this.attempts.get(fact.attempt)
    if (attempt === undefined) return
    attempt.factSeq = this.factSeq
    if (fact.type === 'adopted') {
      attempt.state = 'building'
      attempt.error = null
      attempt.cause = undefined
      this.nodeFacts.survived(attempt.job.key, attempt.id)
      attempt.endedAtWall = undefined
      if (fact.node !== undefined) {
        attempt.node = fact.node
        attempt.runner = undefined
      }
      attempt.boot = fact.boot ?? attempt.boot
      if (attempt.job.phase !== 'closed') attempt.job.phase = 'leased'
      return
    }
    attempt.state = fact.state
    attempt.error = fact.error
    attempt.cause = fact.cause
    attempt.usage = fact.usage
    attempt.phases = fact.phases
    attempt.bytes = fact.bytes
    attempt.log = fact.log
    attempt.exitCode = fact.exitCode
    attempt.measured = fact.measured
    attempt.runner = fact.runner ?? attempt.runner
    attempt.endedAtWall = fact.atWall
    const job = attempt.job
    learnFrom(this, attempt, fact)
    for (const waiter of job.waiters)
      for (const source of ['peer', 'mirror', 'local'] as const)
        waiter.request.bytes[source] += fact.bytes[source]
    if (fact.state === 'done') this.nodeFacts.forgive(job.key)
    // That a node would not begin it, or is emptied, is no failure.
    if (fact.state === 'lost' && fact.cause !== 'refused' && fact.cause !== 'drained') {
      job.infraFailures += 1
      job.avoid.add(runnerOf(attempt).peerId)
    }
    if (job.phase !== 'leased' || job.attempts.some(isLive)) return
    job.phase = 'waiting'
    if (job.waiters.size === 0) this.#close(job)
  }

  #changeStep(
    fact: Extract<Fact, { type: 'pinned' | 'stored' | 'failed' | 'rewound' | 'reopened' }>,
  ): void {
    const step = this.requests.get(fact.request)?.steps.get(fact.derivation)
    if (step === undefined) return
    switch (fact.type) {
      case 'pinned':
        if (step.outputs !== undefined && !sameOutputs(step.outputs, fact.outputs))
          step.hasDiverged = true
        step.outputs = fact.outputs
        step.stores.clear()
        if (fact.store !== undefined) addStore(step, fact.store)
        step.action = fact.action
        step.cached = fact.cached
        step.agreed = fact.agreed ?? 0
        step.log = fact.log ?? undefined
        step.exitCode = fact.exitCode
        step.rebuild = false
        this.#settle(step, 'done')
        return
      case 'stored':
        addStore(step, fact.node)
        return
      case 'failed':
        step.failure = fact.failure
        this.#settle(step, 'failed')
        this.#skipDependents(step)
        return
      case 'rewound':
        step.rewinds += 1
        step.rebuild = true
        step.stores.clear()
        this.#unfinish(step.request)
        this.#block(step)
        return
      case 'reopened':
        this.#block(step)
        return
    }
  }

  /** What a person said of a request, or of one derivation of it. */
  #pull(
    fact: Extract<
      Fact,
      { type: 'boosted' | 'held' | 'released' | 'cancelled' | 'retried' | 'sized' }
    >,
  ): void {
    const request = this.requests.get(fact.request)
    if (request === undefined) return
    const step = fact.derivation === undefined ? undefined : request.steps.get(fact.derivation)
    if (step === undefined && fact.derivation !== undefined) return
    switch (fact.type) {
      case 'boosted':
        ;(step ?? request).boost = fact.priority
        // What is said of all of it holds for all of it.
        if (step === undefined) for (const each of request.steps.values()) each.boost = undefined
        return
      case 'held':
        ;(step ?? request).hold = { reason: fact.reason, by: fact.by, atWall: fact.atWall }
        return
      case 'released':
        ;(step ?? request).hold = undefined
        if (step === undefined) for (const each of request.steps.values()) each.hold = undefined
        return
      case 'cancelled':
        if (step === undefined || !isUnsettled(step.phase)) return
        this.#settle(step, 'cancelled')
        this.#skipDependents(step)
        return
      case 'retried':
        this.#tryAgain(request, fact)
        return
      case 'sized': {
        const { cpus, by, atWall } = fact
        if (step !== undefined) step.slots = cpus === null ? undefined : { cpus, by, atWall }
        return
      }
    }
  }

  /** Steps that ended badly wait anew; what is done keeps its outputs, unless the userland is to be another. */
  #tryAgain(request: Request, { derivation, rebind }: Extract<Fact, { type: 'retried' }>): void {
    const steps = stepsToTryAgain(request, derivation, rebind)
    if (rebind) request.bindings.clear()
    if (request.state !== 'active') {
      this.#unfinish(request)
      request.isPartial = derivation !== undefined && !rebind
      request.endedAtWall = undefined
      request.replicasAtEnd = undefined
      // Nobody waits at a terminal any more to take the outputs.
      request.takesCopy = false
    }
    for (const step of steps) {
      if (step.key !== undefined) this.nodeFacts.forgive(step.key)
      step.failure = undefined
      step.rewinds = 0
      step.outputs = undefined
      step.stores.clear()
      step.hasDiverged = false
      step.agreed = 0
      step.action = undefined
      step.log = undefined
      step.cached = false
      this.#settle(step, 'blocked')
    }
  }

  /** The step leaves the queue of its job; the job closes when nobody waits there and nothing runs. */
  #settle(step: Step, phase: Step['phase']): void {
    setPhase(step, phase)
    const job = step.job
    if (job === undefined) return
    job.waiters.delete(step)
    // Nobody is left to ask for more; without waiters it stays what it was, for those who look back.
    if (job.waiters.size > 0 && votesWantedBy(step) === job.votesWanted)
      job.votesWanted = Math.max(...[...job.waiters].map(votesWantedBy))
    if (job.waiters.size === 0 && !job.attempts.some(isLive)) this.#close(job)
  }

  /** The step waits for its inputs again; it is skipped when one of them has failed meanwhile. */
  #block(step: Step): void {
    const isHopeless = step.dependencies.some(
      ({ phase }) => phase === 'failed' || phase === 'skipped' || phase === 'cancelled',
    )
    this.#settle(step, isHopeless ? 'skipped' : 'blocked')
    if (isHopeless) this.#skipDependents(step)
  }

  /** A loop, since a graph may be deeper than the stack. */
  #skipDependents(failed: Step): void {
    const open = [failed]
    for (let step = open.pop(); step !== undefined; step = open.pop()) {
      for (const dependent of step.dependents) {
        if (dependent.phase !== 'blocked') continue
        setPhase(dependent, 'skipped')
        open.push(dependent)
      }
    }
  }

  #unfinish(request: Request): void {
    request.state = 'active'
    if (this.finished.delete(request)) this.finishedStepCount -= request.steps.size
  }

  /** No waiter is left and nothing of it runs. Derived from facts, so it has none of its own. */
  #close(job: Job): void {
    job.phase = 'closed'
    const open = this.openJobs.get(job.key)
    open?.delete(job)
    if (open?.size === 0) this.openJobs.delete(job.key)
    if (job.shownBy.size === 0) this.#forget(job)
  }

  #forget(job: Job): void {
    if (job.attempts.length > 0) this.forgottenSeq = this.factSeq
    this.jobs.delete(job.id)
    for (const attempt of job.attempts) this.attempts.delete(attempt.id)
  }

  #evict(id: string): void {
    const request = this.requests.get(id)
    if (request === undefined) return
    this.requests.delete(id)
    if (this.finished.delete(request)) this.finishedStepCount -= request.steps.size
    for (const step of request.steps.values()) {
      this.steps.delete(step.id)
      for (const job of step.job === undefined ? step.earlier : [...step.earlier, step.job]) {
        job.waiters.delete(step)
        // A job that another request's step still shows stays until that one goes.
        job.shownBy.delete(step)
        if (job.phase === 'closed' && job.shownBy.size === 0) this.#forget(job)
      }
    }
  }
}

/** All changes of a step's phase go through here, so that its request's counts hold. */
function setPhase(step: Step, phase: Step['phase']): void {
  const { request } = step
  request.unsettledCount += Number(isUnsettled(phase)) - Number(isUnsettled(step.phase))
  request.failedCount += Number(phase === 'failed') - Number(step.phase === 'failed')
  request.cancelledCount += Number(phase === 'cancelled') - Number(step.phase === 'cancelled')
  step.phase = phase
}

function addStore(step: Step, { peerId, name }: NodeRef): void {
  if (step.stores.size < STORES_MAX) step.stores.set(peerId, name)
}

function isUnsettled(phase: Step['phase']): boolean {
  return phase === 'blocked' || phase === 'open'
}
