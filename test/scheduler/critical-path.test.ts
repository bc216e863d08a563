/** How long each step keeps the end of its graph waiting, by what is learnt. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULT_MS } from '../../src/scheduler/estimates.ts'
import { derivation, type DerivationOptions } from './samples.ts'
import { World, type WorldNode } from './world.ts'

/** Teaches how long derivations of these names take. */
function teach(world: World, durations: Readonly<Record<string, number>>): void {
  const node = world.node('teacher', { cpus: 64 })
  world.submit(
    'lesson',
    Object.keys(durations).map((name) => derivation(name, { args: ['lesson', name] })),
  )
  node.take()
  for (const id of node.attempts) finish(node, id, durations[node.running.get(id)?.name ?? ''] ?? 0)
  node.down()
}

function finish(node: WorldNode, attempt: string, wallMs: number): void {
  node.build(attempt, undefined, { usage: { wallMs, cpuMs: 0, maxRssBytes: 0 } })
}

const graph = (options: DerivationOptions = {}) => [
  derivation('a', options),
  derivation('b', { after: ['a'], ...options }),
  derivation('c', { after: ['a'], ...options }),
  derivation('d', { after: ['b', 'c'], ...options }),
]

test('critical path: a step holds up its own time and the longest of what comes after', () => {
  const world = new World()
  teach(world, { a: 1_000, b: 20_000, c: 3_000, d: 500 })
  world.submit('r', graph(), { wanted: ['d'] })
  const ms = ['a', 'b', 'c', 'd'].map((name) => world.step('r', name).criticalMs)
  assert.deepEqual(ms, [21_500, 20_500, 3_500, 500])
})

test('critical path: what is not known counts as the default', () => {
  const world = new World()
  world.submit('r', graph(), { wanted: ['d'] })
  assert.equal(world.step('r', 'a').criticalMs, 3 * DEFAULT_MS)
})

test('critical path: a surprise moves what waits, at most every few seconds', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('x'), ...graph()], { wanted: ['x', 'd'] })
  node.take()
  const before = world.step('r', 'a').criticalMs
  const [first] = node.attempts
  assert(first !== undefined)
  finish(node, first, 120_000)
  const ran = node.running.size
  world.pass(3_100)
  assert.equal(ran, 1)
  assert(
    world.step('r', 'd').criticalMs > before,
    'a run of two minutes is what all others may take',
  )
})

test('critical path: after a restart it is worked out again', () => {
  const world = new World()
  teach(world, { a: 1_000, b: 20_000, c: 3_000, d: 500 })
  world.submit('r', graph(), { wanted: ['d'] })
  world.restart()
  assert.equal(world.step('r', 'a').criticalMs, 21_500)
})
