/** Builds that several different nodes make, and that are compared. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { EXIT } from '../../src/base/errors.ts'
import { DISCONNECT_GRACE_MS } from '../../src/scheduler/nodes.ts'
import { reasonOf } from '../../src/scheduler/explain.ts'
import { requestView } from '../../src/scheduler/views.ts'
import type { Fact } from '../../src/wire/facts.ts'
import { derivation, environment, peerOf } from './samples.ts'
import { broken, liveOf, missing, World, type WorldNode } from './world.ts'

const twice = (name: string, count = 2) => derivation(name, { run: { verify: count } })

function facts<T extends Fact['type']>(world: World, type: T): Extract<Fact, { type: T }>[] {
  return world.facts.filter((fact): fact is Extract<Fact, { type: T }> => fact.type === type)
}

const failureOf = (world: World, request: string, name: string) => {
  const { failure } = world.step(request, name)
  assert(failure !== undefined, `${name} has failed`)
  return failure
}

const exitOf = (world: World, request: string): number =>
  requestView(world.scheduler, world.request(request), 'root', world.moment).exit

/** The nodes that run something. */
const busy = (world: World): WorldNode[] =>
  world.nodes.filter((node) => {
    if (node.isConnected) node.take()
    return node.names.length > 0
  })

test('verify: two nodes build it at the same time, and one result is committed when both agree', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [twice('a')])
  assert.deepEqual(busy(world), [one, two])
  one.build()
  assert.equal(world.request('r').state, 'active')
  assert.equal(world.cache.size, 0, 'nothing is committed before the votes are there')
  two.build()
  const step = world.step('r', 'a')
  assert.equal(world.request('r').state, 'done')
  assert.equal(step.agreed, 2)
  assert.deepEqual(
    step.job?.votes.map(({ node }) => node.name),
    ['n1', 'n2'],
  )
  assert.equal([...world.cache.values()].flat().length, 1)
  assert.equal(world.grantCount, 2)
})

test('verify: different outputs fail the job with exit code 3, and both are kept', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2', { roles: ['worker', 'store'] })]
  world.submit('r', [twice('a'), derivation('b', { after: ['a'] })])
  busy(world)
  one.build(undefined, 'this')
  two.build(undefined, 'that')
  const failure = failureOf(world, 'r', 'a')
  assert.equal(failure.code, 'MESH0405')
  assert.match(failure.message, /^verify=2: n1 and n2 produced different "out"/)
  assert.ok(failure.message.includes(`mesh jobs diff ${world.step('r', 'a').id}`))
  assert.equal(world.request('r').state, 'failed')
  assert.equal(exitOf(world, 'r'), EXIT.notReproducible)
  assert.equal(world.step('r', 'b').phase, 'skipped')
  assert.equal(world.cache.size, 0, 'neither is committed')
  const [diverged] = facts(world, 'diverged')
  assert.equal(diverged?.found, 'verify')
  assert.deepEqual(
    diverged?.votes.map(({ node }) => node.name),
    ['n1', 'n2'],
  )
  assert.deepEqual(
    world.copies.map(({ from, to }) => [from, to]),
    [[[peerOf('n1')], peerOf('n2')]],
    'what no store node has is copied to one',
  )
})

test('verify: of three votes the first that differs ends the job, and the third run is stopped', () => {
  const world = new World()
  const nodes = [world.node('n1'), world.node('n2'), world.node('n3')]
  world.submit('r', [twice('a', 3)])
  assert.equal(busy(world).length, 3)
  nodes[0]?.build(undefined, 'this')
  nodes[1]?.build(undefined, 'that')
  assert.equal(world.request('r').state, 'failed')
  world.pass(3_000)
  assert.deepEqual(nodes[2]?.names, [])
  assert.deepEqual(liveOf(world.step('r', 'a')), [])
  for (const node of nodes) assert.equal(node.entry.allocated.cpus, 0)
})

test('verify: what waits goes before a second build, which then has its turn in the queue, on another node', () => {
  const world = new World()
  const one = world.node('n1', { cpus: 1 })
  world.submit('r', [twice('a')])
  one.take()
  world.submit('s', [derivation('other')])
  const two = world.node('n2', { cpus: 1 })
  assert.deepEqual(two.names, ['other'])
  one.build()
  world.pass(2_000)
  assert.deepEqual(one.names, [], 'it has built it')
  two.build()
  assert.deepEqual(two.names, ['a'])
  two.build()
  assert.equal(world.request('r').state, 'done')
})

test('verify: a node that comes and that nothing else wants helps while the first build runs', () => {
  const world = new World()
  const one = world.node('n1')
  world.submit('r', [twice('a')])
  one.take()
  const two = world.node('n2')
  world.pass(2_000)
  assert.deepEqual(two.names, ['a'])
})

test('verify: one node alone never builds it twice; the reason says what is missing', () => {
  const world = new World()
  const one = world.node('n1')
  world.submit('r', [twice('a')])
  one.take()
  one.build()
  world.pass(60_000)
  assert.deepEqual(one.names, [])
  const reason = reasonOf(world.scheduler, world.step('r', 'a'), world.nowMs)
  assert.equal(reason?.class, 'votes')
  assert.match(reason?.text ?? '', /verify = 2: .* n1 has; .* only n1 can/)
  const two = world.node('n2')
  assert.deepEqual(two.names, ['a'])
  two.build()
  assert.equal(world.request('r').state, 'done')
})

test('verify: with --no-wait too few nodes are a failure at once, with the reason', () => {
  const world = new World()
  world.node('n1')
  world.submit('r', [twice('a')], { noWait: true })
  const failure = failureOf(world, 'r', 'a')
  assert.equal(failure.code, 'MESH0301')
  assert.match(failure.message, /verify = 2: 2 different nodes are to build it; .* only n1 can/)
})

test('verify: a node of another machine is preferred, also when it is busy; of one machine they will do', () => {
  const world = new World()
  const one = world.node('n1', { loopback: 'm1' })
  const near = world.node('n2', { loopback: 'm1' })
  const far = world.node('n3', { loopback: 'm2', cpus: 1 })
  world.submit('s', [derivation('long', { features: [] })])
  busy(world)
  assert.equal(world.grantCount, 1)
  const [first] = busy(world)
  assert(first !== undefined)
  first.build()
  // The one of the other machine is given something to do.
  one.state = near.state = 'draining'
  one.sync()
  near.sync()
  world.submit('t', [derivation('blocks', { args: ['blocks'] })])
  far.take()
  assert.deepEqual(far.names, ['blocks'])
  one.state = near.state = 'ready'
  one.sync()
  near.sync()
  world.submit('r', [twice('a')])
  world.pass(5_000)
  assert.equal(busy(world).length, 2, 'one build of it runs, and the other waits for n3')
  far.build()
  world.pass(2_000)
  assert.deepEqual(far.names, ['a'])
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  const names = world.step('r', 'a').job?.votes.map(({ node }) => node.name) ?? []
  assert.ok(names.includes('n3'), names.join())

  far.down()
  world.pass(DISCONNECT_GRACE_MS + 1_000)
  world.submit('u', [twice('b')])
  world.pass(2_000)
  assert.deepEqual(busy(world), [one, near], 'no other machine is there')
})

test('verify: all builds are made in one environment', () => {
  const world = new World()
  const one = world.node('n1')
  const other = world.node('n2', { environments: [environment({ base: 'b' })] })
  world.submit('r', [twice('a')])
  const [first] = busy(world)
  assert(first !== undefined)
  assert.equal(busy(world).length, 1)
  const same = world.node('n3', {
    environments: [environment({ base: first === one ? 'a' : 'b' })],
  })
  world.pass(2_000)
  assert.deepEqual(busy(world), [first, same])
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  const votes = world.step('r', 'a').job?.votes ?? []
  assert.equal(new Set(votes.map(({ action }) => action)).size, 1)
  assert.equal(other.entry.attempts.size + one.entry.attempts.size, 0)
})

test('verify: a build that is lost is made again by another, and votes are not', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [twice('a')])
  busy(world)
  one.build()
  two.finish(broken)
  world.pass(2_000)
  assert.deepEqual(one.names, [], 'who has voted does not vote again')
  assert.deepEqual(two.names, ['a'], 'nobody else is there')
  const three = world.node('n3')
  two.down()
  world.pass(DISCONNECT_GRACE_MS + 2_000)
  assert.deepEqual(three.names, ['a'])
  three.build()
  assert.equal(world.request('r').state, 'done')
  assert.deepEqual(
    world.step('r', 'a').job?.votes.map(({ node }) => node.name),
    ['n1', 'n3'],
  )
})

test('verify: a result that comes late is a vote as long as votes are wanted', () => {
  const world = new World()
  const one = world.node('n1')
  world.submit('r', [twice('a')])
  one.take()
  one.down()
  world.pass(DISCONNECT_GRACE_MS + 1_000)
  const two = world.node('n2')
  assert.deepEqual(two.names, ['a'])
  one.build()
  one.up()
  assert.equal(world.request('r').state, 'active')
  assert.equal(world.step('r', 'a').job?.votes.length, 1)
  two.build()
  assert.equal(world.request('r').state, 'done')
  assert.equal(world.grantCount, 2)
})

test('verify: a restart of the owner keeps the votes', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [twice('a')])
  busy(world)
  one.build()
  two.finish(broken)
  world.restart()
  assert.equal(world.step('r', 'a').job?.votes.length, 1)
  one.up()
  two.up()
  world.pass(35_000)
  assert.deepEqual(one.names, [])
  assert.deepEqual(two.names, ['a'])
  two.build()
  assert.equal(world.request('r').state, 'done')
  assert.equal(world.step('r', 'a').agreed, 2)
  const before = world.step('r', 'a').job?.votes
  world.restart()
  assert.deepEqual(world.step('r', 'a').job?.votes, before)
  assert.equal(world.step('r', 'a').agreed, 2)
})

test('verify: a draining node gives its vote and gets no other', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [twice('a')])
  busy(world)
  one.state = 'draining'
  one.sync()
  two.finish(broken)
  one.build()
  world.pass(2_000)
  assert.deepEqual(two.names, ['a'])
  two.build()
  assert.equal(world.request('r').state, 'done')
})

test('verify: a build that fails where another succeeded is not reproducible', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [twice('a')])
  busy(world)
  one.build()
  two.fail()
  const failure = failureOf(world, 'r', 'a')
  assert.equal(failure.code, 'MESH0405')
  assert.match(failure.message, /n1 built it, and on n2 it failed \(MESH0401: exit code 1\)/)
  assert.match(failure.message, /--attempt 1, .*--attempt 2/)
  assert.equal(failure.logTail, 'no')
  assert.equal(exitOf(world, 'r'), EXIT.notReproducible)
  assert.equal(facts(world, 'diverged')[0]?.votes[1]?.outputs, null)
})

test('verify: a build that fails first fails as ever, and is not built on', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [twice('a')])
  busy(world)
  one.fail()
  assert.equal(failureOf(world, 'r', 'a').code, 'MESH0401')
  world.pass(3_000)
  assert.deepEqual(two.names, [])
})

test('verify: a limit that only one node ran into is no difference, but the others are named', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [derivation('a', { run: { verify: 2, timeoutMs: 1_000 } })])
  busy(world)
  one.build()
  two.finish({
    kind: 'failed',
    code: 'MESH0402',
    message: 'ran for 1 s',
    exitCode: 137,
    limit: { name: 'timeout', value: 1_000 },
    log: null,
    logTail: '',
  })
  const failure = failureOf(world, 'r', 'a')
  assert.equal(failure.code, 'MESH0402')
  assert.match(failure.message, /it was built on n1/)
  assert.deepEqual(facts(world, 'diverged'), [])
})

test('verify: who asked for one build takes the first vote, and nothing of a difference', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('many', [twice('a')])
  world.submit('few', [derivation('a')])
  assert.equal(world.grantCount, 2, 'they share the builds')
  busy(world)
  one.build(undefined, 'this')
  assert.equal(world.request('few').state, 'done')
  assert.equal(world.request('many').state, 'active')
  two.build(undefined, 'that')
  assert.equal(world.request('few').state, 'done')
  assert.equal(failureOf(world, 'many', 'a').code, 'MESH0405')
})

test('verify: who asks for more joins a run, and raises what it takes', () => {
  const world = new World()
  const [one, two, three] = [world.node('n1'), world.node('n2'), world.node('n3')]
  world.submit('few', [derivation('a')])
  assert.equal(busy(world).length, 1)
  world.submit('two', [twice('a')])
  assert.equal(busy(world).length, 2)
  world.submit('three', [twice('a', 3)])
  assert.deepEqual(busy(world), [one, two, three])
  one.build()
  two.build()
  assert.deepEqual(
    ['few', 'two', 'three'].map((name) => world.request(name).state),
    ['done', 'done', 'active'],
  )
  three.build()
  assert.equal(world.request('three').state, 'done')
  assert.deepEqual([world.step('two', 'a').agreed, world.step('three', 'a').agreed], [2, 3])
  assert.equal([...world.cache.values()].flat().length, 1)
})

test('verify: a stored result counts for the one who made it; what agreed before is not built again', () => {
  const world = new World()
  const one = world.node('n1')
  world.submit('first', [derivation('a')])
  one.take()
  one.build()
  const two = world.node('n2')
  world.submit('second', [twice('a')])
  assert.deepEqual(busy(world), [two])
  two.build()
  assert.equal(world.request('second').state, 'done')
  assert.equal(world.step('second', 'a').agreed, 2)
  const grants = world.grantCount
  world.submit('third', [twice('a')])
  assert.equal(world.request('third').state, 'done')
  assert.equal(world.step('third', 'a').cached, true)
  assert.equal(world.step('third', 'a').agreed, 2)
  world.submit('fourth', [twice('a', 3)])
  assert.equal(world.grantCount, grants)
  const three = world.node('n3')
  assert.deepEqual(three.names, ['a'])
  three.build()
  assert.equal(world.step('fourth', 'a').agreed, 3)
})

test('verify: a stored result that another node does not confirm is a difference', () => {
  const world = new World()
  const one = world.node('n1')
  world.submit('first', [derivation('a')])
  one.take()
  one.build(undefined, 'this')
  const two = world.node('n2')
  world.submit('second', [twice('a')])
  two.take()
  two.build(undefined, 'that')
  assert.equal(failureOf(world, 'second', 'a').code, 'MESH0405')
  assert.equal(world.request('first').state, 'done')
})

test('verify: an agreement that is contradicted does not count any more', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('two', [twice('a')])
  busy(world)
  one.build(undefined, 'this')
  two.build(undefined, 'this')
  assert.equal(world.scheduler.state.comparisons.agreements.size, 1)
  const three = world.node('n3')
  world.submit('three', [twice('a', 3)])
  three.take()
  three.build(undefined, 'that')
  assert.equal(failureOf(world, 'three', 'a').code, 'MESH0405')
  assert.equal(world.scheduler.state.comparisons.agreements.size, 0)
  assert.equal(world.request('two').state, 'done')
})

test('verify: a source is fetched once, whatever is asked', () => {
  const world = new World()
  world.node('n1')
  world.node('n2')
  world.submit('r', [derivation('a', { urls: ['http://x/a'], run: { verify: 3 } })])
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  assert.equal(world.grantCount, 1)
})

test('verify: a request that is cancelled stops all builds; votes go with it', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [twice('a')])
  busy(world)
  one.build()
  world.cancel('r')
  world.pass(5_000)
  assert.deepEqual(two.names, [])
  assert.equal(world.scheduler.state.openJobs.size, 0)
})

test('verify: inputs that are lost are built again, then all votes are', () => {
  const world = new World()
  const [one, two] = [world.node('n1'), world.node('n2')]
  world.submit('r', [derivation('a'), derivation('b', { after: ['a'], run: { verify: 2 } })])
  busy(world)[0]?.build()
  assert.deepEqual(busy(world), [one, two])
  one.build()
  two.finish(missing(two.grantOf('b'), 'in0'))
  world.pass(2_000)
  world.buildAll()
  world.pass(2_000)
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  assert.equal(world.step('r', 'b').agreed, 2)
})

test('verify: a late result that differs is listed, and changes nothing', () => {
  const world = new World()
  const one = world.node('n1')
  world.submit('r', [derivation('a')])
  one.take()
  one.down()
  world.pass(DISCONNECT_GRACE_MS + 1_000)
  const two = world.node('n2')
  two.build(undefined, 'this')
  assert.equal(world.request('r').state, 'done')
  one.build(undefined, 'that')
  one.up()
  const [diverged, ...more] = facts(world, 'diverged')
  assert.equal(diverged?.found, 'late')
  assert.deepEqual(
    diverged?.votes.map(({ node }) => node.name),
    ['n2', 'n1'],
  )
  assert.deepEqual(more, [])
  assert.match(world.request('r').notices.join(), /not reproducible/)
  assert.equal(world.scheduler.state.comparisons.divergences.size, 1)
})
