/** Nodes whose policy gives builds less than there is: what waits, what runs on, and what never will. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { reasonOf } from '../../src/scheduler/explain.ts'
import { isLive, type WaitReason } from '../../src/scheduler/model.ts'
import { derivation, GIB } from './samples.ts'
import { World, type WorldNode } from './world.ts'

const WHOLE = { cpus: 4, memoryBytes: 16 * GIB }

/** From now on so many of its processors, and so much of its memory, is for builds. */
function give(
  node: WorldNode,
  cpus: number,
  memoryBytes = WHOLE.memoryBytes,
  name = 'when-idle',
): void {
  node.capacity = { ...node.capacity, cpus, memoryBytes }
  node.policy = {
    name,
    cpus,
    of: WHOLE.cpus,
    wholeMemoryBytes: WHOLE.memoryBytes,
    reason: 'ann is at the machine',
  }
  node.sync()
  node.take()
}

function why(world: World, name: string): WaitReason | undefined {
  return reasonOf(world.scheduler, world.step('r', name), world.nowMs)
}

const job = (name: string, min: number, max: number) =>
  derivation(name, { cpus: min, cpusMax: max })

test('policies: a job waits for a machine that is its owner’s now, and starts when it is not', () => {
  const world = new World()
  const node = world.node('desk')
  give(node, 0)
  world.submit('r', [job('a', 1, 1), job('big', 4, 4)])
  world.pass(5_000)
  assert.deepEqual(node.names, [])
  for (const name of ['a', 'big']) {
    const reason = why(world, name)
    assert.notEqual(reason?.class, 'unsatisfiable', `${name}: ${reason?.text}`)
  }
  give(node, 4)
  assert.deepEqual(node.names.length, 1)
})

test('policies: the same of memory', () => {
  const world = new World()
  const node = world.node('desk')
  give(node, 4, GIB)
  world.submit('r', [derivation('a', { memoryBytes: 8 * GIB })])
  world.pass(5_000)
  assert.deepEqual(node.names, [])
  assert.notEqual(why(world, 'a')?.class, 'unsatisfiable', why(world, 'a')?.text)
  give(node, 4)
  assert.deepEqual(node.names, ['a'])
})

test('policies: a disabled machine, and one that is too small with all that it has, never will', () => {
  const world = new World()
  const node = world.node('desk')
  give(node, 0, WHOLE.memoryBytes, 'disabled')
  world.submit('r', [job('a', 1, 1)])
  world.pass(5_000)
  assert.equal(why(world, 'a')?.class, 'unsatisfiable')
  give(node, 1)
  world.submit('s', [job('huge', 8, 8)])
  world.pass(5_000)
  const huge = reasonOf(world.scheduler, world.step('s', 'huge'), world.nowMs)
  assert.equal(huge?.class, 'unsatisfiable')
  assert.match(huge?.text ?? '', /4 in all/)
})

test('policies: what runs gets fewer processors and is never ended, however little is left', () => {
  const world = new World()
  const node = world.node('desk')
  world.submit('r', [job('wide', 1, 4)])
  world.pass(5_000)
  const [attempt] = node.attempts
  assert.ok(attempt !== undefined)
  assert.equal(world.step('r', 'wide').job?.attempts[0]?.allotted, 4)
  give(node, 1)
  world.pass(3_000)
  assert.equal(node.allotments.get(attempt), 1)
  give(node, 0)
  world.pass(60_000)
  assert.deepEqual(node.attempts, [attempt])
  const [live] = world.step('r', 'wide').job?.attempts ?? []
  assert.ok(live !== undefined && isLive(live))
  give(node, 4)
  world.pass(3_000)
  assert.equal(node.allotments.get(attempt), 4)
  world.buildAll()
  assert.equal(world.step('r', 'wide').job?.attempts.length, 1)
})
