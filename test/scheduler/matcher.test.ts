/** What is looked at when something changes, and what happens when a change is not told. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Matcher } from '../../src/scheduler/matcher.ts'
import { Waiting } from '../../src/scheduler/waiting.ts'
import { derivation, type DerivationOptions } from './samples.ts'
import { World } from './world.ts'

test('matcher: when every wake-up is lost, the sweep starts the job within five seconds', (context) => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a'), derivation('b'), derivation('c')])
  node.take()
  // From here on nobody is told of anything.
  context.mock.method(Matcher.prototype, 'nodeChanged', () => undefined)
  context.mock.method(Waiting.prototype, 'wakeClass', () => undefined)
  node.build()
  node.take()
  assert.deepEqual(node.names, [])
  world.pass(5_000)
  assert.deepEqual(node.names, ['b'])
  world.submit('later', [derivation('d')])
  node.build()
  world.pass(5_000)
  assert.deepEqual(node.names, ['c'])
})

/** So many classes of waiting jobs, `jobCount` in all, before `nodeCount` nodes of which each runs one. */
function crowd(nodeCount: number, jobCount: number, classCount: number): World {
  const world = new World()
  for (let at = 0; at < nodeCount; at += 1) world.node(`n${at}`, { cpus: 1 })
  const needs = (at: number): DerivationOptions => ({
    memoryBytes: (1 + (at % classCount)) * 2 ** 20,
  })
  const graphs = Math.ceil((jobCount + nodeCount) / 10_000)
  for (let graph = 0; graph < graphs; graph += 1)
    world.submit(
      `r${graph}`,
      Array.from({ length: Math.ceil((jobCount + nodeCount) / graphs) }, (_, at) =>
        derivation(`g${graph}-${at}`, needs(at)),
      ),
    )
  for (const node of world.nodes) node.take()
  return world
}

/** What each of `count` grants costs, one node becoming free after the other. */
function costOf(world: World, count: number): { nodes: number; classes: number; choices: number } {
  const before = world.scheduler.matchingCost
  const grants = world.grantCount
  for (const node of world.nodes.slice(0, count)) node.build()
  assert.equal(world.grantCount - grants, count)
  const { nodes, classes, choices } = world.scheduler.matchingCost
  return {
    nodes: (nodes - before.nodes) / count,
    classes: (classes - before.classes) / count,
    choices: (choices - before.choices) / count,
  }
}

test('matcher: what a grant looks at hangs on the classes, not on nodes and hardly on jobs', () => {
  const few = costOf(crowd(16, 200, 8), 16)
  const manyJobs = costOf(crowd(16, 9_000, 8), 16)
  const manyNodes = costOf(crowd(512, 200, 8), 16)
  for (const cost of [few, manyJobs, manyNodes]) {
    assert(cost.choices <= 3, `${cost.choices} choices`)
    assert(cost.classes <= 4 * 8, `${cost.classes} classes`)
  }
  // Twice the depth of the tree is looked at once or twice.
  assert(few.nodes <= 3 * 2 * 4, `${few.nodes} nodes`)
  assert(manyNodes.nodes <= 3 * 2 * 9, `${manyNodes.nodes} nodes`)
  assert(manyJobs.nodes <= few.nodes + 1, `${manyJobs.nodes} nodes`)
})

test('matcher: when nothing has changed nothing is looked at', () => {
  const world = crowd(16, 200, 8)
  world.pass(1_000)
  const before = world.scheduler.matchingCost
  for (const node of world.nodes) node.sync()
  world.apply({ type: 'tick' })
  const { nodes, choices } = world.scheduler.matchingCost
  assert.deepEqual([nodes - before.nodes, choices - before.choices], [0, 0])
})
