/** Nodes whose own checks would not begin a job. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { reasonOf } from '../../src/scheduler/explain.ts'
import { requirementOf, verdictsOf } from '../../src/scheduler/match.ts'
import type { AttemptOutcome } from '../../src/wire/work-messages.ts'
import { derivation } from './samples.ts'
import { World } from './world.ts'

const refused = (
  scope: 'job' | 'name' | 'all',
  more: { reason?: string; forMs?: number } = {},
): AttemptOutcome => ({
  kind: 'refused',
  scope,
  reason: more.reason ?? 'no license',
  forMs: more.forMs ?? 300_000,
})

test('refusals: a refused job runs elsewhere at once, as nobody’s failure', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', { run: { retries: 0 } })])
  node.take()
  const other = world.node('n2')
  node.finish(refused('job'))
  other.take()
  assert.deepEqual(other.names, ['a'])
  const job = world.step('r', 'a').job
  assert.deepEqual([job?.infraFailures, job?.avoid.size], [0, 0])
  assert.match(job?.attempts[0]?.error ?? '', /^n1 would not begin it: no license/)
  other.build()
  assert.equal(world.request('r').state, 'done')
})

test('refusals: a node that refuses one job takes others', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.finish(refused('job'))
  world.submit('s', [derivation('b')])
  node.take()
  assert.deepEqual(node.names, ['b'])
})

test('refusals: a node that refuses a name is not asked for another job of it', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', { args: ['x'] })])
  node.take()
  node.finish(refused('name'))
  world.submit('s', [derivation('a', { args: ['y'] }), derivation('b')])
  node.take()
  assert.deepEqual(node.names, ['b'])
  world.pass(301_000)
  assert.equal(node.names.filter((name) => name === 'a').length, 2)
})

test('refusals: those that waited already are kept from a node that has come to refuse their name', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a', { args: ['x'] })])
  world.submit('s', [derivation('a', { args: ['y'] })])
  world.submit('t', [derivation('b')])
  node.take()
  node.finish(refused('name'))
  assert.deepEqual(node.names, ['b'])
})

test('refusals: a node that refuses all shows it and gets nothing until that is over', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.finish(refused('all', { reason: 'on battery', forMs: 60_000 }))
  assert.deepEqual(
    [node.entry.state, node.entry.note],
    ['full', 'it refuses all jobs for now: on battery'],
  )
  world.submit('s', [derivation('b')])
  world.pass(50_000)
  assert.deepEqual(node.names, [])
  world.pass(15_000)
  assert.equal(node.entry.state, 'ready')
  assert.deepEqual(new Set(node.names), new Set(['a', 'b']))
})

test('refusals: a job that all nodes refuse waits with their reasons, and is asked again when they are over', () => {
  const world = new World()
  const nodes = ['n1', 'n2'].map((name) => world.node(name))
  world.submit('r', [derivation('a')], { noWait: true })
  for (const node of [...nodes, ...nodes]) {
    node.take()
    for (const attempt of node.attempts) node.finish(refused('job'), attempt)
  }
  const step = world.step('r', 'a')
  assert.equal(step.job?.attempts.length, 2)
  const reason = reasonOf(world.scheduler, step, world.nowMs)
  assert.equal(reason?.class, 'refused')
  assert.match(reason?.text ?? '', /all 2 matching nodes refuse it: n\d \(no license\)/)
  world.pass(200_000)
  assert.equal(step.job?.attempts.length, 2)
  world.pass(102_000)
  assert.equal(nodes.flatMap((node) => node.names).length, 1)
  assert.equal(world.request('r').state, 'active')
})

test('refusals: a job that is refused for ever fails at its wait limit', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')], { waitLimitMs: 600_000 })
  for (let round = 0; round < 20 && world.request('r').state === 'active'; round += 1) {
    for (const attempt of node.attempts) node.finish(refused('job', { forMs: 60_000 }), attempt)
    world.pass(61_000)
  }
  assert.equal(world.step('r', 'a').failure?.code, 'MESH0302')
})

test('refusals: one that is too short or too long is bounded', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.finish(refused('job', { forMs: 0 }))
  assert.deepEqual(node.names, [])
  world.pass(1_500)
  assert.deepEqual(node.names, ['a'])
  node.finish(refused('job', { forMs: Number.MAX_SAFE_INTEGER }))
  const job = world.step('r', 'a').job
  assert(job !== undefined)
  const untilMs = world.scheduler.refusals.of(job, node.peerId)?.untilMs ?? 0
  assert.equal(untilMs - world.nowMs, 24 * 3600_000)
})

test('refusals: a node that was restarted is asked anew', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.finish(refused('all'))
  node.restart()
  world.pass(1_000)
  assert.deepEqual(node.names, ['a'])
})

test('refusals: a job that is refused in one request is not given to the node for another', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', { args: ['x'] })])
  node.take()
  node.finish(refused('job'))
  world.cancel('r')
  world.submit('s', [derivation('b', { args: ['x'] })])
  node.take()
  assert.deepEqual(node.names, [])
})

test('refusals: a refusal is one of the verdicts that why shows, and says how the node put it', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.finish(refused('job', { reason: 'on battery' }))
  const step = world.step('r', 'a')
  const verdicts = verdictsOf(requirementOf([step]), node.entry, step.job)
  assert.deepEqual(
    verdicts
      .filter(({ ok }) => !ok)
      .map(({ requirement, have, permanent }) => [requirement, have, permanent]),
    [['not refused here', 'on battery', false]],
  )
})
