/** Jobs that wait: where they stand, when they are tried, and the grant that ends it. */
import { derivedId } from '../base/random.ts'
import { actionDigest, makeAction } from '../wire/action.ts'
import type { Digest } from '../wire/digest.ts'
import { fingerprintOf } from '../wire/environment.ts'
import { LEASE_MS, LEASE_SLACK_MS } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import {
  canStart,
  describeMisfit,
  environmentFor,
  freeOf,
  mayEverStart,
  mayShareRun,
  requirementOf,
  userlandOfJob,
  type Requirement,
} from './match.ts'
import { failureOf, isLive, type Job, type NodeEntry, type Step } from './model.ts'
import { FETCH_FINGERPRINT } from './nodes.ts'
import { compareRank, type Queue, type Queues } from './queue.ts'

/** A job that nobody needs any more is ended after this. */
const ABANDON_MS = 2_000
/** A job that no node takes fails after this. */
export const WAIT_MS_MAX = 24 * 3600 * 1000
/** A full re-match, as insurance against a lost wake-up. */
const SWEEP_MS = 5_000

export class Waiting {
  readonly #core: Core
  /** Jobs that wait for their time to be tried again. */
  readonly #delayed = new Set<Job>()
  readonly #abandoned = new Set<Job>()
  #lastSweepMs = 0

  constructor(core: Core) {
    this.#core = core
  }

  /** When `tick` has something to do; infinity for never. */
  nextDeadlineMs(): number {
    let next = Number.POSITIVE_INFINITY
    for (const job of this.#delayed) next = Math.min(next, job.notBeforeMs)
    for (const job of this.#abandoned) next = Math.min(next, (job.abandonedAtMs ?? 0) + ABANDON_MS)
    if (this.#core.state.openJobs.size > 0) next = Math.min(next, this.#lastSweepMs + SWEEP_MS)
    return next
  }

  tick(): void {
    const { nowMs } = this.#core.moment
    for (const job of [...this.#abandoned]) {
      if (nowMs < (job.abandonedAtMs ?? 0) + ABANDON_MS) continue
      this.#abandoned.delete(job)
      for (const attempt of job.attempts)
        if (isLive(attempt))
          this.#core.outcomes.endAttempt(attempt, 'cancelled', 'nobody needs it any more')
    }
    for (const job of [...this.#delayed]) {
      if (job.notBeforeMs > nowMs) continue
      this.#delayed.delete(job)
      if (job.phase === 'waiting') this.enqueue(job)
    }
    if (nowMs - this.#lastSweepMs < SWEEP_MS) return
    this.#lastSweepMs = nowMs
    this.#core.reach.refresh()
    this.#sweep()
  }

  #sweep(): void {
    const { queues, moment } = this.#core
    queues.sweep()
    for (const queue of [...queues.all])
      for (const { job } of [...queue.items])
        if (job.phase === 'waiting' && moment.nowMs - job.waitingSinceMs >= WAIT_MS_MAX)
          for (const step of [...job.waiters])
            this.#core.requests.failStep(
              step,
              failureOf(step, 'MESH0302', `${step.derivation.name} waited 24 hours for a node`),
            )
    this.refreshWaiting()
  }

  enqueue(job: Job): void {
    job.phase = 'waiting'
    if (job.waiters.size === 0) return
    if (job.notBeforeMs > this.#core.moment.nowMs) {
      job.queue = undefined
      this.#delayed.add(job)
      return
    }
    this.#delayed.delete(job)
    this.#partDiverged(job)
    // Two jobs of one key may have come to fit each other since they were parted.
    for (const step of [...job.waiters])
      if (this.#core.steps.jobFor(step, job.key)?.phase === 'leased') this.#part(step)
    this.#sift(job)
    if (job.phase !== 'waiting' || job.waiters.size === 0) return
    this.#core.queues.put(job)
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
    if (job.waiters.size === 0 || this.#core.steps.isPossible([...job.waiters])) return
    for (const step of [...job.waiters]) {
      if (!job.waiters.has(step)) continue
      if (this.#core.steps.isPossible([step])) {
        if (job.waiters.size > 1) this.#part(step)
      } else if (
        step.request.wire.noWait &&
        this.#core.moment.nowMs >= this.#core.recoveringUntilMs
      ) {
        this.#core.requests.failStep(
          step,
          failureOf(
            step,
            'MESH0301',
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

  plan(): void {
    for (;;) {
      let best:
        | { queue: Queue; node: NodeEntry; item: NonNullable<ReturnType<Queues['head']>> }
        | undefined
      for (const queue of [...this.#core.queues.all]) {
        const item = this.#core.queues.head(queue)
        if (item === undefined) continue
        if (best !== undefined && compareRank(best.item.rank, item.rank) <= 0) continue
        const node = this.#choose(queue)
        if (node !== undefined) best = { queue, node, item }
      }
      if (best === undefined) return
      const { job } = best.item
      const { node } = best
      const system = environmentFor(best.queue.requirement, node)?.system
      if (system !== undefined && this.#core.reach.obstacle(job, node, system) !== undefined) {
        this.#core.reach.cut(job, node.peerId)
        for (const step of job.waiters) this.#core.effects.push({ type: 'step', step })
        continue
      }
      this.#core.queues.take(best.queue)
      this.#grant(job, node, best.queue.requirement)
    }
  }

  /** The node for the head of the queue: of those that can start it now, the one with the largest free share. */
  #choose(queue: Queue): NodeEntry | undefined {
    let best: NodeEntry | undefined
    let bestShare = -1
    const { requirement } = queue
    const isAvoidable =
      queue.avoid.size > 0 &&
      [...this.#core.nodes.values()].some(
        (node) =>
          node.state === 'ready' &&
          !queue.avoid.has(node.peerId) &&
          !queue.cut.has(node.peerId) &&
          mayEverStart(requirement, node),
      )
    for (const node of this.#core.nodes.values()) {
      if (!node.connected || queue.cut.has(node.peerId)) continue
      if (!canStart(requirement, node)) continue
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
    this.#core.attendance.reserve(node, attempt)
    this.#core.steps.bind(job.waiters, environment.system, userland)
    // Who waits for the same elsewhere, and may share this run, does.
    for (const other of [...(this.#core.state.openJobs.get(job.key) ?? [])])
      if (other.phase === 'waiting') this.enqueue(other)
    for (const step of job.waiters) {
      this.#core.effects.push({ type: 'step', step }, { type: 'request', request: step.request })
    }
    this.#core.effects.push({ type: 'desired', peerId: node.peerId })
  }

  /** A waiter has left the job: it is given up when it was the last one, else it may now ask for less. */
  left(job: Job): void {
    if (job.waiters.size === 0) this.abandon(job)
    else if (job.phase === 'waiting' && job.queue !== undefined) this.enqueue(job)
  }

  /** Somebody needs it again. */
  keep(job: Job): void {
    job.abandonedAtMs = undefined
    this.#abandoned.delete(job)
  }

  abandon(job: Job): void {
    if (job.phase === 'closed' || !job.attempts.some(isLive)) return
    job.abandonedAtMs = this.#core.moment.nowMs
    this.#abandoned.add(job)
  }

  /** Jobs that no node can run any more are judged anew. */
  refreshWaiting(): void {
    for (const queue of [...this.#core.queues.all]) {
      if ([...this.#core.nodes.values()].some((node) => mayEverStart(queue.requirement, node)))
        continue
      for (const { job } of [...queue.items]) {
        const mayChange =
          job.waiters.size > 1 || [...job.waiters].some((step) => step.request.wire.noWait)
        if (mayChange && job.phase === 'waiting') this.enqueue(job)
      }
    }
  }
}

function fingerprintFor(
  isFetch: boolean,
  environment: Parameters<typeof fingerprintOf>[0],
  tools: readonly string[],
): Digest {
  return (isFetch ? undefined : fingerprintOf(environment, tools)) ?? FETCH_FINGERPRINT
}
