/**
 * `npm run sim -- --seeds N [--seed S] [--nodes N] [--shape SHAPE] [--mood MOOD] [--trace]`: N runs, from
 * seed S on; ends at the first broken invariant, with its seed and the end of its trace. From 500 nodes on it
 * is one farm without trouble, `--height` levels high.
 */
import { parseArgs } from 'node:util'
import { runFarm } from './tree/farm.ts'
import { SHAPES } from './tree/topology.ts'
import { TreeSimulation, type Mood } from './tree/tree-simulation.ts'
import { BrokenInvariant, Simulation } from './simulation.ts'

/** `owner`: one owner and its workers, whose blobs are lost. The others are trees; `any` is all of them. */
const CHOICES = ['any', 'owner', ...SHAPES] as const
const MOODS: readonly Mood[] = ['none', 'gentle', 'rough']
const FARM_NODES_MIN = 500
const TRACE_SHOWN = 40
const USAGE = `usage: npm run sim -- --seeds N [--seed S] [--nodes N] [--shape ${CHOICES.join('|')}] [--mood ${MOODS.join('|')}] [--height N] [--jobs N] [--trace]\n`

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    nodes: { type: 'string', default: '6' },
    shape: { type: 'string', default: 'any' },
    mood: { type: 'string' },
    height: { type: 'string', default: '3' },
    jobs: { type: 'string', default: '20000' },
    trace: { type: 'boolean', default: false },
  },
})

const [seeds = 0, seed = 0, nodes = 0, height = 0, jobs = 0] = [
  values.seeds,
  values.seed,
  values.nodes,
  values.height,
  values.jobs,
].map(Number)
const shape = CHOICES.find((known) => known === values.shape)
const mood = MOODS.find((known) => known === values.mood)
const areCounts = [seeds, seed, nodes, height, jobs].every(
  (count) => Number.isSafeInteger(count) && count >= 1,
)
if (!areCounts || shape === undefined || (values.mood !== undefined && mood === undefined)) {
  process.stderr.write(USAGE)
  process.exit(2)
}

/** Figures of all runs together. */
const totals: Record<string, number> = {}

function add(report: object): void {
  for (const [name, value] of Object.entries(report)) {
    if (typeof value === 'number') totals[name] = (totals[name] ?? 0) + value
    else if (typeof value === 'object' && value !== null) add(value)
  }
}

/** What is run under one seed. */
function run(number: number, onTrace: (line: string) => void): void {
  if (nodes >= FARM_NODES_MIN) {
    add(runFarm({ seed: number, nodeCount: nodes, height, jobCount: jobs }))
    return
  }
  if (shape === 'owner' || shape === 'any')
    add(new Simulation({ seed: number, nodeCount: nodes, onTrace }).run())
  if (shape !== 'owner')
    add(
      new TreeSimulation({
        seed: number,
        workerCount: nodes,
        shape: shape === 'any' ? undefined : shape,
        mood,
        onTrace,
      }).run(),
    )
}

const startedAtMs = performance.now()
const runs = nodes >= FARM_NODES_MIN ? 1 : seeds
for (let number = seed; number < seed + runs; number += 1) {
  const tail: string[] = []
  try {
    run(number, (line) => {
      if (values.trace) process.stdout.write(`${line}\n`)
      else if (tail.push(line) > 2 * TRACE_SHOWN) tail.splice(0, TRACE_SHOWN)
    })
  } catch (error) {
    const message =
      error instanceof BrokenInvariant
        ? error.message
        : `seed ${number}: ${error instanceof Error ? error.stack : String(error)}`
    const chosen = mood === undefined ? '' : ` --mood ${mood}`
    process.stderr.write(
      `${tail.slice(-TRACE_SHOWN).join('\n')}\n${message}\nagain: npm run sim -- --seeds 1 --seed ${number} --nodes ${nodes} --shape ${shape}${chosen} --trace\n`,
    )
    process.exit(1)
  }
}
const seconds = (performance.now() - startedAtMs) / 1000
process.stdout.write(
  `seeds ${seed} to ${seed + runs - 1} with ${nodes} nodes: all invariants hold, ${seconds.toFixed(1)} s\n`,
)
process.stdout.write(
  `${Object.entries(totals)
    .map(([name, value]) => `${name} ${value}`)
    .join(', ')}\n`,
)
process.stdout.write(
  `${JSON.stringify({ seeds: runs, seed, nodes, shape, seconds: Number(seconds.toFixed(1)), rssBytes: process.memoryUsage().rss, ...totals })}\n`,
)
