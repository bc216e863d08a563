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
  const waiting = ['a', 'b'].map((name) => world.step('r', name)).find((step) => step.job?.phase === 'waiting' && step.job.notBeforeMs === 0)
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
  const bases = ['r1', 'r2'].map((name) => world.step(name, 'last').job?.attempts[0]?.userland?.base)
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
  assert.deepEqual(two.names.toSorted(), ['a', 'b'], 'nobody there has the userland of the stored result')
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

test('scheduler: a late result of a userland that its request has left is not taken', () => {
  const world = new World()
  const one = world.node('n1', { environments: [debian] })
  world.submit('r1', [derivation('a')])
  one.take()
  one.isSilent = true
  world.pass(26_000)
  assert.equal(world.step('r1', 'a').job?.attempts[0]?.state, 'lost')
  // A second request, bound elsewhere, comes to wait at the job; then the first one goes.
  const two = world.node('n2', { cpus: 1, environments: [fedora] })
  world.submit('r2', [derivation('x'), derivation('a')])
  world.cancel('r1')
  world.pass(3_000)
  const bound = world.request('r2').bindings.get('x86_64-linux')?.base
  assert.equal(bound, fedora.base)
  one.isSilent = false
  one.build()
  assert.notEqual(world.step('r2', 'a').phase, 'done')
  two.take()
  world.buildAll()
  world.pass(5_000)
  world.buildAll()
  assert.equal(world.request('r2').state, 'done')
  for (const step of world.request('r2').steps.values())
    assert.equal(step.job?.attempts.findLast(({ state }) => state === 'done')?.userland?.base, fedora.base)
})

test('scheduler: a tool that is asked for is probed first, and is part of the binding', () => {
  const world = new World()
  const bare = environment({ base: 'debian' })
  const node = world.node('n1', { environments: [bare] })
  world.submit('r', [derivation('a', { tools: ['gfortran'] }), derivation('b', { after: ['a'], tools: ['gfortran'] })])
  const desired = node.receive()
  assert.deepEqual([desired?.tools, desired?.grants], [['gfortran'], []])
  node.environments = [{ ...bare, tools: { gfortran: sha('12') } }]
  node.tell()
  assert.deepEqual(node.names, ['a'])
  const other = world.node('n2', { cpus: 16, environments: [{ ...bare, tools: { gfortran: sha('13') } }] })
  node.build()
  assert.deepEqual([node.names, other.names], [['b'], []])
})

test('scheduler: a tool that differs keeps only those jobs away that use it', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1, environments: [{ ...debian, tools: { flex: sha('1') } }] })
  world.submit('r', [derivation('lexer', { tools: ['flex'] }), derivation('plain', { after: ['lexer'] })])
  node.take()
  node.build()
  node.down()
  const other = world.node('n2', { environments: [{ ...debian, tools: { flex: sha('2') } }] })
  world.pass(12_000)
  assert.deepEqual(other.names, ['plain'])
})

test('scheduler: the bindings of all who wait for a job hold for its run', () => {
  const world = new World()
  const tools = { flex: sha('1'), m4: sha('1') }
  const node = world.node('n1', { environments: [{ ...debian, tools }] })
  const both = (name: string) => derivation(name, { args: ['both'], tools: ['flex', 'm4'], memoryBytes: 20 * 2 ** 30 })
  world.submit('r1', [derivation('l', { tools: ['flex'] }), both('x')])
  world.submit('r2', [derivation('m', { tools: ['m4'] }), both('y')])
  world.buildAll()
  node.down()
  const large = { memoryBytes: 2 ** 36 }
  const mixed = world.node('n2', { ...large, environments: [{ ...debian, tools: { flex: sha('2'), m4: sha('1') } }] })
  mixed.take()
  assert.deepEqual(mixed.names, [])
  const same = world.node('n3', { ...large, environments: [{ ...debian, tools }] })
  assert.equal(same.names.length, 1)
  same.build()
  assert.deepEqual([world.request('r1').state, world.request('r2').state], ['done', 'done'])
})

test('scheduler: a difference in a tool that neither uses does not part two requests', () => {
  const world = new World()
  const first = world.node('n1', { cpus: 1, environments: [{ ...debian, tools: { flex: sha('1') } }] })
  world.submit('r1', [derivation('l', { tools: ['flex'] }), derivation('common')])
  const second = world.node('n2', { cpus: 1, environments: [{ ...debian, tools: { flex: sha('2') } }] })
  world.submit('r2', [derivation('m', { tools: ['flex'], args: ['m'] }), derivation('common')])
  first.take()
  second.take()
  for (let at = 0; at < 3; at += 1) world.buildAll()
  assert.deepEqual([world.request('r1').state, world.request('r2').state], ['done', 'done'])
  assert.equal(world.grantCount, 3)
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
