/**
 * The machines of a farm in virtual time: links that carry one transfer after the other, blobs that stay
 * where they were made or fetched, and processors that run tasks. Who runs what is for others to say.
 */
import type { Timer } from '../../src/base/clock.ts'
import type { SimClock } from '../../test/sim/sim-clock.ts'
import type { Task, TaskGraph } from './task-graph.ts'

/** One way, between any two machines. */
export const LATENCY_MS = 1
/** What the scheduler takes until a decision is on its disk. */
export const COMMIT_MS = 2
/** 1 Gbit/s in each direction. */
const LINK_BYTES_PER_MS = 125_000
/** Who has the sources, and nothing else to do. */
const SUBMITTER = -1

export interface Machine {
  readonly cpus: number
  /** Of each processor; 1 is the reference. */
  readonly speed: number
}

export interface Run {
  readonly fetchMs: number
  readonly buildMs: number
  cancel(): void
}

export class Site {
  readonly machines: readonly Machine[]
  readonly #clock: SimClock
  /** By blob and machine: when it is there. */
  readonly #held = new Map<string, Map<number, number>>()
  /** By machine: when its link is free, out and in. */
  readonly #outFreeAtMs = new Map<number, number>()
  readonly #inFreeAtMs = new Map<number, number>()

  constructor(clock: SimClock, machines: readonly Machine[]) {
    this.#clock = clock
    this.machines = machines
  }

  /** Machines that have the blob, at most `max`. */
  holdersOf(blob: string, max: number): number[] {
    const now = this.#clock.nowMs()
    const holders: number[] = []
    for (const [machine, atMs] of this.#held.get(blob) ?? [])
      if (machine !== SUBMITTER && atMs <= now && holders.length < max) holders.push(machine)
    return holders
  }

  /** Fetches what the machine has not, builds, and tells the end. Reserving room is the caller's. */
  begin(at: number, graph: TaskGraph, task: Task, onEnd: () => void): Run {
    const machine = this.machines[at]
    if (machine === undefined) throw new RangeError(`there is no machine ${at}`)
    const now = this.#clock.nowMs()
    let readyAtMs = now
    for (const { name, bytes } of task.sources)
      readyAtMs = Math.max(readyAtMs, this.#fetch(at, name, bytes))
    for (const before of task.after) {
      const { name, outputBytes } = graph.tasks[before] ?? task
      readyAtMs = Math.max(readyAtMs, this.#fetch(at, name, outputBytes))
    }
    const buildMs = task.ms / machine.speed
    // The clocks of the mesh count whole milliseconds.
    const endMs = Math.ceil(readyAtMs + buildMs)
    const timer: Timer = this.#clock.setTimer(endMs - now, () => {
      this.#hold(task.name, at, this.#clock.nowMs())
      onEnd()
    })
    return { fetchMs: readyAtMs - now, buildMs, cancel: () => timer.cancel() }
  }

  /** When the blob is there. It comes from whoever can send it soonest; several share a link by taking turns. */
  #fetch(to: number, blob: string, bytes: number): number {
    const holders = this.#held.get(blob)
    const there = holders?.get(to)
    if (there !== undefined) return there
    const now = this.#clock.nowMs()
    let from = SUBMITTER
    let startMs = holders === undefined ? now : Number.POSITIVE_INFINITY
    for (const [holder, atMs] of holders ?? []) {
      const canMs = Math.max(atMs, this.#outFreeAtMs.get(holder) ?? 0)
      if (canMs < startMs) [from, startMs] = [holder, canMs]
    }
    startMs = Math.max(
      now,
      startMs,
      this.#outFreeAtMs.get(from) ?? 0,
      this.#inFreeAtMs.get(to) ?? 0,
    )
    const endMs = startMs + bytes / LINK_BYTES_PER_MS
    this.#outFreeAtMs.set(from, endMs)
    this.#inFreeAtMs.set(to, endMs)
    this.#hold(blob, to, endMs + 2 * LATENCY_MS)
    if (holders === undefined) this.#hold(blob, SUBMITTER, now)
    return endMs + 2 * LATENCY_MS
  }

  #hold(blob: string, at: number, fromMs: number): void {
    const holders = this.#held.get(blob) ?? new Map<number, number>()
    this.#held.set(blob, holders)
    if (!holders.has(at)) holders.set(at, fromMs)
  }
}
