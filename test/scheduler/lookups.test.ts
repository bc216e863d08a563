/** A node is not given to a lesser job while one that goes before it is still looked up. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LOOKUP_GRACE_MS } from '../../src/scheduler/lookups.ts'
import { derivation } from './samples.ts'
import { World } from './world.ts'

/** `first` runs; `next` comes after it and is of more urgency than `lesser`, which waits. */
function successor(): World {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('first'), derivation('next', { after: ['first'] })], {
    priority: 60,
  })
  world.submit('other', [derivation('lesser')], { priority: 50 })
  node.take()
  world.isAnswering = false
  node.build()
  return world
}

test('lookups: the successor of what has ended gets its node, though its look-up takes a moment', () => {
  const world = successor()
  const [node] = world.nodes
  assert.deepEqual(node?.names, [])
  world.nowMs += LOOKUP_GRACE_MS - 1
  world.apply({ type: 'tick' })
  node.take()
  assert.deepEqual(node.names, [])
  world.answer()
  node.take()
  assert.deepEqual(node.names, ['next'])
})

test('lookups: a look-up that takes long keeps no node waiting', () => {
  const world = successor()
  const [node] = world.nodes
  assert((world.scheduler.nextDeadlineMs() ?? 0) <= world.nowMs + LOOKUP_GRACE_MS)
  world.nowMs += LOOKUP_GRACE_MS
  world.apply({ type: 'tick' })
  node?.take()
  assert.deepEqual(node?.names, ['lesser'])
})

test('lookups: of a request that has just come the most urgent job starts first, whichever is looked up first', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.isAnswering = false
  world.submit('r', [derivation('a'), derivation('b'), derivation('b2', { after: ['b'] })])
  world.answer('a')
  world.answer('b')
  node.take()
  assert.deepEqual(node.names, ['b'])
})
