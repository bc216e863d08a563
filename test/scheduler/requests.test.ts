/** Requests from their submission to their end: what is built, what is shared, what fails. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import type { AttemptOutcome } from '../../src/wire/work-messages.ts'
import { requestView } from '../../src/scheduler/views.ts'
import { limitsOf } from '../../src/scheduler/nodes.ts'
import { WAIT_MS_MAX } from '../../src/scheduler/waiting.ts'
import { derivation, environment, GIB, resultOf } from './samples.ts'
import { broken, failed, liveOf, missing, World } from './world.ts'

test('scheduler: a graph is built in the order of its inputs', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', [
    derivation('c', { after: ['a', 'b'] }),
    derivation('a'),
    derivation('b'),
  ])
  node.take()
  assert.deepEqual(node.names.toSorted(), ['a', 'b'])
  node.build(node.grantOf('a').attempt.id)
  assert.deepEqual(node.names, ['b'])
  node.build()
  assert.deepEqual(node.names, ['c'])
  node.build()
  assert.equal(request.state, 'done')
  const view = requestView(world.scheduler, request, 'owner', world.moment)
  assert.deepEqual([view.counts.built, view.counts.total, view.exit, view.serialMs], [3, 3, 0, 0])
  assert.deepEqual(Object.keys(view.outputs).toSorted(), ['a', 'b', 'c'])
})

test('scheduler: an unchanged intermediate output stops a rebuild', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('first', [derivation('a', { args: ['1'] }), derivation('b', { after: ['a'] })])
  node.take()
  node.build(undefined, 'same')
  node.build()
  const grants = world.grantCount
  const request = world.submit('second', [
    derivation('a', { args: ['2'] }),
    derivation('b', { after: ['a'] }),
  ])
  node.take()
  node.build(undefined, 'same')
  assert.equal(request.state, 'done')
  assert.equal(world.grantCount, grants + 1)
  assert.deepEqual(
    [world.step('second', 'a').cached, world.step('second', 'b').cached],
    [false, true],
  )
})

test('scheduler: a request submitted twice is one request', () => {
  const world = new World()
  world.submit('r', [derivation('a')])
  const facts = world.facts.length
  world.submit('r', [derivation('a'), derivation('b')])
  assert.equal(world.facts.length, facts)
})

test('scheduler: two requests that need one job share its run', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r1', [derivation('a')])
  node.take()
  world.submit('r2', [derivation('other-name', { args: ['a'] })])
  assert.equal(world.grantCount, 1)
  node.build()
  assert.deepEqual([world.request('r1').state, world.request('r2').state], ['done', 'done'])
  assert.equal(world.grantCount, 1)
})

test('scheduler: two steps of one request that are one job share its run', () => {
  const world = new World()
  const node = world.node('n1')
  const twins = ['a', 'b'].map((name) => derivation(name, { args: ['same'] }))
  const request = world.submit('r', [...twins, derivation('c', { after: ['a', 'b'] })])
  world.buildAll()
  assert.equal(request.state, 'done')
  assert.equal(world.grantCount, 2)
  assert.equal(node.entry.allocated.cpus, 0)
})

test('scheduler: what holds up most goes first, and a higher priority before it', () => {
  const world = new World()
  world.submit('r', [
    derivation('leaf'),
    derivation('top', { after: ['base'] }),
    derivation('base'),
  ])
  world.submit('urgent', [derivation('now')], { priority: 90 })
  const node = world.node('n1', { cpus: 1 })
  const order: string[] = []
  for (let at = 0; at < 4; at += 1) {
    order.push(...node.names)
    node.build()
  }
  assert.deepEqual(order.slice(0, 2), ['now', 'base'])
})

test('scheduler: a job takes the processors that are free in its range', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 6 })
  world.submit('r', [
    derivation('a', { cpus: 2, cpusMax: 4 }),
    derivation('b', { cpus: 2, cpusMax: 4 }),
  ])
  node.take()
  assert.deepEqual(
    [...node.running.values()].map(({ attempt }) => attempt.cpus),
    [4, 2],
  )
  assert.equal(node.entry.allocated.cpus, 6)
})

test('scheduler: cpus and memory of a node are never given out twice', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 8, memoryBytes: 4 * GIB })
  world.submit(
    'r',
    ['a', 'b', 'c'].map((name) => derivation(name, { memoryBytes: 2 * GIB })),
  )
  node.take()
  assert.equal(node.names.length, 2)
  node.build(node.attempts[0])
  assert.equal(node.names.length, 2)
})

test('scheduler: a node that drains finishes what it runs and takes nothing new', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a'), derivation('b')])
  node.take()
  node.state = 'draining'
  node.build()
  assert.deepEqual(node.names, [])
  assert.equal(world.request('r').state, 'active')
  node.state = 'ready'
  node.tell()
  assert.equal(node.names.length, 1)
})

test('scheduler: a capacity below what runs ends nothing, and lets nothing new in', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 2 })
  world.submit(
    'r',
    ['a', 'b', 'c'].map((name) => derivation(name)),
  )
  node.take()
  node.capacity = { ...node.capacity, cpus: 1 }
  node.tell()
  assert.equal(node.names.length, 2)
  node.build(node.attempts[0])
  assert.equal(node.names.length, 1)
  node.build()
  assert.equal(node.names.length, 1)
})

// ---- failures

test('scheduler: a failed build fails its request at once and is not tried again', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', [
    derivation('a'),
    derivation('b'),
    derivation('c', { after: ['a'] }),
  ])
  node.take()
  node.fail(node.grantOf('a').attempt.id)
  assert.equal(request.state, 'failed')
  assert.equal(world.step('r', 'a').failure?.code, 'MESH0401')
  assert.deepEqual(
    [world.step('r', 'b').phase, world.step('r', 'c').phase],
    ['cancelled', 'skipped'],
  )
  world.pass(60_000)
  assert.equal(world.grantCount, 2)
  assert.deepEqual(node.names, [])
  const view = requestView(world.scheduler, request, 'owner', world.moment)
  assert.deepEqual(
    [view.exit, view.counts.failed, view.counts.cancelled, view.failures.length],
    [1, 1, 2, 1],
  )
  assert.equal(view.failures[0]?.logTail, 'no')
})

test('scheduler: keep-going builds all that hangs on no failure', () => {
  const world = new World()
  const node = world.node('n1')
  const graph = [
    derivation('a'),
    derivation('b'),
    derivation('c', { after: ['a'] }),
    derivation('d', { after: ['c'] }),
    derivation('e', { after: ['b'] }),
  ]
  const request = world.submit('r', graph, { keepGoing: true })
  node.take()
  node.fail(node.grantOf('a').attempt.id)
  assert.equal(request.state, 'active')
  world.buildAll()
  assert.equal(request.state, 'failed')
  assert.deepEqual(
    graph.map(({ name }) => world.step('r', name).phase),
    ['failed', 'done', 'skipped', 'skipped', 'done'],
  )
})

test('scheduler: a failure at the root of a very deep graph is told to all of it', () => {
  const world = new World()
  const node = world.node('n1')
  const chain = Array.from({ length: 15_000 }, (_, at) =>
    derivation(`d${at}`, at === 0 ? {} : { after: [`d${at - 1}`] }),
  )
  const request = world.submit('r', chain, { keepGoing: true })
  node.take()
  node.fail()
  assert.equal(request.state, 'failed')
  assert.equal(world.step('r', 'd14999').phase, 'skipped')
})

test('scheduler: a failure is not cached', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r1', [derivation('a')])
  node.take()
  node.fail()
  world.submit('r2', [derivation('a')])
  world.buildAll()
  assert.deepEqual([world.request('r1').state, world.request('r2').state], ['failed', 'done'])
})

test('scheduler: a failure of the infrastructure is tried elsewhere', () => {
  const world = new World()
  const first = world.node('n1')
  world.submit('r', [derivation('a')])
  first.take()
  const second = world.node('n2', { cpus: 1 })
  first.finish(broken)
  world.pass(1_000)
  assert.deepEqual([first.names, second.names], [[], ['a']])
  second.build()
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: a job that failed on the only node is tried there again, later each time, then fails as temporary', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', [derivation('a', { run: { retries: 2 } })])
  for (const waitMs of [0, 250, 1_000]) {
    if (waitMs > 0) {
      world.pass(waitMs - 10)
      assert.deepEqual(node.names, [], `nothing before ${waitMs} ms`)
      world.pass(10)
    }
    node.take()
    node.finish(broken)
  }
  assert.equal(request.state, 'failed')
  const view = requestView(world.scheduler, request, 'owner', world.moment)
  assert.deepEqual([view.exit, view.failures[0]?.code], [75, 'MESH0505'])
  assert.match(
    view.failures[0]?.message ?? '',
    /3 attempts failed, the last one: MESH0505: it broke/,
  )
})

test('scheduler: a node that drains is not waited for by a job that failed elsewhere', () => {
  const world = new World()
  const first = world.node('n1')
  const second = world.node('n2')
  second.state = 'draining'
  second.tell()
  world.submit('r', [derivation('a')])
  first.take()
  first.finish(broken)
  world.pass(5_000)
  assert.deepEqual(first.names, ['a'])
})

test('scheduler: a source that cannot be had is tried again, then fails as not available', () => {
  const world = new World()
  const node = world.node('n1')
  world.node('entry', { environments: [] })
  const request = world.submit('r', [derivation('a', { sources: ['s'], run: { retries: 1 } })])
  for (let at = 0; at < 2; at += 1) {
    node.take()
    node.finish(missing(node.grantOf('a'), 'in0'))
    world.pass(1_000)
  }
  assert.equal(request.state, 'failed')
  assert.equal(world.step('r', 'a').failure?.code, 'MESH0501')
})

test('scheduler: a result for another action is refused', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  const [grant] = node.running.values()
  assert(grant !== undefined)
  const outcome: AttemptOutcome = {
    kind: 'built',
    result: {
      body: new Uint8Array(),
      builder: { peerId: node.peerId, signature: new Uint8Array(64) },
    },
  }
  const lie = { ...resultOf(grant), outputs: {} }
  world.apply({
    type: 'sync',
    peerId: node.peerId,
    message: {
      type: 'sync',
      seq: 99,
      ackSeq: 1,
      state: 'ready',
      note: '',
      environments: [...node.environments],
      capacity: node.capacity,
      running: [],
      finished: [
        {
          attempt: grant.attempt.id,
          outcome,
          usage: null,
          phases: {},
          bytes: { peer: 0, mirror: 0, local: 0 },
        },
      ],
    },
    results: new Map([[grant.attempt.id, lie]]),
  })
  assert.equal(grant.attempt.state, 'lost')
  assert.match(grant.attempt.error ?? '', /not valid for this attempt/)
  assert.equal(world.step('r', 'a').phase, 'open')
})

// ---- limits

const timeLimit = (value: number): AttemptOutcome => ({
  ...failed,
  code: 'MESH0402',
  message: 'ran longer than run.timeout',
  limit: { name: 'timeout', value },
})

test('scheduler: a shared run has the largest limits of its waiters', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r1', [derivation('a', { run: { timeoutMs: 10_000, maxSilentMs: 9_000 } })])
  node.take()
  const [id = ''] = node.attempts
  world.submit('r2', [derivation('a', { run: { timeoutMs: 60_000, maxSilentMs: 5_000 } })])
  const limits = node.receive()?.limits.find(({ attempt }) => attempt === id)?.limits
  assert.deepEqual([limits?.timeoutMs, limits?.maxSilentMs], [60_000, 9_000])
})

test('scheduler: of outputs a shared run has the largest limit, and none where one waiter has none', () => {
  const world = new World()
  const node = world.node('n1')
  const limitOf = (): number | undefined =>
    node.receive()?.limits.find(({ attempt }) => attempt === node.attempts[0])?.limits
      .maxOutputBytes
  world.submit('r1', [derivation('a', { run: { maxOutputBytes: 1000 } })])
  node.take()
  world.submit('r2', [derivation('a', { run: { maxOutputBytes: 3000 } })])
  assert.equal(limitOf(), 3000)
  world.submit('r3', [derivation('a', {})])
  assert.equal(limitOf(), undefined)
  node.finish({
    ...failed,
    code: 'MESH0402',
    message: 'made more outputs than run.max-output',
    exceeded: { name: 'output', value: 3000 },
  })
  assert.deepEqual(
    ['r1', 'r2', 'r3'].map((request) => world.step(request, 'a').phase),
    ['failed', 'failed', 'open'],
    'who has no such limit waits for another run',
  )
})

test('scheduler: a limit fails only the waiters whose own limit was reached; the others go on', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('short', [derivation('a', { run: { timeoutMs: 10_000 } })])
  node.take()
  world.submit('long', [derivation('a', { run: { timeoutMs: 60_000 } })])
  // The larger limit did not arrive in time.
  node.finish(timeLimit(10_000))
  assert.deepEqual(
    [world.request('short').state, world.request('long').state],
    ['failed', 'active'],
  )
  assert.equal(node.names.length, 1)
  const job = world.step('long', 'a').job
  assert(job !== undefined)
  assert.equal(limitsOf(job).timeoutMs, 60_000)
  node.finish(timeLimit(60_000))
  assert.equal(world.request('long').state, 'failed')
})

// ---- cancel

test('scheduler: a cancel ends a run only when its last waiter leaves, and after two seconds', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r1', [derivation('a')])
  world.submit('r2', [derivation('a')])
  node.take()
  world.cancel('r1')
  world.pass(10_000)
  assert.equal(node.names.length, 1)
  world.cancel('r2')
  world.pass(1_900)
  assert.equal(node.names.length, 1)
  world.pass(200)
  assert.equal(node.names.length, 0)
  assert.equal(node.entry.allocated.cpus, 0)
  assert.deepEqual(
    [world.request('r1').state, world.request('r2').state],
    ['cancelled', 'cancelled'],
  )
  assert.equal(requestView(world.scheduler, world.request('r1'), 'owner', world.moment).exit, 8)
})

test('scheduler: who comes back within two seconds finds the run still there', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r1', [derivation('a')])
  node.take()
  world.cancel('r1')
  world.pass(1_000)
  world.submit('r2', [derivation('a')])
  world.pass(5_000)
  assert.equal(world.grantCount, 1)
  node.build()
  assert.equal(world.request('r2').state, 'done')
})

test('scheduler: a waiter that leaves takes its higher needs along', () => {
  const world = new World()
  const node = world.node('n1', { memoryBytes: 4 * GIB })
  const big = world.node('n2', { memoryBytes: 64 * GIB })
  big.down()
  world.submit('big', [derivation('a', { memoryBytes: 32 * GIB })])
  world.submit('small', [derivation('a', { memoryBytes: 1 * GIB })])
  node.take()
  assert.deepEqual(node.names, [], 'the node that matches both is away')
  world.cancel('big')
  node.take()
  assert.deepEqual(node.names, ['a'])
})

test('scheduler: a waiter that some node would do for does not wait for one whose needs no node meets', () => {
  const world = new World()
  world.submit('huge', [derivation('a', { memoryBytes: 900 * GIB })])
  world.submit('before', [derivation('a', { memoryBytes: 1 * GIB })])
  const node = world.node('n1', { memoryBytes: 4 * GIB })
  world.submit('after', [derivation('a', { memoryBytes: 2 * GIB })])
  node.take()
  assert.equal(node.names.length, 1)
  node.build()
  world.pass(6_000)
  // What it gives is the same for all, so the one that asked for more takes it, too.
  assert.deepEqual(
    ['huge', 'before', 'after'].map((name) => world.request(name).state),
    ['done', 'done', 'done'],
  )
  assert.equal(world.grantCount, 1)
})

test('scheduler: a run out of memory fails only those who asked for no more', () => {
  const world = new World()
  const node = world.node('n1', { memoryBytes: 1 * GIB })
  world.submit('small', [derivation('a', { memoryBytes: 1 * GIB })])
  node.take()
  world.submit('large', [derivation('a', { memoryBytes: 2 * GIB })])
  node.finish({ ...failed, code: 'MESH0404', message: 'out of memory' })
  // A bigger node comes too late for the one, who could not be given more when it ran out.
  node.capacity = { ...node.capacity, memoryBytes: 4 * GIB }
  node.tell()
  assert.deepEqual(
    [world.request('small').state, world.request('large').state],
    ['failed', 'active'],
  )
  assert.deepEqual(
    [...node.running.values()].map(({ attempt }) => attempt.memoryBytes),
    [2 * GIB],
  )
})

// ---- waiting or not

test('scheduler: no-wait fails at once when no node can ever build it', () => {
  const world = new World()
  world.node('n1', { memoryBytes: 4 * GIB })
  const request = world.submit('r', [derivation('a', { memoryBytes: 32 * GIB })], { noWait: true })
  assert.equal(request.state, 'failed')
  const view = requestView(world.scheduler, request, 'owner', world.moment)
  assert.deepEqual([view.exit, view.failures[0]?.code], [4, 'MESH0301'])
})

test('scheduler: no-wait waits for a node that is busy or away', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('busy', [derivation('x')])
  const request = world.submit('r', [derivation('a')], { noWait: true })
  node.down()
  world.pass(20_000)
  assert.equal(request.state, 'active')
})

test('scheduler: no-wait does not fail another request that shares the job and waits', () => {
  const world = new World()
  world.submit('patient', [derivation('a')])
  world.submit('hasty', [derivation('a')], { noWait: true })
  assert.deepEqual(
    [world.request('patient').state, world.request('hasty').state],
    ['active', 'failed'],
  )
  world.node('n1')
  world.buildAll()
  assert.equal(world.request('patient').state, 'done')
})

test('scheduler: no-wait does not fail while the nodes come back after a restart', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('other', [derivation('x')])
  world.restart()
  const request = world.submit('r', [derivation('a')], { noWait: true })
  world.pass(25_000)
  assert.equal(request.state, 'active')
  world.pass(20_000)
  assert.equal(request.state, 'failed')
  assert.equal(node.names.length, 0)
})

test('scheduler: what no node takes for a day fails', () => {
  const world = new World()
  const request = world.submit('r', [derivation('a')])
  world.nowMs += WAIT_MS_MAX - 10_000
  world.apply({ type: 'tick' })
  assert.equal(request.state, 'active')
  world.nowMs += 20_000
  world.apply({ type: 'tick' })
  assert.equal(world.step('r', 'a').failure?.code, 'MESH0302')
})

test('scheduler: a fetch runs on any node with an environment, and only there', () => {
  const world = new World()
  const store = world.node('store', { environments: [] })
  world.submit('r', [derivation('src', { urls: ['https://example.org/a'] })])
  store.take()
  assert.deepEqual(store.names, [])
  const node = world.node('n1', { environments: [] })
  assert.deepEqual([node.names, world.step('r', 'src').job?.phase], [[], 'waiting'])
  const worker = world.node('n2')
  assert.deepEqual(worker.names, ['src'])
  assert.deepEqual(worker.grantOf('src').urls, ['https://example.org/a'])
  assert.equal(worker.grantOf('src').attempt.userland, null)
  worker.build()
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: a fetch waits for the first message of a node that has come back', () => {
  const world = new World()
  const node = world.node('n1')
  node.down()
  world.submit('r', [derivation('src', { urls: ['https://example.org/a'] })])
  const { record, version } = node.entry
  world.apply({ type: 'node-up', record, version, boot: '2' })
  assert.equal(world.grantCount, 0)
  node.up()
  assert.deepEqual(node.names, ['src'])
})

test('scheduler: a sealed job does not take a node that walls in only another system', () => {
  const world = new World()
  const mixed = world.node('n1', {
    environments: [environment({ isolation: 'host' }), environment({ system: 'aarch64-linux' })],
  })
  world.submit('r', [derivation('a')])
  mixed.take()
  assert.deepEqual(mixed.names, [])
  assert.equal(liveOf(world.step('r', 'a')).length, 0)
  assert(
    world.scheduler.queues.of(world.step('r', 'a').job ?? assert.fail()) !== undefined,
    'it still waits',
  )
})

test('scheduler: a run that ends well before its cancellation took effect is kept for others', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r1', [derivation('a')])
  node.take()
  world.cancel('r1')
  node.build()
  world.submit('r2', [derivation('a')])
  assert.deepEqual([world.request('r2').state, world.step('r2', 'a').cached], ['done', true])
  assert.equal(world.grantCount, 1)
})
