/** Running out of memory: more is tried, it is learnt, and there is an end to it. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { AttemptOutcome } from '../../src/wire/work-messages.ts'
import { derivation, GIB } from './samples.ts'
import { liveOf, World, type WorldNode } from './world.ts'

const outOfMemory: AttemptOutcome = {
  kind: 'failed',
  code: 'MESH0404',
  message: 'the kernel ended it for want of memory',
  exitCode: 137,
  log: null,
  logTail: '',
}
const usage = { wallMs: 500, cpuMs: 400, maxRssBytes: GIB / 4 }

/** The only attempt of the node runs out of memory. */
function runOut(node: WorldNode): void {
  node.finish(outOfMemory, undefined, { usage })
}

const reserved = (world: World): number | undefined => liveOf(world.step('r', 'a'))[0]?.memoryBytes

test('memory: a job that runs out of it is tried with twice as much, and starts with enough from then on', () => {
  const world = new World()
  const node = world.node('n1', { memoryBytes: 16 * GIB })
  world.submit('r', [derivation('a', { memoryBytes: GIB })])
  node.take()
  assert.equal(reserved(world), GIB)
  runOut(node)
  assert.equal(reserved(world), 2 * GIB)
  runOut(node)
  assert.equal(reserved(world), 4 * GIB)
  node.build(undefined, undefined, {
    usage,
    measured: { memoryBytes: 3 * GIB, memoryFrom: 'cgroup', diskBytes: 0 },
  })
  const step = world.step('r', 'a')
  assert.equal(step.phase, 'done')
  assert.deepEqual(
    step.job?.attempts.map(({ state }) => state),
    ['failed', 'failed', 'done'],
  )
  assert.equal(step.job?.infraFailures, 0)
  assert.equal(step.job?.avoid.size, 0, 'its node is not to blame')
  assert.equal(
    world.scheduler.state.estimates.of(step.derivation).memoryBytes,
    Math.ceil(3.6 * GIB),
  )
})

test('memory: it moves to a node that has more, and takes all that the largest has', () => {
  const world = new World()
  const small = world.node('small', { memoryBytes: 2 * GIB })
  const large = world.node('large', { memoryBytes: 3 * GIB, cpus: 1 })
  world.submit('other', [derivation('blocker')])
  world.submit('r', [derivation('a', { memoryBytes: 2 * GIB })])
  for (const node of [small, large]) node.take()
  const first = [small, large].find((node) => node.names.includes('a'))
  assert(first !== undefined)
  first.finish(outOfMemory, first.grantOf('a').attempt.id, { usage })
  for (const id of large.attempts) if (large.running.get(id)?.name === 'blocker') large.build(id)
  world.pass(1_000)
  assert.deepEqual(large.names, ['a'])
  assert.equal(reserved(world), 3 * GIB)
  runOut(large)
  const { failure } = world.step('r', 'a')
  assert.equal(failure?.code, 'MESH0404')
  assert.match(
    failure.message,
    /want of memory; tried with 2 GiB, 3 GiB; no node that matches has more than 3 GiB$/,
  )
})

test('memory: it is doubled four times and no more', () => {
  const world = new World()
  const node = world.node('n1', { memoryBytes: 1024 * GIB })
  world.submit('r', [derivation('a', { memoryBytes: GIB })])
  node.take()
  for (const want of [1, 2, 4, 8, 16]) {
    assert.equal(reserved(world), want * GIB)
    runOut(node)
  }
  const { phase, failure } = world.step('r', 'a')
  assert.equal(phase, 'failed')
  assert.match(failure?.message ?? '', /8 GiB, 16 GiB; it is not doubled more than 4 times$/)
})

test('memory: one that reserved nothing starts over with twice what it was seen to have', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.finish(outOfMemory, undefined, {
    usage,
    measured: { memoryBytes: 5 * GIB, memoryFrom: 'sampled', diskBytes: 0 },
  })
  assert.equal(reserved(world), 10 * GIB)
})

test('memory: a restart of the owner remembers how much was not enough', () => {
  const world = new World()
  const node = world.node('n1', { memoryBytes: 16 * GIB })
  world.submit('r', [derivation('a', { memoryBytes: GIB })])
  node.take()
  node.finish(outOfMemory, undefined, { usage })
  world.restart()
  assert.equal(world.step('r', 'a').job?.memoryFloorBytes, 2 * GIB)
})

test('memory: nobody retries for whom nobody waits', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', { memoryBytes: GIB })])
  node.take()
  world.cancel('r')
  runOut(node)
  world.pass(5_000)
  assert.equal(world.grantCount, 1)
})
