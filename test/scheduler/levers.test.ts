/** What people say of requests and jobs: go first, wait, go on, stop, try again. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Target } from '../../src/scheduler/levers.ts'
import { FINISHED_STEPS_MAX } from '../../src/scheduler/requests.ts'
import { priorityOf } from '../../src/scheduler/model.ts'
import { derivation, environment, requestId } from './samples.ts'
import { failed, World } from './world.ts'

const of = (request: string, name?: string): Target => ({
  request: requestId(request),
  derivation: name,
})

function boost(world: World, target: Target, priority: number): void {
  world.apply({ type: 'lever', lever: { kind: 'boost', target, priority }, by: 'ann' })
}
function hold(world: World, target: Target, reason = 'not yet'): void {
  world.apply({ type: 'lever', lever: { kind: 'hold', target, reason }, by: 'ann' })
}
function release(world: World, target: Target): void {
  world.apply({ type: 'lever', lever: { kind: 'release', target }, by: 'ann' })
}
function cancelJob(world: World, target: Target): void {
  world.apply({ type: 'lever', lever: { kind: 'cancel', target }, by: 'ann' })
}
function retry(world: World, target: Target, rebind = false): void {
  world.apply({ type: 'lever', lever: { kind: 'retry', target, rebind }, by: 'ann' })
}

const phases = (world: World, request: string): Record<string, string> =>
  Object.fromEntries([...world.request(request).steps].map(([name, { phase }]) => [name, phase]))

/** What facts alone rebuild is what is there. */
function assertReplays(world: World, request: string): void {
  const before = phases(world, request)
  const { state, boost: priority, hold: held } = world.request(request)
  world.restart()
  const after = world.request(request)
  assert.deepEqual(phases(world, request), before)
  assert.deepEqual([after.state, after.boost, after.hold], [state, priority, held])
}

test('levers: a boosted request overtakes those that came before it', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a')])
  node.take()
  world.submit('s', [derivation('b')])
  world.submit('t', [derivation('c')])
  boost(world, of('t'), 100)
  node.build()
  assert.deepEqual(node.names, ['c'])
})

test('levers: a boosted job overtakes the others of its own request, and the request the boost of one job', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a')])
  node.take()
  world.submit('s', [derivation('b'), derivation('c'), derivation('d')])
  boost(world, of('s', 'd'), 90)
  node.build()
  assert.deepEqual(node.names, ['d'])
  assert.equal(priorityOf(world.step('s', 'd')), 90)
  boost(world, of('s'), 60)
  assert.equal(priorityOf(world.step('s', 'd')), 60, 'what is said of all holds for all')
})

test('levers: a boost said twice is one fact, and survives a restart', () => {
  const world = new World()
  world.submit('r', [derivation('a'), derivation('b')])
  boost(world, of('r'), 70)
  boost(world, of('r', 'a'), 80)
  const count = world.facts.length
  boost(world, of('r', 'a'), 80)
  assert.equal(world.facts.length, count)
  assertReplays(world, 'r')
  assert.equal(priorityOf(world.step('r', 'a')), 80)
  assert.equal(priorityOf(world.step('r', 'b')), 70)
})

test('levers: a held request starts nothing new, what runs goes on', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a'), derivation('b'), derivation('c', { after: ['a'] })])
  node.take()
  assert.deepEqual(node.names, ['a'])
  hold(world, of('r'))
  node.build()
  assert.deepEqual(node.names, [])
  assert.equal(world.step('r', 'a').phase, 'done')
  world.pass(60_000)
  assert.deepEqual(node.names, [])
  release(world, of('r'))
  node.take()
  assert.equal(node.names.length, 1)
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
})

test('levers: a held request is not held back from stored results', () => {
  const world = new World()
  world.node('n1')
  world.submit('r', [derivation('a', { args: ['x'] })])
  world.buildAll()
  world.isAnswering = false
  world.submit('s', [derivation('b', { args: ['x'] })])
  hold(world, of('s'))
  world.answer()
  assert.equal(world.request('s').state, 'done')
})

test('levers: a held job is skipped over, and survives a restart as held', () => {
  const world = new World()
  world.submit('r', [derivation('a'), derivation('b')])
  hold(world, of('r', 'a'))
  assertReplays(world, 'r')
  const node = world.node('n1')
  node.take()
  assert.deepEqual(node.names, ['b'])
  release(world, of('r', 'a'))
  node.take()
  assert.deepEqual(node.names.toSorted(), ['a', 'b'])
})

test('levers: a job that another request needs as well runs although one of the two is held', () => {
  const world = new World()
  world.submit('r', [derivation('a', { args: ['x'] })])
  world.submit('s', [derivation('b', { args: ['x'] })])
  hold(world, of('r'))
  const node = world.node('n1')
  node.take()
  assert.equal(node.attempts.length, 1)
  node.build()
  assert.equal(world.request('r').state, 'done')
})

test('levers: the time that a job was held does not count as waiting for a node', () => {
  const world = new World()
  world.submit('r', [derivation('a')], { wanted: ['a'] })
  hold(world, of('r'))
  world.pass(25 * 3600_000)
  assert.equal(world.request('r').state, 'active')
  release(world, of('r'))
  world.pass(3600_000)
  assert.equal(world.request('r').state, 'active')
  world.pass(24 * 3600_000)
  assert.equal(world.step('r', 'a').failure?.code, 'MESH0302')
})

test('levers: the wait limit of a request is its own', () => {
  const world = new World()
  world.submit('r', [derivation('a')], { waitLimitMs: 60_000 })
  world.submit('s', [derivation('b')])
  world.pass(70_000)
  assert.equal(world.step('r', 'a').failure?.code, 'MESH0302')
  assert.match(world.step('r', 'a').failure?.message ?? '', /waited 1m00s for a node/)
  assert.equal(world.request('s').state, 'active')
})

test('levers: a cancelled job takes along what needs it, and its request unless that goes on', () => {
  for (const keepGoing of [false, true]) {
    const world = new World()
    const node = world.node('n1', { cpus: 2 })
    const graph = [
      derivation('a'),
      derivation('b', { after: ['a'] }),
      derivation('c', { after: ['b'] }),
      derivation('d'),
    ]
    world.submit('r', graph, { keepGoing })
    node.take()
    cancelJob(world, of('r', 'a'))
    assert.equal(world.step('r', 'a').phase, 'cancelled')
    assert.equal(world.request('r').state, keepGoing ? 'active' : 'cancelled')
    world.pass(3_000)
    assert.deepEqual(node.names, keepGoing ? ['d'] : [])
    world.buildAll()
    assert.equal(world.request('r').state, 'cancelled')
    assert.deepEqual(
      [world.step('r', 'b').phase, world.step('r', 'd').phase],
      keepGoing ? ['skipped', 'done'] : ['skipped', 'cancelled'],
    )
    assertReplays(world, 'r')
  }
})

test('levers: cancelling twice, or what is done, changes nothing', () => {
  const world = new World()
  world.node('n1')
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'] })], { keepGoing: true })
  world.buildAll()
  const count = world.facts.length
  cancelJob(world, of('r', 'a'))
  assert.equal(world.facts.length, count)
})

test('levers: a cancelled job that another request needs goes on for that one', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', { args: ['x'] })])
  world.submit('s', [derivation('b', { args: ['x'] })])
  node.take()
  cancelJob(world, of('r', 'a'))
  world.pass(5_000)
  assert.equal(node.attempts.length, 1)
  node.build()
  assert.equal(world.request('s').state, 'done')
  assert.equal(world.request('r').state, 'cancelled')
})

test('levers: a retried request runs again what failed and what was skipped, and keeps what is done', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  const graph = [
    derivation('a'),
    derivation('b', { after: ['a'] }),
    derivation('c', { after: ['b'] }),
  ]
  world.submit('r', graph, { takesCopy: true })
  node.take()
  node.build()
  const { outputs } = world.step('r', 'a')
  node.fail()
  assert.equal(world.request('r').state, 'failed')
  retry(world, of('r'))
  assert.equal(world.request('r').state, 'active')
  assert.equal(world.request('r').takesCopy, false, 'the client has gone')
  node.take()
  assert.deepEqual(node.names, ['b'])
  assert.deepEqual(world.step('r', 'a').outputs, outputs)
  assert.equal(world.step('r', 'b').failure, undefined)
  node.build()
  node.build()
  assert.equal(world.request('r').state, 'done')
  assert.equal(world.grantCount, 4)
  assertReplays(world, 'r')
})

test('levers: a retry survives a restart of the owner on its way', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'] })])
  node.take()
  node.fail()
  retry(world, of('r'))
  assertReplays(world, 'r')
  node.up()
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
})

test('levers: a cancelled request can be retried', () => {
  const world = new World()
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'] })])
  world.cancel('r')
  retry(world, of('r'))
  assert.deepEqual(phases(world, 'r'), { a: 'open', b: 'blocked' })
  world.node('n1')
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
})

test('levers: a retried job brings what it needs and what needs it, and no more', () => {
  const world = new World()
  const node = world.node('n1')
  const graph = [
    derivation('a'),
    derivation('b', { after: ['a'] }),
    derivation('x'),
    derivation('y', { after: ['x'] }),
    derivation('z', { after: ['b', 'y'] }),
  ]
  world.submit('r', graph, { keepGoing: true })
  node.take()
  for (const attempt of node.attempts) node.fail(attempt)
  assert.equal(world.request('r').state, 'failed')
  retry(world, of('r', 'a'))
  assert.deepEqual(phases(world, 'r'), {
    a: 'open',
    b: 'blocked',
    x: 'failed',
    y: 'skipped',
    z: 'skipped',
  })
  world.buildAll()
  assert.deepEqual([world.step('r', 'b').phase, world.request('r').state], ['done', 'failed'])
  retry(world, of('r', 'y'))
  world.buildAll()
  assert.equal(world.step('r', 'y').phase, 'done')
  retry(world, of('r', 'z'))
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
})

test('levers: a job of a request that ends at its first failure can be retried by itself', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a'), derivation('b')])
  node.take()
  const [a, b] = node.attempts
  node.fail(a)
  assert.equal(world.request('r').state, 'failed')
  world.pass(3_000)
  assert.equal(node.running.has(b ?? ''), false)
  retry(world, of('r', 'a'))
  world.buildAll()
  assert.deepEqual([world.step('r', 'a').phase, world.request('r').state], ['done', 'cancelled'])
})

test('levers: a retry of what has nothing to be retried changes nothing', () => {
  const world = new World()
  world.node('n1')
  world.submit('r', [derivation('a')])
  world.buildAll()
  const count = world.facts.length
  retry(world, of('r'))
  retry(world, of('r', 'a'))
  assert.equal(world.facts.length, count)
})

test('levers: a request whose userland is gone starts over with another one when it is rebound', () => {
  const world = new World()
  const old = world.node('n1', { environments: [environment({ base: 'a' })] })
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'] })])
  old.take()
  old.build()
  old.down()
  world.pass(20_000)
  const next = world.node('n2', { environments: [environment({ base: 'b' })] })
  world.pass(20_000)
  assert.deepEqual(next.names, [], 'two userlands are not mixed')
  retry(world, of('r'))
  world.pass(2_000)
  assert.deepEqual(next.names, [])
  retry(world, of('r'), true)
  world.pass(2_000)
  assert.deepEqual(next.names, ['a'])
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  const { bindings } = world.request('r')
  assert.equal([...bindings.values()][0]?.base, environment({ base: 'b' }).base)
  assertReplays(world, 'r')
})

test('levers: a rebind gives up what runs with the old userland', () => {
  const world = new World()
  const old = world.node('n1', { cpus: 1, environments: [environment({ base: 'a' })] })
  world.submit('r', [derivation('a'), derivation('b')])
  old.take()
  const other = world.node('n2', { cpus: 4, environments: [environment({ base: 'b' })] })
  old.state = 'draining'
  old.sync()
  retry(world, of('r'), true)
  world.pass(5_000)
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  const made = [...world.request('r').steps.values()].map(
    (step) => step.job?.attempts.findLast(({ state }) => state === 'done')?.userland?.base,
  )
  assert.equal(new Set(made).size, 1)
  assert.deepEqual(other.names, [])
})

test('levers: levers of what is not known are ignored', () => {
  const world = new World()
  world.submit('r', [derivation('a')])
  const count = world.facts.length
  boost(world, of('other'), 1)
  hold(world, of('r', 'other'))
  retry(world, of('other'))
  cancelJob(world, of('r'))
  assert.equal(world.facts.length, count)
})

test('levers: a request that is tried again is not forgotten with the finished ones', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.finish(failed)
  const before = world.scheduler.state.finishedStepCount
  retry(world, of('r'))
  assert.equal(world.scheduler.state.finishedStepCount, before - 1)
  assert(world.scheduler.state.finishedStepCount < FINISHED_STEPS_MAX)
  assert.equal(world.scheduler.state.finished.size, 0)
})
