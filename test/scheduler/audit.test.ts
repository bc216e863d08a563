/** Finished jobs that are built again on idle nodes, and compared. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { Fact } from '../../src/wire/facts.ts'
import { derivation, environment, type DerivationOptions } from './samples.ts'
import { broken, World, type NodeOptions, type WorldNode } from './world.ts'

/** A world that audits this share of its jobs. */
function auditing(share = 1): World {
  const world = new World()
  world.auditShare = share
  world.restart()
  return world
}

function facts<T extends Fact['type']>(world: World, type: T): Extract<Fact, { type: T }>[] {
  return world.facts.filter((fact): fact is Extract<Fact, { type: T }> => fact.type === type)
}

/** A job that is done, by n1, and a second node that is idle. */
function built(
  made: string | undefined,
  options: { readonly job?: DerivationOptions; readonly second?: NodeOptions } = {},
): { world: World; one: WorldNode; two: WorldNode } {
  const world = auditing()
  const one = world.node('n1')
  world.submit('r', [derivation('a', options.job)])
  one.take()
  one.build(undefined, made)
  assert.equal(world.request('r').state, 'done')
  return { world, one, two: world.node('n2', options.second) }
}

test('audit: nothing is built again unless it is asked for', () => {
  const world = new World()
  const one = world.node('n1')
  world.submit('r', [derivation('a')])
  one.take()
  one.build()
  const two = world.node('n2')
  world.pass(60_000)
  assert.deepEqual([one.names, two.names], [[], []])
  assert.equal(world.grantCount, 1)
})

test('audit: a finished job is built again on another idle node, once, and nothing else is seen of it', () => {
  const { world, one, two } = built(undefined)
  world.pass(10_000)
  assert.deepEqual([one.names, two.names], [[], ['a']])
  assert.deepEqual(
    [...world.scheduler.audit.running].map(({ name, of }) => [name, of]),
    [['a', world.step('r', 'a').job?.id]],
  )
  two.build()
  assert.deepEqual(
    facts(world, 'audited').map(({ outcome, node }) => [outcome, node.name]),
    [['equal', 'n2']],
  )
  assert.deepEqual(facts(world, 'diverged'), [])
  world.pass(60_000)
  assert.deepEqual([one.names, two.names], [[], []])
  assert.equal(world.scheduler.state.requests.size, 1, 'the request of the audit is forgotten')
  assert.equal(world.scheduler.state.openJobs.size, 0)
  assert.equal(world.step('r', 'a').job?.attempts.length, 1)
  assert.equal([...world.cache.values()].flat().length, 1, 'nothing of it is committed')
  assert.equal(two.entry.allocated.cpus, 0)
})

test('audit: what differs is listed, and requests keep what they use', () => {
  const { world, two } = built('this')
  const before = world.step('r', 'a').outputs
  world.pass(10_000)
  two.build(undefined, 'that')
  const [diverged] = facts(world, 'diverged')
  assert.equal(diverged?.found, 'audit')
  assert.equal(diverged?.job, world.step('r', 'a').job?.id)
  assert.deepEqual(
    diverged?.votes.map(({ node }) => node.name),
    ['n1', 'n2'],
  )
  assert.equal(facts(world, 'audited')[0]?.outcome, 'different')
  assert.deepEqual(world.step('r', 'a').outputs, before)
  assert.equal(world.request('r').state, 'done')
  world.submit('s', [derivation('a')])
  assert.deepEqual(world.step('s', 'a').outputs, before)
})

test('audit: a build that fails the second time is listed', () => {
  const { world, two } = built(undefined)
  world.pass(10_000)
  two.fail()
  assert.equal(facts(world, 'audited')[0]?.outcome, 'failed')
  assert.equal(facts(world, 'diverged')[0]?.votes[1]?.outputs, null)
})

test('audit: it is given up as soon as its node has work to do, and made later', () => {
  const { world, one, two } = built(undefined, { second: { cpus: 1 } })
  one.down()
  world.pass(10_000)
  assert.deepEqual(two.names, ['a'])
  world.submit('s', [derivation('b')])
  assert.deepEqual([...world.scheduler.audit.running], [])
  two.take()
  assert.deepEqual(two.names, ['b'])
  two.build()
  assert.equal(world.request('s').state, 'done')
  assert.deepEqual(facts(world, 'audited'), [])
  world.pass(10_000)
  assert.deepEqual(two.names, ['a'], 'what was given up is tried again')
})

test('audit: what waits for a node of another kind does not stop it', () => {
  const { world, two } = built(undefined)
  world.submit('s', [derivation('b', { system: 'aarch64-linux' })])
  world.pass(10_000)
  assert.deepEqual(two.names, ['a'])
  world.pass(10_000)
  two.build()
  assert.equal(facts(world, 'audited')[0]?.outcome, 'equal')
})

test('audit: nobody waits for the build of an audit', () => {
  const { world, two } = built('this')
  world.pass(10_000)
  world.cache.clear()
  world.submit('s', [derivation('a')])
  const step = world.step('s', 'a')
  assert.notEqual(step.job, [...world.scheduler.audit.running][0]?.job)
  world.nodes[0]?.take()
  world.nodes[0]?.build(undefined, 'this')
  assert.equal(world.request('s').state, 'done')
  two.take()
})

test('audit: it is built in the environment in which it was built', () => {
  const { world, two } = built(undefined, {
    second: { environments: [environment({ base: 'b' })] },
  })
  world.pass(10_000)
  assert.deepEqual(two.names, [])
  const three = world.node('n3')
  world.pass(10_000)
  assert.deepEqual(three.names, ['a'])
})

test('audit: sources, builds without walls and builds with a network are left alone', () => {
  for (const job of [{ urls: ['http://x/a'] }, { sealed: false }] as const) {
    const { world, two } = built(undefined, { job })
    world.pass(10_000)
    assert.deepEqual(two.names, [])
  }
})

test('audit: one at a time for every twenty nodes', () => {
  const world = auditing()
  const one = world.node('n1', { cpus: 8 })
  world.submit(
    'r',
    ['a', 'b', 'c', 'd'].map((name) => derivation(name)),
  )
  one.take()
  for (const id of one.attempts) one.build(id)
  assert.equal(world.request('r').state, 'done')
  for (let at = 2; at <= 39; at++) world.node(`n${at}`)
  world.pass(10_000)
  assert.equal([...world.scheduler.audit.running].length, 1)
  world.node('n40')
  world.pass(10_000)
  assert.equal([...world.scheduler.audit.running].length, 2)
})

test('audit: of many jobs the share that was asked for, drawn alike in every replay', () => {
  const world = auditing(0.25)
  const one = world.node('n1', { cpus: 400 })
  const names = Array.from({ length: 400 }, (_, at) => `a${at}`)
  world.submit(
    'r',
    names.map((name) => derivation(name)),
  )
  one.take()
  for (const id of one.attempts) one.build(id)
  const drawn = world.scheduler.audit.candidateCount
  assert.ok(drawn > 60 && drawn < 140, `${drawn} of 400`)
  world.restart()
  assert.equal(world.scheduler.audit.candidateCount, drawn)
})

test('audit: one that is lost, and a restart of the owner, leave nothing behind', () => {
  const { world, two } = built(undefined)
  world.pass(10_000)
  two.finish(broken)
  assert.deepEqual([...world.scheduler.audit.running], [])
  assert.equal(world.scheduler.state.requests.size, 1)
  world.pass(10_000)
  assert.deepEqual(two.names, ['a'], 'it is tried again')
  const [before] = two.attempts
  world.restart()
  assert.equal(world.scheduler.state.requests.size, 1)
  two.up()
  world.pass(3_000)
  assert.ok(!two.attempts.includes(before ?? ''), 'what it ran was stopped')
  world.pass(10_000)
  two.build()
  assert.equal(facts(world, 'audited')[0]?.outcome, 'equal')
  assert.equal(two.entry.allocated.cpus, 0)
})
