/** Nodes that are kept for a job that needs much, and what may run there meanwhile. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { RESERVE_AFTER_MS, RESERVATIONS_MAX } from '../../src/scheduler/reservations.ts'
import type { PlaceState } from '../../src/scheduler/placement.ts'
import { derivation, GIB } from './samples.ts'
import { teach } from './teach.ts'
import { liveOf, World } from './world.ts'

const MIB = 2 ** 20

function stateOf(world: World, name: string): PlaceState | undefined {
  const { job } = world.step(name, name)
  assert(job !== undefined)
  return world.scheduler.placement.stateOf(job)
}

const nodeOf = (world: World, request: string, name = request): string | undefined =>
  liveOf(world.step(request, name))[0]?.node.name

/** Lets each node end what it runs, one attempt a second, until `until` holds; returns how long that took. */
function work(world: World, until: () => boolean, limitMs: number): number {
  const fromMs = world.nowMs
  while (!until()) {
    assert(world.nowMs - fromMs < limitMs, `not within ${limitMs} ms`)
    world.pass(1_000)
    for (const node of world.nodes) {
      node.take()
      const [first] = node.attempts
      const usage = { wallMs: 4_000, cpuMs: 4_000, maxRssBytes: MIB }
      if (first !== undefined) node.build(first, undefined, { usage })
    }
  }
  return world.nowMs - fromMs
}

test('reservations: one big job among a thousand small ones starts within its bound, and they go on', () => {
  const world = new World()
  world.node('n1', { cpus: 4, memoryBytes: 16 * GIB })
  world.submit(
    'small',
    Array.from({ length: 1_000 }, (_, at) => derivation(`small${at}`, { memoryBytes: 512 * MIB })),
  )
  world.submit('big', [derivation('big', { memoryBytes: 15 * GIB })])
  const ms = work(world, () => nodeOf(world, 'big') !== undefined, 60_000)
  assert(ms >= RESERVE_AFTER_MS, 'it waited its turn at first')
  assert(ms <= RESERVE_AFTER_MS + 15_000, `it waited for ${ms} ms`)
  const { entry } = world.nodes[0] ?? assert.fail()
  assert(entry.allocated.memoryBytes <= 16 * GIB)
  const before = world.grantCount
  work(world, () => world.grantCount > before + 50, 120_000)
})

test('reservations: only one node in ten is kept, the others go on', () => {
  const world = new World()
  for (let at = 0; at < 20; at += 1) world.node(`n${at}`, { cpus: 2 })
  world.submit(
    'small',
    Array.from({ length: 2_000 }, (_, at) => derivation(`small${at}`)),
  )
  // Five classes of jobs that need a whole node.
  for (let at = 0; at < 5; at += 1)
    world.submit(`big${at}`, [derivation(`big${at}`, { cpus: 2, memoryBytes: (at + 1) * GIB })])
  let most = 0
  const { reservations } = world.scheduler
  const isDone = (): boolean => {
    most = Math.max(most, reservations.count)
    return [0, 1, 2, 3, 4].every((at) => world.step(`big${at}`, `big${at}`).phase === 'done')
  }
  work(world, isDone, 300_000)
  assert.equal(most, 2)
  assert.equal(reservations.count, 0)
  assert(most <= RESERVATIONS_MAX)
})

test('reservations: what ends before the node is needed may still start there, and nothing else', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 2, memoryBytes: 8 * GIB })
  const long = derivation('long')
  teach(world, [long], 300_000)
  teach(world, [derivation('next-long')], 300_000)
  teach(world, [derivation('short')], 5_000)
  world.submit('long', [long])
  world.submit('big', [derivation('big', { cpus: 2 })], { priority: 60 })
  // Something smaller passes it by for as long as nothing is kept for it.
  for (let at = 0; at < 45 && world.scheduler.reservations.count === 0; at += 1) {
    world.submit(`small${at}`, [derivation(`small${at}`)])
    world.pass(1_000)
    node.take()
    for (const [id, { name }] of node.running) if (name.startsWith('small')) node.build(id)
  }
  const state = stateOf(world, 'big')
  assert(state?.kind === 'reserved')
  assert.equal(state.node.record.name, 'n1')
  // The long one is expected to end about 300 s after its start.
  assert(state.atMs - world.nowMs > 200_000 && state.atMs - world.nowMs < 300_000)
  assert.deepEqual(node.names, ['long'])
  for (const name of ['next-long', 'unknown', 'short']) world.submit(name, [derivation(name)])
  assert.deepEqual(
    ['next-long', 'unknown', 'short'].map((name) => nodeOf(world, name)),
    [undefined, undefined, 'n1'],
  )
  assert.equal(stateOf(world, 'unknown')?.kind, 'behind-reserved')
  node.take()
  for (const id of [...node.running.keys()]) node.build(id)
  assert.equal(nodeOf(world, 'big'), 'n1')
  assert.equal(world.scheduler.reservations.count, 0)
})

test('reservations: a node that goes away is given up for another, and freed when nobody waits any more', () => {
  const world = new World()
  const nodes = ['n1', 'n2'].map((name) => world.node(name, { cpus: 2 }))
  world.submit(
    'small',
    Array.from({ length: 1_000 }, (_, at) => derivation(`small${at}`)),
  )
  world.submit('big', [derivation('big', { cpus: 2 })])
  const { reservations } = world.scheduler
  let beatMs = 0
  // One attempt of a node ends at a time, so that there is never room for two.
  const until = (isDone: () => boolean): void => {
    for (let at = 0; !isDone(); at += 1) {
      assert(at < 100)
      world.pass(1_000)
      beatMs += 1_000
      const node = nodes[at % 2]
      const [first] = node?.attempts ?? []
      if (node?.isConnected === true && first !== undefined && reservations.count === 0)
        node.build(first)
    }
  }
  until(() => reservations.count === 1)
  assert(beatMs >= RESERVE_AFTER_MS)
  const [{ node: kept } = assert.fail()] = [...reservations.all]
  const other = nodes.find(({ peerId }) => peerId !== kept.peerId)
  nodes.find(({ peerId }) => peerId === kept.peerId)?.down()
  until(() => [...reservations.all].some(({ node }) => node.peerId === other?.peerId))
  world.cancel('big')
  assert.equal(reservations.count, 0)
  const before = world.grantCount
  for (const id of [...(other?.attempts ?? [])]) other?.build(id)
  assert(world.grantCount > before)
})

test('reservations: a job that has less priority than those that pass it keeps nobody from anything', () => {
  const world = new World()
  world.node('n1', { cpus: 2 })
  world.submit(
    'small',
    Array.from({ length: 300 }, (_, at) => derivation(`small${at}`)),
    { priority: 60 },
  )
  world.submit('big', [derivation('big', { cpus: 2 })], { priority: 50 })
  for (let at = 0; at < 120; at += 1) {
    world.pass(1_000)
    const [node] = world.nodes
    const [first] = node?.attempts ?? []
    if (first !== undefined) node?.build(first)
    assert.equal(world.scheduler.reservations.count, 0)
  }
})

test('reservations: a user who has more than others gets no node kept before them', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 2 })
  world.node('elsewhere', { cpus: 4, memoryBytes: 64 * GIB })
  world.submit('much', [derivation('much', { cpus: 4, memoryBytes: 64 * GIB })], { user: 'a' })
  world.submit(
    'small',
    Array.from({ length: 300 }, (_, at) => derivation(`small${at}`)),
    { user: 'b' },
  )
  world.submit('big', [derivation('big', { cpus: 2 })], { user: 'a' })
  for (let at = 0; at < 90; at += 1) {
    world.pass(1_000)
    const [first] = node.attempts
    if (first !== undefined) node.build(first)
    assert.equal(world.scheduler.reservations.count, 0)
  }
})
