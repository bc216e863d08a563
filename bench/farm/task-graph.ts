/** Graphs of tasks as the farm runs them: random ones, recorded ones, and what no schedule can beat. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { z } from 'zod'
import type { Dice } from '../../test/sim/dice.ts'

/** Something that a task reads and the submitter has. */
export interface Source {
  readonly name: string
  readonly bytes: number
}

export interface Task {
  readonly name: string
  /** On a processor of speed 1. */
  readonly ms: number
  readonly cpus: number
  readonly outputBytes: number
  readonly sources: readonly Source[]
  /** Indexes of earlier tasks whose outputs it reads. */
  readonly after: readonly number[]
}

export interface TaskGraph {
  readonly name: string
  readonly tasks: readonly Task[]
}

/** `tasks`: name, milliseconds, bytes of the output, bytes of its own source, whether it reads the shared sources, indexes of what it comes after. */
const Recorded = z.object({
  name: z.string(),
  origin: z.string(),
  durations: z.string(),
  sharedBytes: z.int().min(0),
  tasks: z.array(
    z.tuple([
      z.string(),
      z.int().min(1),
      z.int().min(0),
      z.int().min(0),
      z.literal([0, 1]),
      z.array(z.int().min(0)),
    ]),
  ),
})

/** A graph of bench/graphs. */
export function loadGraph(name: string): TaskGraph {
  const path = join(import.meta.dirname, '../graphs', `${name}.json`)
  const recorded = Recorded.parse(JSON.parse(readFileSync(path, 'utf8')))
  const shared = { name: 'shared', bytes: recorded.sharedBytes }
  const tasks = recorded.tasks.map(
    ([task, ms, outputBytes, bytes, readsShared, after], at): Task => ({
      name: `t${at}-${task.replaceAll(/[^A-Za-z0-9_+.-]/g, '-')}`.slice(0, 120),
      ms,
      cpus: 1,
      outputBytes,
      sources: [{ name: `source-${at}`, bytes }, ...(readsShared === 1 ? [shared] : [])],
      after,
    }),
  )
  return { name: recorded.name, tasks }
}

/** Of a lognormal distribution. */
export function lognormal(dice: Dice, median: number, sigma: number): number {
  const radius = Math.sqrt(-2 * Math.log(1 - dice.fraction()))
  return median * Math.exp(sigma * radius * Math.cos(2 * Math.PI * dice.fraction()))
}

const WINDOW = 100
const MEDIAN_MS = 5_000
const SPREAD = 1.3
const OUTPUT_BYTES = 256 * 1024
const SOURCE_BYTES = 32 * 1024

/** Each task comes after up to three of the hundred before it; durations and sizes have long tails. */
export function randomGraph(dice: Dice, count: number): TaskGraph {
  const tasks = Array.from({ length: count }, (_, at): Task => {
    const after = new Set<number>()
    for (let left = at === 0 ? 0 : dice.between(0, 3); left > 0; left--)
      after.add(dice.between(Math.max(0, at - WINDOW), at - 1))
    return {
      name: `t${at}`,
      ms: Math.max(1, Math.round(lognormal(dice, MEDIAN_MS, SPREAD))),
      cpus: 1,
      outputBytes: Math.round(lognormal(dice, OUTPUT_BYTES, SPREAD)),
      sources: [{ name: `source-${at}`, bytes: Math.round(lognormal(dice, SOURCE_BYTES, SPREAD)) }],
      after: [...after],
    }
  })
  return { name: 'random', tasks }
}

/** The same graph on another day: each duration is off by a lognormal factor. */
export function perturbed(graph: TaskGraph, dice: Dice, sigma: number): TaskGraph {
  const tasks = graph.tasks.map((task) => ({
    ...task,
    ms: Math.max(1, Math.round(task.ms * lognormal(dice, 1, sigma))),
  }))
  return { name: graph.name, tasks }
}

/** The same graph with blobs of its own: nothing of an earlier one is of use to it. */
export function salted(graph: TaskGraph, salt: string): TaskGraph {
  const tasks = graph.tasks.map((task) => ({
    ...task,
    name: `${salt}/${task.name}`,
    sources: task.sources.map(({ name, bytes }) => ({ name: `${salt}/${name}`, bytes })),
  }))
  return { name: graph.name, tasks }
}

/** By task: the sum of `weights` on the heaviest way from its start to the end of the graph. */
export function criticalPaths(graph: TaskGraph, weights: readonly number[]): number[] {
  const paths = Array.from(graph.tasks, (): number => 0)
  for (let at = graph.tasks.length - 1; at >= 0; at--) {
    const path = (paths[at] ?? 0) + (weights[at] ?? 0)
    paths[at] = path
    for (const before of graph.tasks[at]?.after ?? [])
      paths[before] = Math.max(paths[before] ?? 0, path)
  }
  return paths
}

/** No schedule is shorter, even where transfers and messages cost nothing. */
export function lowerBoundMs(
  graph: TaskGraph,
  machines: readonly { readonly cpus: number; readonly speed: number }[],
): number {
  const work = graph.tasks.reduce((sum, { ms, cpus }) => sum + ms * cpus, 0)
  const power = machines.reduce((sum, { cpus, speed }) => sum + cpus * speed, 0)
  const longest = Math.max(
    ...criticalPaths(
      graph,
      graph.tasks.map(({ ms }) => ms),
    ),
  )
  return Math.max(work / power, longest / Math.max(...machines.map(({ speed }) => speed)))
}
