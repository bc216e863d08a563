/**
 * How long graphs take on machines of different speeds, as a ratio to what no schedule can beat: the
 * production scheduler beside the policies of other systems, over the same machines, links and messages.
 *
 * Each graph is built twice. In the first run nothing is learnt and every duration is off by a lognormal
 * factor; in the second everybody estimates by what the first one showed. The bound counts neither
 * transfers nor messages, so that 1.00 is out of reach where those matter.
 */
import { Dice } from '../test/sim/dice.ts'
import { ANCHORS, runAnchor } from './farm/anchors.ts'
import { MeshFarm } from './farm/mesh-farm.ts'
import type { Machine } from './farm/site.ts'
import {
  loadGraph,
  lowerBoundMs,
  perturbed,
  randomGraph,
  type TaskGraph,
} from './farm/task-graph.ts'
import {
  breathe,
  figure,
  type Context,
  type Figure,
  type Figures,
  type Subject,
} from './subject.ts'

/** Of the machines, in turn. */
const SPEEDS = [1, 1, 1, 2, 2, 4]
/** By how much the duration of one run is off from that of another. */
const SIGMA = 0.4
const RANDOM_TASKS = 2000
const RECORDED = ['leveldb', 'git', 'packages', 'nix']
const RUNS = ['first run', 'learnt'] as const
type Run = (typeof RUNS)[number]
const MESH = 'mesh'

interface Scenario {
  readonly name: string
  readonly machineCounts: readonly number[]
  /** Of each machine. */
  readonly cpus: number
  readonly seeds: readonly number[]
  graph(dice: Dice): TaskGraph
}

const seedsTo = (count: number): number[] => Array.from({ length: count }, (_, at) => at + 1)

function scenarios(scale: Context['scale']): Scenario[] {
  const isLong = scale === 'long'
  return [
    {
      name: `random ${RANDOM_TASKS}`,
      machineCounts: [6, 12, 24, 48],
      cpus: 1,
      seeds: seedsTo(isLong ? 12 : 4),
      graph: (dice) => randomGraph(dice, RANDOM_TASKS),
    },
    ...RECORDED.map((name) => ({
      name,
      machineCounts: isLong ? [6, 12, 24] : [6, 24],
      cpus: 2,
      seeds: seedsTo(isLong ? 12 : 4),
      graph: () => loadGraph(name),
    })),
  ]
}

/** By policy and run: makespan / bound, one for each seed. */
type Ratios = Map<string, number[]>

function add(ratios: Ratios, policy: string, run: Run, ratio: number): void {
  const key = `${run}, ${policy}`
  ratios.set(key, [...(ratios.get(key) ?? []), ratio])
}

function runSeed(
  scenario: Scenario,
  machines: readonly Machine[],
  seed: number,
  ratios: Ratios,
): void {
  const second = scenario.graph(new Dice(seed))
  const first = perturbed(second, new Dice(seed + 1_000), SIGMA)
  const seen = first.tasks.map(({ ms }) => ms)
  const graphs: Record<Run, TaskGraph> = { 'first run': first, learnt: second }
  const farm = new MeshFarm(machines)
  for (const run of RUNS) {
    const graph = graphs[run]
    const bound = lowerBoundMs(graph, machines)
    const startMs = farm.clock.nowMs()
    farm.runUntilDone(farm.submit(graph, { user: 'bench/local', salt: run }))
    add(ratios, MESH, run, (farm.clock.nowMs() - startMs) / bound)
    const estimates = run === 'learnt' ? seen : undefined
    for (const anchor of ANCHORS)
      add(
        ratios,
        anchor.name,
        run,
        runAnchor(anchor, graph, machines, estimates, new Dice(seed)) / bound,
      )
  }
}

const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length

function figureOf(policy: string, values: readonly number[]): Figure {
  const like = ANCHORS.find(({ name }) => name === policy)?.like
  const worst = `worst ${Math.max(...values).toFixed(2)}`
  return figure(mean(values), 'x bound', like === undefined ? worst : `${worst}; ${like}`)
}

export const subject: Subject = {
  name: 'makespan',
  async run({ signal, log, scale }) {
    const figures: Record<string, Figure> = {}
    for (const scenario of scenarios(scale)) {
      log(`${scenario.name}: seeds ${scenario.seeds.join(' ')}`)
      for (const machineCount of scenario.machineCounts) {
        const machines = Array.from({ length: machineCount }, (_, at) => ({
          cpus: scenario.cpus,
          speed: SPEEDS[at % SPEEDS.length] ?? 1,
        }))
        const ratios: Ratios = new Map()
        for (const seed of scenario.seeds) {
          await breathe()
          signal.throwIfAborted()
          runSeed(scenario, machines, seed, ratios)
        }
        for (const run of RUNS)
          for (const policy of [MESH, ...ANCHORS.map(({ name }) => name)])
            figures[`${scenario.name}, ${machineCount} machines, ${run}, ${policy}`] = figureOf(
              policy,
              ratios.get(`${run}, ${policy}`) ?? [],
            )
      }
    }
    return figures satisfies Figures
  },
}
