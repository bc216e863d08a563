/**
 * How facts become what is learnt: the part of `State.evolve` about estimates and usage, and the snapshot
 * that takes the place of those facts once the journal drops them.
 */
import { BUILTIN_FETCH } from '../wire/derivation.ts'
import { LEARNT_ITEMS_MAX, SPEED_MAX, SPEED_MIN, type Fact } from '../wire/facts.ts'
import type { Usage } from '../wire/result.ts'
import { cpuRangeOf } from './cpu-range.ts'
import type { Estimates, Outcome } from './estimates.ts'
import type { Attempt, Step } from './model.ts'
import type { UsageTable } from './usage.ts'

type Ended = Extract<Fact, { type: 'ended' }>
type Learnt = Extract<Fact, { type: 'learnt' }>

/** Shorter runs tell nothing of how many processors they keep busy. */
const SHARE_MS_MIN = 100
/** What a run without a limit that the kernel ended for want of memory is taken to have had at least. */
const MEMORY_UNKNOWN_BYTES = 256 * 1024 * 1024
/** A run for which nobody told a duration is charged for at most so long. */
const UNTOLD_MS_MAX = 24 * 3600 * 1000

export interface LearntState {
  readonly estimates: Estimates
  readonly usage: UsageTable
}

/** The attempt ends as `fact` says; its job's waiters are still those that it ran for. */
export function learnFrom({ estimates, usage }: LearntState, attempt: Attempt, fact: Ended): void {
  const { job } = attempt
  const steps = job.waiters.size > 0 ? job.waiters : job.shownBy
  const users = new Set<string>()
  for (const { request } of steps) users.add(request.wire.user)
  usage.charge([...users], chargeOf(attempt, fact), fact.atWall)
  const outcome = outcomeOf(attempt, fact)
  if (outcome === undefined) return
  estimates.learn(derivationsOf(steps), outcome, attempt.machine !== undefined)
}

/** Processor ms: what it used, but no less than what it kept from others; nothing for what a node lost. */
function chargeOf(attempt: Attempt, { usage, state, phases, atWall }: Ended): number {
  if (usage !== null) {
    const { min, max } = cpuRangeOf(attempt.job)
    const used = Math.min(usage.cpuMs, Math.max(max, attempt.cpus) * usage.wallMs)
    return Math.max(used, min * usage.wallMs)
  }
  // Without a phase it was not begun.
  if (state !== 'cancelled' || Object.keys(phases).length === 0) return 0
  const ranMs = Math.min(UNTOLD_MS_MAX, Math.max(0, atWall - attempt.startedAtWall))
  return cpuRangeOf(attempt.job).min * ranMs
}

function outcomeOf(attempt: Attempt, fact: Ended): Outcome | undefined {
  const { usage, measured } = fact
  if (usage === null) return undefined
  const kind = kindOf(attempt, fact, usage)
  if (kind === undefined) return undefined
  const isFetch = attempt.job.resolved.builder === BUILTIN_FETCH
  const speed = isFetch ? 1 : clampSpeed(fact.speed ?? 1)
  const peakBytes = measured?.memoryBytes ?? usage.maxRssBytes
  return {
    kind,
    durationMs: usage.wallMs * speed,
    memoryBytes: kind === 'memory' ? memoryThatWasShort(attempt, peakBytes) : peakBytes,
    diskBytes: measured?.diskBytes ?? 0,
    cpuShare: usage.wallMs < SHARE_MS_MIN ? 0 : usage.cpuMs / usage.wallMs,
  }
}

function kindOf(attempt: Attempt, fact: Ended, usage: Usage): Outcome['kind'] | undefined {
  if (fact.state === 'done') return 'done'
  if (fact.state !== 'failed') return undefined
  if (isOutOfMemory(fact)) return 'memory'
  const timeouts = [...attempt.job.waiters].map(({ derivation }) => derivation.run.timeoutMs)
  return fact.error?.startsWith('MESH0402') === true && usage.wallMs >= Math.min(...timeouts)
    ? 'limit'
    : undefined
}

/** Whether it ended because its memory was not enough. */
export function isOutOfMemory({ state, error }: Pick<Attempt, 'state' | 'error'>): boolean {
  return state === 'failed' && error?.startsWith('MESH0404') === true
}

/** How much an attempt had that ran out of memory: its limit, else the most that is known of. */
export function memoryThatWasShort(attempt: Attempt, peakBytes: number): number {
  const { memoryLimitBytes } = memoryLimitOf(attempt)
  if (memoryLimitBytes !== undefined) return memoryLimitBytes
  return Math.max(attempt.memoryBytes, peakBytes, MEMORY_UNKNOWN_BYTES)
}

/** What its user said that it needs is what it may have; a guess of what it needs is no limit. */
export function memoryLimitOf({ job, memoryBytes }: Attempt): {
  readonly memoryLimitBytes?: number
} {
  const isDeclared = [...job.waiters].some(({ derivation }) => derivation.needs.memoryBytes > 0)
  return isDeclared && memoryBytes > 0 ? { memoryLimitBytes: memoryBytes } : {}
}

function* derivationsOf(steps: Iterable<Step>): Generator<Step['derivation']> {
  for (const { derivation } of steps) yield derivation
}

/** A speed that somebody claims or that was worked out, as one that can be calculated with. */
export function clampSpeed(speed: number): number {
  return Number.isNaN(speed) ? 1 : Math.min(SPEED_MAX, Math.max(SPEED_MIN, speed))
}

/** Takes in one fact of a snapshot. */
export function restore({ estimates, usage }: LearntState, fact: Learnt): void {
  if (fact.isFirst) {
    estimates.clear()
    usage.clear()
  }
  for (const [key, outcomes] of fact.estimates)
    estimates.restore(
      key,
      outcomes.map(([kind, durationMs, memoryBytes, diskBytes, cpuShare]) => ({
        kind,
        durationMs,
        memoryBytes,
        diskBytes,
        cpuShare,
      })),
    )
  for (const [user, usedMs] of fact.usage) usage.restore(user, usedMs, fact.atWall)
}

/** Facts that say all that is learnt; they come after whatever else is kept of a journal. */
export function* snapshotOf({ estimates, usage }: LearntState, atWall: number): Generator<Fact> {
  let isFirst = true
  let part: Learnt = { type: 'learnt', isFirst, estimates: [], usage: [], atWall }
  const next = (): Learnt => {
    const full = part
    isFirst = false
    part = { type: 'learnt', isFirst, estimates: [], usage: [], atWall }
    return full
  }
  for (const [key, outcomes] of estimates.snapshot()) {
    part.estimates.push([
      key,
      outcomes.map(({ kind, durationMs, memoryBytes, diskBytes, cpuShare }) => [
        kind,
        durationMs,
        memoryBytes,
        diskBytes,
        cpuShare,
      ]),
    ])
    if (part.estimates.length === LEARNT_ITEMS_MAX) yield next()
  }
  for (const line of usage.snapshot(atWall)) {
    part.usage.push([...line])
    if (part.usage.length === LEARNT_ITEMS_MAX) yield next()
  }
  if (part.isFirst || part.estimates.length + part.usage.length > 0) yield part
}
