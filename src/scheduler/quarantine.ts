/**
 * Quarantine: a node that fails different jobs one after the other, for reasons that lie with it, gets none
 * for a time. Then it is tried with one; a success ends the matter, a failure doubles the time.
 *
 * That a node is in quarantine is durable; what it failed before is not: after a restart it is counted anew.
 */
import type { Digest } from '../wire/digest.ts'
import type { LostCause, NodeRef } from '../wire/facts.ts'
import type { AttemptOutcome } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { isLive, runnerOf, type Attempt, type NodeEntry, type Relayed } from './model.ts'

/** Different jobs in a row that a node may fail. */
const FAILURES_MAX = 3
export const QUARANTINE_MS = 60_000
export const QUARANTINE_MS_MAX = 3_600_000
/** Nodes whose failures are counted; of more the one that failed first goes. */
const STREAKS_MAX = 10_000

interface Streak {
  /** Keys of the jobs that failed since the last success. */
  readonly keys: Set<Digest>
  /** When it was counted as gone last: all that it ran then is one failure. */
  goneAtWall: number
}

export class Quarantine {
  readonly #core: Core
  /** By peer id. */
  readonly #streaks = new Map<string, Streak>()
  /** By peer id, monotonic: until when a node of `nodeFacts.quarantines` gets nothing. */
  readonly #untilMs = new Map<string, number>()
  /** When the first quarantine is over; infinity for never. */
  nextDeadlineMs = Number.POSITIVE_INFINITY

  constructor(core: Core) {
    this.#core = core
  }

  /** After the replay: what is left of each by the wall clock, but never more than it was. */
  recover(): void {
    const { nowMs, wallMs } = this.#core.moment
    for (const [peerId, { atWall, forMs }] of this.#core.state.nodeFacts.quarantines)
      this.#untilMs.set(peerId, nowMs + Math.min(forMs, Math.max(0, atWall + forMs - wallMs)))
    this.#schedule()
  }

  /** An attempt ended; `cause` is why it was lost, undefined where it was not. */
  ended(attempt: Attempt, cause: LostCause | undefined): void {
    const node = runnerOf(attempt)
    const entry = this.#core.nodes.get(node.peerId)
    // What happens inside a subtree is for the node that sees it to judge, also where it was not said who ran it.
    if (entry === undefined) return
    if (entry.bundle !== undefined && attempt.runner === undefined && cause !== undefined) return
    switch (cause) {
      case 'broken':
        this.failed(node, attempt.job.key, attempt.error ?? '')
        return
      case 'died':
        this.#gone(node, attempt.job.key, attempt.error ?? '', attempt.startedAtWall)
        return
      case undefined:
        // One that failed for want of an input was never run.
        if (attempt.state === 'done' || (attempt.state === 'failed' && attempt.exitCode !== null))
          this.succeeded(node.peerId)
        return
      case 'unheard':
      case 'inputs':
      case 'refused':
      case 'drained':
        return
    }
  }

  /** A node below this one ended a lease that was passed on to it; for this node's own worker its parent judges. */
  passedOn(node: NodeEntry, outcome: AttemptOutcome, { lease, sinceMs }: Relayed): void {
    if (node.bundle !== undefined || node.peerId === this.#core.selfId) return
    const { nowMs, wallMs } = this.#core.moment
    const ref = { peerId: node.peerId, name: node.record.name }
    switch (outcome.kind) {
      case 'infrastructure':
        if (lease === undefined || outcome.code === 'MESH0504') return
        if (outcome.died === true)
          this.#gone(ref, lease.jobKey, outcome.message, wallMs - (nowMs - sinceMs))
        else this.failed(ref, lease.jobKey, outcome.message)
        return
      case 'built':
      case 'failed':
        this.succeeded(node.peerId)
        return
      case 'missing':
      case 'cancelled':
      case 'returned':
      case 'refused':
        return
    }
  }

  /** The node could not run the job, for a reason that lies with it. */
  failed(node: NodeRef, key: Digest, error: string): void {
    const streak = this.#streakOf(node.peerId)
    streak.keys.add(key)
    const known = this.#core.state.nodeFacts.quarantines.get(node.peerId)
    // One that is on probation has failed already.
    if (known === undefined && streak.keys.size < FAILURES_MAX) return
    const count = streak.keys.size
    this.#streaks.delete(node.peerId)
    const times = (known?.times ?? 0) + 1
    const forMs = Math.min(QUARANTINE_MS_MAX, QUARANTINE_MS * 2 ** Math.min(times - 1, 10))
    const what =
      known === undefined ? `${count} different jobs in a row` : 'the job that it was tried with'
    this.#core.fact({
      type: 'quarantined',
      node,
      reason: `it failed ${what}, the last one: ${error}`.slice(0, 1024),
      times,
      forMs,
      atWall: this.#core.moment.wallMs,
    })
    this.#untilMs.set(node.peerId, this.#core.moment.nowMs + forMs)
    this.#schedule()
    this.#refresh(node.peerId)
  }

  /** The node has run a job to its end, good or bad. */
  succeeded(peerId: string): void {
    this.#streaks.delete(peerId)
    if (this.#core.state.nodeFacts.quarantines.has(peerId)) this.pardon(peerId)
  }

  /** Somebody vouches for the node, or it has proved itself. */
  pardon(peerId: string): void {
    this.#streaks.delete(peerId)
    if (!this.#core.state.nodeFacts.quarantines.has(peerId)) return
    this.#core.fact({ type: 'pardoned', node: peerId })
    this.#untilMs.delete(peerId)
    this.#schedule()
    this.#refresh(peerId)
  }

  /** Why the node gets no job now; `untilMs` is monotonic, and over while it is on probation. */
  of(node: NodeEntry): { readonly reason: string; readonly untilMs: number } | undefined {
    const known = this.#core.state.nodeFacts.quarantines.get(node.peerId)
    if (known === undefined) return undefined
    const { reason } = known
    const untilMs = this.#untilMs.get(node.peerId) ?? 0
    if (untilMs > this.#core.moment.nowMs) return { reason, untilMs }
    for (const attempt of node.attempts)
      if (isLive(attempt)) return { reason: `it is tried with one job: ${reason}`, untilMs }
    for (const { finished } of node.relayed.values())
      if (finished === undefined) return { reason: `it is tried with one job: ${reason}`, untilMs }
    return undefined
  }

  tick(): void {
    if (this.#core.moment.nowMs < this.nextDeadlineMs) return
    this.#schedule()
    for (const [peerId, untilMs] of this.#untilMs)
      if (untilMs <= this.#core.moment.nowMs) this.#refresh(peerId)
  }

  /** All that a node ran when it went away is one failure of it. */
  #gone(node: NodeRef, key: Digest, error: string, startedAtWall: number): void {
    const streak = this.#streakOf(node.peerId)
    if (startedAtWall <= streak.goneAtWall) return
    streak.goneAtWall = this.#core.moment.wallMs
    this.failed(node, key, error)
  }

  #streakOf(peerId: string): Streak {
    const known = this.#streaks.get(peerId)
    if (known !== undefined) return known
    const streak = { keys: new Set<Digest>(), goneAtWall: -1 }
    this.#streaks.set(peerId, streak)
    const [first] = this.#streaks.keys()
    if (this.#streaks.size > STREAKS_MAX && first !== undefined) this.#streaks.delete(first)
    return streak
  }

  #schedule(): void {
    const { nowMs } = this.#core.moment
    this.nextDeadlineMs = Number.POSITIVE_INFINITY
    for (const [peerId, untilMs] of this.#untilMs) {
      if (!this.#core.state.nodeFacts.quarantines.has(peerId)) this.#untilMs.delete(peerId)
      else if (untilMs > nowMs) this.nextDeadlineMs = Math.min(this.nextDeadlineMs, untilMs)
    }
  }

  #refresh(peerId: string): void {
    const node = this.#core.nodes.get(peerId)
    if (node !== undefined) this.#core.standing.refresh(node)
  }
}
