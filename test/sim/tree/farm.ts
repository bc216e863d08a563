/** A farm of thousands of equal nodes in a tree, with as much work as they can do: for scale, without trouble. */
import { derivation, requestWire } from '../../scheduler/samples.ts'
import type { Plan } from '../workload.ts'
import { makeFarm } from './topology.ts'
import { TreeSimulation, type TreeReport } from './tree-simulation.ts'

/** Requests that come within the first seconds, each of a root, many jobs after it, and one that needs some of them. */
const REQUESTS = 10
const INPUTS_OF_LAST = 50

export interface FarmOptions {
  readonly seed: number
  readonly nodeCount: number
  readonly height: number
  readonly jobCount: number
}

export function runFarm({ seed, nodeCount, height, jobCount }: FarmOptions): TreeReport {
  const each = Math.max(1, Math.floor(jobCount / REQUESTS) - 2)
  const plans = Array.from({ length: REQUESTS }, (_, at): Plan => {
    const names = Array.from({ length: each }, (_each, number) => `job-${at}-${number}`)
    const graph = [
      derivation(`first-${at}`, { sources: [`source of first-${at}`] }),
      ...names.map((name) => derivation(name, { after: [`first-${at}`] })),
      derivation(`last-${at}`, { after: names.slice(0, INPUTS_OF_LAST) }),
    ]
    return {
      wire: requestWire(`farm-${at}`, graph, { wanted: [`last-${at}`], takesCopy: true }),
      atMs: 20_000 + at * 500,
      cancelAtMs: undefined,
      isImpossible: false,
    }
  })
  const specs = makeFarm(nodeCount, height)
  return new TreeSimulation({
    seed,
    workerCount: nodeCount,
    shape: 'tree',
    mood: 'none',
    farm: { specs, plans },
  }).run()
}
