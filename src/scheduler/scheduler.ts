/**
 * The scheduler of an owner: a pure, deterministic state machine.
 *
 * `apply(event, moment)` takes what happened and gives the effects, in order. The driver appends the
 * facts to the journal, syncs it, and only then carries the other effects out; what it sends to a node is
 * asked for with `desiredOf`, which leaves out what is not synced yet. No clock, no I/O, no promise here.
 */
import type { Fact } from '../wire/facts.ts'
import { Core, type CoreOptions } from './core.ts'
import type { Desired, Effect, Event, Moment } from './events.ts'
import { isLive, type Job, type NodeEntry, type Request, type Step } from './model.ts'
import type { Queues } from './queue.ts'
import type { Obstacle } from './reach.ts'
import type { State } from './state.ts'

/** After a restart nothing that ran before is given up for this long. */
export const RECOVERY_MS = 30_000

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
  /** Until when a restart's survivors are waited for. */
  get recoveringUntilMs(): number {
    return this.#core.recoveringUntilMs
  }
  /** Whether one more request fits. */
  get hasRoom(): boolean {
    return this.#core.requests.hasRoom
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
    for (const request of this.state.requests.values()) {
      if (request.state !== 'active') continue
      request.rootBytesBefore = moment.ownBlobBytes
      core.recoveringUntilMs = moment.nowMs + RECOVERY_MS
    }
    for (const jobs of this.state.openJobs.values()) {
      for (const job of jobs) {
        job.waitingSinceMs = moment.nowMs
        for (const attempt of job.attempts)
          if (isLive(attempt)) attempt.leaseUntilMs = moment.nowMs + RECOVERY_MS
        const isRebuild = job.rebuild || [...job.waiters].some((step) => step.rebuild)
        if (job.phase === 'lookup' && !isRebuild)
          core.effects.push({ type: 'lookup', job: job.id, key: job.key })
        else if (job.phase !== 'leased') core.waiting.enqueue(job)
        if (job.waiters.size === 0) core.waiting.abandon(job)
      }
    }
    // A crash may have come between a pin and the joins of its dependents, or before a request was closed.
    for (const request of this.state.requests.values()) {
      if (request.state !== 'active') continue
      for (const step of request.steps.values()) core.steps.open(step)
      if (request.unsettledCount === 0 && request.failedCount === 0) core.replicas.resume(request)
      else core.requests.closeIfSettled(request)
    }
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
      case 'tick':
        core.outcomes.tick()
        core.waiting.tick()
        core.replicas.tick()
        break
    }
    core.waiting.plan()
    core.replicas.plan()
    return core.effects
  }

  /** When `tick` is due next; undefined when nothing waits for time to pass. */
  nextDeadlineMs(): number | undefined {
    const { outcomes, waiting, replicas } = this.#core
    const next = Math.min(
      outcomes.nextDeadlineMs(),
      waiting.nextDeadlineMs(),
      replicas.nextDeadlineMs,
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
  obstacle(job: Job, node: NodeEntry, system: string): Obstacle | undefined {
    return this.#core.reach.obstacle(job, node, system)
  }

  /** What the node should do, as far as the facts behind it are synced. Marks the grants as sent in `seq`. */
  desiredOf(peerId: string, syncedSeq: number, seq: number): Desired | undefined {
    return this.#core.attendance.desiredOf(peerId, syncedSeq, seq)
  }
}
