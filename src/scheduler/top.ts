/** One look at everything that moves: nodes, what runs longest, why the rest waits, and who is served next. Pure. */
import { formatSize } from '../base/units.ts'
import type { Top } from '../wire/api.ts'
import type { Moment } from './events.ts'
import { cpusOf } from './subtree-offer.ts'
import { reasonOf } from './explain.ts'
import { requirementOf, type Requirement } from './match.ts'
import { holdOf, isLive, runnerOf, type Attempt, type Job, type WaitReason } from './model.ts'
import type { Scheduler } from './scheduler.ts'
import { runningCountOf } from './standing-view.ts'
import { policyView, totals } from './views.ts'

const NODES_MAX = 1_000
const RUNNING_MAX = 50
const WAITING_MAX = 20
const USERS_MAX = 20

type Waiting = Top['waiting'][number]

/** O(open jobs + nodes); the caller keeps it for a moment. */
export function topView(
  scheduler: Scheduler,
  moment: Moment,
  by: { readonly name: string; readonly perSecond: NonNullable<Top['totals']['perSecond']> },
): Top {
  const { activeRequests, nodes, cpus, jobs } = totals(scheduler)
  const running: Attempt[] = []
  const waiting = new Waitings(scheduler, moment)
  for (const open of scheduler.state.openJobs.values())
    for (const job of open) {
      const live = job.attempts.filter(isLive)
      running.push(...live)
      if (live.length === 0) waiting.add(job)
    }
  return {
    v: 1,
    at: new Date(moment.wallMs).toISOString(),
    name: by.name,
    totals: { nodes, cpus, jobs, requests: { active: activeRequests }, perSecond: by.perSecond },
    nodes: nodesView(scheduler),
    running: running
      .toSorted((a, b) => a.startedAtWall - b.startedAtWall)
      .slice(0, RUNNING_MAX)
      .map((attempt) => runningView(scheduler, attempt, moment)),
    waiting: waiting.all(),
    users: scheduler.shares.view().slice(0, USERS_MAX),
  }
}

/** Those that need somebody's eyes first, then the busiest. */
function nodesView(scheduler: Scheduler): Top['nodes'] {
  return [...scheduler.nodes.values()]
    .map((node) => ({
      name: node.record.name,
      peerId: node.peerId,
      state: node.state,
      cpus: cpusOf(node).total,
      busy: Math.min(cpusOf(node).total, cpusOf(node).busy),
      running: runningCountOf(node),
      note: node.note,
      ...(node.policy === undefined ? {} : { policy: policyView(node.policy) }),
    }))
    .toSorted(
      (a, b) =>
        Number(a.state === 'ready') - Number(b.state === 'ready') ||
        b.busy - a.busy ||
        (a.name < b.name ? -1 : 1),
    )
    .slice(0, NODES_MAX)
}

function runningView(
  scheduler: Scheduler,
  attempt: Attempt,
  moment: Moment,
): Top['running'][number] {
  const { job } = attempt
  const [step] = [...job.waiters, ...job.shownBy]
  const runner = runnerOf(attempt)
  const estimate =
    step === undefined
      ? undefined
      : scheduler.state.estimates.of(step.derivation, attempt.machine !== undefined)
  const speed = scheduler.nodes.get(runner.peerId)?.speed ?? 1
  return {
    job: step?.id ?? job.id,
    name: step?.derivation.name ?? '',
    request: step?.request.wire.id ?? '',
    user: step?.request.wire.user ?? '',
    node: runner.name,
    phase: attempt.state,
    forMs: Math.max(0, moment.wallMs - attempt.startedAtWall),
    estimateMs:
      estimate === undefined || estimate.sampleCount === 0
        ? null
        : Math.round(estimate.durationMs / speed),
  }
}

/** Waiting jobs, counted by why they wait. The reason of one job stands for all that wait in the same place. */
class Waitings {
  readonly #scheduler: Scheduler
  readonly #moment: Moment
  readonly #rows = new Map<string, Waiting>()
  readonly #reasons = new Map<string, WaitReason>()
  #openCount = 0

  constructor(scheduler: Scheduler, moment: Moment) {
    this.#scheduler = scheduler
    this.#moment = moment
  }

  add(job: Job): void {
    const [step] = job.waiters
    if (step === undefined) return
    this.#openCount += job.waiters.size
    const waitedMs = Math.max(0, Math.round(this.#moment.nowMs - job.waitingSinceMs))
    this.#count(this.#reasonOf(job), 1, waitedMs)
  }

  /** With the steps that wait for others of their request, the commonest first. */
  all(): Waiting[] {
    let unsettledCount = 0
    for (const request of this.#scheduler.state.requests.values())
      if (request.state === 'active') unsettledCount += request.unsettledCount
    let startedCount = 0
    for (const open of this.#scheduler.state.openJobs.values())
      for (const job of open) if (job.attempts.some(isLive)) startedCount += job.waiters.size
    const blockedCount = unsettledCount - this.#openCount - startedCount
    if (blockedCount > 0)
      this.#count({ class: 'inputs', text: 'waiting for other jobs' }, blockedCount, 0)
    return [...this.#rows.values()].toSorted((a, b) => b.count - a.count).slice(0, WAITING_MAX)
  }

  #reasonOf(job: Job): WaitReason {
    const hold = holdOf(job)
    if (hold !== undefined)
      return {
        class: 'held',
        text: `held by ${hold.by}${hold.reason === '' ? '' : `: ${hold.reason}`}`,
      }
    if (job.phase === 'lookup') return { class: 'lookup', text: 'looking for stored results' }
    if (job.notBeforeMs > this.#moment.nowMs)
      return { class: 'retry', text: 'tried again soon after a failure of the infrastructure' }
    const known = job.queue === undefined ? undefined : this.#reasons.get(job.queue)
    if (known !== undefined) return known
    const reason = this.#ofQueue(job)
    if (job.queue !== undefined) this.#reasons.set(job.queue, reason)
    return reason
  }

  #ofQueue(job: Job): WaitReason {
    const [step] = job.waiters
    const reason =
      step === undefined ? undefined : reasonOf(this.#scheduler, step, this.#moment.nowMs)
    if (reason === undefined) return { class: 'busy', text: 'about to start' }
    // The position of one job says nothing of the others.
    if (reason.class !== 'busy') return { class: reason.class, text: reason.text }
    return { class: 'busy', text: `waiting for room: ${needsText(requirementOf(job.waiters))}` }
  }

  #count(reason: WaitReason, count: number, waitedMs: number): void {
    const key = `${reason.class} ${reason.text}`
    const row = this.#rows.get(key) ?? {
      class: reason.class,
      text: reason.text,
      count: 0,
      oldestMs: 0,
    }
    this.#rows.set(key, {
      ...row,
      count: row.count + count,
      oldestMs: Math.max(row.oldestMs, waitedMs),
    })
  }
}

/** `x86_64-linux, 4 cpus, 8 GiB memory, kvm`. */
function needsText({ hosts, cpusMin, memoryBytes, diskBytes, features }: Requirement): string {
  return [
    hosts.join(' or '),
    `${cpusMin} ${cpusMin === 1 ? 'cpu' : 'cpus'}`,
    ...(memoryBytes > 0 ? [`${formatSize(memoryBytes)} memory`] : []),
    ...(diskBytes > 0 ? [`${formatSize(diskBytes)} disk`] : []),
    ...features,
  ].join(', ')
}
