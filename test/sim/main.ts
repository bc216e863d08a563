/** `npm run sim -- --seeds N [--seed S] [--nodes N] [--trace]`: N runs, from seed S on; ends at the first broken invariant. */
import { parseArgs } from 'node:util'
import { BrokenInvariant, Simulation } from './simulation.ts'

const { values } = parseArgs({
  options: {
    seeds: { type: 'string', default: '1000' },
    seed: { type: 'string', default: '1' },
    nodes: { type: 'string', default: '8' },
    trace: { type: 'boolean', default: false },
  },
})

const [seedCount, firstSeed, nodeCount] = [values.seeds, values.seed, values.nodes].map(Number)
if (
  ![seedCount, firstSeed, nodeCount].every(
    (value) => Number.isSafeInteger(value) && Number(value) >= 1,
  )
) {
  process.stderr.write('usage: npm run sim -- --seeds N [--seed S] [--nodes N] [--trace]\n')
  process.exit(2)
}

const totals = { events: 0, virtualMs: 0, facts: 0, crashes: 0, done: 0, failed: 0, cancelled: 0 }
const startedAtMs = performance.now()
for (let seed = firstSeed ?? 1; seed < (firstSeed ?? 1) + (seedCount ?? 1); seed += 1) {
  const onTrace = values.trace
    ? (line: string): void => void process.stdout.write(`${line}\n`)
    : undefined
  try {
    const report = new Simulation({
      seed,
      nodeCount: nodeCount ?? 8,
      ...(onTrace === undefined ? {} : { onTrace }),
    }).run()
    for (const key of ['events', 'virtualMs', 'facts', 'crashes'] as const)
      totals[key] += report[key]
    for (const key of ['done', 'failed', 'cancelled'] as const) totals[key] += report.requests[key]
  } catch (error) {
    const message =
      error instanceof BrokenInvariant
        ? error.message
        : `seed ${seed}: ${error instanceof Error ? error.stack : String(error)}`
    process.stderr.write(
      `${message}\nagain: npm run sim -- --seeds 1 --seed ${seed} --nodes ${nodeCount} --trace\n`,
    )
    process.exit(1)
  }
}
const tookS = ((performance.now() - startedAtMs) / 1000).toFixed(1)
process.stdout.write(
  `${seedCount} seeds from ${firstSeed} with ${nodeCount} nodes: all invariants held, in ${tookS} s\n` +
    `${totals.events} events, ${Math.round(totals.virtualMs / 3600_000)} h of virtual time, ${totals.facts} facts, ${totals.crashes} crashes of the owner; ` +
    `requests: ${totals.done} done, ${totals.failed} failed, ${totals.cancelled} cancelled\n`,
)
