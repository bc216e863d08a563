/**
 * When nodes will have room: the ends of what runs there, as far as durations were learnt, and what was
 * promised of it to jobs that wait for a node on purpose.
 */
import type { Core } from './core.ts'
import { compareItems, type Item } from './classes.ts'
import type { Estimate } from './estimates.ts'
import { freeOf } from './match.ts'
import { isLive, type Attempt, type NodeEntry } from './model.ts'
import type { Room } from './room-index.ts'

/** What runs longer than nine of ten is expected to go on for this part of what it took so far. */
const OVERDUE_PART = 0.1
/** What was learnt since is asked for again after this. */
const FRESH_MS = 5_000
/** Ends on one node that are looked at, the soonest ones. */
const ENDS_MAX = 64

interface Use extends Room {
  /** Infinity where it is not known. */
  readonly endMs: number
}

interface Promised extends Room {
  readonly untilMs: number
}

interface Known {
  /** On this machine's own clock, unlike the wall time of the grant. */
  readonly begunMs: number
  readonly estimate: Estimate | undefined
  readonly askedAtMs: number
}

export class Forecast {
  readonly #core: Core
  readonly #known = new WeakMap<Attempt, Known>()
  readonly #promises = new Map<NodeEntry, Map<Item, Promised>>()

  constructor(core: Core) {
    this.#core = core
  }

  /** When the attempt was first seen here; after a restart as long ago as the wall clock says. */
  begunMs(attempt: Attempt): number {
    return this.#knownOf(attempt).begunMs
  }

  /** When the attempt is expected to end. `guess` takes what was not learnt for what is usual. */
  endMs(attempt: Attempt, { speed }: NodeEntry, guess = false): number {
    const { begunMs, estimate } = this.#knownOf(attempt)
    if (estimate === undefined) return guess ? this.#core.moment.nowMs : Number.POSITIVE_INFINITY
    if (estimate.sampleCount === 0 && !guess) return Number.POSITIVE_INFINITY
    return this.#endMs(begunMs, estimate.durationMs / speed, estimate.durationP90Ms / speed)
  }

  #knownOf(attempt: Attempt): Known {
    const known = this.#known.get(attempt)
    const { nowMs, wallMs } = this.#core.moment
    if (known !== undefined && nowMs - known.askedAtMs < FRESH_MS) return known
    const { job } = attempt
    const [step] = job.waiters.size > 0 ? job.waiters : job.shownBy
    const fresh: Known = {
      begunMs: known?.begunMs ?? nowMs - Math.max(0, wallMs - attempt.startedAtWall),
      estimate:
        step === undefined
          ? undefined
          : this.#core.state.estimates.of(step.derivation, attempt.machine !== undefined),
      askedAtMs: nowMs,
    }
    this.#known.set(attempt, fresh)
    return fresh
  }

  #endMs(begunMs: number, usualMs: number, longMs: number): number {
    const { nowMs } = this.#core.moment
    const forMs = nowMs - begunMs
    if (forMs < usualMs) return begunMs + usualMs
    if (forMs < longMs) return begunMs + longMs
    return nowMs + forMs * OVERDUE_PART
  }

  /** What is in use of the node, the soonest end first. */
  usesOf(node: NodeEntry, guess = false): Use[] {
    const uses: Use[] = []
    for (const attempt of node.attempts) {
      const { memoryBytes, diskBytes, allotted } = attempt
      // One that holds nothing any more is about to give its room back.
      const endMs = isLive(attempt) ? this.endMs(attempt, node, guess) : this.#core.moment.nowMs
      uses.push({ endMs, cpus: allotted, memoryBytes, diskBytes })
    }
    for (const { reserved, lease, sinceMs } of node.relayed.values()) {
      const estimateMs = (lease?.terms?.estimateMs ?? 0) / node.speed
      const endMs =
        estimateMs === 0 && !guess
          ? Number.POSITIVE_INFINITY
          : this.#endMs(sinceMs, estimateMs, estimateMs)
      uses.push({ endMs, ...reserved })
    }
    return uses.toSorted((a, b) => a.endMs - b.endMs)
  }

  /** When the first of what runs on the node is expected to end; infinity where that is not known. */
  soonestMs(node: NodeEntry): number {
    let soonestMs = Number.POSITIVE_INFINITY
    for (const attempt of node.attempts)
      if (isLive(attempt)) soonestMs = Math.min(soonestMs, this.endMs(attempt, node))
    for (const { lease, sinceMs } of node.relayed.values()) {
      const estimateMs = lease?.terms?.estimateMs ?? 0
      if (estimateMs > 0) soonestMs = Math.min(soonestMs, sinceMs + estimateMs / node.speed)
    }
    return soonestMs
  }

  /**
   * When the node is expected to have room for `need`, infinity where that is not known. What it was promised
   * for counts as taken, but for promises to those who go after `item`.
   */
  readyMs(
    node: NodeEntry,
    need: Room,
    { guess = false, item }: { readonly guess?: boolean; readonly item?: Item } = {},
  ): number {
    const { nowMs } = this.#core.moment
    const { score } = this.#core.queues
    const promises: Promised[] = []
    for (const [other, promise] of this.#promises.get(node) ?? [])
      if (item === undefined || compareItems(other, item, score) < 0) promises.push(promise)
    const room = { ...freeOf(node) }
    for (const promise of promises) take(room, promise, -1)
    if (fits(room, need)) return nowMs
    const ends: Use[] = promises.map((promise) => ({ ...promise, endMs: promise.untilMs }))
    ends.push(...this.usesOf(node, guess))
    ends.sort((a, b) => a.endMs - b.endMs)
    for (const use of ends.slice(0, ENDS_MAX)) {
      if (!Number.isFinite(use.endMs)) break
      take(room, use, 1)
      if (fits(room, need)) return Math.max(nowMs, use.endMs)
    }
    return Number.POSITIVE_INFINITY
  }

  /** The item will take `need` of the node until then: others see it as taken. */
  promise(node: NodeEntry, item: Item, need: Room, untilMs: number): void {
    const promises = this.#promises.get(node) ?? new Map<Item, Promised>()
    promises.set(item, { ...need, untilMs })
    this.#promises.set(node, promises)
  }

  unpromise(node: NodeEntry, item: Item): void {
    const promises = this.#promises.get(node)
    if (promises?.delete(item) !== true) return
    if (promises.size === 0) this.#promises.delete(node)
  }

  promisedCount(node: NodeEntry): number {
    return this.#promises.get(node)?.size ?? 0
  }

  /** Who was promised something of the node. */
  promisedTo(node: NodeEntry): Item[] {
    return [...(this.#promises.get(node)?.keys() ?? [])]
  }
}

type Amounts = { cpus: number; memoryBytes: number; diskBytes: number }

function take(room: Amounts, amount: Room, sign: 1 | -1): void {
  room.cpus += sign * amount.cpus
  room.memoryBytes += sign * amount.memoryBytes
  room.diskBytes += sign * amount.diskBytes
}

export function fits(room: Room, need: Room): boolean {
  return (
    room.cpus >= need.cpus &&
    room.memoryBytes >= need.memoryBytes &&
    room.diskBytes >= need.diskBytes
  )
}
