/**
 * The one reason why a step waits, as a code and a sentence. Cheap: what hangs on the nodes is computed once
 * per class of jobs, so that lists may show it for each of ten thousand jobs.
 */
import { formatDuration } from '../../base/units.ts'
import { inputsOf } from '../../wire/derivation.ts'
import type { Core } from '../core.ts'
import { environmentFor, requirementOf, type Requirement } from '../match.ts'
import {
  holdOf,
  holdOfStep,
  isLive,
  runnerOf,
  type Hold,
  type Job,
  type NodeEntry,
  type Step,
  type WaitReason,
} from '../model.ts'
import type { Obstacle } from '../reach.ts'
import type { ClassView, ClassViews } from './class-view.ts'
import type { Order } from './order.ts'
import { refusalReason } from './refused.ts'
import { listSome, progressText } from './words.ts'

/** Nodes of which obstacles are looked for one by one; with more of them some will do. */
const OBSTACLES_LOOKED_FOR_MAX = 64

export class Reasons {
  readonly #core: Core
  readonly #views: ClassViews
  readonly #order: Order

  constructor(core: Core, views: ClassViews, order: Order) {
    this.#core = core
    this.#views = views
    this.#order = order
  }

  /** Of a step that is not done and does not run; undefined for all others. */
  of(step: Step, nowMs: number): WaitReason | undefined {
    if (step.phase === 'blocked') return this.#blocked(step, nowMs)
    const { job } = step
    if (step.phase !== 'open' || job === undefined) return undefined
    switch (job.phase) {
      case 'closed':
        return undefined
      case 'leased':
        return undefined
      case 'lookup':
        return { class: 'lookup', text: 'looking for a stored result' }
      case 'waiting':
        return this.#waiting(job, nowMs)
    }
  }

  #waiting(job: Job, nowMs: number): WaitReason | undefined {
    if (job.waiters.size === 0) return undefined
    const hold = holdOf(job)
    if (hold !== undefined) return heldReason(hold)
    if (job.notBeforeMs > nowMs) return retryReason(job, nowMs)
    const requirement =
      this.#core.queues.itemOf(job)?.home.requirement ?? requirementOf(job.waiters)
    const view = this.#views.of(requirement)
    return { ...this.#ofClass(job, requirement, view, nowMs), brief: view.brief }
  }

  #ofClass(job: Job, requirement: Requirement, view: ClassView, nowMs: number): WaitReason {
    const { possible, present } = view
    if (possible.length === 0) {
      if (nowMs < this.#core.recoveringUntilMs)
        return {
          class: 'recovery',
          text: 'the mesh has just restarted; its nodes are still coming back',
        }
      return misfitReason(view)
    }
    if (view.absence !== undefined) return view.absence
    return (
      this.#obstructed(job, requirement, present, nowMs) ??
      refusalReason(job, present, nowMs) ??
      this.#core.builders.reasonOf(job) ??
      this.#order.reasonOf(job, nowMs) ??
      this.#busy(job, view)
    )
  }

  #busy(job: Job, view: ClassView): WaitReason {
    const { n, of } = this.#order.placeOf(job) ?? { n: 1, of: 1 }
    return { class: 'busy', text: `${view.busyText}: position ${n} of ${of} in the queue` }
  }

  /** No present node can get the inputs. */
  #obstructed(
    job: Job,
    requirement: Requirement,
    present: readonly NodeEntry[],
    nowMs: number,
  ): WaitReason | undefined {
    // Only what was found out of reach, or is nowhere, can keep a job from every node.
    const looked = present.slice(0, OBSTACLES_LOOKED_FOR_MAX)
    let first: Obstacle | undefined
    for (const node of looked) {
      const obstacle = this.obstacleOf(job, requirement, node)
      if (obstacle === undefined) return undefined
      first ??= obstacle
    }
    return first === undefined
      ? undefined
      : { class: first.kind, text: this.#obstacleText(first, present, nowMs) }
  }

  /** What keeps the inputs of the job from the node. */
  obstacleOf(job: Job, requirement: Requirement, node: NodeEntry): Obstacle | undefined {
    const environment = environmentFor(requirement, node)
    return environment === undefined ? undefined : this.#core.reach.obstacle(job, node, environment)
  }

  holdersText({ holders }: Obstacle, nowMs: number): string {
    return listSome(
      holders.map((peerId) => {
        const node = this.#core.nodes.get(peerId)
        if (node === undefined)
          return (
            this.#core.recordOf(peerId)?.name ??
            'a node that has not been seen since the mesh was started'
          )
        const { name } = node.record
        return node.connected
          ? name
          : `${name}, offline ${formatDuration(Math.max(0, nowMs - node.disconnectedAtMs))}`
      }),
    )
  }

  #obstacleText(obstacle: Obstacle, nodes: readonly NodeEntry[], nowMs: number): string {
    const { kind, input, producer } = obstacle
    const where = this.holdersText(obstacle, nowMs)
    const origin =
      producer === undefined
        ? ''
        : `; it is the output of ${producer.derivation.name} (${producer.id})`
    return kind === 'missing'
      ? `nobody who is there has input ${input}: last seen on ${where}${origin}`
      : `input ${input} is at ${where}, and no way leads from there to ${listSome(nodes.map((node) => node.record.name))}${origin}`
  }

  #blocked(step: Step, nowMs: number): WaitReason {
    const hold = holdOfStep(step)
    if (hold !== undefined) return heldReason(hold)
    const wallMs = this.#core.moment.wallMs + (nowMs - this.#core.moment.nowMs)
    const missing = step.dependencies.filter((dependency) => dependency.phase !== 'done')
    const named = missing
      .slice(0, 4)
      .map(
        (dependency) =>
          `${inputName(step, dependency)} (${dependency.id}, ${this.#whereabouts(dependency, wallMs)})`,
      )
    const names = [...named, ...missing.slice(4).map(({ derivation }) => derivation.name)]
    return {
      class: 'inputs',
      text: `waiting for ${missing.length === 1 ? 'input' : `${missing.length} inputs`} ${listSome(names)}`,
    }
  }

  /** `running on ci-a, 2m of ~5m`, `waiting`, `not started`. */
  #whereabouts(step: Step, wallMs: number): string {
    const attempt = step.job?.attempts.find(isLive)
    if (attempt === undefined) return step.phase === 'open' ? 'waiting' : 'not started'
    const { estimates } = this.#core.state
    const isEmulated = attempt.machine !== undefined
    const { durationMs, sampleCount } = estimates.of(step.derivation, isEmulated)
    const speed = this.#core.nodes.get(runnerOf(attempt).peerId)?.speed ?? 1
    const progress = progressText(
      Math.max(0, wallMs - attempt.startedAtWall),
      sampleCount > 0 ? durationMs / speed : undefined,
    )
    return `running on ${runnerOf(attempt).name}, ${progress}`
  }
}

/** `zlib.out`, or the derivation alone where several of its outputs are taken. */
function inputName({ derivation }: Step, dependency: Step): string {
  const outputs = new Set<string>()
  for (const input of inputsOf(derivation))
    if (input.kind === 'output' && input.derivation === dependency.derivation.name)
      outputs.add(input.output)
  const [only] = outputs
  return outputs.size === 1 && only !== undefined
    ? `${dependency.derivation.name}.${only}`
    : dependency.derivation.name
}

function misfitReason({ misfit }: ClassView): WaitReason {
  const { text = 'no node matches', lacks = [] } = misfit ?? {}
  const isRebind = lacks.length > 0 && lacks.every((name) => name === 'userland')
  return { class: isRebind ? 'rebind' : 'unsatisfiable', text }
}

function heldReason({ by, reason }: Hold): WaitReason {
  return { class: 'held', text: `held by ${by}${reason === '' ? '' : `: ${reason}`}` }
}

function retryReason(job: Job, nowMs: number): WaitReason {
  const last = job.attempts.findLast((attempt) => attempt.error !== null)
  return {
    class: 'retry',
    text: `tried again in ${Math.ceil((job.notBeforeMs - nowMs) / 1000)} s: ${last?.error ?? 'its node was lost'}`,
  }
}
