/** What is kept has limits: queues, finished requests, nodes. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { NODES_MAX } from '../../src/scheduler/nodes.ts'
import { FINISHED_STEPS_MAX } from '../../src/scheduler/requests.ts'
import { derivation, requestId } from './samples.ts'
import { World } from './world.ts'

const queued = (world: World): number =>
  [...world.scheduler.queues.all].reduce((sum, queue) => sum + queue.items.length, 0)

test('scheduler: a queue holds each waiting job once, however often it is looked at', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  node.down()
  world.submit(
    'r',
    ['a', 'b', 'c'].map((name) => derivation(name)),
    { noWait: true },
  )
  for (let at = 0; at < 5; at += 1) world.submit(`same-${at}`, [derivation('a')])
  world.pass(120_000)
  assert.equal(queued(world), 3)
})

test('scheduler: jobs that nobody needs any more leave the queues, also behind one that waits on', () => {
  const world = new World()
  const node = world.node('n1')
  node.down()
  world.submit('first', [derivation('first')], { priority: 99 })
  for (let at = 0; at < 20; at += 1) {
    world.submit(`r${at}`, [derivation(`d${at}`)])
    world.cancel(`r${at}`)
  }
  world.pass(6_000)
  assert.equal(queued(world), 1)
  assert.equal(world.scheduler.state.openJobs.size, 1)
})

test('scheduler: of the finished requests the one that ended first is forgotten first, with all that hangs on it', () => {
  const world = new World()
  const graph = (name: string) =>
    Array.from({ length: FINISHED_STEPS_MAX / 2 }, (_, at) => derivation(`${name}-${at}`))
  world.submit('slow', graph('slow'))
  world.submit('quick', graph('quick'))
  world.cancel('quick')
  world.submit('later', graph('later'))
  world.cancel('slow')
  assert.equal(world.scheduler.state.requests.size, 3)
  world.cancel('later')
  assert.deepEqual(
    [...world.scheduler.state.requests.keys()],
    [requestId('slow'), requestId('later')],
  )
  const { steps, jobs, finished, finishedStepCount } = world.scheduler.state
  assert.deepEqual(
    [steps.size, jobs.size, finished.size, finishedStepCount],
    [FINISHED_STEPS_MAX, FINISHED_STEPS_MAX, 2, FINISHED_STEPS_MAX],
  )
})

test('scheduler: a job that outlives its forgotten request goes when it ends', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  world.cancel('r')
  const big = Array.from({ length: FINISHED_STEPS_MAX + 1 }, (_, at) =>
    derivation(`d${at}`, { system: 'other' }),
  )
  world.submit('big', big)
  world.cancel('big')
  assert.equal(world.scheduler.state.requests.has(requestId('r')), false)
  world.pass(5_000)
  assert.deepEqual([...world.scheduler.state.attempts.keys()], [])
  assert.equal(world.scheduler.state.jobs.size, FINISHED_STEPS_MAX + 1)
  assert.deepEqual([node.names, node.entry.allocated.cpus, node.entry.attempts.size], [[], 0, 0])
})

test('scheduler: of too many nodes the one that has been away for longest is forgotten', () => {
  const world = new World()
  const record = (at: number) => ({
    peerId: `peer-${at}`,
    name: `n${at}`,
    roles: [],
    addresses: [],
    http: null,
  })
  const version = { mesh: '0', protocols: [] }
  for (let at = 0; at < NODES_MAX; at += 1)
    world.apply({ type: 'node-up', record: record(at), version, boot: '1' })
  world.apply({ type: 'node-down', peerId: 'peer-7', note: '' })
  world.nowMs += 1_000
  world.apply({ type: 'node-down', peerId: 'peer-3', note: '' })
  world.apply({ type: 'node-up', record: record(NODES_MAX), version, boot: '1' })
  assert.deepEqual(
    [
      world.scheduler.nodes.size,
      world.scheduler.nodes.has('peer-7'),
      world.scheduler.nodes.has('peer-3'),
    ],
    [NODES_MAX, false, true],
  )
})
