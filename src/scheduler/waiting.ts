/** Jobs that wait: where they stand, when they are tried, and the grant that ends it. */
import { derivedId } from '../base/random.ts'
import { formatDuration } from '../base/units.ts'
import { WAIT_MS_DEFAULT } from '../wire/api.ts'
import { actionDigest, makeAction } from '../wire/action.ts'
import type { Digest } from '../wire/digest.ts'
import { fingerprintOf, type Environment } from '../wire/environment.ts'
import { LEASE_MS, LEASE_SLACK_MS } from '../wire/work-messages.ts'
import type { JobClass } from './classes.ts'
import type { Core } from './core.ts'
import { Deadlines } from './indexed-heap.ts'
import {
  describeMisfit,
  environmentFor,
  mayShareRun,
  requirementOf,
  userlandOfJob,
  type Requirement,
} from './match.ts'
import { failureOf, holdOf, isLive, type Job, type NodeEntry, type Step } from './model.ts'
import { FETCH_FINGERPRINT } from './nodes.ts'
import { waitLimitOf } from './queue.ts'

/** A job that nobody needs any more is ended after this. */
const ABANDON_MS = 2_000
/** A job that no node takes fails after this, where its request says nothing else. */
export const WAIT_MS_MAX = WAIT_MS_DEFAULT
/** A full re-match, as insurance against a lost wake-up. */
const SWEEP_MS = 5_000

export class Waiting {
  readonly #core: Core
  /** Jobs that wait for their time to be tried again. */
  readonly #delayed = new Deadlines<Job>()
  readonly #abandoned = new Deadlines<Job>()
  #lastSweepMs = 0
  /** All was looked at since the last plan. */
  #isSwept = false

  constructor(core: Core) {
    this.#core = core
  }

  /** When `tick` has something to do; infinity for never. */
  nextDeadlineMs(): number {
    const nextMs = Math.min(this.#delayed.nextMs, this.#abandoned.nextMs)
    if (this.#core.state.openJobs.size === 0) return nextMs
    const { queues, matcher } = this.#core
    return Math.min(
      nextMs,
      queues.nextAsideMs,
      matcher.nextDeadlineMs,
      this.#lastSweepMs + SWEEP_MS,
    )
  }

  tick(): void {
    const { nowMs } = this.#core.moment
    for (const job of this.#abandoned.takeDue(nowMs))
      for (const attempt of job.attempts)
        if (isLive(attempt))
          this.#core.outcomes.endAttempt(attempt, 'cancelled', 'nobody needs it any more')
    for (const job of this.#delayed.takeDue(nowMs)) if (job.phase === 'waiting') this.enqueue(job)
    this.#core.queues.putBackDue(nowMs)
    if (nowMs - this.#lastSweepMs < SWEEP_MS) return
    this.#lastSweepMs = nowMs
    this.#core.reach.refresh()
    this.#sweep()
  }

  #sweep(): void {
    const { queues, matcher, moment } = this.#core
    queues.sweep()
    for (const job of queues.takeOverdue(moment.nowMs)) this.#giveUp(job)
    this.refreshWaiting()
    matcher.sweep()
    this.#isSwept = true
  }

  /** Fails those who have waited for so long as they would. */
  #giveUp(job: Job): void {
    if (job.phase === 'waiting')
      for (const step of [...job.waiters]) {
        const limitMs = waitLimitOf(step)
        if (this.#core.moment.nowMs - job.waitingSinceMs < limitMs) continue
        const text = `${step.derivation.name} waited ${formatDuration(limitMs)} for a node`
        this.#core.requests.failStep(step, failureOf(step, 'MESH0302', text))
      }
    this.#core.queues.waitOn(job)
  }

  enqueue(job: Job): void {
    job.phase = 'waiting'
    if (job.waiters.size === 0 || this.#core.audit.keeps(job)) return
    if (job.notBeforeMs > this.#core.moment.nowMs) {
      this.#core.queues.remove(job)
      this.#delayed.set(job, job.notBeforeMs)
      return
    }
    this.#delayed.delete(job)
    this.#partDiverged(job)
    // Two jobs of one key may have come to fit each other since they were parted.
    for (const step of [...job.waiters])
      if (this.#core.steps.jobFor(step, job.key)?.phase === 'leased') this.#part(step)
    this.#sift(job)
    if (job.phase !== 'waiting' || job.waiters.size === 0 || this.#core.poison.stop(job)) return
    // Whoever holds it by hand queues it again when it is released.
    if (holdOf(job) !== undefined) this.#core.queues.remove(job)
    else {
      this.#core.refusals.mark(job)
      this.#core.queues.put(job)
    }
    for (const step of job.waiters) this.#core.effects.push({ type: 'step', step })
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
    if (job.waiters.size === 0 || this.#core.steps.isPossible([...job.waiters], job)) return
    for (const step of [...job.waiters]) {
      if (!job.waiters.has(step)) continue
      if (this.#core.steps.isPossible([step])) {
        if (job.waiters.size > 1) this.#part(step)
      } else if (step.request.wire.noWait && !this.#core.isRecovering) {
        this.#core.requests.failStep(
          step,
          failureOf(
            step,
            'MESH0301',
            this.#core.builders.reasonOf(job)?.text ??
              describeMisfit(requirementOf([step]), [...this.#core.nodes.values()]).text,
          ),
        )
      }
    }
  }

  #part(step: Step): void {
    this.#core.steps.reopen(step)
    this.#core.steps.open(step)
  }

  /** Starts what can start. */
  plan(): void {
    const { matcher, stragglers } = this.#core
    matcher.plan()
    if (!this.#isSwept) return
    this.#isSwept = false
    stragglers.sweep()
  }

  /** What the node can be granted may have changed. Cheap: it is looked at once, by `plan`. */
  nodeChanged(node: NodeEntry): void {
    this.#core.matcher.nodeChanged(node)
  }

  /** The first job of the class may be able to start. */
  wakeClass(home: JobClass): void {
    this.#core.queues.activate(home, 'fresh')
  }

  /** Grants the job, which is in no queue, to the node, which can start it. A job that runs gets one more attempt. */
  grant(
    job: Job,
    node: NodeEntry,
    requirement: Requirement,
    environment: Environment | undefined = environmentFor(requirement, node),
  ): void {
    if (environment === undefined) return
    const userland = userlandOfJob(requirement, environment)
    const action = makeAction(
      job.resolved,
      environment,
      fingerprintFor(requirement.isFetch, environment, requirement.tools),
    )
    // A subtree has no vector: whoever chooses the node there takes of it what is free.
    const freeCpus =
      node.bundle === undefined ? this.#core.allotments.freeOn(node).cpus : requirement.cpusMax
    const cpus = Math.max(requirement.cpusMin, Math.min(requirement.cpusMax, freeCpus))
    const n = job.attempts.length + 1
    this.#core.fact({
      type: 'granted',
      job: job.id,
      attempt: derivedId(
        'a',
        `${job.id}/${n}/${this.#core.state.epoch}/${this.#core.moment.wallMs}`,
        16,
      ),
      node: { peerId: node.peerId, name: node.record.name },
      boot: node.boot,
      system: environment.system,
      ...(environment.machine === undefined ? {} : { machine: environment.machine }),
      isolation: environment.isolation,
      label: environment.label,
      action: actionDigest(action),
      userland,
      cpus,
      memoryBytes: requirement.memoryBytes,
      diskBytes: requirement.diskBytes,
      atWall: this.#core.moment.wallMs,
    })
    const attempt = job.attempts.at(-1)
    if (attempt === undefined) return
    attempt.leaseUntilMs = this.#core.moment.nowMs + LEASE_MS + LEASE_SLACK_MS
    attempt.waitedIn = requirement
    this.#core.attendance.reserve(node, attempt)
    this.#core.steps.bind(job.waiters, environment.system, userland)
    // Who waits for the same elsewhere, and may share this run, does.
    for (const other of [...(this.#core.state.openJobs.get(job.key) ?? [])])
      if (other.phase === 'waiting') this.enqueue(other)
    for (const step of job.waiters) {
      this.#core.effects.push({ type: 'step', step }, { type: 'request', request: step.request })
    }
    this.#core.effects.push({ type: 'desired', peerId: node.peerId })
    this.#core.builders.watch(job)
  }

  /** A waiter has left the job: it is given up when it was the last one, else it may now ask for less. */
  left(job: Job): void {
    if (job.waiters.size === 0) {
      this.#core.queues.remove(job)
      this.#delayed.delete(job)
      this.abandon(job)
    } else if (job.phase === 'waiting' && job.queue !== undefined) this.enqueue(job)
  }

  /** Somebody needs it again. */
  keep(job: Job): void {
    job.abandonedAtMs = undefined
    this.#abandoned.delete(job)
  }

  abandon(job: Job): void {
    if (job.phase === 'closed' || !job.attempts.some(isLive)) return
    job.abandonedAtMs = this.#core.moment.nowMs
    this.#abandoned.set(job, job.abandonedAtMs + ABANDON_MS)
  }

  /** Jobs that no node can run any more are judged anew. */
  refreshWaiting(): void {
    const { queues, profiles } = this.#core
    for (const home of [...queues.all])
      if (!profiles.isPossible(home.requirement))
        for (const job of [...home.fickle]) if (job.phase === 'waiting') this.enqueue(job)
  }
}

/** What names the userland in the action. */
export function fingerprintFor(
  isFetch: boolean,
  environment: Parameters<typeof fingerprintOf>[0],
  tools: readonly string[],
): Digest {
  return (isFetch ? undefined : fingerprintOf(environment, tools)) ?? FETCH_FINGERPRINT
}
