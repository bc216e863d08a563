/** Nodes as they come, report and go, what they hold for attempts, and what each is told to do. */
import { makeAction, type Action } from '../wire/action.ts'
import { DEFAULT_LIMITS, VERIFY_MAX } from '../wire/derivation.ts'
import { sha256 } from '../wire/digest.ts'
import { fingerprintOf, toolOf, type Environment } from '../wire/environment.ts'
import type { ActionResult } from '../wire/result.ts'
import {
  FEATURE_TREE,
  LEASE_MS,
  LEASE_SLACK_MS,
  TOOLS_WANTED_MAX,
  type Lease,
  type Limits,
  type SyncMessage,
} from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { cpuRangeOf } from './cpu-range.ts'
import type { Desired, Event, Grant } from './events.ts'
import {
  buildersOf,
  isLive,
  priorityOf,
  runnerOf,
  type Attempt,
  type BundleOffer,
  type BundleOfferItem,
  type Job,
  type NodeEntry,
} from './model.ts'
import { causeOfLoss } from './poison.ts'
import { classOf } from './requirement-wire.ts'

/** Nodes that are remembered; over it the one away for longest goes. */
export const NODES_MAX = 10_000
/** What a node that has gone silent gets before its leases end, since it may only be reconnecting. */
export const DISCONNECT_GRACE_MS = 10_000

/** How long a node may say that it does not know yet what runs below it. */
const RECOVERING_MS_MAX = 30_000
/** Nodes to be avoided that a lease names. */
const AVOID_MAX = 64

/** The fingerprint of fetches: they depend on no userland. */
export const FETCH_FINGERPRINT = sha256('mesh builtin:fetch v1')

export class Nodes {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  #actionOf(attempt: Attempt): Action {
    const { userland, job, system, machine } = attempt
    const fingerprint =
      userland === null
        ? FETCH_FINGERPRINT
        : (fingerprintOf({ system, ...userland }, Object.keys(userland.tools).toSorted()) ??
          FETCH_FINGERPRINT)
    return makeAction(job.resolved, { system, machine }, fingerprint)
  }

  reserve(node: NodeEntry, attempt: Attempt): void {
    if (node.attempts.has(attempt)) return
    node.attempts.add(attempt)
    this.#core.outcomes.leaseEndsAt(attempt.leaseUntilMs)
    node.allocated.cpus += attempt.allotted
    node.allocated.memoryBytes += attempt.memoryBytes
    node.allocated.diskBytes += attempt.diskBytes
    this.#core.allotments.nodeChanged(node)
    this.#core.waiting.nodeChanged(node)
    this.#core.standing.refresh(node)
  }

  /** Gives the reservation back once the attempt holds no lease, and the node neither runs it nor may be about to. */
  release(node: NodeEntry, attempt: Attempt): void {
    if (isLive(attempt)) return
    if (
      node.connected &&
      (node.running.has(attempt.id) || (!attempt.confirmed && attempt.sentSeq > node.heardSeq))
    )
      return
    if (node.attempts.has(attempt)) this.#unreserve(node, attempt)
  }

  #unreserve(node: NodeEntry, attempt: Attempt): void {
    node.attempts.delete(attempt)
    node.allocated.cpus -= attempt.allotted
    node.allocated.memoryBytes -= attempt.memoryBytes
    node.allocated.diskBytes -= attempt.diskBytes
    this.#core.allotments.nodeChanged(node)
    this.#core.waiting.nodeChanged(node)
    this.#core.standing.refresh(node)
  }

  nodeUp(event: Extract<Event, { type: 'node-up' }>): void {
    const { record, version, boot } = event
    let node = this.#core.nodes.get(record.peerId)
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
        lastSyncMs: this.#core.moment.nowMs,
        lastSeenWall: this.#core.moment.wallMs,
        ackSeq: 0,
        heardSeq: 0,
        note: '',
        told: { state: 'ready', note: '' },
        leftOrderly: false,
        environments: [],
        away: undefined,
        capacity: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
        allocated: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
        attempts: new Set(),
        speed: 1,
        bundle: undefined,
        recoveringUntilMs: 0,
        running: new Set(),
        finished: new Map(),
        relayed: new Map(),
        toldClasses: undefined,
      }
      this.#core.nodes.set(record.peerId, node)
    }
    const isNewLife = node.boot !== boot
    node.record = record
    node.version = version
    node.boot = boot
    node.connected = true
    // A new life of it may have other checks.
    if (isNewLife) this.#core.refusals.forget(record.peerId)
    node.told = { state: 'ready', note: '' }
    node.state = 'ready'
    node.note = ''
    this.#core.standing.refresh(node)
    // Nothing is granted before its first sync tells what it has and what it runs.
    node.ackSeq = 0
    node.heardSeq = 0
    node.running = new Set()
    node.finished.clear()
    node.toldClasses = undefined
    node.lastSyncMs = this.#core.moment.nowMs
    node.lastSeenWall = this.#core.moment.wallMs
    this.#core.replicas.nodeUp(record)
    this.#core.reach.cameUp([record])
    this.#core.relays.nodeUp(node)
    for (const attempt of node.attempts) attempt.sentSeq = 0
    for (const attempt of this.#core.state.attempts.values())
      if (attempt.node.peerId === record.peerId && isLive(attempt)) this.reserve(node, attempt)
    for (const attempt of [...node.attempts]) this.release(node, attempt)
    this.#core.waiting.nodeChanged(node)
  }

  #forgetNodes(): void {
    if (this.#core.nodes.size < NODES_MAX) return
    let longest: NodeEntry | undefined
    for (const node of this.#core.nodes.values())
      if (
        !node.connected &&
        node.attempts.size === 0 &&
        node.relayed.size === 0 &&
        node.disconnectedAtMs < (longest?.disconnectedAtMs ?? Number.POSITIVE_INFINITY)
      )
        longest = node
    if (longest === undefined) return
    this.#core.nodes.delete(longest.peerId)
    this.#core.waiting.nodeChanged(longest)
  }

  nodeDown(peerId: string, note: string): void {
    const node = this.#core.nodes.get(peerId)
    if (node === undefined || !node.connected) return
    node.connected = false
    // One that is drained from here says so too, and may die all the same.
    node.leftOrderly = node.told.state === 'draining' && this.#core.drains.of(node) === undefined
    node.state = 'lost'
    node.note = note
    // Whoever came without a word has been away all the time.
    if (node.ackSeq > 0 || node.disconnectedAtMs === 0)
      node.disconnectedAtMs = this.#core.moment.nowMs
    this.#core.replicas.nodeDown(node.record)
    for (const { record } of this.#core.members.forget(peerId)) this.#core.replicas.nodeDown(record)
    this.#core.relays.nodeDown(node)
    for (const attempt of node.attempts) {
      attempt.leaseUntilMs = Math.min(
        attempt.leaseUntilMs,
        this.#core.moment.nowMs + DISCONNECT_GRACE_MS,
      )
      this.#core.outcomes.leaseEndsAt(attempt.leaseUntilMs)
      this.release(node, attempt)
    }
    this.#core.waiting.nodeChanged(node)
    this.#core.waiting.refreshWaiting()
  }

  sync(peerId: string, message: SyncMessage, results: ReadonlyMap<string, ActionResult>): void {
    const node = this.#core.nodes.get(peerId)
    if (node === undefined || !node.connected || message.seq <= node.ackSeq) return
    const { nowMs } = this.#core.moment
    const hadEnvironments = node.environments.length
    node.ackSeq = message.seq
    node.heardSeq = message.ackSeq
    node.lastSyncMs = nowMs
    node.lastSeenWall = this.#core.moment.wallMs
    const wasState = node.state
    node.told = { state: message.state, note: message.note }
    node.environments = message.environments
    node.away = message.away
    node.capacity = message.capacity
    node.policy = message.policy
    node.facts = message.facts ?? node.facts
    node.bundle = message.bundle === undefined ? undefined : offerOf(message, message.bundle)
    this.#core.learning.speeds.told(node, message.speed)
    this.#core.waiting.nodeChanged(node)
    this.#core.allotments.nodeChanged(node)
    node.recoveringUntilMs = nowMs + Math.min(message.recoveringMs ?? 0, RECOVERING_MS_MAX)
    node.running = new Set(message.running.map((running) => running.attempt))
    node.finished.clear()
    for (const finished of message.finished) node.finished.set(finished.attempt, finished)
    this.#core.standing.refresh(node)

    const { state, relays } = this.#core
    for (const finished of message.finished)
      if (state.attempts.has(finished.attempt) || !relays.heardFinished(node, finished))
        this.#core.outcomes.finish(node, finished, results.get(finished.attempt))
    for (const running of message.running)
      if (state.attempts.has(running.attempt) || !relays.heardRunning(node, running))
        this.#stillRuns(node, running)
    relays.heardAll(node)
    for (const attempt of [...node.attempts]) {
      if (isLive(attempt)) {
        attempt.leaseUntilMs = nowMs + LEASE_MS + LEASE_SLACK_MS
        this.#core.outcomes.leaseEndsAt(attempt.leaseUntilMs)
        const isTold = node.running.has(attempt.id) || node.finished.has(attempt.id)
        // It was told of the grant and does not know it, or was told in an earlier life, for all that is
        // known: the process that held it is gone.
        const wasTold =
          attempt.confirmed ||
          attempt.boot !== node.boot ||
          (attempt.sentSeq > 0 && attempt.sentSeq <= message.ackSeq)
        if (!isTold && wasTold && nowMs >= node.recoveringUntilMs)
          this.#core.outcomes.endAttempt(
            attempt,
            'lost',
            `${node.record.name} was restarted and no longer runs it`,
            undefined,
            causeOfLoss(attempt, node.leftOrderly),
          )
      }
      this.release(node, attempt)
    }
    node.leftOrderly = false
    this.#core.standing.refresh(node)
    this.#core.waiting.nodeChanged(node)
    this.#core.effects.push({ type: 'desired', peerId })
    if (wasState !== node.state) this.#core.replicas.nodeChanged()
    if (wasState !== node.state || hadEnvironments !== node.environments.length)
      this.#core.waiting.refreshWaiting()
  }

  #stillRuns(node: NodeEntry, running: SyncMessage['running'][number]): void {
    const attempt = this.#core.state.attempts.get(running.attempt)
    if (attempt === undefined) return
    const { job } = attempt
    if (attempt.node.peerId !== node.peerId) {
      if (!this.#hasMoved(attempt, node, running)) return
      this.#move(attempt, node)
    }
    attempt.isAway = running.awayMs !== undefined
    if (running.runner !== undefined) attempt.runner = running.runner
    // Whatever became of it here, it takes room there.
    this.reserve(node, attempt)
    if (
      attempt.state === 'lost' &&
      attempt.cause !== 'drained' &&
      job.waiters.size > 0 &&
      this.#core.outcomes.fitsWaiters(attempt) &&
      !buildersOf(job).has(runnerOf(attempt).peerId)
    ) {
      // Given up and found again: of two runs the one that began first is expected to end first.
      for (const other of job.attempts.toReversed())
        if (isLive(other) && (job.votesWanted <= 1 || buildersOf(job).size >= job.votesWanted))
          this.#core.outcomes.endAttempt(
            other,
            'superseded',
            `${node.record.name} was found to run it already`,
          )
      this.#core.fact({ type: 'adopted', attempt: attempt.id })
      this.#core.steps.bind(job.waiters, attempt.system, attempt.userland)
      for (const step of job.waiters) this.#core.effects.push({ type: 'step', step })
    }
    // Also what has ended here runs on there until it hears so, with what it has.
    if (running.held !== undefined) this.#core.allotments.heard(node, attempt, running.held.cpus)
    if (!isLive(attempt)) return
    const isChanged = attempt.state !== running.phase || !attempt.confirmed
    attempt.state = running.phase
    attempt.phases = running.phases
    attempt.confirmed = true
    if (isChanged) for (const step of job.waiters) this.#core.effects.push({ type: 'step', step })
  }

  /** Whoever holds a lease may come back by way of another: the holder then has no connection to who runs it. */
  #hasMoved(
    attempt: Attempt,
    node: NodeEntry,
    { awayMs }: SyncMessage['running'][number],
  ): boolean {
    if (awayMs !== undefined) return false
    if (!isLive(attempt) && attempt.state !== 'lost') return false
    const holder = this.#core.nodes.get(attempt.node.peerId)
    return (
      holder?.connected !== true ||
      attempt.isAway ||
      !holder.running.has(attempt.id) ||
      // The one who runs it says so itself.
      (node.bundle === undefined && node.peerId === runnerOf(attempt).peerId)
    )
  }

  #move(attempt: Attempt, node: NodeEntry): void {
    const holder = this.#core.nodes.get(attempt.node.peerId)
    const ref = { peerId: node.peerId, name: node.record.name }
    if (isLive(attempt)) {
      this.#core.fact({ type: 'adopted', attempt: attempt.id, node: ref, boot: node.boot })
    } else {
      attempt.node = ref
    }
    if (holder?.attempts.has(attempt) === true) this.#unreserve(holder, attempt)
    attempt.isAway = false
    attempt.confirmed = true
    attempt.sentSeq = 0
    this.reserve(node, attempt)
  }

  /** What the node should do, as far as the facts behind it are synced. Marks the grants as sent in `seq`. */
  desiredOf(peerId: string, syncedSeq: number, seq: number): Desired | undefined {
    const node = this.#core.nodes.get(peerId)
    // Two lives of this node must not grant under one epoch.
    if (node === undefined || !node.connected || this.#core.state.epochSeq > syncedSeq)
      return undefined
    const grants: Grant[] = []
    const limits: { attempt: string; limits: Limits }[] = []
    const tools = new Set<string>()
    const want = (environment: Environment, tool: string): void => {
      if (toolOf(environment, tool) === undefined && tools.size < TOOLS_WANTED_MAX) tools.add(tool)
    }
    for (const attempt of node.attempts) {
      if (!isLive(attempt) || attempt.factSeq > syncedSeq) continue
      const jobLimits = limitsOf(attempt.job)
      if (attempt.confirmed) {
        limits.push({ attempt: attempt.id, limits: jobLimits })
        continue
      }
      // An earlier life of the node may have begun it below: it is not begun again before that is known.
      if (attempt.boot !== node.boot) continue
      attempt.sentSeq = seq
      grants.push({
        attempt,
        action: this.#actionOf(attempt),
        limits: jobLimits,
        name: nameOf(attempt.job),
        urls: urlsOf(attempt.job),
        terms: node.bundle === undefined ? undefined : this.#termsOf(attempt),
        features: this.#featuresOf(attempt),
        cpusMax: cpusMaxOf(attempt),
      })
    }
    const withTools = node.environments.filter(hasTools)
    for (const { requirement } of this.#core.queues.all)
      for (const environment of withTools)
        for (const tool of [
          ...requirement.tools,
          ...Object.keys(requirement.bindings.get(environment.system)?.tools ?? {}),
        ])
          want(environment, tool)
    const { state, relays } = this.#core
    for (const tool of relays.toolsAbove)
      for (const environment of withTools) want(environment, tool)
    const isOver = (id: string): boolean | undefined => {
      const attempt = state.attempts.get(id)
      if (attempt === undefined) return undefined
      const isHolder = attempt.node.peerId === node.peerId
      return (!isLive(attempt) || !isHolder) && attempt.factSeq <= syncedSeq
    }
    // What is not known any more has ended; that it has must be durable as well.
    const isForgotten = state.forgottenSeq <= syncedSeq
    return {
      ackSeq: node.ackSeq,
      epoch: state.epoch,
      grants,
      relayed: relays.grantsFor(node, seq),
      defer(id) {
        const attempt = state.attempts.get(id)
        if (attempt === undefined) relays.defer(id)
        else attempt.sentSeq = 0
      },
      limits: [...limits, ...relays.limitsFor(node)],
      cancel: [...node.running].filter((id) => isOver(id) ?? relays.isOver(id) ?? isForgotten),
      ack: [...node.finished.keys()].filter(
        (id) => isOver(id) ?? relays.isAcknowledged(id) ?? isForgotten,
      ),
      tools: [...tools],
      classes: this.#classesFor(node, seq),
      ancestors: relays.ancestors,
      leaseMs: relays.leaseMsFor(node),
      allotments: [...this.#core.allotments.of(node), ...relays.allotmentsFor(node)],
      drains: this.#core.drains.toldTo(node, syncedSeq),
      slots: this.#core.slots.toldTo(node, syncedSeq),
      claims: this.#core.allotments.claimsBelow(node),
    }
  }

  /** Of one of an earlier life that nobody waits for any more it is not known. */
  #featuresOf({ job, waitedIn }: Attempt): readonly string[] {
    if (waitedIn !== undefined) return waitedIn.features
    return job.waiters.size === 0 ? [] : this.#core.queues.requirementOf(job).features
  }

  /** What a node that passes the lease on has to know of its job. */
  #termsOf({ job, system, machine, waitedIn }: Attempt): Lease['terms'] {
    if (job.waiters.size === 0) return undefined
    const requirement = waitedIn ?? this.#core.queues.requirementOf(job)
    let priority = 0
    for (const step of job.waiters) priority = Math.max(priority, priorityOf(step))
    const barred = job.votes.map(({ node }) => node.peerId).slice(0, VERIFY_MAX)
    return {
      host: system,
      machine: machine ?? system,
      features: [...requirement.features],
      cpusMin: requirement.cpusMin,
      cpusMax: requirement.cpusMax,
      priority,
      estimateMs: Math.round(this.#core.queues.estimateOf(job).durationMs),
      avoid: [...job.avoid].slice(0, AVOID_MAX),
      ...(job.votesWanted > 1 ? { barred } : {}),
      class: classOf(requirement),
    }
  }

  /** The classes that wait, for a node that answers for a subtree; undefined where it knows them. */
  #classesFor(node: NodeEntry, seq: number): Desired['classes'] {
    if (node.version.features?.includes(FEATURE_TREE) !== true) return undefined
    const { classes } = this.#core
    const list = classes.list()
    const { toldClasses } = node
    if (toldClasses?.version === classes.version) {
      if (toldClasses.seq <= node.heardSeq) return undefined
    } else node.toldClasses = { version: classes.version, seq }
    return list
  }
}

/** In an image nobody sees the host's. */
const hasTools = ({ isolation }: Environment): boolean => isolation !== 'image'

function offerOf(
  { environments }: SyncMessage,
  { slots, cpus, offers }: NonNullable<SyncMessage['bundle']>,
): BundleOffer {
  const byClass = new Map<string, BundleOfferItem[]>()
  for (const { class: key, environment: index, count, speed, freeInMs } of offers) {
    const environment = environments[index]
    if (environment === undefined) continue
    const items = byClass.get(key) ?? []
    items.push({ environment, count, speed, freeInMs })
    byClass.set(key, items)
  }
  return { slots, cpus, offers: byClass }
}

/** Limits are the largest of the waiters'. */
export function limitsOf(job: Job): Limits {
  const { timeoutMs, maxSilentMs, maxLogBytes } = DEFAULT_LIMITS
  const limits: Limits = { timeoutMs: 0, maxSilentMs: 0, maxLogBytes: 0 }
  for (const { derivation } of job.waiters) {
    limits.timeoutMs = Math.max(limits.timeoutMs, derivation.run.timeoutMs)
    limits.maxSilentMs = Math.max(limits.maxSilentMs, derivation.run.maxSilentMs)
    limits.maxLogBytes = Math.max(limits.maxLogBytes, derivation.run.maxLogBytes)
    if (derivation.run.keepFailed === true) limits.keepFailed = true
  }
  // One waiter without that limit is enough for none.
  const outputs = [...job.waiters].map(
    ({ derivation }) => derivation.run.maxOutputBytes ?? Infinity,
  )
  const mostOutput = Math.max(0, ...outputs)
  if (mostOutput > 0 && mostOutput < Infinity) limits.maxOutputBytes = mostOutput
  return job.waiters.size === 0 ? { timeoutMs, maxSilentMs, maxLogBytes } : limits
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

/** The most that it can use; undefined where nobody waits for it any more. */
function cpusMaxOf({ job }: Attempt): number | undefined {
  return job.waiters.size === 0 ? undefined : cpuRangeOf(job).max
}
