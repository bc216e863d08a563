/** Words on processors in a tree: what is said at the top is done where the machine is. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { derivation, requestId } from './samples.ts'
import { TreeWorld, type TreeNode } from './tree-world.ts'
import { liveOf } from './world.ts'

const ANN = 'ann/local'

function setNode(
  node: TreeNode,
  selector: string,
  cpus: number | null,
  forMs: number | null = null,
) {
  const order = { selector, cpus, forMs, reason: 'lunch' }
  node.apply({ type: 'lever', lever: { kind: 'slots', order }, by: ANN })
  node.world.settle()
}

function setJob(node: TreeNode, name: string, cpus: number | null): void {
  const target = { request: requestId('r'), derivation: name }
  node.apply({ type: 'lever', lever: { kind: 'size', target, cpus }, by: ANN })
  node.world.settle()
}

/** What the worker of the node is told of its machine. */
function told(node: TreeNode): { cpus: number; leftMs: number | null } | undefined {
  return node.scheduler.desiredOf(node.peerId, Number.MAX_SAFE_INTEGER, 1_000_000)?.slots.slots
}

/** A root, a node in the middle, and two machines below it. */
function tree(...cpus: readonly number[]) {
  const world = new TreeWorld()
  const root = world.node('root')
  const middle = world.node('middle', { parent: root })
  const leaves = cpus.map((count, at) => world.node(`leaf-${at}`, { parent: middle, cpus: count }))
  world.pass(25_000)
  return { world, root, middle, leaves }
}

test('slots: a machine two levels down is told what was said at the root, and nobody else is', () => {
  const { world, root, middle, leaves } = tree(4, 4)
  const [first, second] = leaves
  assert(first !== undefined && second !== undefined)
  setNode(root, 'leaf-0', 1, 60_000)
  assert.deepEqual([told(first)?.cpus, told(second), told(middle)], [1, undefined, undefined])
  assert.equal(first.scheduler.slots.active()[0]?.by, ANN)
  // Who comes back, or comes later, hears of it too.
  first.restart()
  assert.equal(told(first)?.cpus, 1)
  setNode(root, 'leaf-*', 3)
  const later = world.node('leaf-9', { parent: middle, cpus: 4 })
  assert.deepEqual([told(second)?.cpus, told(later)?.cpus], [3, 3])
  world.pass(70_000)
  assert.deepEqual([told(first)?.cpus, told(first)?.leftMs], [3, null], 'the first word is over')
  setNode(root, 'leaf-*', null)
  assert.deepEqual([first, second, later].map(told), [undefined, undefined, undefined])
})

test('slots: what was said holds while nobody above can be reached', () => {
  const { world, root, leaves } = tree(4, 4)
  const [first] = leaves
  assert(first !== undefined)
  setNode(root, 'leaf-0', 2)
  first.disconnect()
  world.pass(30_000)
  assert.equal(told(first)?.cpus, 2)
})

test('slots: a job two levels down has as many as was said at the root; its neighbours give way, and get it back', () => {
  const { world, root, middle, leaves } = tree(8, 1)
  const [leaf] = leaves
  root.submit('r', [derivation('wide', { cpus: 1, cpusMax: 6 }), derivation('two', { cpus: 2 })])
  world.pass(5_000)
  assert.deepEqual(leaf?.names.toSorted(), ['two', 'wide'])
  const has = (name: string): (number | undefined)[] => [
    middle.relayed.find(({ lease }) => lease?.name === name)?.reserved.cpus,
    liveOf(root.step('r', name))[0]?.allotted,
  ]
  assert.deepEqual(has('wide'), [6, 6])
  // The classes of both are named above for a minute, and room is made for them now and then.
  world.pass(90_000)
  setJob(root, 'two', 5)
  world.pass(5_000)
  assert.deepEqual(
    [has('two'), has('wide')],
    [
      [5, 5],
      [3, 3],
    ],
  )
  setJob(root, 'two', null)
  world.pass(8_000)
  assert.deepEqual(
    [has('two'), has('wide')],
    [
      [2, 2],
      [6, 6],
    ],
  )
  setJob(root, 'two', 1)
  world.pass(5_000)
  assert.deepEqual(has('two'), [1, 1])
  setJob(root, 'two', null)
  world.pass(8_000)
  assert.deepEqual(has('two'), [2, 2], 'less than its least it has only while somebody wants so')
})

test('slots: on a machine that its parent sees as it is the parent decides', () => {
  const world = new TreeWorld()
  const root = world.node('root')
  const leaf = world.node('leaf', { parent: root, cpus: 8 })
  world.pass(25_000)
  root.submit('r', [derivation('one'), derivation('wide', { cpus: 1, cpusMax: 7 })])
  world.pass(5_000)
  setJob(root, 'one', 4)
  world.pass(5_000)
  assert.equal(liveOf(root.step('r', 'one'))[0]?.allotted, 4)
  const relayed = leaf.relayed.find(({ lease }) => lease?.name === 'one')
  assert.equal(relayed?.reserved.cpus, 4)
})
