/**
 * What the end of an attempt teaches while the scheduler runs: what its fact records beyond the outcome,
 * how fast its node is, which requests end sooner or later than expected, and how much memory to try next.
 */
import { formatSize } from '../base/units.ts'
import type { Fact } from '../wire/facts.ts'
import type { FinishedAttempt } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { clampSpeed, isOutOfMemory, memoryThatWasShort } from './learnt.ts'
import { mayEverStart, requirementOf } from './match.ts'
import type { Attempt } from './model.ts'
import { NodeSpeeds } from './node-speed.ts'

/** How often a job that runs out of memory is tried with twice as much. */
const DOUBLINGS_MAX = 4

type Failed = Extract<FinishedAttempt['outcome'], { kind: 'failed' }>

type Told = {
  readonly measured?: Attempt['measured']
  readonly usage: Attempt['usage']
}

export class Learning {
  readonly #core: Core
  readonly speeds = new NodeSpeeds()

  constructor(core: Core) {
    this.#core = core
  }

  /** What the `ended` fact of the attempt holds besides; to be asked before the fact is applied. */
  ending(
    attempt: Attempt,
    state: Extract<Fact, { type: 'ended' }>['state'],
    finished: FinishedAttempt | undefined,
  ): Pick<Extract<Fact, { type: 'ended' }>, 'measured' | 'speed'> {
    const usage = finished?.usage ?? null
    if (usage === null) return {}
    const measured = finished?.measured
    const node = this.#core.nodes.get(attempt.node.peerId)
    // Of a machine below a subtree only that machine itself can tell.
    const isDirect = node !== undefined && node.bundle === undefined
    const speed = clampSpeed(isDirect ? node.speed : (measured?.speed ?? 1))
    if (state === 'done' && attempt.job.resolved.fetch === undefined) {
      const [step] = attempt.job.waiters
      if (step !== undefined) {
        const isEmulated = attempt.machine !== undefined
        const expected = this.#core.state.estimates.of(step.derivation, isEmulated)
        // How slow emulation is says nothing of the machine.
        if (isDirect && !isEmulated) this.speeds.observed(node, usage.wallMs, expected)
        for (const waiter of attempt.job.waiters)
          this.#core.criticalPaths.ended(waiter, usage.wallMs * speed, expected.durationMs)
      }
    }
    return { ...(measured === undefined ? {} : { measured }), speed }
  }

  /**
   * The attempt, which is live, failed. One that ran out of memory ends here, and its job waits for twice as
   * much, as far as a node has that: undefined. Otherwise the failure goes on, and says what was tried.
   */
  failed(attempt: Attempt, finished: FinishedAttempt, outcome: Failed): Failed | undefined {
    const { job } = attempt
    if (outcome.code !== 'MESH0404' || job.waiters.size === 0) return outcome
    const hadBytes = shortOf(attempt, finished)
    const short = job.attempts.filter((other) => other !== attempt && isOutOfMemory(other))
    const largestBytes = this.#largestMemory(attempt)
    const nextBytes = Math.min(2 * hadBytes, largestBytes)
    if (nextBytes > hadBytes && short.length < DOUBLINGS_MAX) {
      this.#core.outcomes.endAttempt(
        attempt,
        'failed',
        `${outcome.code}: ${outcome.message}; tried again with ${formatSize(nextBytes)}`,
        finished,
      )
      this.#core.fact({ type: 'raised', job: job.id, memoryBytes: nextBytes })
      if (job.phase === 'waiting') this.#core.waiting.enqueue(job)
      return undefined
    }
    const sizes = [...short.map((other) => shortOf(other, other)), hadBytes].map(formatSize)
    const end =
      nextBytes > hadBytes
        ? `it is not doubled more than ${DOUBLINGS_MAX} times`
        : `no node that matches has more than ${formatSize(largestBytes)}`
    const message = `${outcome.message}; tried with ${[...new Set(sizes)].join(', ')}; ${end}`
    return { ...outcome, message: message.slice(0, 4096) }
  }

  /** Of the nodes that could run the job if it needed no memory at all. */
  #largestMemory({ job }: Attempt): number {
    if (job.waiters.size === 0) return 0
    const requirement = { ...requirementOf(job.waiters), memoryBytes: 0 }
    let largest = 0
    for (const node of this.#core.nodes.values())
      if (node.capacity.memoryBytes > largest && mayEverStart(requirement, node))
        largest = node.capacity.memoryBytes
    return largest
  }
}

/** How much it had that was not enough; `told` is what its node said of its end. */
function shortOf(attempt: Attempt, { measured, usage }: Told): number {
  return memoryThatWasShort(attempt, measured?.memoryBytes ?? usage?.maxRssBytes ?? 0)
}
