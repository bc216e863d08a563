/** Nodes that fail one job after the other, and jobs that nodes die of. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { QUARANTINE_MS, QUARANTINE_MS_MAX } from '../../src/scheduler/quarantine.ts'
import { DISCONNECT_GRACE_MS } from '../../src/scheduler/nodes.ts'
import type { AttemptOutcome } from '../../src/wire/work-messages.ts'
import { derivation } from './samples.ts'
import { broken, World, type WorldNode } from './world.ts'

const patient = { run: { retries: 16 } }

/** Submits jobs one by one, each of which the node fails. */
function failInTurn(world: World, node: WorldNode, names: readonly string[]): void {
  for (const name of names) {
    world.submit(name, [derivation(name, patient)])
    node.take()
    for (const [attempt, grant] of [...node.running])
      if (grant.name === name) node.finish(broken, attempt)
  }
}

test('quarantine: a node that fails different jobs in a row gets none for a minute, then one', () => {
  const world = new World()
  const node = world.node('n1')
  failInTurn(world, node, ['a', 'b', 'c'])
  assert.equal(node.entry.state, 'quarantined')
  assert.match(node.entry.note, /failed 3 different jobs in a row, the last one: MESH0505/)
  world.pass(QUARANTINE_MS - 5_000)
  assert.deepEqual(node.names, [])
  world.pass(10_000)
  assert.equal(node.names.length, 1, 'one is tried')
  assert.equal(node.entry.state, 'quarantined')
  node.build()
  assert.equal(node.entry.state, 'ready')
  world.pass(2_000)
  assert.equal(node.names.length, 2)
})

test('quarantine: it doubles when the one job that is tried fails as well, up to an hour', () => {
  const world = new World()
  const node = world.node('n1')
  failInTurn(world, node, ['a', 'b', 'c'])
  let forMs = QUARANTINE_MS
  for (let round = 0; round < 8; round += 1) {
    world.pass(forMs - 10_000)
    assert.deepEqual(node.names, [], `round ${round}`)
    world.pass(20_000)
    const [attempt] = node.attempts
    assert(attempt !== undefined, `round ${round}`)
    node.finish(broken, attempt)
    forMs = Math.min(QUARANTINE_MS_MAX, 2 * forMs)
  }
  assert.equal(forMs, QUARANTINE_MS_MAX)
})

test('quarantine: one job that fails again and again does not put a node there', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', patient)])
  for (let round = 0; round < 5; round += 1) {
    world.pass(20_000)
    node.finish(broken)
  }
  assert.equal(node.entry.state, 'ready')
})

test('quarantine: a success in between, or a build that fails by itself, resets the count', () => {
  for (const end of ['build', 'fail'] as const) {
    const world = new World()
    const node = world.node('n1')
    failInTurn(world, node, ['a', 'b'])
    world.submit('ok', [derivation('ok')])
    node.take()
    const attempt = [...node.running].find(([, { name }]) => name === 'ok')?.[0]
    node[end](attempt)
    failInTurn(world, node, ['c', 'd'])
    assert.equal(node.entry.state, 'ready')
    failInTurn(world, node, ['e'])
    assert.equal(node.entry.state, 'quarantined')
  }
})

test('quarantine: sources that nobody serves are not held against the node that looked for them', () => {
  const world = new World()
  const node = world.node('n1')
  const gone: AttemptOutcome = { kind: 'infrastructure', code: 'MESH0504', message: '404' }
  for (const name of ['a', 'b', 'c', 'd']) {
    world.submit(name, [derivation(name, { ...patient, urls: [`http://${name}`] })])
    node.take()
    for (const attempt of node.attempts) node.finish(gone, attempt)
  }
  assert.equal(node.entry.state, 'ready')
})

test('quarantine: all that a node ran when it went away is one failure', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit(
    'r',
    ['a', 'b', 'c', 'd'].map((name) => derivation(name, patient)),
  )
  node.take()
  assert.equal(node.attempts.length, 4)
  node.down()
  world.pass(DISCONNECT_GRACE_MS + 1_000)
  assert.equal(world.step('r', 'd').job?.attempts[0]?.cause, 'died')
  node.running.clear()
  node.up()
  assert.equal(node.entry.state, 'ready')
})

test('quarantine: it survives a restart of the owner, with the time that is left', () => {
  const world = new World()
  const node = world.node('n1')
  failInTurn(world, node, ['a', 'b', 'c'])
  world.pass(30_000)
  world.restart()
  node.up()
  assert.equal(node.entry.state, 'quarantined')
  world.pass(25_000)
  assert.deepEqual(node.names, [])
  world.pass(10_000)
  assert.equal(node.names.length, 1)
})

test('quarantine: who undrains the node vouches for it', () => {
  const world = new World()
  const node = world.node('n1')
  failInTurn(world, node, ['a', 'b', 'c'])
  world.apply({ type: 'lever', lever: { kind: 'undrain', selector: 'n1' }, by: 'ann' })
  assert.equal(node.entry.state, 'ready')
  world.restart()
  node.up()
  assert.equal(node.entry.state, 'ready')
})

test('quarantine: nothing fails for want of a node while the only one is there', () => {
  const world = new World()
  const node = world.node('n1')
  failInTurn(world, node, ['a', 'b', 'c'])
  world.submit('r', [derivation('z')], { noWait: true })
  world.pass(10_000)
  assert.equal(world.request('r').state, 'active')
})

/** The node runs it and dies. */
function die(node: WorldNode): void {
  node.take()
  assert(node.names.includes('a'), `${node.name} runs it`)
  node.restart()
}

test('poison: a job that nodes die of is given up after three, with their names', () => {
  const world = new World()
  world.submit('r', [derivation('a', patient)])
  for (const name of ['n1', 'n2', 'n3']) {
    const node = world.node(name)
    world.pass(16_000)
    die(node)
    node.down()
  }
  world.pass(20_000)
  const step = world.step('r', 'a')
  assert.equal(step.failure?.code, 'MESH0507')
  assert.match(step.failure?.message ?? '', /3 times the node that ran it died \(n1, n2, n3\)/)
  // Nobody else is to die of it in another request either.
  const other = world.node('n4')
  world.submit('s', [derivation('a', patient)])
  world.pass(20_000)
  assert.deepEqual(other.names, [])
  assert.equal(world.step('s', 'a').failure?.code, 'MESH0507')
  // Until a person wants it.
  world.apply({
    type: 'lever',
    lever: {
      kind: 'retry',
      target: { request: world.request('s').wire.id, derivation: undefined },
      rebind: false,
    },
    by: 'ann',
  })
  world.pass(1_000)
  assert.deepEqual(other.names, ['a'])
  other.build()
  assert.equal(world.request('s').state, 'done')
})

test('poison: the count survives a restart of the owner, and is what replay gives', () => {
  const world = new World()
  world.submit('r', [derivation('a', patient)])
  for (const name of ['n1', 'n2']) {
    const node = world.node(name)
    world.pass(16_000)
    die(node)
    node.down()
  }
  const before = [...world.scheduler.state.nodeFacts.deaths]
  world.restart()
  assert.deepEqual([...world.scheduler.state.nodeFacts.deaths], before)
  const third = world.node('n3')
  world.pass(40_000)
  die(third)
  assert.equal(world.step('r', 'a').failure?.code, 'MESH0507')
})

test('poison: an orderly end, a lost grant and a restart of the owner are no deaths', () => {
  const world = new World()
  world.submit('r', [derivation('a', patient)])
  // The node drains by itself, and is restarted.
  const orderly = world.node('n1')
  orderly.take()
  orderly.state = 'draining'
  orderly.sync()
  orderly.restart()
  orderly.down()
  world.pass(20_000)
  // The grant never arrived.
  world.isSyncing = false
  const deaf = world.node('n2')
  assert.deepEqual([deaf.entry.attempts.size, deaf.names], [1, []])
  deaf.down()
  world.isSyncing = true
  world.pass(30_000)
  // The owner goes, and a node with it.
  const together = world.node('n3')
  world.pass(16_000)
  assert.deepEqual(together.names, ['a'])
  world.restart()
  together.restart()
  world.pass(1_000)
  const attempts = world.step('r', 'a').job?.attempts ?? []
  assert.deepEqual(
    world.scheduler.state.nodeFacts.deaths.size,
    0,
    JSON.stringify(attempts.map(({ cause }) => cause)),
  )
})

test('poison: a node that turns out to live takes its death back', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', patient)])
  node.take()
  node.down()
  world.pass(DISCONNECT_GRACE_MS + 1_000)
  assert.equal(world.scheduler.state.nodeFacts.deaths.size, 1)
  node.up()
  assert.equal(world.scheduler.state.nodeFacts.deaths.size, 0)
  node.build()
  assert.equal(world.request('r').state, 'done')
})

test('poison: deaths are forgotten after a day', () => {
  const world = new World()
  world.submit('r', [derivation('a', patient)], { waitLimitMs: 7 * 24 * 3600_000 })
  for (const name of ['n1', 'n2']) {
    const node = world.node(name)
    world.pass(16_000)
    die(node)
    node.down()
  }
  world.nowMs += 24 * 3600_000
  const third = world.node('n3')
  world.pass(1_000)
  die(third)
  world.pass(16_000)
  assert.deepEqual(third.names, ['a'])
})
