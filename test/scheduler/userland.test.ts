/** A request binds one userland per system, and never mixes two. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { reasonOf } from '../../src/scheduler/explain.ts'
import { derivation, environment, sha } from './samples.ts'
import { World } from './world.ts'

const debian = environment({ base: 'debian' })
const fedora = environment({ base: 'fedora' })

test('scheduler: a request stays with the userland of its first grant', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1, environments: [debian] })
  world.submit('r', [derivation('a'), derivation('b'), derivation('c', { after: ['a', 'b'] })])
  node.take()
  const other = world.node('n2', { cpus: 8, environments: [fedora] })
  other.take()
  assert.deepEqual(other.names, [])
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  assert.equal(world.facts.filter((fact) => fact.type === 'bound').length, 1)
})

test('scheduler: a request whose userland has gone says so', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1, environments: [debian] })
  world.submit('r', [derivation('a'), derivation('b')])
  node.take()
  node.environments = [fedora]
  node.restart()
  const waiting = ['a', 'b']
    .map((name) => world.step('r', name))
    .find((step) => step.job?.phase === 'waiting' && step.job.notBeforeMs === 0)
  assert(waiting !== undefined)
  const reason = reasonOf(world.scheduler, waiting, world.nowMs)
  assert.equal(reason?.class, 'rebind')
  assert.match(reason?.text ?? '', /userland/)
})

test('scheduler: two requests bound to different userlands do not share a run', () => {
  const world = new World()
  const one = world.node('n1', { environments: [debian] })
  world.submit('r1', [derivation('x'), derivation('last', { after: ['x'] })])
  one.take()
  one.down()
  const two = world.node('n2', { environments: [fedora] })
  world.submit('r2', [derivation('y'), derivation('last', { after: ['y'] })])
  two.take()
  two.build(undefined, 'common')
  one.build(undefined, 'common')
  one.up()
  world.buildAll()
  assert.deepEqual([world.request('r1').state, world.request('r2').state], ['done', 'done'])
  const bases = ['r1', 'r2'].map(
    (name) => world.step(name, 'last').job?.attempts[0]?.userland?.base,
  )
  assert.deepEqual(bases, [debian.base, fedora.base])
})

test('scheduler: a stored result of another userland is not taken by a request that is bound', () => {
  const world = new World()
  const one = world.node('n1', { environments: [debian] })
  world.submit('r1', [derivation('a')])
  one.take()
  one.build()
  one.down()
  const two = world.node('n2', { environments: [fedora] })
  world.submit('r2', [derivation('b'), derivation('a')])
  two.take()
  assert.deepEqual(
    two.names.toSorted(),
    ['a', 'b'],
    'nobody there has the userland of the stored result',
  )
  one.up()
  world.buildAll()
  assert.equal(world.step('r2', 'a').cached, false)
})

test('scheduler: a stored result binds the request that takes it', () => {
  const world = new World()
  const one = world.node('n1', { environments: [debian] })
  world.submit('r1', [derivation('a')])
  world.buildAll()
  const two = world.node('n2', { cpus: 16, environments: [fedora] })
  world.submit('r2', [derivation('a'), derivation('b', { after: ['a'] })])
  assert.equal(world.step('r2', 'a').cached, true)
  two.take()
  one.take()
  assert.deepEqual([one.names, two.names], [['b'], []])
})

test('scheduler: who joins a run is bound to its userland', () => {
  const world = new World()
  const one = world.node('n1', { cpus: 1, environments: [debian] })
  world.submit('r1', [derivation('a')])
  one.take()
  const two = world.node('n2', { cpus: 16, environments: [fedora] })
  world.submit('r2', [derivation('a'), derivation('b')])
  two.take()
  assert.deepEqual(two.names, [])
  assert.equal(world.request('r2').bindings.get('x86_64-linux')?.base, debian.base)
})

for (const kind of ['run', 'result'] as const)
  test(`scheduler: a ${kind} that comes back is not taken by a request that is bound to another userland`, () => {
    const world = new World()
    const one = world.node('n1', { environments: [debian] })
    world.submit('r1', [derivation('a')])
    one.take()
    one.down()
    world.pass(12_000)
    // A second request comes to wait at the job, the first one goes, and only then the second is bound.
    world.submit('r2', [derivation('x'), derivation('a')])
    const { job } = world.step('r1', 'a')
    assert.equal(world.step('r2', 'a').job, job)
    world.cancel('r1')
    const two = world.node('n2', { cpus: 1, environments: [fedora] })
    assert.deepEqual(two.names, ['x'])
    if (kind === 'result') one.build()
    one.up()
    assert.deepEqual([one.names, world.step('r2', 'a').phase], [[], 'open'])
    two.build()
    assert.deepEqual(two.names, ['a'])
    two.build()
    assert.equal(world.request('r2').state, 'done')
  })

test('scheduler: a tool that is asked for is probed first, and is part of the binding', () => {
  const world = new World()
  const bare = environment({ base: 'debian' })
  const node = world.node('n1', { environments: [bare] })
  world.submit('r', [
    derivation('a', { tools: ['gfortran'] }),
    derivation('b', { after: ['a'], tools: ['gfortran'] }),
  ])
  const desired = node.receive()
  assert.deepEqual([desired?.tools, desired?.grants], [['gfortran'], []])
  node.environments = [{ ...bare, tools: { gfortran: sha('12') } }]
  node.tell()
  assert.deepEqual(node.names, ['a'])
  const other = world.node('n2', {
    cpus: 16,
    environments: [{ ...bare, tools: { gfortran: sha('13') } }],
  })
  node.build()
  assert.deepEqual([node.names, other.names], [['b'], []])
})

test('scheduler: a machine that differs in one tool of the request takes none of its jobs', () => {
  // Else one job might take flex there, another m4 here, and no machine be left for the third that needs both.
  const world = new World()
  const node = world.node('n1', {
    cpus: 1,
    environments: [{ ...debian, tools: { flex: sha('1') } }],
  })
  world.submit('r', [
    derivation('lexer', { tools: ['flex'] }),
    derivation('plain', { after: ['lexer'] }),
  ])
  node.take()
  node.build()
  node.down()
  const other = world.node('n2', { environments: [{ ...debian, tools: { flex: sha('2') } }] })
  world.pass(12_000)
  assert.deepEqual(other.names, [])
  const same = world.node('n3', { environments: [debian] })
  assert.deepEqual(
    [same.names, same.receive()?.tools],
    [[], ['flex']],
    'it is asked for the tool first',
  )
  same.environments = [{ ...debian, tools: { flex: sha('1') } }]
  same.tell()
  assert.deepEqual(same.names, ['plain'])
})

test('scheduler: the bindings of all who wait for a job hold for its run', () => {
  const world = new World()
  const node = world.node('n1', {
    environments: [{ ...debian, tools: { flex: sha('1'), m4: sha('1') } }],
  })
  const both = (name: string, after: string) =>
    derivation(name, { args: ['both'], tools: ['flex', 'm4'], after: [after] })
  world.submit('r1', [derivation('l', { tools: ['flex'] }), both('x', 'l')])
  world.submit('r2', [derivation('m', { tools: ['m4'] }), both('y', 'm')])
  node.take()
  node.state = 'draining'
  for (const attempt of node.attempts) node.build(attempt, 'same')
  assert.equal(world.step('r1', 'x').job, world.step('r2', 'y').job)
  for (const tools of [
    { flex: sha('2'), m4: sha('1') },
    { flex: sha('1'), m4: sha('2') },
  ])
    assert.deepEqual(
      world.node(`mixed-${tools.flex.slice(0, 4)}`, { environments: [{ ...debian, tools }] }).names,
      [],
    )
  node.state = 'ready'
  node.tell()
  assert.equal(node.names.length, 1)
  node.build()
  assert.deepEqual([world.request('r1').state, world.request('r2').state], ['done', 'done'])
})

test('scheduler: requests whose userlands grow apart while one run serves both keep it, and part when it is lost', () => {
  const world = new World()
  const node = (name: string, flex: string) =>
    world.node(name, { cpus: 2, environments: [{ ...debian, tools: { flex: sha(flex) } }] })
  const first = node('n1', '1')
  world.submit('r1', [derivation('common'), derivation('l', { tools: ['flex'] })])
  first.take()
  world.submit('r2', [derivation('common'), derivation('m', { tools: ['flex'] })])
  const second = node('n2', '2')
  assert.deepEqual([first.names.toSorted(), second.names], [['common', 'l'], ['m']])
  const job = world.step('r1', 'common').job
  assert.equal(world.step('r2', 'common').job, job)
  first.restart()
  world.pass(20_000)
  const jobs = [world.step('r1', 'common').job, world.step('r2', 'common').job]
  assert.notEqual(jobs[0], jobs[1])
  world.buildAll()
  assert.deepEqual([world.request('r1').state, world.request('r2').state], ['done', 'done'])
  assert.deepEqual(
    jobs.map((each) => each?.attempts.at(-1)?.node.name),
    ['n1', 'n2'],
  )
})

test('scheduler: a waiting job whose waiters were bound to different userlands is parted', () => {
  const world = new World()
  const tools = (flex: string) => [{ ...debian, tools: { flex: sha(flex) } }]
  world.node('big', { memoryBytes: 2 ** 36, environments: tools('1') }).down()
  const one = world.node('n1', { cpus: 1, environments: tools('1') })
  const large = (name: string) => derivation(name, { args: ['common'], memoryBytes: 20 * 2 ** 30 })
  world.submit('r1', [derivation('l', { tools: ['flex'] }), large('c1')], { priority: 60 })
  one.take()
  const two = world.node('n2', { cpus: 1, environments: tools('2') })
  world.submit('r2', [derivation('m', { tools: ['flex'] }), large('c2')])
  one.state = 'draining'
  one.tell()
  two.take()
  assert.deepEqual([one.names, two.names], [['l'], ['m']])
  const jobs = [world.step('r1', 'c1').job, world.step('r2', 'c2').job]
  assert.notEqual(jobs[0], jobs[1])
  assert.deepEqual(
    jobs.map((job) => job?.phase),
    ['waiting', 'waiting'],
  )
})

test('scheduler: a fetch has no userland: all share it', () => {
  const world = new World()
  const one = world.node('n1', { environments: [debian] })
  world.submit('r1', [derivation('x')])
  one.take()
  one.build()
  world.submit('r2', [derivation('src', { urls: ['https://example.org/a'] })])
  world.submit('r1b', [derivation('src', { urls: ['https://example.org/a'] })])
  world.buildAll()
  assert.equal(world.facts.filter((fact) => fact.type === 'granted').length, 2)
  assert.equal(world.request('r2').bindings.size, 0)
})

test('scheduler: all who wait for a run are bound before any of their other jobs move', () => {
  const world = new World()
  const big = 20 * 2 ** 30
  world.node('big', { memoryBytes: 2 ** 36, environments: [debian] }).down()
  // "other" runs on fedora; two more requests wait for it and for "base"; base then starts on debian.
  const two = world.node('n2', { environments: [fedora] })
  world.submit('r0', [derivation('other')])
  two.take()
  const one = world.node('n1', { cpus: 1, environments: [debian] })
  one.state = 'draining'
  one.tell()
  two.state = 'draining'
  two.tell()
  const other = derivation('other', { memoryBytes: big })
  world.submit('r1', [derivation('base'), derivation('x', { args: ['shared'], memoryBytes: big })])
  world.submit('r2', [
    derivation('base'),
    derivation('y', { args: ['shared'], memoryBytes: big }),
    other,
  ])
  one.state = 'ready'
  one.tell()
  world.pass(1_000)
  for (const name of ['r1', 'r2']) {
    const { bindings, steps } = world.request(name)
    for (const step of steps.values())
      for (const attempt of step.job?.attempts ?? [])
        assert.equal(attempt.userland?.base, bindings.get('x86_64-linux')?.base)
  }
})

test('scheduler: requests that are bound to different userlands during a look-up each get their stored result', () => {
  const world = new World()
  const nodes = [debian, fedora].map((each, at) => world.node(`n${at}`, { environments: [each] }))
  for (const [at, node] of nodes.entries()) {
    node.up()
    for (const other of nodes) if (other !== node) other.down()
    world.submit(`seed-${at}`, [derivation(`own-${at}`), derivation('common')])
    world.buildAll()
    node.down()
  }
  const grants = world.grantCount
  for (const node of nodes) node.up()
  world.isAnswering = false
  for (const at of [0, 1]) world.submit(`r${at}`, [derivation('common'), derivation(`own-${at}`)])
  assert.equal(world.step('r0', 'common').job, world.step('r1', 'common').job)
  world.answer('own-0', 'own-1')
  world.answer('common')
  world.isAnswering = true
  world.answer()
  assert.deepEqual([world.request('r0').state, world.request('r1').state], ['done', 'done'])
  assert.equal(world.grantCount, grants)
})

test('scheduler: a tool that is named like a member of every object is a tool like others', () => {
  const world = new World()
  const node = world.node('n1', { environments: [debian] })
  world.submit('r', [{ ...derivation('a', { tools: ['constructor'] }), builder: '/bin/toString' }])
  assert.deepEqual([node.names, node.receive()?.tools], [[], ['constructor', 'toString']])
  node.environments = [{ ...debian, tools: { constructor: null, toString: sha('x') } }]
  node.tell()
  node.build()
  world.restart()
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: a stored result goes to those of the waiters that it fits', () => {
  const world = new World()
  const one = world.node('n1', { environments: [debian] })
  world.submit('before', [derivation('common')])
  world.buildAll()
  one.state = 'draining'
  one.tell()
  const two = world.node('n2', { environments: [fedora] })
  world.isAnswering = false
  world.submit('bound', [derivation('own'), derivation('common')])
  world.answer('own')
  assert.deepEqual(two.names, [])
  two.take()
  assert.deepEqual(two.names, ['own'])
  world.submit('free', [derivation('common')])
  world.isAnswering = true
  world.answer()
  two.take()
  assert.deepEqual(
    [world.request('free').state, world.step('bound', 'common').phase],
    ['done', 'open'],
  )
  assert.deepEqual(two.names, ['own', 'common'])
})

test('scheduler: two jobs of one key that have come to fit each other share a run', () => {
  const world = new World()
  const big = { args: ['common'], memoryBytes: 20 * 2 ** 30 }
  const large = world.node('large', { memoryBytes: 2 ** 36, environments: [debian] })
  large.state = 'draining'
  large.tell()
  const two = world.node('n2', { cpus: 1, environments: [fedora] })
  world.submit('r2', [derivation('x'), derivation('c2', big)])
  two.take()
  // c1 waits at the job of c2, which is bound to fedora; c3 is bound to debian and waits at its own.
  world.submit('r1', [derivation('c1', big), derivation('y')])
  const one = world.node('n1', { cpus: 1, environments: [debian] })
  assert.deepEqual([two.names, one.names], [['x'], ['y']])
  world.submit('r3', [derivation('y'), derivation('c3', big)])
  large.state = 'ready'
  large.tell()
  assert.deepEqual(large.names.length, 1)
  assert.equal(world.step('r1', 'c1').job, world.step('r3', 'c3').job)
  assert.notEqual(world.step('r1', 'c1').job, world.step('r2', 'c2').job)
})
