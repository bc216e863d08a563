/**
 * Why a step waits: the reason from the state at once, and when it is asked for the whole matrix of nodes
 * and requirements, with the place in the order, the expected start, and what its user can do.
 *
 * A pure query. The owner answers for the nodes that it sees itself; nodes that speak for a subtree are
 * asked by whoever drives it, and their answers put in with `mergeWhy`.
 */
import { plural } from '../../base/units.ts'
import type { JobState, Why, WhyNode, WhyPart } from '../../wire/api.ts'
import { WHY_NODES_MAX } from '../../wire/api.ts'
import type { Core } from '../core.ts'
import { slotsOfSteps } from '../cpu-range.ts'
import type { Moment } from '../events.ts'
import { requirementOf, type Requirement } from '../match.ts'
import {
  isLive,
  runnerOf,
  type Attempt,
  type Job,
  type NodeEntry,
  type Step,
  type WaitReason,
} from '../model.ts'
import { ClassViews, isPresent, isWorker, type ClassView } from './class-view.ts'
import { groupsOf, lackOf } from './groups.ts'
import { completeWhy, mergeWhy, type Completion } from './merge.ts'
import { Order } from './order.ts'
import { Reasons } from './reason.ts'
import { rowOf } from './rows.ts'
import { startOf, type Start } from './start.ts'
import { waitLimitOf } from './fixes.ts'
import { about } from './words.ts'

export class Explainer {
  readonly #core: Core
  readonly #views: ClassViews
  readonly #order: Order
  readonly #reasons: Reasons

  constructor(core: Core) {
    this.#core = core
    this.#views = new ClassViews(core)
    this.#order = new Order(core, this.#views)
    this.#reasons = new Reasons(core, this.#views, this.#order)
  }

  /** Of a step that is not done and does not run; undefined for all others. Cheap. */
  reasonOf(step: Step, nowMs: number): WaitReason | undefined {
    return this.#reasons.of(step, nowMs)
  }

  /** Requirement classes that were held against all nodes so far, for those who count the cost. */
  get judgedCount(): number {
    return this.#views.judgedCount
  }

  /** What the step asks of a node. */
  requirementOf(step: Step): Requirement {
    const { job } = step
    return requirementOf(job !== undefined && job.waiters.size > 0 ? job.waiters : [step])
  }

  /** Every node that builds, and is seen from here, against the requirement. */
  rowsOf(requirement: Requirement, job: Job | undefined, nowMs: number): WhyNode[] {
    return this.#workers()
      .filter(({ bundle }) => bundle === undefined)
      .map((node) => this.rowOf(requirement, node, job, nowMs))
  }

  rowOf(requirement: Requirement, node: NodeEntry, job: Job | undefined, nowMs: number): WhyNode {
    const obstacle =
      job?.phase === 'waiting' ? this.#reasons.obstacleOf(job, requirement, node) : undefined
    return rowOf(requirement, node, job, {
      nowMs,
      obstacle:
        obstacle === undefined
          ? undefined
          : `${obstacle.input} is at ${this.#reasons.holdersText(obstacle, nowMs)}`,
    })
  }

  /** What this node answers for itself and its own nodes when its parent asks on behalf of a job above. */
  partOf(requirement: Requirement, by: string, { nowMs, wallMs }: Moment): WhyPart {
    const rows = this.rowsOf(requirement, undefined, nowMs)
    return {
      by,
      asOf: new Date(wallMs).toISOString(),
      nodes: closestFirst(rows).slice(0, WHY_NODES_MAX),
      groups: groupsOf(rows),
      count: rows.length,
      unknown: [],
    }
  }

  /** Children that are to be asked for the nodes below them: they speak for a subtree. */
  speakers(): NodeEntry[] {
    return this.#workers().filter(({ bundle }) => bundle !== undefined)
  }

  /** What this node knows by itself. `onlyNode` is a name or the beginning of a peer id. */
  why(step: Step, state: JobState, moment: Moment, onlyNode?: string): Why {
    const { nowMs, wallMs } = moment
    const reason = this.reasonOf(step, nowMs)
    const requirement = this.requirementOf(step)
    const { job } = step
    const rows = this.rowsOf(requirement, job, nowMs)
    const isQueued = job?.phase === 'waiting' && job.waiters.has(step)
    const place = isQueued ? this.#order.placeOf(job) : undefined
    const waitedMs = waitedOf(step, moment)
    const start =
      isQueued && mayStartByItself(reason)
        ? startOf(this.#core, this.#order, {
            job,
            requirement,
            present: this.#views.of(requirement).present,
            nowMs,
          })
        : undefined
    const limitMs = waitLimitOf(step)
    const shown = onlyNode === undefined ? rows : rows.filter((row) => isNamed(row, onlyNode))
    return completeWhy(
      {
        v: 1,
        job: step.id,
        name: step.derivation.name,
        request: step.request.wire.id,
        state,
        class: reason?.class ?? null,
        summary: this.#summaryOf(step, reason, start),
        ...(reason?.brief === undefined ? {} : { brief: reason.brief }),
        waitedMs: Math.round(waitedMs),
        nodes: shown,
        groups: groupsOf(rows),
        nodeCount: rows.length,
        position: place === undefined ? null : { n: place.n, of: place.of },
        etaMs: start?.inMs ?? null,
        eta: start?.inMs === undefined ? null : new Date(wallMs + start.inMs).toISOString(),
        etaSamples: start?.sampleCount ?? 0,
        failsAt: isQueued ? new Date(wallMs + Math.max(0, limitMs - waitedMs)).toISOString() : null,
        waitLimitMs: limitMs,
        fixes: [],
        asOf: new Date(wallMs).toISOString(),
        unknown: reason === undefined ? [] : this.speakers().map(({ record }) => record.name),
      },
      this.#completion(step, onlyNode),
    )
  }

  /** The answer of `why` with what the speakers of subtrees said; `unknown` are those that said nothing. */
  merge(
    why: Why,
    step: Step,
    answers: {
      readonly parts: readonly WhyPart[]
      readonly unknown: readonly string[]
      readonly onlyNode?: string | undefined
    },
  ): Why {
    const unknown = new Set(answers.unknown)
    // Nobody can ask those who are not there.
    for (const { connected, record } of this.speakers()) if (!connected) unknown.add(record.name)
    return mergeWhy(why, answers.parts, [...unknown], this.#completion(step, answers.onlyNode))
  }

  /** The nodes that could take such jobs, and those of them that are there. */
  viewOf(requirement: Requirement): ClassView {
    return this.#views.of(requirement)
  }

  #completion(step: Step, onlyNode: string | undefined): Completion {
    const { possible } = this.#views.of(this.requirementOf(step))
    return {
      step,
      away: possible
        .filter((node) => !isPresent(node))
        .map(({ record, state }) => ({ name: record.name, state })),
      parent: this.#parentAddress(),
      onlyNode,
    }
  }

  #workers(): NodeEntry[] {
    return [...this.#core.nodes.values()].filter(isWorker)
  }

  /** Where a new machine may connect to, as this node says of itself. */
  #parentAddress(): string {
    const addresses = this.#core.nodes.get(this.#core.selfId)?.record.addresses ?? []
    return addresses.find((address) => !address.startsWith('/ip4/127.')) ?? 'MULTIADDR'
  }

  #summaryOf(step: Step, reason: WaitReason | undefined, start: Start | undefined): string {
    const { name } = step.derivation
    if (reason === undefined) return this.#calmSummary(step)
    if (start === undefined)
      return `${name} waits: ${reason.text}${this.#isHopelessLater(step, reason) ? '; after that no node matches its requirements' : ''}`
    return start.inMs === undefined
      ? `${name} waits: ${reason.text}, expected start unknown (too few durations were measured)`
      : `${name} waits: ${reason.text}, expected start in about ${about(start.inMs)} (from ${start.sampleCount} durations${start.isByOthers ? ', also of other jobs' : ''})`
  }

  /** What it waits for first is not all that it lacks. */
  #isHopelessLater(step: Step, reason: WaitReason): boolean {
    if (reason.class !== 'inputs' && reason.class !== 'held') return false
    if (this.#core.moment.nowMs < this.#core.recoveringUntilMs) return false
    const { possible, workerCount } = this.#views.of(this.requirementOf(step))
    return workerCount > 0 && possible.length === 0
  }

  /** Of a step that does not wait. */
  #calmSummary(step: Step): string {
    const { name } = step.derivation
    switch (step.phase) {
      case 'done': {
        const places = this.#core.replicas.describe(step)
        const parts = [
          `${name} does not wait: it is done${step.cached ? ', from a stored result' : ''}`,
          ...(places === undefined ? [] : [places]),
          ...(step.agreed > 1 ? [`${step.agreed} nodes made the same of it`] : []),
          ...(step.hasDiverged
            ? [
                'its outputs were lost, and building it again gave others: what was built from the first ones keeps them',
              ]
            : []),
        ]
        return parts.join('; ')
      }
      case 'failed':
        return `${name} does not wait: it failed: ${step.failure?.message ?? ''}`
      case 'cancelled':
        return `${name} does not wait: it was cancelled`
      case 'skipped':
        return `${name} does not wait: something that it needs has failed`
      case 'blocked':
      case 'open': {
        const attempt = step.job?.attempts.find(isLive)
        return attempt === undefined
          ? `${name} is about to start`
          : `${name} does not wait: it is ${attempt.state} on ${runnerOf(attempt).name}${slotsText(step, attempt)}`
      }
    }
  }
}

/** How many processors it has, where a person said how many. */
function slotsText({ job }: Step, { allotted }: Attempt): string {
  const slots = job === undefined ? undefined : slotsOfSteps(job.waiters)
  if (slots === undefined) return ''
  return `, with ${allotted} of the ${plural(slots.cpus, 'processor')} that ${slots.by} wants it to have`
}

/** How long the step has waited: for a node, or since it was submitted where it waits for something else. */
function waitedOf({ job, phase, request }: Step, { nowMs, wallMs }: Moment): number {
  if (phase === 'open' && job !== undefined) return Math.max(0, nowMs - job.waitingSinceMs)
  return phase === 'blocked' ? Math.max(0, wallMs - request.wire.submittedAtWall) : 0
}

/** Time alone will start it. */
function mayStartByItself(reason: WaitReason | undefined): boolean {
  return ['busy', 'share', 'faster', 'reserved'].includes(reason?.class ?? '')
}

const isNamed = ({ node, peerId = '' }: WhyNode, text: string): boolean =>
  node === text || (text.length >= 12 && peerId.startsWith(text))

const closestFirst = (rows: readonly WhyNode[]): WhyNode[] =>
  rows.toSorted((a, b) => lackOf(a.verdicts) - lackOf(b.verdicts))
