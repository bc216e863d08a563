/** Where the numbers come from that tell when a waiting job will start. */
import type { Core } from '../core.ts'
import { freeOf, type Requirement } from '../match.ts'
import type { Job, NodeEntry } from '../model.ts'
import { offerFor, unconfirmedOf } from '../offers.ts'
import { expectedStart, type EtaJob, type EtaNode } from './eta.ts'
import type { Order } from './order.ts'

/** With so many durations of any jobs what was never built is taken for what is usual. */
const OTHERS_MIN = 8
/** Nodes beyond these are left out: the answer is then a little late, never early. */
const NODES_MAX = 10_000

export interface Start {
  /** Undefined where that is not known. */
  readonly inMs: number | undefined
  /** Measured durations behind it. */
  readonly sampleCount: number
  /** Some of those are of other jobs: what was never built is taken for what is usual. */
  readonly isByOthers: boolean
}

export interface StartQuestion {
  readonly job: Job
  readonly requirement: Requirement
  /** Nodes that match and are there. */
  readonly present: readonly NodeEntry[]
  readonly nowMs: number
}

/** When the job is expected to start on one of the nodes. */
export function startOf(
  core: Core,
  order: Order,
  { job, requirement, present, nowMs }: StartQuestion,
): Start {
  const samples = new Samples(core)
  const promisedAtMs = order.promisedAtMs(job)
  if (promisedAtMs !== undefined && Number.isFinite(promisedAtMs)) {
    samples.durationOf(job)
    return { inMs: Math.max(0, promisedAtMs - nowMs), ...samples.told }
  }
  const nodes: EtaNode[] = present.slice(0, NODES_MAX).map((node) => {
    for (const attempt of node.attempts) samples.durationOf(attempt.job)
    return {
      speed: node.speed,
      ...roomIn(node, requirement),
      running: core.forecast
        .usesOf(node, samples.mayGuess)
        .map(({ endMs, cpus, memoryBytes, diskBytes }) => ({
          cpus,
          memoryBytes,
          diskBytes,
          endsInMs: Number.isFinite(endMs) ? Math.max(0, endMs - nowMs) : undefined,
        })),
    }
  })
  const ahead: EtaJob[] = order.aheadOf(job, new Set(present)).map(({ job: other, share }) => ({
    durationMs: samples.durationOf(other),
    share,
  }))
  const need = {
    cpus: requirement.cpusMin,
    memoryBytes: requirement.memoryBytes,
    diskBytes: requirement.diskBytes,
  }
  return { inMs: expectedStart({ need, nodes, ahead }), ...samples.told }
}

/** What a subtree has in all is not known here: it is what it runs for this owner, and what it offers beside. */
function roomIn(node: NodeEntry, requirement: Requirement): Pick<EtaNode, 'free' | 'capacity'> {
  if (node.bundle === undefined) return { free: freeOf(node), capacity: node.capacity }
  const count =
    offerFor(requirement, { node, unconfirmedCount: unconfirmedOf(node) }, 'now')?.count ?? 0
  const most = Number.MAX_SAFE_INTEGER
  const free = { cpus: count * requirement.cpusMin, memoryBytes: most, diskBytes: most }
  let cpus = free.cpus
  for (const { allotted } of node.attempts) cpus += allotted
  return { free, capacity: { ...free, cpus } }
}

/** Counts the measured durations behind all that is asked for. */
class Samples {
  readonly #core: Core
  /** By name of the derivation. */
  readonly #counts = new Map<string, number>()
  #isByOthers = false

  constructor(core: Core) {
    this.#core = core
  }

  get mayGuess(): boolean {
    return this.#core.state.estimates.durationCount >= OTHERS_MIN
  }

  get told(): Pick<Start, 'sampleCount' | 'isByOthers'> {
    let own = 0
    for (const count of this.#counts.values()) own += count
    const sampleCount = this.#isByOthers
      ? Math.max(own, this.#core.state.estimates.durationCount)
      : own
    return { sampleCount, isByOthers: this.#isByOthers }
  }

  /** At speed 1; undefined where too little was learnt. */
  durationOf(job: Job): number | undefined {
    const [step] = job.waiters.size > 0 ? job.waiters : job.shownBy
    if (step === undefined) return undefined
    const { durationMs, sampleCount } = this.#core.state.estimates.of(step.derivation)
    if (sampleCount === 0) {
      this.#isByOthers ||= this.mayGuess
      return this.mayGuess ? durationMs : undefined
    }
    this.#counts.set(step.derivation.name, sampleCount)
    return durationMs
  }
}
