/** Lost outputs: their producers run again, within limits, and nothing that is pinned changes silently. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { REWINDS_MAX } from '../../src/scheduler/model.ts'
import { derivation } from './samples.ts'
import { liveOf, missing, World, type WorldNode } from './world.ts'

const chain = [derivation('a'), derivation('b', { after: ['a'] })]

function lose(node: WorldNode, name: string, ...variables: string[]): void {
  const grant = node.grantOf(name)
  node.finish(missing(grant, ...variables), grant.attempt.id)
}

test('scheduler: a lost output is made again, and then what needs it goes on', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', chain)
  node.take()
  node.build()
  lose(node, 'b', 'in0')
  assert.deepEqual(node.names, ['a'])
  assert.deepEqual([world.step('r', 'a').rewinds, world.step('r', 'b').phase], [1, 'blocked'])
  node.build()
  node.build()
  assert.equal(request.state, 'done')
  assert.match(request.notices.join(), /an output of a was lost .*built again, 1 of 3/)
  assert.equal(world.step('r', 'a').cached, false)
})

test('scheduler: an output is made again at most three times, then its consumer fails as temporary', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', chain)
  node.take()
  for (let at = 0; at < REWINDS_MAX; at += 1) {
    node.build()
    lose(node, 'b', 'in0')
  }
  node.build()
  lose(node, 'b', 'in0')
  assert.equal(request.state, 'failed')
  assert.equal(world.step('r', 'b').failure?.code, 'MESH0506')
  assert.equal(world.step('r', 'a').phase, 'done')
  assert.equal(world.step('r', 'a').job?.attempts.length, 1)
})

test('scheduler: another output the second time is told; what was built from the first keeps it, the rest takes the new one', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', [
    derivation('a'),
    derivation('b', { after: ['a'] }),
    derivation('c', { after: ['a'] }),
  ])
  node.take()
  node.build(undefined, 'first')
  node.build(node.grantOf('b').attempt.id)
  const { action } = world.step('r', 'b')
  lose(node, 'c', 'in0')
  node.build(undefined, 'second')
  assert.match(request.notices.join('\n'), /a gave other outputs when it was built again/)
  assert.deepEqual(node.names, ['c'])
  const [[, entry] = []] = node.grantOf('c').action.inputs
  assert.deepEqual(entry, world.step('r', 'a').outputs?.['out'])
  node.build()
  assert.equal(request.state, 'done')
  assert.equal(world.step('r', 'b').action, action)
})

test('scheduler: what waits in the queue with an input that was made anew takes the new one', () => {
  const world = new World()
  const node = world.node('n1', { cpus: 1 })
  world.submit('r', [
    derivation('a'),
    derivation('b', { after: ['a'] }),
    derivation('c', { after: ['a'] }),
  ])
  node.take()
  node.build(undefined, 'first')
  assert.deepEqual([node.names, world.step('r', 'c').job?.phase], [['b'], 'waiting'])
  lose(node, 'b', 'in0')
  assert.deepEqual(node.names, ['a'])
  node.build(undefined, 'second')
  for (let at = 0; at < 2; at += 1) {
    const [grant] = node.running.values()
    assert.deepEqual(grant?.action.inputs[0]?.[1], world.step('r', 'a').outputs?.['out'])
    node.build()
  }
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: a run that reports an input lost which was made anew meanwhile just begins again', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [
    derivation('a'),
    derivation('b', { after: ['a'] }),
    derivation('c', { after: ['a'] }),
  ])
  node.take()
  node.build(undefined, 'first')
  const late = node.grantOf('c')
  lose(node, 'b', 'in0')
  node.build(node.grantOf('a').attempt.id, 'second')
  node.finish(missing(late, 'in0'), late.attempt.id)
  assert.equal(world.step('r', 'c').job?.infraFailures, 0)
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  assert.equal(world.step('r', 'a').rewinds, 1)
})

test('scheduler: two requests that lose one output make it again once', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r1', chain)
  world.submit('r2', chain)
  node.take()
  node.build()
  const grants = world.grantCount
  lose(node, 'b', 'in0')
  node.build()
  node.build()
  assert.deepEqual([world.request('r1').state, world.request('r2').state], ['done', 'done'])
  assert.equal(world.grantCount, grants + 2)
})

test('scheduler: a request that has the lost output as a source of its own does not keep others from making it again', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('maker', chain)
  node.take()
  const grant = node.grantOf('a')
  node.build(grant.attempt.id)
  const made = world.step('maker', 'a').outputs?.['out']
  assert(made !== undefined)
  const taker = { ...derivation('b'), inputs: { in0: { kind: 'entry' as const, entry: made } } }
  world.submit('taker', [taker])
  assert.equal(world.step('taker', 'b').job, world.step('maker', 'b').job)
  lose(node, 'b', 'in0')
  assert.deepEqual([world.step('maker', 'a').rewinds, world.step('taker', 'b').phase], [1, 'open'])
  world.pass(1_000)
  world.buildAll()
  world.pass(1_000)
  world.buildAll()
  assert.deepEqual([world.request('maker').state, world.request('taker').state], ['done', 'done'])
})

test('scheduler: with keep-going, a lost output whose producer fails now ends the request', () => {
  const world = new World()
  const node = world.node('n1')
  const graph = [
    derivation('a'),
    derivation('b', { after: ['a'] }),
    derivation('c', { after: ['a'] }),
    derivation('d', { after: ['c'] }),
  ]
  const request = world.submit('r', graph, { keepGoing: true })
  node.take()
  node.build()
  const late = node.grantOf('c')
  lose(node, 'b', 'in0')
  node.fail(node.grantOf('a').attempt.id)
  assert.deepEqual([world.step('r', 'a').phase, world.step('r', 'b').phase], ['failed', 'skipped'])
  assert.equal(request.state, 'active', 'c still runs')
  node.finish(missing(late, 'in0'), late.attempt.id)
  assert.deepEqual(
    ['c', 'd'].map((name) => world.step('r', name).phase),
    ['skipped', 'skipped'],
  )
  assert.equal(request.state, 'failed')
})

test('scheduler: a late report of a lost attempt does not end the run that replaced it', () => {
  const world = new World()
  const first = world.node('n1')
  world.submit('r', chain)
  first.take()
  first.build()
  first.take()
  const grant = first.grantOf('b')
  const second = world.node('n2')
  first.down()
  world.pass(12_000)
  assert.deepEqual(second.names, ['b'])
  first.finish(missing(grant, 'in0'), grant.attempt.id)
  first.up()
  assert.equal(liveOf(world.step('r', 'b')).length, 1)
  second.build()
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: a wanted output that is lost after the end is made again', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', [derivation('a')])
  world.buildAll()
  assert.equal(request.state, 'done')
  world.apply({ type: 'lost', request: request.wire.id, derivation: 'a' })
  assert.equal(request.state, 'active')
  node.take()
  node.build()
  assert.equal(request.state, 'done')
  for (let at = 1; at < REWINDS_MAX; at += 1) {
    world.apply({ type: 'lost', request: request.wire.id, derivation: 'a' })
    world.buildAll()
  }
  world.apply({ type: 'lost', request: request.wire.id, derivation: 'a' })
  assert.equal(request.state, 'done')
  assert.match(request.notices.at(-1) ?? '', /not built more than 3 times/)
})

test('scheduler: a cancelled request stays cancelled when an output of it is asked for', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', chain)
  node.take()
  node.build()
  world.cancel('r')
  world.apply({ type: 'lost', request: request.wire.id, derivation: 'a' })
  world.buildAll()
  assert.equal(request.state, 'cancelled')
})
