/** The seeded simulation, as much of it as an ordinary test run has time for. `npm run sim` runs more. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Simulation, type SimOptions, type SimReport } from './simulation.ts'

function runSeeds(first: number, count: number, options: Omit<SimOptions, 'seed'>): SimReport[] {
  return Array.from({ length: count }, (_, at) =>
    new Simulation({ seed: first + at, ...options }).run(),
  )
}

test('simulation: all invariants hold for 300 seeds with 8 nodes', () => {
  const reports = runSeeds(1, 300, { nodeCount: 8 })
  // That nothing is found must not come from nothing happening.
  const total = (of: (report: SimReport) => number): number =>
    reports.reduce((sum, report) => sum + of(report), 0)
  assert(total(({ crashes }) => crashes) > 300)
  assert(total(({ requests }) => requests.done) > 600)
  assert(total(({ requests }) => requests.failed) > 100)
  assert(total(({ copies }) => copies) > 600)
  assert(total(({ unreached }) => unreached) > 30)
})

test('simulation: all invariants hold in meshes of 1, 2 and 20 nodes', () => {
  for (const nodeCount of [1, 2, 20]) runSeeds(1_000, 15, { nodeCount })
})

test('simulation: all invariants hold with every fact and sync encoded', () => {
  runSeeds(2_000, 12, { nodeCount: 4, isEncoded: true })
})

test('simulation: all invariants hold where several nodes build the same and are compared', () => {
  runSeeds(3_000, 60, { nodeCount: 8, isCompared: true })
  runSeeds(3_100, 10, { nodeCount: 4, isCompared: true, isEncoded: true })
})

test('simulation: the same seed gives the same run, another seed another', () => {
  const [first, again, other] = [7, 7, 8].map((seed) =>
    new Simulation({ seed, nodeCount: 8 }).run(),
  )
  assert.deepEqual(first, again)
  assert.notEqual(first?.traceHash, other?.traceHash)
})
