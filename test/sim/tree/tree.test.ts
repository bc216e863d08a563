/** Seeds of whole trees, as many as an ordinary test run has time for. `npm run sim` runs more. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { derivedId } from '../../../src/base/random.ts'
import type { Derivation } from '../../../src/wire/derivation.ts'
import { derivation, requestId, requestWire } from '../../scheduler/samples.ts'
import type { Plan } from '../workload.ts'
import { runFarm } from './farm.ts'
import { makeFarm, type Shape } from './topology.ts'
import { TreeSimulation, type Mood, type TreeOptions, type TreeReport } from './tree-simulation.ts'

/** Each of these broke an invariant once; what was wrong then is said above it. */
const REGRESSIONS: readonly (readonly [
  seed: number,
  shape: Shape,
  mood: Mood,
  workerCount: number,
])[] = [
  // Programs that a job declares were not asked for below the first level.
  [1, 'flat', 'none', 3],
  // Of a ring of three nobody let go: whoever saw it did not say so to the others.
  [3, 'ring', 'none', 3],
  // After a restart of the root a stored result was not used, as its builder was not back yet.
  [13, 'flat', 'gentle', 4],
  // A job that does not wait failed while the nodes of a restarted middle were on their way back.
  [31, 'tree', 'gentle', 4],
  // And while one node was away from a middle that was there.
  [65, 'tree', 'gentle', 4],
  // A leaf that was cut off answered for what only others could build.
  [23, 'flat', 'gentle', 4],
  // Who is below whom was forgotten when word of a move came by two ways, and the ring was never left for good.
  [43, 'ring', 'rough', 5],
  // The head of a ring cancelled its own request: its word to those above came back to it.
  [30, 'ring', 'rough', 5],
  // Two told of one attempt, and its reservation went to and fro between them.
  [39, 'ring', 'gentle', 5],
  // A new life of a node was given what an earlier one had begun below it.
  [75, 'tree', 'rough', 5],
  // Leases were passed on after their end.
  [33, 'tree', 'rough', 5],
  // Processors were added that others had by then.
  [1080, 'tree', 'rough', 3],
  // What was given up on a silent node still ran there when the next was begun.
  [1110, 'tree', 'rough', 8],
  // A drain went round a ring and was inherited for ever.
  [1080, 'ring', 'rough', 3],
  // A job kept away from the node that had failed it, for a subtree that could not run it.
  [2010, 'tree', 'rough', 6],
  [1283, 'ring', 'rough', 6],
  // A whole subtree was put in quarantine for one node of it.
  [1101, 'ring', 'rough', 8],
]

/** Jobs of others that may be granted between the acceptance of a user's only job and its grant. */
const PASSED_MAX = 4

function plan(name: string, derivations: Derivation[], user: string, atMs: number): Plan {
  const wire = { ...requestWire(name, derivations, { takesCopy: true, keepGoing: true }), user }
  return { wire, atMs, cancelAtMs: undefined, isImpossible: false }
}

function runSeeds(first: number, count: number, options: Omit<TreeOptions, 'seed'>): TreeReport[] {
  return Array.from({ length: count }, (_, at) =>
    new TreeSimulation({ seed: first + at, ...options }).run(),
  )
}

const total = (reports: readonly TreeReport[], of: (report: TreeReport) => number): number =>
  reports.reduce((sum, report) => sum + of(report), 0)

for (const shape of ['flat', 'tree', 'ring'] as const) {
  test(`tree: all invariants hold for 60 rough seeds of the shape ${shape}`, () => {
    const reports = runSeeds(1, 60, { shape, mood: 'rough', workerCount: 5 })
    // That nothing is found must not come from nothing happening.
    assert(total(reports, ({ crashes }) => crashes) > 200)
    assert(total(reports, ({ requests }) => requests.done) > 60)
    assert(total(reports, ({ requests }) => requests.failed) > 20)
    assert(total(reports, ({ heads }) => heads) > 10)
  })

  // Who is the head of a ring may change when one of it is restarted: then two may answer for the same.
  for (const mood of shape === 'ring' ? (['none'] as const) : (['none', 'gentle'] as const)) {
    test(`tree: nothing is built twice with 25 seeds of the shape ${shape}, mood ${mood}`, () => {
      const reports = runSeeds(1, 25, { shape, mood, workerCount: 4 })
      assert(total(reports, ({ builds }) => builds) > 100)
      assert.equal(
        total(reports, ({ rebuilds }) => rebuilds),
        0,
      )
    })
  }
}

test('tree: all invariants hold with every fact and message encoded', () => {
  runSeeds(2_000, 8, { workerCount: 3, isEncoded: true })
})

test('tree: all invariants hold in trees of one and of twelve workers', () => {
  for (const workerCount of [1, 12]) runSeeds(3_000, 12, { shape: 'tree', workerCount })
})

test('tree: seeds that once broke an invariant do so no more', () => {
  for (const [seed, shape, mood, workerCount] of REGRESSIONS)
    new TreeSimulation({ seed, shape, mood, workerCount }).run()
})

test('tree: the same seed gives the same run, another seed another', () => {
  const [first, again, other] = [7, 7, 8].map((seed) =>
    new TreeSimulation({ seed, shape: 'tree', mood: 'rough', workerCount: 5 }).run(),
  )
  assert.deepEqual(first, again)
  assert.notEqual(first?.traceHash, other?.traceHash)
})

test('tree: a user with one job is not passed by those of another who floods the queue', () => {
  const flood = Array.from({ length: 300 }, (_, at) => derivation(`flood-${at}`))
  const plans = [
    plan('flood', flood, 'many/local', 20_000),
    plan('single', [derivation('single')], 'few/local', 40_000),
  ]
  const lines: string[] = []
  const report = new TreeSimulation({
    seed: 1,
    workerCount: 6,
    shape: 'tree',
    mood: 'none',
    farm: { specs: makeFarm(6, 3), plans },
    onTrace: (line) => lines.push(line),
  }).run()
  assert.equal(report.requests.done, 2)
  const single = derivedId('j', `${requestId('single')}/single`)
  const accepted = lines.findIndex((line) => line.endsWith(`accepted ${requestId('single')}`))
  const granted = lines.findIndex((line) => line.includes(` of ${single} to `))
  assert(accepted !== -1 && granted > accepted)
  const passed = lines.slice(accepted, granted).filter((line) => line.includes(' granted '))
  // Those that are granted while its result is looked up; from then on the next free place is its.
  assert(passed.length <= PASSED_MAX, `${passed.length} were granted before it`)
  const left = lines.slice(granted).filter((line) => line.includes(' granted '))
  assert(left.length > 50, 'there was no flood any more')
})

test('tree: 300 nodes below 36 others get 600 jobs done', () => {
  const report = runFarm({ seed: 1, nodeCount: 300, height: 3, jobCount: 600 })
  assert.equal(report.requests.done, 10)
  assert.equal(report.rebuilds, 0)
})
