/**
 * The scheduler of an owner: a pure, deterministic state machine.
 *
 * `apply(event, moment)` takes what happened and gives the effects, in order. The driver appends the
 * facts to the journal, syncs it, and only then carries the other effects out; what it sends to a node is
 * asked for with `desiredOf`, which leaves out what is not synced yet. No clock, no I/O, no promise here.
 */
import type { Place } from '../wire/derivation.ts'
import type { Fact, NodeRef, RequestWire } from '../wire/facts.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import type { SyncMessage } from '../wire/work-messages.ts'
import type { Audit } from './audit.ts'
import { Core, type CoreOptions } from './core.ts'
import type { Desired, Effect, Event, Moment } from './events.ts'
import type { Explainer } from './explain/explainer.ts'
import type { Drains } from './drains.ts'
import type { Members } from './members.ts'
import { isLive, type Job, type NodeEntry, type Relayed, type Request, type Step } from './model.ts'
import type { Placement } from './placement.ts'
import type { Profiles } from './profiles.ts'
import type { Quarantine } from './quarantine.ts'
import type { Queues } from './queue.ts'
import type { Obstacle } from './reach.ts'
import type { Refusals } from './refusals.ts'
import type { Reservations } from './reservations.ts'
import type { Shares } from './shares.ts'
import type { NodeSlots } from './node-slots.ts'
import type { State } from './state.ts'

/** After a restart nothing that ran before is given up for this long. */
export const RECOVERY_MS = 30_000

/** Counts, each from the start of the scheduler on. */
export interface MatchingCost {
  /** Times that a node was chosen for a job, or none was found. */
  readonly choices: number
  /** Requirement classes that were looked at. */
  readonly classes: number
  /** Nodes, and groups of nodes, that were looked at. */
  readonly nodes: number
}

export class Scheduler {
  readonly #core: Core

  constructor(options: CoreOptions) {
    this.#core = new Core(options)
  }

  get state(): State {
    return this.#core.state
  }
  get nodes(): ReadonlyMap<string, NodeEntry> {
    return this.#core.nodes
  }
  get queues(): Queues {
    return this.#core.queues
  }
  /** Tells why something waits. */
  get explainer(): Explainer {
    return this.#core.explainer
  }
  /** Where waiting jobs start, and what those wait for that do not. */
  get placement(): Placement {
    return this.#core.placement
  }
  /** Nodes by what they can do. */
  get profiles(): Profiles {
    return this.#core.profiles
  }
  /** Nodes that are kept for big jobs. */
  get reservations(): Reservations {
    return this.#core.reservations
  }
  /** What matching has looked at so far. */
  get matchingCost(): MatchingCost {
    const { matcher, placement, profiles } = this.#core
    return {
      choices: placement.choiceCount,
      classes: matcher.visitCount,
      nodes: profiles.visitCount,
    }
  }
  /** Until when a restart's survivors are waited for. */
  get recoveringUntilMs(): number {
    return this.#core.recoveringUntilMs
  }
  /** Drains that are in force here, of this owner and of those above. */
  get drains(): Drains {
    return this.#core.drains
  }
  /** What people said of the processors of nodes. */
  get slots(): NodeSlots {
    return this.#core.slots
  }
  /** Why and until when nodes get no jobs after what they failed. */
  get quarantine(): Quarantine {
    return this.#core.quarantine
  }
  /** What users have had and have now. */
  get shares(): Shares {
    return this.#core.shares
  }
  /** What nodes would not begin. */
  get refusals(): Refusals {
    return this.#core.refusals
  }
  /** What is built again to be compared. */
  get audit(): Audit {
    return this.#core.audit
  }
  /** Whether one more request fits. */
  get hasRoom(): boolean {
    return this.#core.requests.hasRoom
  }

  /** Whether each derivation of the request could be built by some node that this one knows, when that is free. */
  couldBuild(request: RequestWire): boolean {
    return this.#core.requests.couldBuild(request)
  }

  /** Takes in one fact of the journal at start. */
  replay(fact: Fact): void {
    this.state.evolve(fact)
  }

  /** Ends the replay: begins a new epoch, and gives what ran before one full lease to report again. */
  recover(moment: Moment): Effect[] {
    const core = this.#core
    core.begin(moment)
    core.fact({ type: 'epoch', epoch: this.state.epoch + 1 })
    core.replicas.recover()
    core.audit.recover()
    core.relays.recover()
    core.drains.recover()
    core.slots.recover()
    core.quarantine.recover()
    core.criticalPaths.recover()
    // Before its first life ended nobody was here who could come back.
    if (this.state.epoch > 1) core.recoveringUntilMs = moment.nowMs + RECOVERY_MS
    for (const request of this.state.requests.values())
      if (request.state === 'active') request.rootBytesBefore = moment.ownBlobBytes
    for (const jobs of this.state.openJobs.values()) {
      for (const job of jobs) {
        job.waitingSinceMs = moment.nowMs
        for (const attempt of job.attempts)
          if (isLive(attempt)) {
            attempt.leaseUntilMs = moment.nowMs + RECOVERY_MS
            core.allotments.recover(attempt)
            core.outcomes.leaseEndsAt(attempt.leaseUntilMs)
          }
        const isRebuild = job.rebuild || [...job.waiters].some((step) => step.rebuild)
        if (job.phase === 'lookup' && !isRebuild)
          core.effects.push({ type: 'lookup', job: job.id, key: job.key })
        else if (job.phase !== 'leased') core.waiting.enqueue(job)
        if (job.waiters.size === 0) core.waiting.abandon(job)
        core.verify.recover(job)
      }
    }
    // A crash may have come between a pin and the joins of its dependents, or before a request was closed.
    for (const request of this.state.requests.values()) {
      if (request.state !== 'active') continue
      for (const step of request.steps.values()) core.steps.open(step)
      if (request.unsettledCount + request.failedCount + request.cancelledCount === 0)
        core.replicas.resume(request)
      else core.requests.closeIfSettled(request)
    }
    core.shares.recover()
    core.replicas.plan()
    return core.effects
  }

  apply(event: Event, moment: Moment): Effect[] {
    const core = this.#core
    core.begin(moment)
    switch (event.type) {
      case 'submit':
        core.requests.submit(event.request)
        break
      case 'cancel':
        core.requests.cancel(event.request)
        break
      case 'detachable':
        core.requests.detachable(event.request)
        break
      case 'left':
        core.requests.left(event.request)
        break
      case 'copied':
        core.replicas.copied(event.copy, event.ok, event.message)
        break
      case 'checked':
        core.outcomes.checked(event.attempt, event.held)
        break
      case 'lost':
        core.steps.lost(event.request, event.derivation)
        break
      case 'node-up':
        core.attendance.nodeUp(event)
        break
      case 'node-down':
        core.attendance.nodeDown(event.peerId, event.note)
        break
      case 'sync':
        core.attendance.sync(event.peerId, event.message, event.results)
        break
      case 'looked-up':
        core.steps.lookedUp(event.job, event.results)
        break
      case 'found':
        for (const result of event.results) core.steps.found(result)
        break
      case 'below':
        core.members.take(event.peerId, event.below)
        core.reach.cameUp(event.below.added.map(({ record }) => record))
        for (const { record } of event.below.added) core.replicas.nodeUp(record)
        break
      case 'uplink-up':
        core.relays.up(event.peerId)
        break
      case 'uplink-down':
        core.relays.down(event.isRing)
        break
      case 'orders':
        core.relays.orders(event.peerId, event.message, event.sentAtMs)
        break
      case 'lever':
        core.levers.pull(event.lever, event.by)
        break
      case 'image':
        core.fact(event.fact)
        break
      case 'tick':
        core.drains.tick()
        core.slots.tick()
        core.quarantine.tick()
        core.refusals.tick()
        core.criticalPaths.tick()
        core.outcomes.tick()
        core.relays.tick()
        core.waiting.tick()
        core.replicas.tick()
        break
    }
    core.waiting.plan()
    // What nothing that waits could use goes to further builds of what is compared, and to audits.
    core.builders.plan()
    if (event.type === 'tick') core.audit.tick()
    core.audit.plan()
    core.allotments.plan()
    core.replicas.plan()
    core.classes.announce()
    return core.effects
  }

  /** When `tick` is due next; undefined when nothing waits for time to pass. */
  nextDeadlineMs(): number | undefined {
    const { outcomes, waiting, replicas, relays, drains, quarantine, refusals } = this.#core
    const { allotments, criticalPaths, builders, audit, slots } = this.#core
    const next = Math.min(
      allotments.nextDeadlineMs,
      criticalPaths.nextDeadlineMs(),
      drains.nextDeadlineMs,
      slots.nextDeadlineMs,
      quarantine.nextDeadlineMs,
      refusals.nextDeadlineMs,
      outcomes.nextDeadlineMs(),
      relays.nextDeadlineMs(),
      waiting.nextDeadlineMs(),
      replicas.nextDeadlineMs,
      builders.nextDeadlineMs(),
      audit.nextDeadlineMs(),
    )
    return Number.isFinite(next) ? next : undefined
  }

  /** Copies of what was asked for; undefined while it is not all made. */
  replicasOf(request: Request): number | undefined {
    return this.#core.replicas.countOf(request)
  }

  /** Where a requested step's outputs are kept, in words. */
  placesOf(step: Step): string | undefined {
    return this.#core.replicas.describe(step)
  }

  /** The input of the job that has no way to the node, if there is one. */
  obstacle(job: Job, node: NodeEntry, place: Place): Obstacle | undefined {
    return this.#core.reach.obstacle(job, node, place)
  }

  /** What is said to the parent, as message `seq`; undefined without one. */
  syncUp(seq: number): SyncMessage | undefined {
    return this.#core.relays.syncUp(seq)
  }

  /** Nodes above this one, its parent first. */
  get ancestors(): readonly NodeRef[] {
    return this.#core.relays.ancestors
  }

  /** When the leases of the parent end, unless they are renewed; undefined without one. */
  get leaseUntilMs(): number | undefined {
    return this.#core.relays.leaseUntilMs
  }

  /** Nodes below the children. */
  get members(): Members {
    return this.#core.members
  }

  /** Leases of the parent that are passed on, or are about to be. */
  get relayed(): IterableIterator<Relayed> {
    return this.#core.relays.all
  }

  /** Of a node that is there, at any depth below. */
  recordOf(peerId: string): PeerRecord | undefined {
    return this.#core.recordOf(peerId)
  }

  /** Store nodes that are there, at any depth below. */
  stores(): PeerRecord[] {
    return [...this.#core.stores()]
  }

  /** What the node should do, as far as the facts behind it are synced. Marks the grants as sent in `seq`. */
  desiredOf(peerId: string, syncedSeq: number, seq: number): Desired | undefined {
    return this.#core.attendance.desiredOf(peerId, syncedSeq, seq)
  }
}
