/**
 * The policies that other systems follow, as plain list schedulers over the same machines, messages and
 * transfers: an order of what is ready, and a choice among the machines that are free.
 */
import type { Dice } from '../../test/sim/dice.ts'
import { SimClock } from '../../test/sim/sim-clock.ts'
import { COMMIT_MS, LATENCY_MS, Site, type Machine } from './site.ts'
import { criticalPaths, type TaskGraph } from './task-graph.ts'

export interface Anchor {
  readonly name: string
  /** Who does so. */
  readonly like: string
  readonly order: 'first come' | 'longest' | 'critical path'
  /** `hold`: whoever is predicted to end it first, which may be one that is busy still. */
  readonly place: 'any' | 'fastest' | 'hold'
}

export const ANCHORS: readonly Anchor[] = [
  { name: 'FIFO, any free', like: 'most systems', order: 'first come', place: 'any' },
  { name: 'FIFO, fastest free', like: 'icecream, Hydra', order: 'first come', place: 'fastest' },
  { name: 'longest first, fastest free', like: 'Buildbarn', order: 'longest', place: 'fastest' },
  {
    name: 'critical path, fastest free',
    like: 'Hydra WithCriticalPath, FASTBuild, dpb',
    order: 'critical path',
    place: 'fastest',
  },
  {
    name: 'critical path, hold, as a list',
    like: 'what the mesh aims at, without its machinery',
    order: 'critical path',
    place: 'hold',
  },
]

/** Runs the graph; gives the virtual milliseconds to its end. `estimates` are at speed 1, undefined while nothing is learnt. */
export function runAnchor(
  anchor: Anchor,
  graph: TaskGraph,
  machines: readonly Machine[],
  estimates: readonly number[] | undefined,
  dice: Dice,
): number {
  return new ListRun(anchor, graph, machines, estimates, dice).run()
}

/** One processor of a machine. */
interface Slot {
  readonly machine: number
  readonly speed: number
  isFree: boolean
  /** As predicted. */
  freeAtMs: number
}

class ListRun {
  readonly #clock = new SimClock()
  readonly #site: Site
  readonly #slots: Slot[] = []
  readonly #anchor: Anchor
  readonly #graph: TaskGraph
  readonly #dice: Dice
  readonly #estimates: readonly number[]
  readonly #isLearnt: boolean
  /** The smallest goes first. */
  readonly #ranks: readonly number[]
  readonly #missing: number[]
  readonly #dependents: readonly number[][]
  #ready: number[] = []
  #doneCount = 0
  #arrived = 0
  readonly #arrivals = new Map<number, number>()

  constructor(
    anchor: Anchor,
    graph: TaskGraph,
    machines: readonly Machine[],
    estimates: readonly number[] | undefined,
    dice: Dice,
  ) {
    this.#anchor = anchor
    this.#graph = graph
    this.#dice = dice
    this.#isLearnt = estimates !== undefined
    this.#estimates = estimates ?? graph.tasks.map(() => 1)
    this.#site = new Site(this.#clock, machines)
    for (const [machine, { cpus, speed }] of machines.entries())
      for (let cpu = 0; cpu < cpus; cpu++)
        this.#slots.push({ machine, speed, isFree: true, freeAtMs: 0 })
    const paths = criticalPaths(graph, this.#estimates)
    this.#ranks =
      anchor.order === 'critical path'
        ? paths.map((path) => -path)
        : anchor.order === 'longest'
          ? this.#estimates.map((estimate) => -estimate)
          : graph.tasks.map(() => 0)
    this.#missing = graph.tasks.map(({ after }) => after.length)
    const dependents: number[][] = graph.tasks.map(() => [])
    for (const [at, { after }] of graph.tasks.entries())
      for (const before of after) dependents[before]?.push(at)
    this.#dependents = dependents
  }

  run(): number {
    const startMs = this.#clock.nowMs()
    for (const [at, missing] of this.#missing.entries()) if (missing === 0) this.#arrive(at)
    this.#clock.setTimer(LATENCY_MS, () => this.#dispatch())
    while (this.#doneCount < this.#graph.tasks.length)
      if (!this.#clock.step(Number.MAX_SAFE_INTEGER)) throw new Error('the graph does not end')
    return this.#clock.nowMs() - startMs
  }

  #arrive(at: number): void {
    this.#ready.push(at)
    this.#arrivals.set(at, (this.#arrived += 1))
  }

  #dispatch(): void {
    const rank = (at: number): number => this.#ranks[at] ?? 0
    this.#ready.sort(
      (a, b) => rank(a) - rank(b) || (this.#arrivals.get(a) ?? 0) - (this.#arrivals.get(b) ?? 0),
    )
    const promised = new Map<Slot, number>()
    const left: number[] = []
    for (const [index, at] of this.#ready.entries()) {
      const free = this.#slots.filter((slot) => slot.isFree && !promised.has(slot))
      if (free.length === 0) {
        left.push(...this.#ready.slice(index))
        break
      }
      const slot = this.#choose(free, at, promised)
      if (slot === undefined) left.push(at)
      else this.#begin(slot, at)
    }
    this.#ready = left
  }

  #choose(free: readonly Slot[], at: number, promised: Map<Slot, number>): Slot | undefined {
    const { place } = this.#anchor
    if (place === 'any') return this.#dice.pick(free)
    if (place === 'fastest' || !this.#isLearnt)
      return free.reduce((best, slot) => (slot.speed > best.speed ? slot : best))
    const estimate = this.#estimates[at] ?? 0
    let best: Slot | undefined
    let bestEndMs = Number.POSITIVE_INFINITY
    for (const slot of this.#slots) {
      const now = this.#clock.nowMs()
      const freeAtMs = promised.get(slot) ?? (slot.isFree ? now : Math.max(now, slot.freeAtMs))
      const endMs = freeAtMs + estimate / slot.speed
      if (endMs < bestEndMs) [best, bestEndMs] = [slot, endMs]
    }
    if (best?.isFree === true && !promised.has(best)) return best
    if (best !== undefined) promised.set(best, bestEndMs)
    return undefined
  }

  #begin(slot: Slot, at: number): void {
    slot.isFree = false
    slot.freeAtMs = this.#clock.nowMs() + (this.#estimates[at] ?? 0) / slot.speed
    const task = this.#graph.tasks[at]
    if (task === undefined) return
    this.#clock.setTimer(COMMIT_MS + LATENCY_MS, () => {
      this.#site.begin(slot.machine, this.#graph, task, () => {
        this.#doneCount += 1
        this.#clock.setTimer(LATENCY_MS, () => this.#ended(slot, at))
      })
    })
  }

  #ended(slot: Slot, at: number): void {
    slot.isFree = true
    for (const dependent of this.#dependents[at] ?? []) {
      const missing = (this.#missing[dependent] ?? 0) - 1
      this.#missing[dependent] = missing
      if (missing === 0) this.#arrive(dependent)
    }
    this.#dispatch()
  }
}
