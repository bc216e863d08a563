/** Two replicas: when a request is done, what is copied where, and what is made up for afterwards. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { REPAIRS_MAX, STORE_GONE_MS, STORING_MS_MAX } from '../../src/scheduler/replicas.ts'
import { requestView, whyView } from '../../src/scheduler/views.ts'
import { decodeObject, encodeObject } from '../../src/wire/cbor.ts'
import { Fact } from '../../src/wire/facts.ts'
import { derivation, peerOf, type RequestOptions } from './samples.ts'
import { World, type WorldNode } from './world.ts'

const STORE = { roles: ['store'], environments: [] } as const
const BUILDER = { roles: ['worker', 'store'] } as const

/** A request for `a` is built on the only worker. */
function build(world: World, node: WorldNode, name = 'r', options: RequestOptions = {}) {
  const request = world.submit(name, [derivation('a', { args: [name] })], options)
  node.take()
  node.build()
  return request
}

const stored = (world: World, name = 'r'): string[] => [...world.step(name, 'a').stores.values()]

test('scheduler: a request is done once its outputs are on two stores', () => {
  const world = new World()
  world.node('s1', STORE)
  const request = build(world, world.node('w1', BUILDER))
  assert.deepEqual([request.state, stored(world)], ['active', ['w1']])
  const [copy] = world.copies
  assert.deepEqual(
    [copy?.to, copy?.from, copy?.entries],
    [peerOf('s1'), [peerOf('w1')], Object.values(world.step('r', 'a').outputs ?? {})],
  )
  world.copied()
  assert.deepEqual([request.state, request.replicasAtEnd], ['done', 2])
  assert.deepEqual(stored(world), ['w1', 's1'])
  assert.deepEqual([request.notices, world.copies], [[], []])
})

test('scheduler: what has two replicas from the start is done in the same step', () => {
  const world = new World()
  world.node('s1', STORE)
  const request = build(world, world.node('w1', BUILDER), 'r', { takesCopy: true })
  assert.deepEqual([request.state, request.replicasAtEnd, world.copies], ['done', 2, []])
})

test('scheduler: without a second store a request is done in the same step, with what there is', () => {
  const world = new World()
  const request = build(world, world.node('w1', BUILDER))
  assert.deepEqual([request.state, request.replicasAtEnd, request.notices], ['done', 1, []])
  const other = new World()
  const without = build(other, other.node('w1'))
  assert.deepEqual([without.state, without.replicasAtEnd], ['done', 0])
  assert.match(without.notices.join(), /on no store node/)
})

test('scheduler: outputs of a builder without a store go to two stores, and to one beside the copy of the client', () => {
  for (const [takesCopy, count] of [
    [false, 2],
    [true, 1],
  ] as const) {
    const world = new World()
    for (const name of ['s1', 's2', 's3']) world.node(name, STORE)
    const request = build(world, world.node('w1'), 'r', { takesCopy })
    assert.equal(world.copies.length, count)
    while (world.copies.length > 0) world.copied()
    assert.deepEqual([request.state, stored(world).length], ['done', count])
  }
})

test('scheduler: only what was asked for is copied', () => {
  const world = new World()
  world.node('s1', STORE)
  const node = world.node('w1', BUILDER)
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'] })], { wanted: ['b'] })
  world.buildAll()
  assert.deepEqual(
    world.copies.flatMap(({ entries }) => entries),
    Object.values(world.step('r', 'b').outputs ?? {}),
  )
  assert(node.isConnected)
})

test('scheduler: a request that gets no second replica is done after a minute, says so, and gets it later', () => {
  const world = new World()
  world.node('s1', STORE)
  const request = build(world, world.node('w1', BUILDER))
  world.copied('no room for it')
  assert.deepEqual(world.copies, [], 'not at once again')
  assert.match(
    whyView(world.scheduler, world.step('r', 'a'), world.moment, undefined).summary,
    /kept by w1; its request waits for a second copy; s1 has no copy yet: no room for it/,
  )
  world.pass(1_000)
  assert.equal(world.copies.length, 1, 'then it is tried again')
  world.pass(STORING_MS_MAX - 1_001)
  assert.equal(request.state, 'active')
  world.pass(1)
  assert.deepEqual([request.state, request.replicasAtEnd], ['done', 1])
  assert.match(request.notices.join(), /too few copies after 60 s \(s1 has no copy yet: no room/)
  world.copied()
  assert.equal(requestView(world.scheduler, request, 'owner', world.moment).replicas, 2)
  assert.deepEqual(world.copies, [])
})

test('scheduler: a store that fails again and again is left alone until a node connects', () => {
  const world = new World()
  const store = world.node('s1', STORE)
  build(world, world.node('w1', BUILDER))
  let tries = 0
  for (let at = 0; at < 600; at += 1) {
    if (world.copies.length > 0) {
      tries += 1
      world.copied('it cannot')
    }
    world.pass(1_000)
  }
  assert.equal(tries, 6)
  assert.equal(world.scheduler.nextDeadlineMs(), undefined)
  store.restart()
  assert.equal(world.copies.length, 1)
})

test('scheduler: a full store takes no copies, and does when it has room again', () => {
  const world = new World()
  const store = world.node('s1', STORE)
  store.state = 'full'
  store.sync()
  const request = build(world, world.node('w1', BUILDER))
  assert.deepEqual([request.state, world.copies], ['done', []])
  store.state = 'ready'
  store.sync()
  assert.equal(world.copies.length, 1)
})

test('scheduler: a store that appears gets what is done and has too few replicas, the newest first', () => {
  const world = new World()
  const node = world.node('w1', BUILDER)
  for (const name of ['r1', 'r2', 'r3', 'r4', 'r5', 'r6']) build(world, node, name)
  world.node('s1', STORE)
  const newest = (count: number) =>
    ['r6', 'r5', 'r4', 'r3', 'r2', 'r1']
      .slice(0, count)
      .flatMap((name) => Object.values(world.step(name, 'a').outputs ?? {}))
  const begun = world.copies.flatMap(({ entries }) => entries)
  assert.deepEqual(begun, newest(4), 'a few at once')
  while (world.copies.length > 0) world.copied()
  for (const name of ['r1', 'r6']) assert.deepEqual(stored(world, name), ['w1', 's1'])
})

test('scheduler: copies of requests that wait do not stand behind repairs', () => {
  const world = new World()
  const node = world.node('w1', BUILDER)
  for (let at = 0; at < 10; at += 1) build(world, node, `r${at}`)
  world.node('s1', STORE)
  const repairs = world.copies.length
  const request = build(world, node, 'urgent')
  assert.equal(world.copies.length, repairs + 1)
  world.copied(undefined, world.copies.at(-1))
  assert.equal(request.state, 'done')
})

test('scheduler: a store that is away counts for an hour, then what it had is copied again', () => {
  const world = new World()
  const first = world.node('s1', STORE)
  const request = build(world, world.node('w1', BUILDER))
  world.copied()
  first.down()
  world.node('s2', STORE)
  world.pass(STORE_GONE_MS - 1_000)
  assert.deepEqual([world.scheduler.replicasOf(request), world.copies], [2, []])
  world.pass(2_000)
  assert.deepEqual([world.scheduler.replicasOf(request), world.copies[0]?.to], [1, peerOf('s2')])
  world.copied()
  assert.equal(world.scheduler.replicasOf(request), 2)
})

test('scheduler: a node that is no store any more does not count', () => {
  const world = new World()
  const store = world.node('s1', STORE)
  const request = build(world, world.node('w1', BUILDER))
  world.copied()
  store.down()
  world.node('s1', { roles: ['worker'] })
  assert.equal(world.scheduler.replicasOf(request), 1)
})

test('scheduler: replicas outlive a restart of the owner, and what is lacking is made then', () => {
  const world = new World()
  const store = world.node('s1', STORE)
  const node = world.node('w1', BUILDER)
  build(world, node, 'whole')
  world.copied()
  store.down()
  build(world, node, 'half')
  world.restart()
  node.up()
  assert.deepEqual(
    ['whole', 'half'].map((name) => world.scheduler.replicasOf(world.request(name))),
    [2, 1],
  )
  world.copies.length = 0
  store.up()
  assert.deepEqual(
    world.copies.flatMap(({ entries }) => entries),
    Object.values(world.step('half', 'a').outputs ?? {}),
  )
})

test('scheduler: an owner that dies while copies are made goes on with them', () => {
  const world = new World()
  const store = world.node('s1', STORE)
  const node = world.node('w1', BUILDER)
  build(world, node)
  world.copies.length = 0
  world.restart()
  assert.equal(world.request('r').state, 'active', 'its store may come back')
  store.up()
  node.up()
  world.copied()
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: what is made again after a copy began is copied again', () => {
  const world = new World()
  world.node('s1', STORE)
  const node = world.node('w1', BUILDER)
  const request = build(world, node)
  const [copy] = world.copies
  assert(copy !== undefined)
  world.apply({ type: 'lost', request: request.wire.id, derivation: 'a' })
  node.take()
  node.build(undefined, 'other')
  world.copied(undefined, copy)
  assert.deepEqual(stored(world), ['w1'], 'the copy was of the first outputs')
  world.copied()
  assert.equal(request.state, 'done')
})

test('scheduler: the copy of a client that goes away does not count, before the end or after it', () => {
  for (const isDone of [false, true]) {
    const world = new World()
    world.node('s1', STORE)
    const node = world.node('w1', BUILDER)
    const request = world.submit('r', [derivation('a')], { takesCopy: true })
    node.take()
    if (isDone) node.build()
    world.apply({ type: 'left', request: request.wire.id })
    world.apply({ type: 'left', request: request.wire.id })
    if (!isDone) node.build()
    assert.equal(world.scheduler.replicasOf(request), 1)
    world.copied()
    assert.deepEqual([request.state, world.scheduler.replicasOf(request)], ['done', 2])
    world.restart()
    assert.equal(world.request('r').takesCopy, false)
  }
})

test('scheduler: a cancelled request waits for no replica', () => {
  const world = new World()
  world.node('s1', STORE)
  const request = build(world, world.node('w1', BUILDER))
  world.cancel('r')
  assert.equal(request.state, 'cancelled')
  world.copied()
  assert.equal(request.state, 'cancelled')
})

test('scheduler: the facts of a journal that counted no replicas are taken as they are', () => {
  const world = new World()
  build(world, world.node('w1', BUILDER))
  const old = world.facts.flatMap((fact): Fact[] => {
    if (fact.type !== 'closed' && fact.type !== 'pinned') return [fact]
    const { replicas: _, store: __, ...rest } = { replicas: 0, store: undefined, ...fact }
    return [decodeObject(Fact, encodeObject(Fact, rest), 'fact')]
  })
  world.facts.splice(0, world.facts.length, ...old)
  world.restart()
  world.node('s1', STORE)
  assert.deepEqual([world.request('r').state, world.copies], ['done', []])
})

test('scheduler: of too many requests with too few replicas the oldest are left as they are', () => {
  const world = new World()
  const node = world.node('w1', BUILDER)
  for (let at = 0; at <= REPAIRS_MAX; at += 1) build(world, node, `r${at}`)
  world.node('s1', STORE)
  while (world.copies.length > 0) world.copied()
  assert.deepEqual([stored(world, 'r0'), stored(world, 'r1').length], [['w1'], 2])
})

test('scheduler: outputs that are only links need no store', () => {
  const world = new World()
  world.node('s1', STORE)
  const node = world.node('w1', BUILDER)
  const request = world.submit('r', [derivation('a')])
  node.take()
  node.build(undefined, { kind: 'symlink', target: 'elsewhere' })
  assert.deepEqual([request.state, request.replicasAtEnd], ['done', 2])
})

test('scheduler: whatever stores do, a request ends, and never claims more copies than there are', () => {
  type Step = { readonly what: 'up' | 'down' | 'copied' | 'failed' | 'wait'; readonly at: number }
  const step = fc.record<Step>({
    what: fc.constantFrom('up', 'down', 'copied', 'failed', 'wait'),
    at: fc.nat(3),
  })
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), fc.boolean(), (steps, takesCopy) => {
      const world = new World()
      const stores = ['s0', 's1', 's2', 's3'].map((name) => {
        const node = world.node(name, STORE)
        node.down()
        return node
      })
      const truth = new Set<string>([peerOf('w1')])
      const worker = world.node('w1', BUILDER)
      stores[0]?.up()
      const request = build(world, worker, 'r', { takesCopy })
      const settledMs = world.nowMs
      const check = (): void => {
        const count = world.scheduler.replicasOf(request) ?? 0
        assert(count <= truth.size + Number(takesCopy))
        if (request.state === 'active') assert(world.nowMs - settledMs < STORING_MS_MAX)
        else assert.equal(request.state, 'done')
      }
      for (const { what, at } of steps) {
        const store = stores[at]
        const copy = world.copies[at % Math.max(1, world.copies.length)]
        if (what === 'up' && store?.isConnected === false) store.up()
        if (what === 'down' && store?.isConnected === true) store.down()
        if (what === 'wait') world.pass(7_000)
        if (copy !== undefined && what === 'copied') {
          if (world.scheduler.nodes.get(copy.to)?.connected === true) truth.add(copy.to)
          world.copied(truth.has(copy.to) ? undefined : 'gone', copy)
        }
        if (copy !== undefined && what === 'failed') world.copied('it cannot', copy)
        check()
      }
      for (const store of stores) if (!store.isConnected) store.up()
      for (
        let tries = 0;
        tries < 100 && (world.scheduler.replicasOf(request) ?? 0) < 2;
        tries += 1
      ) {
        while (world.copies.length > 0) world.copied()
        world.pass(1_000)
      }
      assert.deepEqual([request.state, world.scheduler.replicasOf(request)], ['done', 2])
    }),
  )
})

test('scheduler: a stored result counts the store that made it, if that is there', () => {
  const world = new World()
  const node = world.node('w1', BUILDER)
  world.submit('r1', [derivation('a')])
  world.buildAll()
  world.submit('r2', [derivation('a')])
  assert.deepEqual(stored(world, 'r2'), ['w1'])
  node.down()
  world.pass(STORE_GONE_MS + 1)
  world.submit('r3', [derivation('a')])
  assert.equal(world.scheduler.replicasOf(world.request('r3')), 0)
})
