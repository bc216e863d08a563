/**
 * The scheduler of an owner: a pure, deterministic state machine.
 *
 * `apply(event, moment)` takes what happened and gives the effects, in order. The driver appends the
 * facts to the journal, syncs it, and only then carries the other effects out; what it sends to a node is
 * asked for with `desiredOf`, which leaves out what is not synced yet. No clock, no I/O, no promise here.
 */
import assert from 'node:assert/strict'
import { derivedId } from '../base/random.ts'
import type { Failure } from '../wire/api.ts'
import { actionDigest, makeAction, type Action } from '../wire/action.ts'
import { jobKey, resolveDerivation, DEFAULT_LIMITS } from '../wire/derivation.ts'
import type { Digest } from '../wire/digest.ts'
import { fingerprintOf, toolOf, type Userland } from '../wire/environment.ts'
import type { BytesMoved, Fact, RequestWire } from '../wire/facts.ts'
import { sha256 } from '../wire/digest.ts'
import type { ActionResult, SignedResult } from '../wire/result.ts'
import { sameEntry } from '../wire/tree.ts'
import {
  LEASE_MS,
  LEASE_SLACK_MS,
  TOOLS_WANTED_MAX,
  type FinishedAttempt,
  type Limits,
  type PeerRecord,
  type SyncMessage,
} from '../wire/work-messages.ts'
import {
  canStart,
  describeMisfit,
  environmentFor,
  fitsBinding,
  freeOf,
  mayEverStart,
  mayHaveUserland,
  mayShareRun,
  mergeUserlands,
  requirementOf,
  userlandOfJob,
  type Requirement,
} from './match.ts'
import {
  isLive,
  REWINDS_MAX,
  type Attempt,
  type Job,
  type NodeEntry,
  type Request,
  type Step,
} from './model.ts'
import { compareRank, Queues, type Queue } from './queue.ts'
import { State } from './state.ts'

/** Requests that are not finished; over it a submit answers "try later". */
const ACTIVE_REQUESTS_MAX = 10_000
/** Finished requests and steps that are kept for `mesh jobs`; the oldest request goes first. */
const FINISHED_REQUESTS_MAX = 10_000
export const FINISHED_STEPS_MAX = 10_000
/** Nodes that are remembered; over it the one away for longest goes. */
export const NODES_MAX = 10_000
/** A job that nobody needs any more is ended after this. */
const ABANDON_MS = 2_000
/** What a node that has gone silent gets before its leases end, since it may only be reconnecting. */
export const DISCONNECT_GRACE_MS = 10_000
/** After a restart nothing that ran before is given up for this long. */
export const RECOVERY_MS = 30_000
/** A job that no node takes fails after this. */
export const WAIT_MS_MAX = 24 * 3600 * 1000
/** Waits after the first, second ... failure of the infrastructure. */
const RETRY_MS = [250, 1_000, 4_000, 15_000] as const
/** A full re-match, as insurance against a lost wake-up. */
const SWEEP_MS = 5_000

/** The fingerprint of fetches: they depend on no userland. */
const FETCH_FINGERPRINT = sha256('mesh builtin:fetch v1')

/** When something happens: the machine's two clocks, and the owner's count of blob bytes moved. */
export interface Moment {
  readonly nowMs: number
  readonly wallMs: number
  readonly ownBlobBytes: number
}

export type Event =
  | { type: 'submit'; request: RequestWire }
  | { type: 'cancel'; request: string }
  | { type: 'detachable'; request: string }
  /** A wanted output of a finished request could not be had: it is to be made again. */
  | { type: 'lost'; request: string; derivation: string }
  | { type: 'node-up'; record: PeerRecord; version: NodeEntry['version']; boot: string }
  | { type: 'node-down'; peerId: string; note: string }
  /** `results` are the opened results of `message.finished` whose signatures hold. */
  | {
      type: 'sync'
      peerId: string
      message: SyncMessage
      results: ReadonlyMap<string, ActionResult>
    }
  | { type: 'looked-up'; job: string; results: readonly ActionResult[] }
  | { type: 'tick' }

export type Effect =
  | { type: 'fact'; fact: Fact }
  /** Look the key up in the cache; answer with `looked-up`. */
  | { type: 'lookup'; job: string; key: Digest }
  /** Countersign and store the result of the attempt, before the facts of this batch. */
  | { type: 'commit'; peerId: string; result: ActionResult; signed: SignedResult }
  /** The desired state of the node changed. */
  | { type: 'desired'; peerId: string }
  /** People who watch the request should see this step anew. */
  | { type: 'step'; step: Step }
  | { type: 'request'; request: Request }

/** A grant as it goes to its node; the driver adds where the inputs are. */
export interface Grant {
  readonly attempt: Attempt
  readonly action: Action
  readonly limits: Limits
  readonly name: string
  readonly urls: readonly string[]
}

export interface Desired {
  readonly ackSeq: number
  readonly epoch: number
  readonly grants: readonly Grant[]
  readonly limits: readonly { readonly attempt: string; readonly limits: Limits }[]
  readonly cancel: readonly string[]
  readonly ack: readonly string[]
  readonly tools: readonly string[]
}

export class Scheduler {
  readonly state = new State()
  readonly nodes = new Map<string, NodeEntry>()
  readonly queues = new Queues()
  /** Until when a restart's survivors are waited for. */
  recoveringUntilMs = 0
  /** Jobs that wait for their time to be tried again. */
  readonly #delayed = new Set<Job>()
  readonly #abandoned = new Set<Job>()
  #effects: Effect[] = []
  #moment: Moment = { nowMs: 0, wallMs: 0, ownBlobBytes: 0 }
  #lastSweepMs = 0
  #active = 0

  /** Takes in one fact of the journal at start. */
  replay(fact: Fact): void {
    this.state.evolve(fact)
  }

  /** Ends the replay: begins a new epoch, and gives what ran before one full lease to report again. */
  recover(moment: Moment): Effect[] {
    this.#begin(moment)
    this.#fact({ type: 'epoch', epoch: this.state.epoch + 1 })
    for (const request of this.state.requests.values()) {
      if (request.state !== 'active') continue
      this.#active += 1
      request.rootBytesBefore = moment.ownBlobBytes
      this.recoveringUntilMs = moment.nowMs + RECOVERY_MS
    }
    for (const jobs of this.state.openJobs.values()) {
      for (const job of jobs) {
        job.waitingSinceMs = moment.nowMs
        for (const attempt of job.attempts)
          if (isLive(attempt)) attempt.leaseUntilMs = moment.nowMs + RECOVERY_MS
        const isRebuild = job.rebuild || [...job.waiters].some((step) => step.rebuild)
        if (job.phase === 'lookup' && !isRebuild)
          this.#effects.push({ type: 'lookup', job: job.id, key: job.key })
        else if (job.phase !== 'leased') this.#enqueue(job)
        if (job.waiters.size === 0) this.#abandon(job)
      }
    }
    // A crash may have come between a pin and the joins of its dependents, or before a request was closed.
    for (const request of this.state.requests.values()) {
      if (request.state !== 'active') continue
      for (const step of request.steps.values()) this.#open(step)
      this.#closeIfSettled(request)
    }
    return this.#effects
  }

  /** Whether one more request fits. */
  get hasRoom(): boolean {
    return this.#active < ACTIVE_REQUESTS_MAX
  }

  apply(event: Event, moment: Moment): Effect[] {
    this.#begin(moment)
    switch (event.type) {
      case 'submit':
        this.#submit(event.request)
        break
      case 'cancel': {
        const request = this.state.requests.get(event.request)
        if (request?.state === 'active') this.#close(request, 'cancelled')
        break
      }
      case 'detachable': {
        const request = this.state.requests.get(event.request)
        if (request === undefined || request.detachable) break
        this.#fact({ type: 'detachable', request: event.request })
        this.#effects.push({ type: 'request', request })
        break
      }
      case 'lost':
        this.#lost(event.request, event.derivation)
        break
      case 'node-up':
        this.#nodeUp(event)
        break
      case 'node-down':
        this.#nodeDown(event.peerId, event.note)
        break
      case 'sync':
        this.#sync(event.peerId, event.message, event.results)
        break
      case 'looked-up':
        this.#lookedUp(event.job, event.results)
        break
      case 'tick':
        this.#tick()
        break
    }
    this.#plan()
    return this.#effects
  }

  /** When `tick` is due next; undefined when nothing waits for time to pass. */
  nextDeadlineMs(): number | undefined {
    let next = Number.POSITIVE_INFINITY
    for (const node of this.nodes.values())
      for (const attempt of node.attempts)
        if (isLive(attempt)) next = Math.min(next, attempt.leaseUntilMs)
    for (const job of this.#delayed) next = Math.min(next, job.notBeforeMs)
    for (const job of this.#abandoned) next = Math.min(next, (job.abandonedAtMs ?? 0) + ABANDON_MS)
    if (this.state.openJobs.size > 0) next = Math.min(next, this.#lastSweepMs + SWEEP_MS)
    return Number.isFinite(next) ? next : undefined
  }

  /** What the node should do, as far as the facts behind it are synced. Marks the grants as sent in `seq`. */
  desiredOf(peerId: string, syncedSeq: number, seq: number): Desired | undefined {
    const node = this.nodes.get(peerId)
    // Two lives of this node must not grant under one epoch.
    if (node === undefined || !node.connected || this.state.epochSeq > syncedSeq) return undefined
    const grants: Grant[] = []
    const limits: { attempt: string; limits: Limits }[] = []
    const tools = new Set<string>()
    for (const attempt of node.attempts) {
      if (!isLive(attempt) || attempt.factSeq > syncedSeq) continue
      const jobLimits = limitsOf(attempt.job)
      if (attempt.confirmed) {
        limits.push({ attempt: attempt.id, limits: jobLimits })
        continue
      }
      attempt.sentSeq = seq
      grants.push({
        attempt,
        action: this.#actionOf(attempt),
        limits: jobLimits,
        name: nameOf(attempt.job),
        urls: urlsOf(attempt.job),
      })
    }
    for (const { requirement } of this.queues.all)
      for (const environment of node.environments)
        for (const tool of [
          ...requirement.tools,
          ...Object.keys(requirement.bindings.get(environment.system)?.tools ?? {}),
        ])
          if (toolOf(environment, tool) === undefined && tools.size < TOOLS_WANTED_MAX)
            tools.add(tool)
    const known = (id: string): Attempt | undefined => this.state.attempts.get(id)
    const isOver = (id: string): boolean => {
      const attempt = known(id)
      return attempt === undefined || (!isLive(attempt) && attempt.factSeq <= syncedSeq)
    }
    return {
      ackSeq: node.ackSeq,
      epoch: this.state.epoch,
      grants,
      limits,
      cancel: [...node.running].filter(isOver),
      ack: [...node.finished.keys()].filter(isOver),
      tools: [...tools],
    }
  }

  #begin(moment: Moment): void {
    this.#effects = []
    this.#moment = moment
  }

  #fact(fact: Fact): void {
    this.state.evolve(fact)
    this.#effects.push({ type: 'fact', fact })
  }

  // ---- requests

  #submit(wire: RequestWire): void {
    if (this.state.requests.has(wire.id)) return
    this.#fact({ type: 'accepted', request: wire })
    const request = this.state.requests.get(wire.id)
    if (request === undefined) return
    this.#active += 1
    request.rootBytesBefore = this.#moment.ownBlobBytes
    this.#effects.push({ type: 'request', request })
    for (const step of request.steps.values()) this.#open(step)
  }

  /** Lets a step whose inputs are all known join its job. */
  #open(step: Step): void {
    const { request } = step
    if (step.phase !== 'blocked' || request.state !== 'active') return
    if (step.dependencies.some((dependency) => dependency.phase !== 'done')) return
    const resolved = resolveDerivation(
      step.derivation,
      (name, output) => request.steps.get(name)?.outputs?.[output],
    )
    if (resolved === undefined) return
    const key = jobKey(resolved)
    const existing = this.#jobFor(step, key)
    const runs = step.earlier.length + (step.job === undefined ? 0 : 1)
    const id = existing?.id ?? (runs === 0 ? step.id : derivedId('j', `${step.id}/${runs}`))
    this.#fact({
      type: 'joined',
      request: request.wire.id,
      derivation: step.derivation.name,
      job: id,
      key,
    })
    const job = this.state.jobs.get(id)
    if (job === undefined) return
    this.#effects.push({ type: 'step', step })
    job.abandonedAtMs = undefined
    this.#abandoned.delete(job)
    if (existing === undefined) {
      job.waitingSinceMs = this.#moment.nowMs
      if (job.rebuild) this.#enqueue(job)
      else this.#effects.push({ type: 'lookup', job: id, key })
      return
    }
    // The joined job may now be asked for more, or sooner, than before.
    if (job.phase === 'waiting') this.#enqueue(job)
    const live = job.attempts.find(isLive)
    if (live !== undefined) {
      this.#bind([step], live.system, live.userland)
      this.#effects.push({ type: 'desired', peerId: live.node.peerId })
    }
  }

  /** The open job of the key that the step may wait at; one that runs already before others. */
  #jobFor(step: Step, key: Digest): Job | undefined {
    const fitting = [...(this.state.openJobs.get(key) ?? [])].filter((job) =>
      this.#canJoin(step, job),
    )
    return fitting.find(({ phase }) => phase === 'leased') ?? fitting[0]
  }

  /** Whether the step may wait at the job: the same look-up rule, userlands that may be mixed, and no asking for too much. */
  #canJoin(step: Step, job: Job): boolean {
    if (job.phase === 'closed' || (step.rebuild && !job.rebuild && job.phase === 'lookup'))
      return false
    if (![...job.waiters].every((other) => mayShareRun(step, other))) return false
    if (job.phase !== 'leased')
      return this.#isPossible([...job.waiters, step]) || !this.#isPossible([step])
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
    for (const node of this.nodes.values())
      if (node.connected && mayHaveUserland(node, system, merged)) return true
    return false
  }

  /** Whether some node may ever run a job of these waiters. */
  #isPossible(waiters: readonly Step[]): boolean {
    const requirement = requirementOf(waiters)
    for (const node of this.nodes.values()) if (mayEverStart(requirement, node)) return true
    return false
  }

  /** What the steps wait for is made with `userland`: so is all else of their requests from now on. */
  #bind(steps: Iterable<Step>, system: string, userland: Userland | null): void {
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
      this.#fact({ type: 'bound', request: request.wire.id, system, userland: merged })
      changed.push(request)
    }
    // Their other waiting jobs move to nodes that match. Only now: on the way steps may join other runs.
    for (const request of changed)
      for (const { phase, job } of request.steps.values())
        if (phase === 'open' && job?.phase === 'waiting' && job.queue !== undefined)
          this.#enqueue(job)
  }

  #close(request: Request, state: 'done' | 'failed' | 'cancelled'): void {
    const jobs = new Set<Job>()
    for (const step of request.steps.values())
      if (step.phase === 'open' && step.job !== undefined) jobs.add(step.job)
    this.#fact({
      type: 'closed',
      request: request.wire.id,
      state,
      rootBytes: Math.max(0, this.#moment.ownBlobBytes - request.rootBytesBefore),
      atWall: this.#moment.wallMs,
    })
    this.#active -= 1
    for (const job of jobs) this.#left(job)
    for (const step of request.steps.values())
      if (step.phase === 'cancelled') this.#effects.push({ type: 'step', step })
    this.#effects.push({ type: 'request', request })
    this.#evict()
  }

  #closeIfSettled(request: Request): void {
    if (request.state !== 'active') return
    const hasFailed = request.failedCount > 0
    if (request.unsettledCount > 0 && !(hasFailed && !request.wire.keepGoing)) return
    this.#close(request, hasFailed ? 'failed' : 'done')
  }

  /** Forgets finished requests beyond the limits, but never the one that has just ended. */
  #evict(): void {
    const { state } = this
    for (const request of state.finished) {
      const { size } = state.finished
      if (
        size <= 1 ||
        (size <= FINISHED_REQUESTS_MAX && state.finishedStepCount <= FINISHED_STEPS_MAX)
      )
        return
      this.#fact({ type: 'evicted', request: request.wire.id })
    }
  }

  #failStep(step: Step, reason: Failure): void {
    if (step.phase !== 'open' && step.phase !== 'blocked') return
    const job = step.job
    this.#fact({
      type: 'failed',
      request: step.request.wire.id,
      derivation: step.derivation.name,
      failure: reason,
    })
    if (job !== undefined) this.#left(job)
    this.#effects.push({ type: 'step', step }, { type: 'request', request: step.request })
    this.#closeIfSettled(step.request)
  }

  #notice(request: Request, text: string): void {
    this.#fact({ type: 'noticed', request: request.wire.id, text: text.slice(0, 4096) })
    this.#effects.push({ type: 'request', request })
  }

  // ---- rewinding

  /** The step goes back to wait for its inputs; its job, if nobody else needs it, is given up. */
  #reopen(step: Step): void {
    const job = step.job
    this.#fact({
      type: 'reopened',
      request: step.request.wire.id,
      derivation: step.derivation.name,
    })
    if (job !== undefined) this.#left(job)
    this.#closeIfSettled(step.request)
  }

  /** Makes the producer of a lost output run again; false when it did so too often. */
  #rewind(producer: Step, what: string): boolean {
    if (producer.rewinds >= REWINDS_MAX) return false
    const wasActive = producer.request.state === 'active'
    this.#fact({
      type: 'rewound',
      request: producer.request.wire.id,
      derivation: producer.derivation.name,
    })
    if (!wasActive) this.#active += 1
    this.#notice(
      producer.request,
      `an output of ${producer.derivation.name} was lost (${what}); it is built again, ${producer.rewinds} of ${REWINDS_MAX}`,
    )
    this.#open(producer)
    this.#closeIfSettled(producer.request)
    return true
  }

  #lost(requestId: string, derivation: string): void {
    const step = this.state.requests.get(requestId)?.steps.get(derivation)
    if (step === undefined || step.phase !== 'done' || step.request.state === 'cancelled') return
    if (this.#rewind(step, 'asked for after the request was done')) return
    this.#notice(
      step.request,
      `an output of ${derivation} was lost again and is not built more than ${REWINDS_MAX} times`,
    )
  }

  // ---- cache

  #lookedUp(id: string, results: readonly ActionResult[]): void {
    const job = this.state.jobs.get(id)
    if (job === undefined || job.phase !== 'lookup') return
    const hasWorkers = [...this.nodes.values()].some(
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
      this.#pinAll(job, takers, result, true)
    }
    if (job.waiters.size === 0) return
    job.waitingSinceMs = this.#moment.nowMs
    this.#enqueue(job)
  }

  /** Gives the result to those `takers` that wait for the job. */
  #pinAll(job: Job, takers: readonly Step[], result: ActionResult, cached: boolean): void {
    this.#bind(takers, result.builder.system, result.userland)
    for (const step of takers) {
      if (!job.waiters.has(step)) continue
      const before = step.outputs
      this.#fact({
        type: 'pinned',
        request: step.request.wire.id,
        derivation: step.derivation.name,
        action: result.action,
        outputs: result.outputs,
        cached,
        log: result.log,
        exitCode: result.exitCode,
      })
      if (before !== undefined && !sameOutputs(before, result.outputs)) {
        this.#notice(
          step.request,
          `${step.derivation.name} gave other outputs when it was built again: it is not reproducible; what was built from the first ones keeps them`,
        )
        // What has not started yet takes the new ones.
        for (const dependent of step.dependents)
          if (dependent.phase === 'open' && dependent.job?.phase !== 'leased')
            this.#reopen(dependent)
      }
      this.#effects.push({ type: 'step', step }, { type: 'request', request: step.request })
      for (const dependent of step.dependents) this.#open(dependent)
      this.#closeIfSettled(step.request)
    }
  }

  // ---- waiting and granting

  #enqueue(job: Job): void {
    job.phase = 'waiting'
    if (job.waiters.size === 0) return
    if (job.notBeforeMs > this.#moment.nowMs) {
      job.queue = undefined
      this.#delayed.add(job)
      return
    }
    this.#delayed.delete(job)
    this.#partDiverged(job)
    // Two jobs of one key may have come to fit each other since they were parted.
    for (const step of [...job.waiters])
      if (this.#jobFor(step, job.key)?.phase === 'leased') this.#part(step)
    this.#sift(job)
    if (job.phase !== 'waiting' || job.waiters.size === 0) return
    this.queues.put(job)
    for (const step of job.waiters) this.#effects.push({ type: 'step', step })
  }

  /** Those waiters go on by themselves whose userland is no longer that of the others. */
  #partDiverged(job: Job): void {
    const staying: Step[] = []
    for (const step of [...job.waiters]) {
      if (staying.every((other) => mayShareRun(step, other))) staying.push(step)
      else this.#part(step)
    }
  }

  /** No node can ever do what all waiters ask together: those that some node would do for go on by themselves, those that do not wait fail. */
  #sift(job: Job): void {
    if (job.waiters.size === 0 || this.#isPossible([...job.waiters])) return
    for (const step of [...job.waiters]) {
      if (!job.waiters.has(step)) continue
      if (this.#isPossible([step])) {
        if (job.waiters.size > 1) this.#part(step)
      } else if (step.request.wire.noWait && this.#moment.nowMs >= this.recoveringUntilMs) {
        this.#failStep(
          step,
          failure(
            step,
            'MESH0301',
            describeMisfit(requirementOf([step]), [...this.nodes.values()]).text,
          ),
        )
      }
    }
  }

  #part(step: Step): void {
    this.#reopen(step)
    this.#open(step)
  }

  #plan(): void {
    for (;;) {
      let best:
        | { queue: Queue; node: NodeEntry; item: NonNullable<ReturnType<Queues['head']>> }
        | undefined
      for (const queue of [...this.queues.all]) {
        const item = this.queues.head(queue)
        if (item === undefined) continue
        if (best !== undefined && compareRank(best.item.rank, item.rank) <= 0) continue
        const node = this.#choose(queue)
        if (node !== undefined) best = { queue, node, item }
      }
      if (best === undefined) return
      this.queues.take(best.queue)
      this.#grant(best.item.job, best.node, best.queue.requirement)
    }
  }

  /** The node for the head of the queue: of those that can start it now, the one with the largest free share. */
  #choose(queue: Queue): NodeEntry | undefined {
    let best: NodeEntry | undefined
    let bestShare = -1
    const { requirement } = queue
    const isAvoidable =
      queue.avoid.size > 0 &&
      [...this.nodes.values()].some(
        (node) =>
          node.state === 'ready' &&
          !queue.avoid.has(node.peerId) &&
          mayEverStart(requirement, node),
      )
    for (const node of this.nodes.values()) {
      if (!node.connected || !canStart(requirement, node)) continue
      if (isAvoidable && queue.avoid.has(node.peerId)) continue
      const share = freeOf(node).cpus / Math.max(1, node.capacity.cpus)
      if (share > bestShare) {
        best = node
        bestShare = share
      }
    }
    return best
  }

  #grant(job: Job, node: NodeEntry, requirement: Requirement): void {
    const environment = environmentFor(requirement, node)
    if (environment === undefined) return
    const userland = userlandOfJob(requirement, environment)
    const action = makeAction(
      job.resolved,
      environment.system,
      fingerprintFor(requirement.isFetch, environment, requirement.tools),
    )
    const cpus = Math.max(requirement.cpusMin, Math.min(requirement.cpusMax, freeOf(node).cpus))
    const n = job.attempts.length + 1
    this.#fact({
      type: 'granted',
      job: job.id,
      attempt: derivedId('a', `${job.id}/${n}/${this.state.epoch}/${this.#moment.wallMs}`, 16),
      node: { peerId: node.peerId, name: node.record.name },
      boot: node.boot,
      system: environment.system,
      isolation: environment.isolation,
      label: environment.label,
      action: actionDigest(action),
      userland,
      cpus,
      memoryBytes: requirement.memoryBytes,
      diskBytes: requirement.diskBytes,
      atWall: this.#moment.wallMs,
    })
    const attempt = job.attempts.at(-1)
    if (attempt === undefined) return
    attempt.leaseUntilMs = this.#moment.nowMs + LEASE_MS + LEASE_SLACK_MS
    this.#reserve(node, attempt)
    this.#bind(job.waiters, environment.system, userland)
    // Who waits for the same elsewhere, and may share this run, does.
    for (const other of [...(this.state.openJobs.get(job.key) ?? [])])
      if (other.phase === 'waiting') this.#enqueue(other)
    for (const step of job.waiters) {
      this.#effects.push({ type: 'step', step }, { type: 'request', request: step.request })
    }
    this.#effects.push({ type: 'desired', peerId: node.peerId })
  }

  #actionOf(attempt: Attempt): Action {
    const { userland, job, system } = attempt
    const fingerprint =
      userland === null
        ? FETCH_FINGERPRINT
        : (fingerprintOf({ system, ...userland }, Object.keys(userland.tools).toSorted()) ??
          FETCH_FINGERPRINT)
    return makeAction(job.resolved, system, fingerprint)
  }

  #reserve(node: NodeEntry, attempt: Attempt): void {
    if (node.attempts.has(attempt)) return
    node.attempts.add(attempt)
    node.allocated.cpus += attempt.cpus
    node.allocated.memoryBytes += attempt.memoryBytes
    node.allocated.diskBytes += attempt.diskBytes
  }

  /** Gives the reservation back once the attempt holds no lease, and the node neither runs it nor may be about to. */
  #release(node: NodeEntry, attempt: Attempt): void {
    if (isLive(attempt)) return
    if (
      node.connected &&
      (node.running.has(attempt.id) || (!attempt.confirmed && attempt.sentSeq > node.heardSeq))
    )
      return
    if (!node.attempts.delete(attempt)) return
    node.allocated.cpus -= attempt.cpus
    node.allocated.memoryBytes -= attempt.memoryBytes
    node.allocated.diskBytes -= attempt.diskBytes
  }

  /** A waiter has left the job: it is given up when it was the last one, else it may now ask for less. */
  #left(job: Job): void {
    if (job.waiters.size === 0) this.#abandon(job)
    else if (job.phase === 'waiting' && job.queue !== undefined) this.#enqueue(job)
  }

  #abandon(job: Job): void {
    if (job.phase === 'closed' || !job.attempts.some(isLive)) return
    job.abandonedAtMs = this.#moment.nowMs
    this.#abandoned.add(job)
  }

  // ---- nodes

  #nodeUp(event: Extract<Event, { type: 'node-up' }>): void {
    const { record, version, boot } = event
    let node = this.nodes.get(record.peerId)
    if (node === undefined) {
      this.#forgetNodes()
      node = {
        peerId: record.peerId,
        record,
        version,
        boot,
        state: 'ready',
        connected: true,
        disconnectedAtMs: 0,
        lastSyncMs: this.#moment.nowMs,
        lastSeenWall: this.#moment.wallMs,
        ackSeq: 0,
        heardSeq: 0,
        note: '',
        environments: [],
        capacity: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
        allocated: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
        attempts: new Set(),
        running: new Set(),
        finished: new Map(),
      }
      this.nodes.set(record.peerId, node)
    }
    node.record = record
    node.version = version
    node.boot = boot
    node.connected = true
    node.state = 'ready'
    node.note = ''
    // Nothing is granted before its first sync tells what it has and what it runs.
    node.ackSeq = 0
    node.heardSeq = 0
    node.running = new Set()
    node.finished.clear()
    node.lastSyncMs = this.#moment.nowMs
    node.lastSeenWall = this.#moment.wallMs
    for (const attempt of node.attempts) attempt.sentSeq = 0
    for (const attempt of this.state.attempts.values())
      if (attempt.node.peerId === record.peerId && isLive(attempt)) this.#reserve(node, attempt)
    for (const attempt of [...node.attempts]) this.#release(node, attempt)
  }

  #forgetNodes(): void {
    if (this.nodes.size < NODES_MAX) return
    let longest: NodeEntry | undefined
    for (const node of this.nodes.values())
      if (
        !node.connected &&
        node.attempts.size === 0 &&
        node.disconnectedAtMs < (longest?.disconnectedAtMs ?? Number.POSITIVE_INFINITY)
      )
        longest = node
    if (longest !== undefined) this.nodes.delete(longest.peerId)
  }

  #nodeDown(peerId: string, note: string): void {
    const node = this.nodes.get(peerId)
    if (node === undefined || !node.connected) return
    node.connected = false
    node.state = 'lost'
    node.note = note
    node.disconnectedAtMs = this.#moment.nowMs
    for (const attempt of node.attempts) {
      attempt.leaseUntilMs = Math.min(
        attempt.leaseUntilMs,
        this.#moment.nowMs + DISCONNECT_GRACE_MS,
      )
      this.#release(node, attempt)
    }
    this.#refreshWaiting()
  }

  #sync(peerId: string, message: SyncMessage, results: ReadonlyMap<string, ActionResult>): void {
    const node = this.nodes.get(peerId)
    if (node === undefined || !node.connected || message.seq <= node.ackSeq) return
    const { nowMs } = this.#moment
    const hadEnvironments = node.environments.length
    node.ackSeq = message.seq
    node.heardSeq = message.ackSeq
    node.lastSyncMs = nowMs
    node.lastSeenWall = this.#moment.wallMs
    const wasState = node.state
    node.state = message.state
    node.note = message.note
    node.environments = message.environments
    node.capacity = message.capacity
    node.running = new Set(message.running.map((running) => running.attempt))
    node.finished.clear()
    for (const finished of message.finished) node.finished.set(finished.attempt, finished)

    for (const finished of message.finished)
      this.#finish(node, finished, results.get(finished.attempt))
    for (const running of message.running) this.#stillRuns(node, running)
    for (const attempt of [...node.attempts]) {
      if (isLive(attempt)) {
        attempt.leaseUntilMs = nowMs + LEASE_MS + LEASE_SLACK_MS
        const isTold = node.running.has(attempt.id) || node.finished.has(attempt.id)
        // It was told of the grant and does not know it, or was told in an earlier life, for all that is
        // known: the process that held it is gone.
        const wasTold =
          attempt.confirmed ||
          attempt.boot !== node.boot ||
          (attempt.sentSeq > 0 && attempt.sentSeq <= message.ackSeq)
        if (!isTold && wasTold)
          this.#endAttempt(
            attempt,
            'lost',
            `${node.record.name} was restarted and no longer runs it`,
          )
      }
      this.#release(node, attempt)
    }
    this.#effects.push({ type: 'desired', peerId })
    if (wasState !== node.state || hadEnvironments !== node.environments.length)
      this.#refreshWaiting()
  }

  #stillRuns(node: NodeEntry, running: SyncMessage['running'][number]): void {
    const attempt = this.state.attempts.get(running.attempt)
    if (attempt === undefined || attempt.node.peerId !== node.peerId) return
    const { job } = attempt
    // Whatever became of it here, it takes room there.
    this.#reserve(node, attempt)
    if (attempt.state === 'lost' && job.waiters.size > 0 && this.#fitsWaiters(attempt)) {
      // Given up and found again: of two runs the one that began first is expected to end first.
      for (const other of job.attempts)
        if (isLive(other))
          this.#endAttempt(other, 'superseded', `${node.record.name} was found to run it already`)
      this.#fact({ type: 'adopted', attempt: attempt.id })
      this.#bind(job.waiters, attempt.system, attempt.userland)
      for (const step of job.waiters) this.#effects.push({ type: 'step', step })
    }
    if (!isLive(attempt)) return
    const isChanged = attempt.state !== running.phase || !attempt.confirmed
    attempt.state = running.phase
    attempt.phases = running.phases
    attempt.confirmed = true
    if (isChanged) for (const step of job.waiters) this.#effects.push({ type: 'step', step })
  }

  /** Whether the attempt's userland is that of all who wait for the job now; a late one was begun for others. */
  #fitsWaiters(attempt: Attempt): boolean {
    return [...attempt.job.waiters].every((step) =>
      fitsStep(attempt.userland, attempt.system, step),
    )
  }

  // ---- ends of attempts

  #endAttempt(
    attempt: Attempt,
    state: 'done' | 'failed' | 'lost' | 'cancelled' | 'superseded',
    error: string | null,
    finished?: FinishedAttempt,
  ): void {
    this.#fact({
      type: 'ended',
      attempt: attempt.id,
      state,
      error: error?.slice(0, 4096) ?? null,
      usage: finished?.usage ?? null,
      phases: finished?.phases ?? attempt.phases,
      bytes: finished?.bytes ?? NO_BYTES,
      log: finished?.outcome.kind === 'failed' ? finished.outcome.log : null,
      exitCode: exitCodeOf(finished?.outcome),
      atWall: this.#moment.wallMs,
    })
    const node = this.nodes.get(attempt.node.peerId)
    if (node !== undefined) {
      this.#release(node, attempt)
      this.#effects.push({ type: 'desired', peerId: node.peerId })
    }
    const { job } = attempt
    for (const step of job.waiters) this.#effects.push({ type: 'step', step })
    if (state === 'lost') this.#retry(job, error ?? '')
  }

  #finish(node: NodeEntry, finished: FinishedAttempt, result: ActionResult | undefined): void {
    const attempt = this.state.attempts.get(finished.attempt)
    if (attempt === undefined || attempt.node.peerId !== node.peerId) return
    attempt.confirmed = true
    const { outcome } = finished
    const isLate = !isLive(attempt)
    if (
      isLate &&
      (attempt.state !== 'lost' || attempt.job.phase === 'closed' || !this.#fitsWaiters(attempt))
    ) {
      if (result !== undefined && outcome.kind === 'built') this.#compare(attempt, result)
      return
    }
    // A result is worth keeping even when nobody waits for it any more.
    if (attempt.job.waiters.size === 0 && outcome.kind !== 'built') {
      if (!isLate) this.#endAttempt(attempt, 'cancelled', 'nobody needs it any more', finished)
      return
    }
    switch (outcome.kind) {
      case 'built':
        this.#built(attempt, finished, result)
        return
      case 'failed':
        this.#buildFailed(attempt, finished, outcome)
        return
      case 'missing':
        if (!isLate) this.#missing(attempt, finished, outcome)
        return
      case 'infrastructure':
        if (!isLate)
          this.#endAttempt(attempt, 'lost', `${outcome.code}: ${outcome.message}`, finished)
        return
      case 'cancelled':
        if (!isLate) this.#endAttempt(attempt, 'lost', `${node.record.name} gave it up`, finished)
        return
    }
  }

  #built(attempt: Attempt, finished: FinishedAttempt, result: ActionResult | undefined): void {
    const { job } = attempt
    const expected = job.resolved.outputs
    const isHonest =
      result !== undefined &&
      result.action === attempt.action &&
      result.attempt === attempt.id &&
      result.jobKey === job.key &&
      expected.every((name) => result.outputs[name] !== undefined) &&
      Object.keys(result.outputs).length === expected.length
    if (!isHonest) {
      if (isLive(attempt))
        this.#endAttempt(
          attempt,
          'lost',
          `${attempt.node.name} sent a result that is not valid for this attempt`,
          finished,
        )
      return
    }
    if (finished.outcome.kind === 'built')
      this.#effects.push({
        type: 'commit',
        peerId: attempt.node.peerId,
        result,
        signed: finished.outcome.result,
      })
    this.#endAttempt(attempt, 'done', null, finished)
    for (const other of job.attempts)
      if (isLive(other)) this.#endAttempt(other, 'superseded', `${attempt.node.name} was first`)
    this.#pinAll(job, [...job.waiters], result, false)
  }

  /** A result that came second: equal ones are ignored, a different one is told. */
  #compare(attempt: Attempt, result: ActionResult): void {
    for (const step of attempt.job.shownBy)
      if (
        step.outputs !== undefined &&
        step.action === result.action &&
        !sameOutputs(step.outputs, result.outputs)
      )
        this.#notice(
          step.request,
          `${step.derivation.name} is not reproducible: ${attempt.node.name} got other outputs than those that are used`,
        )
  }

  #buildFailed(
    attempt: Attempt,
    finished: FinishedAttempt,
    outcome: Extract<FinishedAttempt['outcome'], { kind: 'failed' }>,
  ): void {
    const { job } = attempt
    const waiters = [...job.waiters]
    this.#endAttempt(attempt, 'failed', `${outcome.code}: ${outcome.message}`, finished)
    for (const other of job.attempts)
      if (isLive(other)) this.#endAttempt(other, 'superseded', `${attempt.node.name} was first`)
    for (const step of waiters) {
      const { limit, code } = outcome
      // Whose own limit was not reached waits for another run.
      if (limit !== undefined && ownLimit(step, limit.name) > limit.value) continue
      if (code === 'MESH0404' && step.derivation.needs.memoryBytes > attempt.memoryBytes) continue
      this.#failStep(step, {
        job: step.id,
        name: step.derivation.name,
        code: outcome.code,
        message: outcome.message,
        node: attempt.node.name,
        logTail: outcome.logTail,
      })
    }
    if (job.phase !== 'closed' && job.waiters.size > 0 && !job.attempts.some(isLive))
      this.#enqueue(job)
  }

  #missing(
    attempt: Attempt,
    finished: FinishedAttempt,
    outcome: Extract<FinishedAttempt['outcome'], { kind: 'missing' }>,
  ): void {
    const { job } = attempt
    const lost = new Set<Digest>(outcome.inputs)
    const rewinds: { readonly step: Step; readonly producers: readonly Step[] }[] = []
    let isSource = false
    for (const step of job.waiters) {
      // A producer that was run again since may have given another output: then this step is merely late.
      const producers = isResolvedTo(step, job.key) ? producersOf(step, lost) : []
      if (producers === undefined) isSource = true
      else rewinds.push({ step, producers })
    }
    if (!isSource) this.#endAttempt(attempt, 'failed', `MESH0501: ${outcome.message}`, finished)
    for (const { step, producers } of rewinds) {
      this.#reopen(step)
      if (step.phase !== 'blocked') continue
      const hopeless = producers.find(
        (producer) => producer.phase === 'done' && !this.#rewind(producer, outcome.message),
      )
      if (hopeless === undefined) this.#open(step)
      else
        this.#failStep(
          step,
          failure(
            step,
            'MESH0506',
            `${outcome.message}; ${hopeless.derivation.name} was built again ${hopeless.rewinds} times`,
          ),
        )
    }
    if (isSource) this.#endAttempt(attempt, 'lost', `MESH0501: ${outcome.message}`, finished)
  }

  /** Queues the job again after a failure of the infrastructure, or fails it after too many. */
  #retry(job: Job, error: string): void {
    if (job.phase === 'closed' || job.attempts.some(isLive)) return
    const code = error.startsWith('MESH0501')
      ? 'MESH0501'
      : error.startsWith('MESH0504')
        ? 'MESH0504'
        : 'MESH0505'
    for (const step of [...job.waiters]) {
      if (job.infraFailures <= step.derivation.run.retries) continue
      const tried = `${job.infraFailures} attempts failed, the last one: ${error}`
      this.#failStep(
        step,
        failure(step, code, `${step.derivation.name} could not be run: ${tried}`),
      )
    }
    if (job.waiters.size === 0) return
    job.notBeforeMs =
      this.#moment.nowMs + (RETRY_MS[Math.min(job.infraFailures, RETRY_MS.length) - 1] ?? 0)
    job.waitingSinceMs = this.#moment.nowMs
    this.#enqueue(job)
  }

  // ---- time

  #tick(): void {
    const { nowMs } = this.#moment
    for (const node of this.nodes.values()) {
      for (const attempt of [...node.attempts]) this.#expire(node.record.name, attempt)
    }
    if (nowMs >= this.recoveringUntilMs)
      for (const attempt of this.#orphans()) this.#expire(attempt.node.name, attempt)
    for (const job of [...this.#abandoned]) {
      if (nowMs < (job.abandonedAtMs ?? 0) + ABANDON_MS) continue
      this.#abandoned.delete(job)
      for (const attempt of job.attempts)
        if (isLive(attempt)) this.#endAttempt(attempt, 'cancelled', 'nobody needs it any more')
    }
    for (const job of [...this.#delayed]) {
      if (job.notBeforeMs > nowMs) continue
      this.#delayed.delete(job)
      if (job.phase === 'waiting') this.#enqueue(job)
    }
    if (nowMs - this.#lastSweepMs < SWEEP_MS) return
    this.#lastSweepMs = nowMs
    this.queues.sweep()
    for (const queue of [...this.queues.all])
      for (const { job } of [...queue.items])
        if (job.phase === 'waiting' && nowMs - job.waitingSinceMs >= WAIT_MS_MAX)
          for (const step of [...job.waiters])
            this.#failStep(
              step,
              failure(step, 'MESH0302', `${step.derivation.name} waited 24 hours for a node`),
            )
    this.#refreshWaiting()
  }

  #expire(nodeName: string, attempt: Attempt): void {
    if (!isLive(attempt) || attempt.leaseUntilMs > this.#moment.nowMs) return
    this.#endAttempt(attempt, 'lost', `${nodeName} was not heard of before its lease ended`)
  }

  /** Live attempts on nodes that have not come back since the restart. */
  #orphans(): Attempt[] {
    const orphans: Attempt[] = []
    for (const jobs of this.state.openJobs.values())
      for (const job of jobs)
        for (const attempt of job.attempts)
          if (isLive(attempt) && !this.nodes.has(attempt.node.peerId)) orphans.push(attempt)
    return orphans
  }

  /** Jobs that no node can run any more are judged anew. */
  #refreshWaiting(): void {
    for (const queue of [...this.queues.all]) {
      if ([...this.nodes.values()].some((node) => mayEverStart(queue.requirement, node))) continue
      for (const { job } of [...queue.items]) {
        const mayChange =
          job.waiters.size > 1 || [...job.waiters].some((step) => step.request.wire.noWait)
        if (mayChange && job.phase === 'waiting') this.#enqueue(job)
      }
    }
  }
}

const NO_BYTES: BytesMoved = { peer: 0, mirror: 0, local: 0 }

function failure(step: Step, code: string, message: string): Failure {
  return { job: step.id, name: step.derivation.name, code, message, node: null, logTail: '' }
}

function fingerprintFor(
  isFetch: boolean,
  environment: Parameters<typeof fingerprintOf>[0],
  tools: readonly string[],
): Digest {
  return (isFetch ? undefined : fingerprintOf(environment, tools)) ?? FETCH_FINGERPRINT
}

/** Limits are the largest of the waiters'. */
export function limitsOf(job: Job): Limits {
  const { timeoutMs, maxSilentMs, maxLogBytes } = DEFAULT_LIMITS
  const limits = { timeoutMs: 0, maxSilentMs: 0, maxLogBytes: 0 }
  for (const { derivation } of job.waiters) {
    limits.timeoutMs = Math.max(limits.timeoutMs, derivation.run.timeoutMs)
    limits.maxSilentMs = Math.max(limits.maxSilentMs, derivation.run.maxSilentMs)
    limits.maxLogBytes = Math.max(limits.maxLogBytes, derivation.run.maxLogBytes)
  }
  return job.waiters.size === 0 ? { timeoutMs, maxSilentMs, maxLogBytes } : limits
}

function ownLimit(step: Step, name: 'timeout' | 'silent' | 'log'): number {
  const { run } = step.derivation
  return name === 'timeout' ? run.timeoutMs : name === 'silent' ? run.maxSilentMs : run.maxLogBytes
}

function exitCodeOf(outcome: FinishedAttempt['outcome'] | undefined): number | null {
  if (outcome?.kind === 'built') return 0
  return outcome?.kind === 'failed' ? outcome.exitCode : null
}

function nameOf(job: Job): string {
  for (const step of job.waiters) return step.derivation.name
  return ''
}

function urlsOf(job: Job): string[] {
  const urls = new Set<string>()
  for (const step of job.waiters) for (const url of step.derivation.fetch?.urls ?? []) urls.add(url)
  return [...urls].slice(0, 16)
}

/** Whether something made with `userland` for `system` may be mixed into the step's request. */
function fitsStep(userland: Userland | null, system: string, step: Step): boolean {
  return fitsBinding(userland, step.request.bindings.get(system))
}

/** Whether the step, as its inputs are now, is still what `key` stands for. */
function isResolvedTo(step: Step, key: Digest): boolean {
  const resolved = resolveDerivation(
    step.derivation,
    (name, output) => step.request.steps.get(name)?.outputs?.[output],
  )
  return resolved !== undefined && jobKey(resolved) === key
}

/** The steps whose outputs are the lost inputs of `step`; undefined when one of them is a source. */
function producersOf(step: Step, lost: ReadonlySet<Digest>): Step[] | undefined {
  const producers = new Set<Step>()
  for (const inputs of [
    step.derivation.inputs,
    ...step.derivation.variants.map((variant) => variant.inputs),
  ]) {
    for (const input of Object.values(inputs)) {
      if (input.kind === 'entry') {
        if (input.entry.kind !== 'symlink' && lost.has(input.entry.digest)) return undefined
        continue
      }
      const producer = step.request.steps.get(input.derivation)
      const output = producer?.outputs?.[input.output]
      if (
        producer !== undefined &&
        output !== undefined &&
        output.kind !== 'symlink' &&
        lost.has(output.digest)
      )
        producers.add(producer)
    }
  }
  return producers.size === 0 ? undefined : [...producers]
}

function sameOutputs(
  a: Readonly<Record<string, Parameters<typeof sameEntry>[0]>>,
  b: typeof a,
): boolean {
  const names = Object.keys(a)
  return (
    names.length === Object.keys(b).length &&
    names.every((name) => {
      const left = a[name]
      const right = b[name]
      return left !== undefined && right !== undefined && sameEntry(left, right)
    })
  )
}
