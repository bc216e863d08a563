/**
 * The order among waiting jobs of one user. All of it is known when a job is queued and stays as it is:
 * ageing is a point of priority per minute since the request was made, which is the same as counting from
 * the minute in which it was made.
 */
import type { Estimate } from './estimates.ts'
import { priorityOf, type Job } from './model.ts'

const MINUTE_MS = 60_000

/**
 * What goes first: the higher priority with its age, then what holds up most to the end of its graph, then
 * the longest, then what more steps hang on, then who came first.
 */
export interface Rank {
  /** Priority less the minute in which the request was made: greater goes first. */
  readonly urgency: number
  readonly criticalMs: number
  readonly durationMs: number
  readonly height: number
  readonly seq: number
  readonly index: number
}

export function rankOf(job: Job, { durationMs }: Pick<Estimate, 'durationMs'>): Rank {
  let urgency = Number.NEGATIVE_INFINITY
  let criticalMs = 0
  let height = 0
  let seq = Number.MAX_SAFE_INTEGER
  let index = Number.MAX_SAFE_INTEGER
  for (const step of job.waiters) {
    const madeAtMinute = Math.floor(step.request.wire.submittedAtWall / MINUTE_MS)
    urgency = Math.max(urgency, priorityOf(step) - madeAtMinute)
    criticalMs = Math.max(criticalMs, step.criticalMs)
    height = Math.max(height, step.height)
    if (step.request.seq < seq) {
      seq = step.request.seq
      index = step.index
    }
  }
  return { urgency, criticalMs, durationMs, height, seq, index }
}

/** Negative when `a` goes before `b`. */
export function compareRank(a: Rank, b: Rank): number {
  return (
    b.urgency - a.urgency ||
    b.criticalMs - a.criticalMs ||
    b.durationMs - a.durationMs ||
    b.height - a.height ||
    a.seq - b.seq ||
    a.index - b.index
  )
}
