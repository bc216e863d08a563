/** Nodes that are drained by an operator: what they still do, what is taken back, and whom it concerns. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { DrainOrder } from '../../src/wire/api.ts'
import type { DrainWire } from '../../src/wire/work-messages.ts'
import { isSelected, parseSelector } from '../../src/scheduler/selector.ts'
import { drainView, standingView } from '../../src/scheduler/standing-view.ts'
import { derivation, environment, peerOf } from './samples.ts'
import { World } from './world.ts'

function drain(world: World, selector: string, more: Partial<DrainOrder> = {}): void {
  const order = { selector, reason: 'new kernel', deadlineMs: null, ...more }
  world.apply({ type: 'lever', lever: { kind: 'drain', order }, by: 'ann' })
}
function undrain(world: World, selector: string): void {
  world.apply({ type: 'lever', lever: { kind: 'undrain', selector }, by: 'ann' })
}

test('drains: a node that is drained finishes what it runs and takes nothing new', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a'), derivation('b')])
  node.take()
  drain(world, 'n1')
  assert.deepEqual([node.entry.state, node.entry.note], ['draining', 'new kernel (drained by ann)'])
  node.tell()
  node.build()
  assert.deepEqual([node.names, node.entry.state], [[], 'drained'])
  assert.equal(world.step('r', 'a').phase, 'done')
  world.pass(60_000)
  assert.deepEqual(node.names, [])
  undrain(world, 'n1')
  assert.equal(node.entry.state, 'ready')
  node.take()
  assert.deepEqual(node.names, ['b'])
})

test('drains: what a drained node has not begun is taken back at once and runs elsewhere, as nobody’s failure', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a', { run: { retries: 0 } })])
  const other = world.node('n2')
  // The grant is on its way, and nobody has said that he has it.
  assert.equal(node.receive()?.grants.length, 1)
  drain(world, 'n1')
  other.take()
  assert.deepEqual(other.names, ['a'])
  const job = world.step('r', 'a').job
  assert.equal(job?.infraFailures, 0)
  assert.equal(job?.avoid.size, 0)
  assert.match(
    job?.attempts[0]?.error ?? '',
    /taken back from n1 before it began: it is drained by ann/,
  )
  other.build()
  assert.equal(world.request('r').state, 'done')
})

test('drains: a node that began in spite of that is told to end it', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  const other = world.node('n2')
  const grant = node.receive()?.grants[0]
  assert(grant !== undefined)
  drain(world, 'n1')
  other.take()
  node.running.set(grant.attempt.id, grant)
  node.tell()
  assert.deepEqual(node.attempts, [], 'it is not found again, but ended')
  assert.deepEqual(other.names, ['a'])
  assert.equal(node.entry.state, 'drained')
})

test('drains: at the deadline what still runs is taken back', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', { run: { retries: 0 } })])
  node.take()
  drain(world, 'n1', { deadlineMs: 60_000 })
  const other = world.node('n2')
  world.pass(50_000)
  assert.deepEqual([node.names, other.names], [['a'], []])
  world.pass(15_000)
  assert.deepEqual([node.names, other.names], [[], ['a']])
  assert.equal(node.entry.state, 'drained')
  assert.match(
    world.step('r', 'a').job?.attempts[0]?.error ?? '',
    /taken back from n1 and its time for that is over: it is drained by ann: new kernel/,
  )
})

test('drains: a result that comes after the deadline is taken all the same', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  drain(world, 'n1', { deadlineMs: 10_000 })
  node.isSilent = true
  world.pass(12_000)
  node.isSilent = false
  node.build()
  assert.equal(world.request('r').state, 'done')
})

test('drains: a drain survives a restart and holds for nodes that come later', () => {
  const world = new World()
  drain(world, 'ci-*', { deadlineMs: 60_000 })
  world.pass(30_000)
  world.restart()
  const later = world.node('ci-7')
  world.submit('r', [derivation('a')])
  later.take()
  assert.deepEqual([later.names, later.entry.state], [[], 'drained'])
  const [active] = world.scheduler.drains.active()
  assert.equal(Math.round((active?.endMs ?? 0) - world.nowMs), 30_000)
  const other = world.node('dev-1')
  other.take()
  assert.deepEqual(other.names, ['a'])
})

test('drains: a deadline that passed while the owner was away is met when its nodes are back', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  drain(world, 'n1', { deadlineMs: 5_000 })
  world.isSyncing = true
  world.restart()
  world.nowMs += 10_000
  const other = world.node('n2')
  node.up()
  world.pass(1_000)
  assert.deepEqual([node.names, other.names], [[], ['a']])
})

test('drains: a drain is told to those it concerns once it is durable, and taken back when it ends', () => {
  const world = new World()
  const node = world.node('n1')
  const other = world.node('n2')
  world.isSyncing = false
  drain(world, 'n1', { deadlineMs: 10_000 })
  assert.deepEqual(node.receive()?.drains, [])
  world.isSyncing = true
  world.apply({ type: 'tick' })
  assert.deepEqual(
    node.receive()?.drains.map(({ selector, by, leftMs }) => [selector, by, leftMs]),
    [['n1', 'ann', 10_000]],
  )
  assert.deepEqual(other.receive()?.drains, [])
  undrain(world, 'n1')
  assert.deepEqual(node.receive()?.drains, [])
})

test('drains: those of a node above hold here until it says otherwise', () => {
  const world = new World()
  const node = world.node('n1')
  const above: DrainWire = {
    id: 'd-1',
    selector: 'role=worker',
    reason: 'move',
    by: 'bob',
    atWall: 1,
    leftMs: null,
  }
  world.scheduler.drains.setInherited([above])
  assert.equal(node.entry.state, 'drained')
  assert.deepEqual(node.receive()?.drains.length, 1)
  world.submit('r', [derivation('a')])
  node.take()
  assert.deepEqual(node.names, [])
  world.scheduler.drains.setInherited([])
  world.pass(1_000)
  assert.deepEqual(node.names, ['a'])
})

test('drains: two nodes of one name are both drained, and one of them by its peer id alone', () => {
  const world = new World()
  const [first, second] = [world.node('n1'), world.node('n2')]
  world.apply({
    type: 'node-up',
    record: { ...second.entry.record, name: 'n1' },
    version: { mesh: '0', protocols: [] },
    boot: '1',
  })
  drain(world, 'n1')
  assert.deepEqual([first.entry.state, second.entry.state], ['drained', 'drained'])
  undrain(world, 'n1')
  drain(world, peerOf('n2').slice(0, 20))
  assert.deepEqual([first.entry.state, second.entry.state], ['ready', 'drained'])
})

test('drains: nothing fails for want of a node while the only one is drained', () => {
  const world = new World()
  world.node('n1')
  drain(world, 'n1')
  world.submit('r', [derivation('a')], { noWait: true })
  world.pass(60_000)
  assert.equal(world.request('r').state, 'active')
  undrain(world, 'n1')
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
})

test('drains: said twice it is once; another deadline replaces the first', () => {
  const world = new World()
  world.node('n1')
  drain(world, 'n1')
  const count = world.facts.length
  drain(world, 'n1')
  assert.equal(world.facts.length, count)
  drain(world, 'n1', { deadlineMs: 1_000 })
  assert.equal(world.scheduler.drains.active().length, 1)
  undrain(world, 'n1')
  undrain(world, 'n1')
  assert.deepEqual(world.scheduler.drains.active(), [])
})

test('drains: of several the one that ends first counts', () => {
  const world = new World()
  const node = world.node('n1')
  drain(world, 'n*', { reason: 'long' })
  drain(world, 'n1', { reason: 'short', deadlineMs: 1_000 })
  assert.match(world.scheduler.drains.of(node.entry)?.reason ?? '', /short/)
  undrain(world, 'n1')
  assert.equal(node.entry.state, 'drained')
  assert.match(world.scheduler.drains.of(node.entry)?.reason ?? '', /long/)
})

test('drains: people see who drained what, why, until when, and what still runs there', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  drain(world, 'n1', { deadlineMs: 60_000 })
  world.pass(10_000)
  const [active] = world.scheduler.drains.active()
  assert(active !== undefined)
  const view = drainView(world.scheduler, active, world.moment)
  assert.deepEqual([view.by, view.reason, view.nodes.length], ['ann', 'new kernel', 1])
  assert.deepEqual(view.nodes[0]?.running, [
    { job: world.step('r', 'a').id, name: 'a', forMs: 10_000 },
  ])
  const standing = standingView(world.scheduler, node.entry, world.moment)
  assert.equal(standing.running, 1)
  assert.equal(standing.drain?.deadline, view.deadline)
  assert.equal(Date.parse(view.deadline ?? '') - world.moment.wallMs, 50_000)
})

test('drains: a node that is drained and away is lost, and drained again when it is back', () => {
  const world = new World()
  const node = world.node('n1')
  drain(world, 'n1')
  node.down()
  assert.equal(node.entry.state, 'lost')
  node.up()
  assert.equal(node.entry.state, 'drained')
})

test('selector: what a node is called, is and has', () => {
  const world = new World()
  const { entry } = world.node('ci-1', {
    roles: ['worker', 'store'],
    environments: [environment({ system: 'aarch64-linux', features: ['kvm'], base: 'b' })],
  })
  const matches = (text: string): boolean => isSelected(parseSelector(text), entry)
  for (const text of [
    'ci-1',
    'ci-*',
    '*',
    'name=ci-?',
    'role=store',
    'system=aarch64-linux',
    'system=aarch64-*',
    'feature=kvm',
    'label=userland-b',
    'role=worker, feature=kvm',
    peerOf('ci-1'),
    `peer=${peerOf('ci-1').slice(0, 16)}`,
  ])
    assert.equal(matches(text), true, text)
  for (const text of [
    'ci',
    'ci-2',
    'CI-1',
    'role=root',
    'system=x86_64-linux',
    'feature=gpu',
    'role=worker,feature=gpu',
    peerOf('ci-2'),
  ])
    assert.equal(matches(text), false, text)
  for (const text of ['', ',', 'role=', 'color=red', 'ci-1,'])
    assert.throws(() => parseSelector(text), { code: 'MESH0002' }, text)
})

test('drains: a compacted journal keeps what still holds of nodes, and no more', () => {
  const world = new World()
  drain(world, 'n1')
  drain(world, 'n1', { deadlineMs: 60_000 })
  drain(world, 'n2')
  undrain(world, 'n2')
  const { nodeFacts } = world.scheduler.state
  const kept = world.facts.filter(
    (fact) => (fact.type === 'drained' || fact.type === 'undrained') && nodeFacts.needs(fact),
  )
  assert.equal(kept.length, 1)
  const replayed = new World()
  for (const fact of kept) replayed.scheduler.replay(fact)
  const drainsOf = ({ scheduler }: World): unknown =>
    [...scheduler.state.nodeFacts.drains.values()].map(({ factSeq: _factSeq, ...rest }) => rest)
  assert.deepEqual(drainsOf(replayed), drainsOf(world))
})
