/** What people say of processors: how many a node gives builds, how many a job has. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { isLive } from '../../src/scheduler/model.ts'
import { slotsView } from '../../src/scheduler/slots-view.ts'
import { jobView } from '../../src/scheduler/views.ts'
import { SLOT_ORDERS_MAX } from '../../src/wire/work-messages.ts'
import { derivation, requestId } from './samples.ts'
import { liveOf, World, type WorldNode } from './world.ts'

const ANN = 'ann/local'

function setNode(
  world: World,
  selector: string,
  cpus: number | null,
  options: { forMs?: number | null; reason?: string } = {},
): void {
  const order = { selector, cpus, forMs: null, reason: '', ...options }
  world.apply({ type: 'lever', lever: { kind: 'slots', order }, by: ANN })
}

function setJob(world: World, request: string, name: string, cpus: number | null): void {
  const target = { request: requestId(request), derivation: name }
  world.apply({ type: 'lever', lever: { kind: 'size', target, cpus }, by: ANN })
}

const wide = (name: string, cpus: number, cpusMax: number) => derivation(name, { cpus, cpusMax })

function has(world: World, request: string, name: string): number | undefined {
  return liveOf(world.step(request, name))[0]?.allotted
}

/** What the node is told of itself now. */
const told = (node: WorldNode) => node.receive()?.slots

test('slots: a node is told what is set for it, until when, and when that is over', () => {
  const world = new World()
  const own = world.node('root', { cpus: 8 })
  const other = world.node('n1', { cpus: 8 })
  assert.deepEqual(told(own), {})
  setNode(world, 'root', 2, { forMs: 60_000, reason: 'at my desk' })
  assert.deepEqual(told(own), { slots: { cpus: 2, leftMs: 60_000 } })
  assert.deepEqual(told(other), { slotOrders: [] }, 'it is not meant')
  world.pass(20_000)
  assert.deepEqual(told(own), { slots: { cpus: 2, leftMs: 40_000 } })
  world.pass(40_000)
  assert.deepEqual(told(own), {})
  assert.equal(world.scheduler.state.nodeFacts.slots.size, 0)
})

test('slots: what nodes with schedulers of their own are told goes by its selector, and the last word holds', () => {
  const world = new World()
  const node = world.node('ci-a', { cpus: 8 })
  setNode(world, 'ci-*', 6)
  world.pass(1_000)
  setNode(world, 'ci-a', 3)
  assert.deepEqual(
    told(node)?.slotOrders?.map(({ cpus, by }) => [cpus, by]),
    [[3, ANN]],
  )
  assert.equal(world.scheduler.slots.of(node.entry)?.selector, 'ci-a')
  setNode(world, 'ci-a', null)
  assert.equal(world.scheduler.slots.of(node.entry)?.cpus, 6)
})

test('slots: nothing is told before it is synced, and a restart forgets neither the number nor its end', () => {
  const world = new World()
  const own = world.node('root', { cpus: 8 })
  world.isSyncing = false
  setNode(world, 'root', 2, { forMs: 60_000 })
  assert.deepEqual(told(own), {})
  world.isSyncing = true
  world.apply({ type: 'tick' })
  assert.deepEqual(told(own), { slots: { cpus: 2, leftMs: 60_000 } })
  world.nowMs += 10_000
  world.restart()
  own.up()
  assert.deepEqual(told(own), { slots: { cpus: 2, leftMs: 50_000 } })
  const [view] = slotsView(world.scheduler, world.moment).nodes
  assert.deepEqual([view?.cpus, view?.by, view?.nodes[0]?.name], [2, ANN, 'root'])
})

test('slots: said twice it is said once, and no more than so many are kept', () => {
  const world = new World()
  setNode(world, 'a', 2)
  const { length } = world.facts
  setNode(world, 'a', 2)
  setNode(world, 'b', null)
  assert.equal(world.facts.length, length)
  for (let at = 0; at < SLOT_ORDERS_MAX + 5; at += 1) setNode(world, `n${at}`, 1)
  assert.equal(world.scheduler.state.nodeFacts.slots.size, SLOT_ORDERS_MAX)
})

test('slots: a node with fewer than it runs ends nothing, takes nothing, and what can do with fewer shrinks', () => {
  const world = new World()
  const node = world.node('root', { cpus: 8 })
  world.submit('r', [wide('wide', 2, 6), derivation('narrow', { cpus: 2 })])
  node.take()
  world.pass(2_000)
  setNode(world, 'root', 3)
  const slots = told(node)?.slots
  node.capacity = { ...node.capacity, cpus: slots?.cpus ?? 8 }
  node.tell()
  world.submit('s', [derivation('later')])
  world.pass(5_000)
  assert.deepEqual(node.names.toSorted(), ['narrow', 'wide'])
  assert.equal(has(world, 'r', 'wide'), 2)
  node.build(node.grantOf('narrow').attempt.id)
  world.pass(2_000)
  assert.deepEqual(node.names.toSorted(), ['later', 'wide'])
})

test('slots: a running job has as many as a person says, beyond what it asks for; neighbours give way at once', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 12 })
  world.submit('r', [wide('wide', 1, 8), derivation('one')])
  node.take()
  world.pass(3_000)
  assert.deepEqual([has(world, 'r', 'wide'), has(world, 'r', 'one')], [8, 1])
  setJob(world, 'r', 'one', 10)
  assert.deepEqual([has(world, 'r', 'wide'), has(world, 'r', 'one')], [2, 10])
  node.take()
  assert.equal(node.allotments.get(node.grantOf('one').attempt.id), 10)
  world.submit('s', [derivation('later')])
  world.pass(5_000)
  assert.equal(has(world, 's', 'later'), 1, 'the neighbour gave what it had beyond its least')
  assert.deepEqual([has(world, 'r', 'wide'), has(world, 'r', 'one')], [1, 10])
  const view = jobView(world.scheduler, world.step('r', 'one'), world.moment)
  assert.deepEqual([view.slots?.cpus, view.slots?.by, view.attempts.at(-1)?.cpus], [10, ANN, 10])
  setJob(world, 'r', 'one', null)
  assert.equal(has(world, 'r', 'one'), 1)
  world.pass(3_000)
  assert.equal(has(world, 'r', 'wide'), 8)
  assert.equal(node.entry.allocated.cpus, 10)
})

test('slots: more than the node has is all that the others can spare, and less than the least is less', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [wide('wide', 2, 8), derivation('three', { cpus: 3 })])
  node.take()
  world.pass(2_000)
  setJob(world, 'r', 'three', 64)
  assert.deepEqual([has(world, 'r', 'wide'), has(world, 'r', 'three')], [2, 6])
  world.pass(2_000)
  setJob(world, 'r', 'three', 1)
  assert.equal(has(world, 'r', 'three'), 1)
  world.pass(2_000)
  assert.equal(has(world, 'r', 'wide'), 7)
  setJob(world, 'r', 'three', null)
  world.pass(2_000)
  assert.deepEqual([has(world, 'r', 'wide'), has(world, 'r', 'three')], [5, 3])
})

test('slots: a waiting job starts where it fits, and has what was said soon after', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8 })
  world.submit('r', [derivation('busy', { cpus: 8 })])
  node.take()
  world.submit('s', [derivation('waits')])
  setJob(world, 's', 'waits', 6)
  node.build(node.grantOf('busy').attempt.id)
  world.pass(2_000)
  assert.equal(has(world, 's', 'waits'), 6)
  world.restart()
  node.up()
  world.pass(3_000)
  assert.equal(has(world, 's', 'waits'), 6, 'it is not forgotten with the owner')
})

test('slots: what becomes free is kept for the one of which a person said so', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 4 })
  const names = ['a', 'b', 'c', 'd', 'e', 'f']
  world.submit('r', [derivation('job'), ...names.map((name) => derivation(name))])
  node.take()
  assert(node.names.includes('job'))
  setJob(world, 'r', 'job', 3)
  assert.equal(has(world, 'r', 'job'), 1)
  for (let at = 0; at < 2; at += 1) {
    const other = node.names.find((name) => name !== 'job')
    assert(other !== undefined)
    node.build(node.grantOf(other).attempt.id)
    world.pass(2_000)
  }
  assert.equal(has(world, 'r', 'job'), 3)
  assert.equal(node.running.size, 2)
  assert.equal(node.entry.allocated.cpus, 4)
})

test('slots: whatever people say, nobody has more than was said, no node gives more than it has, and all ends', () => {
  const move = fc.record({
    min: fc.integer({ min: 1, max: 3 }),
    more: fc.integer({ min: 0, max: 6 }),
    slots: fc.option(fc.integer({ min: 1, max: 14 }), { nil: null }),
    at: fc.integer({ min: 0, max: 4 }),
    ends: fc.boolean(),
  })
  fc.assert(
    fc.property(
      fc.array(move, { maxLength: 14 }),
      fc.integer({ min: 3, max: 10 }),
      (moves, cpus) => {
        const world = new World()
        const node = world.node('n1', { cpus })
        for (const [index, { min, more, slots, at, ends }] of moves.entries()) {
          world.submit(`r${index}`, [wide(`d${index}`, min, min + more)])
          setJob(world, `r${Math.floor(index / 2)}`, `d${Math.floor(index / 2)}`, slots)
          world.pass(at * 300)
          node.take()
          const [oldest] = node.attempts
          if (ends && oldest !== undefined) node.build(oldest)
          let sum = 0
          for (const attempt of node.entry.attempts) {
            if (!isLive(attempt)) continue
            const { allotted } = attempt
            const [step] = attempt.job.waiters
            assert(step !== undefined)
            const { cpus: needs } = step.derivation.needs
            assert(allotted >= 1)
            assert(allotted <= (step.slots?.cpus ?? needs.max))
            sum += allotted
          }
          assert(sum <= cpus, `${sum} of ${cpus}`)
          assert.equal(node.entry.allocated.cpus, sum)
        }
        // All of it comes to an end.
        for (
          let round = 0;
          round < 40 && world.scheduler.queues.jobCount + node.running.size > 0;
          round += 1
        ) {
          world.pass(3_000)
          node.take()
          for (const attempt of node.attempts) node.build(attempt)
        }
        assert.equal(world.scheduler.queues.jobCount, 0)
      },
    ),
    { numRuns: 60 },
  )
})
