/** Jobs that come one by one, as the farm's scheduler gets them: each a request of its own. */
import type { RequestWire } from '../../src/wire/facts.ts'
import type { Dice } from '../../test/sim/dice.ts'
import type { MeshFarm } from './mesh-farm.ts'
import type { TaskGraph } from './task-graph.ts'

/** Of an exponential distribution. */
export function exponential(dice: Dice, mean: number): number {
  return -mean * Math.log(1 - dice.fraction())
}

/** `count` independent jobs of one kind; equal kinds are learnt from together. */
export function independentTasks(
  kind: string,
  durationsMs: readonly number[],
  cpus: number,
): TaskGraph {
  const tasks = durationsMs.map((ms, at) => ({
    name: durationsMs.length === 1 ? kind : `${kind}-${at}`,
    ms: Math.max(1, Math.round(ms)),
    cpus,
    outputBytes: 1024,
    sources: [{ name: `source-${at}`, bytes: 1024 }],
    after: [],
  }))
  return { name: kind, tasks }
}

/** Submits at a time of its own; several at one time keep their order. */
export function submitAt(
  farm: MeshFarm,
  atMs: number,
  graph: TaskGraph,
  options: {
    readonly user: string
    readonly salt: string
    /** Told before anything of it begins. */
    readonly onSubmitted?: (request: RequestWire) => void
  },
): void {
  farm.clock.setTimer(atMs - farm.clock.nowMs(), () => {
    const request = farm.submit(graph, options)
    options.onSubmitted?.(request)
  })
}
