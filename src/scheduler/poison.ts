/**
 * Poison: a job that nodes die of. After three of them it is given to no other, in whatever request it
 * comes back, until a person says that it is to be tried again or a day has passed.
 */
import type { Digest } from '../wire/digest.ts'
import type { LostCause } from '../wire/facts.ts'
import type { Core } from './core.ts'
import { failureOf, type Attempt, type Job } from './model.ts'
import type { Death } from './node-facts.ts'

/** Nodes that may die while they run one job. */
const DEATHS_OF_ONE_JOB_MAX = 3
/** A death is held against a job for so long. */
const DEATH_MS = 24 * 3600 * 1000

export class Poison {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  /** The attempt was lost with its node, or otherwise. */
  ended({ id, job, node, runner }: Attempt, cause: LostCause | undefined): void {
    if (cause !== 'died') return
    const { wallMs } = this.#core.moment
    this.#core.fact({
      type: 'killed',
      key: job.key,
      attempt: id,
      node: runner ?? node,
      atWall: wallMs,
    })
  }

  /** The deaths that count against the job now. */
  deathsOf(key: Digest): readonly Death[] {
    const { wallMs } = this.#core.moment
    const deaths = this.#core.state.nodeFacts.deaths.get(key) ?? []
    return deaths.filter(({ atWall }) => wallMs - atWall < DEATH_MS)
  }

  /** Fails all who wait for the job when too many nodes died of it; true when it did. */
  stop(job: Job): boolean {
    const deaths = this.deathsOf(job.key)
    if (deaths.length < DEATHS_OF_ONE_JOB_MAX) return false
    const names = [...new Set(deaths.map(({ node }) => node.name))].join(', ')
    for (const step of [...job.waiters])
      this.#core.requests.failStep(
        step,
        failureOf(
          step,
          'MESH0507',
          `${step.derivation.name} is given to no node any more: ${deaths.length} times the node that ran it died (${names})`,
        ),
      )
    return true
  }
}

/** Why an attempt that its node is not heard of any more, or does not know any more, was lost. */
export function causeOfLoss(attempt: Attempt, leftOrderly: boolean): LostCause {
  // One that was never heard of may have been on its way still, or be left from before a restart of the owner.
  const hasBegun = attempt.confirmed && attempt.state !== 'leased'
  return hasBegun && !leftOrderly ? 'died' : 'unheard'
}
