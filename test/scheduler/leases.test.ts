/** Leases, attempts and restarts: what runs where, and what becomes of it when somebody is lost. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { LEASE_MS, LEASE_SLACK_MS } from '../../src/wire/work-messages.ts'
import { DISCONNECT_GRACE_MS } from '../../src/scheduler/nodes.ts'
import { RECOVERY_MS } from '../../src/scheduler/scheduler.ts'
import { derivation } from './samples.ts'
import { liveOf, World } from './world.ts'

test('scheduler: a node that is silent beyond its lease loses its jobs to others', () => {
  const world = new World()
  const silent = world.node('n1')
  world.submit('r', [derivation('a')])
  silent.take()
  const other = world.node('n2')
  silent.isSilent = true
  world.pass(LEASE_MS + LEASE_SLACK_MS - 1_000)
  assert.deepEqual(other.names, [])
  world.pass(3_000)
  assert.deepEqual(other.names, ['a'])
  assert.equal(world.step('r', 'a').job?.attempts[0]?.state, 'lost')
})

test('scheduler: a node that disconnects gets a short grace, then its jobs run elsewhere', () => {
  const world = new World()
  const lost = world.node('n1')
  world.submit('r', [derivation('a')])
  lost.take()
  const other = world.node('n2')
  lost.down()
  world.pass(DISCONNECT_GRACE_MS - 1_000)
  assert.deepEqual(other.names, [])
  world.pass(2_000)
  assert.deepEqual(other.names, ['a'])
})

test('scheduler: a node that reconnects within the grace goes on', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.down()
  world.pass(5_000)
  node.up()
  world.pass(60_000)
  assert.equal(world.grantCount, 1)
  node.build()
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: what a restarted node no longer runs is given out at once', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  const [first] = node.attempts
  node.restart()
  world.pass(500)
  assert.equal(node.names.length, 1)
  assert.notEqual(node.attempts[0], first)
  assert.match(world.step('r', 'a').job?.attempts[0]?.error ?? '', /was restarted/)
})

test('scheduler: a grant that was lost with its connection is sent again, as the same attempt', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  const id = node.receive()?.grants[0]?.attempt.id
  node.down()
  node.up()
  assert.deepEqual(node.attempts, [id])
  assert.equal(world.grantCount, 1)
})

test('scheduler: a grant is repeated until the node says that it has it', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  assert.equal(node.receive()?.grants.length, 1)
  assert.equal(node.receive()?.grants.length, 1)
  node.take()
  assert.equal(node.receive()?.grants.length, 0)
})

test('scheduler: a run that was given up and is found again takes over from a later one', () => {
  const world = new World()
  const first = world.node('n1')
  world.submit('r', [derivation('a')])
  first.take()
  const second = world.node('n2')
  first.down()
  world.pass(DISCONNECT_GRACE_MS + 1_000)
  assert.deepEqual(second.names, ['a'])
  first.up()
  const live = liveOf(world.step('r', 'a'))
  assert.deepEqual(
    live.map(({ node }) => node.name),
    ['n1'],
  )
  second.take()
  assert.deepEqual(second.names, [], 'the second run is cancelled')
  first.build()
  assert.equal(world.request('r').state, 'done')
  world.pass(5_000)
  assert.deepEqual([first.entry.allocated.cpus, second.entry.allocated.cpus], [0, 0])
})

test('scheduler: the first valid result wins, whichever attempt it is of', () => {
  const world = new World()
  const first = world.node('n1')
  world.submit('r', [derivation('a')])
  first.take()
  const second = world.node('n2')
  first.down()
  world.pass(DISCONNECT_GRACE_MS + 1_000)
  assert.deepEqual(second.names, ['a'])
  first.build()
  first.up()
  assert.equal(world.request('r').state, 'done')
  second.take()
  assert.deepEqual(second.names, [])
})

test('scheduler: another result of a lost attempt is told, and does not replace the one in use', () => {
  const world = new World()
  const first = world.node('n1')
  const request = world.submit('r', [derivation('a')])
  first.take()
  const second = world.node('n2')
  first.down()
  world.pass(DISCONNECT_GRACE_MS + 1_000)
  second.build()
  const { outputs } = world.step('r', 'a')
  first.build(undefined, 'another')
  first.up()
  assert.equal(world.step('r', 'a').outputs, outputs)
  assert.match(request.notices.join(), /not reproducible: n1 got other outputs/)
})

test('scheduler: a finished result that is sent again is acknowledged once more and not run again', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  const [id = ''] = node.attempts
  world.isSyncing = false
  node.build()
  assert.deepEqual(node.acked, [], 'not before it is durable')
  node.down()
  world.isSyncing = true
  node.up()
  assert.deepEqual(node.acked, [id])
  assert.equal(node.finished.size, 0)
  assert.equal(world.grantCount, 1)
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: nothing that hangs on an unsynced fact leaves', () => {
  const world = new World()
  const node = world.node('n1')
  world.isSyncing = false
  world.submit('r', [derivation('a')])
  assert.equal(world.grantCount, 1)
  assert.deepEqual(node.receive()?.grants, [])
  world.isSyncing = true
  world.apply({ type: 'tick' })
  node.take()
  assert.deepEqual(node.names, ['a'])
  world.isSyncing = false
  world.cancel('r')
  world.pass(3_000)
  assert.deepEqual(node.names, ['a'], 'its cancellation is not durable')
})

test('scheduler: nothing leaves under an epoch that is not durable', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  const { record, version } = node.entry
  world.isSyncing = false
  world.restart()
  world.apply({ type: 'node-up', record, version, boot: '1' })
  assert.equal(world.scheduler.desiredOf(node.peerId, world.syncedSeq, 1), undefined)
})

test('scheduler: each start of the owner has a higher epoch', () => {
  const world = new World()
  const node = world.node('n1')
  assert.equal(node.receive()?.epoch, 1)
  world.restart()
  node.up()
  assert.equal(node.receive()?.epoch, 2)
})

test('scheduler: after a restart of the owner running attempts are adopted', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'] })])
  node.take()
  world.restart()
  world.pass(RECOVERY_MS / 2)
  node.up()
  assert.equal(world.grantCount, 1)
  assert.equal(node.entry.allocated.cpus, 1)
  node.build()
  assert.deepEqual(node.names, ['b'])
  node.build()
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: what finished while the owner was down is taken from its node', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  world.restart()
  node.build()
  node.up()
  assert.equal(world.request('r').state, 'done')
  assert.equal(world.grantCount, 1)
})

test('scheduler: after a restart of the owner nothing is given out twice during the recovery', () => {
  const world = new World()
  const away = world.node('n1')
  world.submit('r', [derivation('a')])
  away.take()
  world.restart()
  const other = world.node('n2')
  world.pass(RECOVERY_MS - 1_000)
  assert.deepEqual(other.names, [])
  world.pass(7_000)
  assert.deepEqual(other.names, ['a'], 'then it counts as lost')
  away.up()
  other.take()
  assert.deepEqual(
    [away.names, other.names],
    [['a'], []],
    'and is adopted when it comes back after all',
  )
})

test('scheduler: an owner that lost its last facts asks for the same work again', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'] })])
  node.take()
  world.isSyncing = false
  node.build()
  assert.equal(node.finished.size, 1)
  world.restart()
  world.isSyncing = true
  node.up()
  assert.deepEqual(node.names, ['b'])
  assert.equal(world.step('r', 'a').phase, 'done')
})

test('scheduler: a rebuild that was under way at a restart is not answered from the cache', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', [derivation('a')])
  world.buildAll()
  node.down()
  world.apply({ type: 'lost', request: request.wire.id, derivation: 'a' })
  world.restart()
  assert.equal(world.step('r', 'a').phase, 'open')
  node.up()
  assert.deepEqual(node.names, ['a'])
})

test('scheduler: an ended run takes its room until its node has let go of it', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r1', [derivation('a')])
  const sent = node.receive()
  assert.equal(sent?.grants.length, 1)
  world.cancel('r1')
  world.nowMs += 3_000
  world.apply({ type: 'tick' })
  world.submit('r2', [derivation('b')])
  assert.equal(world.grantCount, 1, 'the node may have begun the first one')
  node.sync()
  assert.equal(world.grantCount, 2)
})

test('scheduler: a run that is over takes room on a node that comes back with it', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r1', [derivation('a')])
  node.take()
  node.down()
  world.cancel('r1')
  world.pass(5_000)
  world.submit('r2', [derivation('b')])
  node.isConnected = true
  const { record, version } = node.entry
  world.apply({ type: 'node-up', record, version, boot: '1' })
  node.sync()
  assert.equal(world.grantCount, 1)
  node.take()
  assert.deepEqual(node.names, ['b'])
})
