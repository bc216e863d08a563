/** Inputs that have no way to a node: the grant is not made, the reason names them, and a way is taken when there is one. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { whyView } from '../../src/scheduler/views.ts'
import { derivation, peerOf } from './samples.ts'
import { missing, World, type WorldNode } from './world.ts'

const chain = [derivation('a'), derivation('b', { after: ['a'] })]
const HIDDEN = { isOpen: false } as const
const STORE = { roles: ['store'], environments: [] } as const

function holds(world: World, name: string, ...nodes: readonly WorldNode[]): void {
  const entry = world.step('r', name).outputs?.['out']
  assert(entry !== undefined && entry.kind !== 'symlink')
  world.holders.set(entry.digest, new Set(nodes.map(({ peerId }) => peerId)))
}

const why = (world: World, name: string) =>
  whyView(world.scheduler, world.step('r', name), world.moment, undefined)

/** `a` is built on n1, which then has no room for `b`: n2 alone could run it. */
function apart(options: { readonly isOpen: boolean }): {
  world: World
  n1: WorldNode
  n2: WorldNode
} {
  const world = new World()
  const n1 = world.node('n1', options)
  const request = world.submit('r', chain)
  assert.equal(request.state, 'active')
  n1.take()
  n1.state = 'draining'
  n1.build()
  const n2 = world.node('n2', HIDDEN)
  return { world, n1, n2 }
}

test('scheduler: a grant whose input has no way to the node is not made, and why says so', () => {
  const { world, n2 } = apart(HIDDEN)
  world.pass(60_000)
  assert.deepEqual([n2.names, world.grantCount], [[], 1])
  const { class: reason, summary, nodes, fixes } = why(world, 'b')
  assert.equal(reason, 'unreachable')
  assert.equal(
    summary,
    `b waits: input in0 is at n1, and no way leads from there to n2; it is the output of a (${world.step('r', 'a').id})`,
  )
  assert.match(fixes.join(), /start a node with role store that both can dial/)
  const verdict = nodes
    .find(({ node }) => node === 'n2')
    ?.verdicts.find(({ requirement }) => requirement === 'inputs')
  assert.deepEqual([verdict?.ok, verdict?.permanent, verdict?.have], [false, false, 'in0 is at n1'])
})

test('scheduler: a node that has the input itself needs no way, and one behind the owner has one', () => {
  const world = new World()
  const n1 = world.node('n1', HIDDEN)
  world.submit('r', chain)
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
  assert(n1.isConnected)
  const other = apart(HIDDEN)
  other.world.node('root', { isOpen: false })
  assert.deepEqual(other.world.nodes.at(-1)?.names, ['b'], 'every node is connected to the owner')
})

test('scheduler: a store that both can dial is a way, one that they cannot dial is not', () => {
  for (const isOpen of [false, true]) {
    const { world, n2 } = apart(HIDDEN)
    world.pass(10_000)
    world.node('s1', { ...STORE, isOpen })
    world.pass(1)
    assert.deepEqual(n2.names, isOpen ? ['b'] : [], `a store that is ${isOpen ? '' : 'not '}open`)
  }
})

test('scheduler: a job that is cut off does not hold up what stands behind it', () => {
  const { world, n2 } = apart(HIDDEN)
  world.submit('later', [derivation('c')])
  n2.take()
  assert.deepEqual(n2.names, ['c'])
})

test('scheduler: an input that is whole where it was made is not made again: the job waits for a way', () => {
  const { world, n1, n2 } = apart({ isOpen: true })
  holds(world, 'a', n1)
  const grant = n2.grantOf('b')
  n2.finish(missing(grant, 'in0'), grant.attempt.id)
  assert.deepEqual([n2.names, world.step('r', 'a').rewinds], [[], 0])
  assert.equal(world.step('r', 'b').job?.infraFailures, 0)
  assert.equal(why(world, 'b').class, 'unreachable')
  world.pass(4_000)
  assert.deepEqual(n2.names, [], 'not at once again')
  world.pass(7_000)
  assert.deepEqual(n2.names, ['b'], 'it may have been a hiccup')
})

test('scheduler: a pair that has no way is tried ever more rarely', () => {
  const { world, n1, n2 } = apart({ isOpen: true })
  holds(world, 'a', n1)
  for (let at = 0; at < 3600; at += 1) {
    if (n2.running.size > 0) n2.finish(missing(n2.grantOf('b'), 'in0'))
    world.pass(1_000)
  }
  assert(world.step('r', 'b').job !== undefined)
  const tries = world.step('r', 'b').job?.attempts.length ?? 0
  assert(tries > 20 && tries < 45, `${tries} attempts in an hour`)
  assert.equal(world.request('r').state, 'active')
})

test('scheduler: a pair that had no way is tried at once when one of the two connects anew, or a store does', () => {
  for (const who of ['n1', 'n2', 's1']) {
    const { world, n1, n2 } = apart({ isOpen: true })
    holds(world, 'a', n1)
    for (let at = 0; at < 4; at += 1) {
      n2.finish(missing(n2.grantOf('b'), 'in0'))
      world.pass(at < 3 ? 70_000 : 1)
    }
    assert.deepEqual(n2.names, [])
    if (who === 's1') world.node('s1', STORE)
    else (who === 'n1' ? n1 : n2).restart()
    n2.take()
    assert.deepEqual(n2.names, ['b'], who)
  }
})

test('scheduler: an input that its holder does not have any more is made again', () => {
  const { world, n1, n2 } = apart({ isOpen: true })
  n1.state = 'ready'
  n1.sync()
  n2.finish(missing(n2.grantOf('b'), 'in0'))
  assert.equal(world.step('r', 'a').rewinds, 1)
  world.buildAll()
  assert.equal(world.request('r').state, 'done')
})

test('scheduler: while holders are asked the attempt keeps its lease, and its outcome is taken once', () => {
  const { world, n1, n2 } = apart({ isOpen: true })
  holds(world, 'a', n1)
  world.isChecking = false
  const { attempt } = n2.grantOf('b')
  n2.finish(missing(n2.grantOf('b'), 'in0'))
  world.pass(30_000)
  assert.deepEqual([attempt.state, world.step('r', 'b').job?.attempts.length], ['building', 1])
  world.isChecking = true
  world.pass(1)
  assert.equal(attempt.state, 'failed')
  assert.match(attempt.error ?? '', /^MESH0501/)
})

test('scheduler: a node that is lost while holders are asked loses its attempt as ever', () => {
  const { world, n1, n2 } = apart({ isOpen: true })
  holds(world, 'a', n1)
  world.isChecking = false
  const { attempt } = n2.grantOf('b')
  n2.finish(missing(n2.grantOf('b'), 'in0'))
  n2.down()
  world.pass(12_000)
  assert.equal(attempt.state, 'lost')
  world.isChecking = true
  world.pass(1)
  assert.equal(attempt.state, 'lost')
})

test('scheduler: a source whose node is away is waited for, and the reason says where it was seen', () => {
  const world = new World()
  const dev = world.node('entry', { environments: [] })
  const node = world.node('n1')
  const request = world.submit('r', [derivation('a', { sources: ['s'], run: { retries: 0 } })])
  dev.down()
  node.take()
  node.finish(missing(node.grantOf('a'), 'in0'))
  assert.deepEqual([request.state, node.names], ['active', []])
  world.pass(2 * 60_000)
  const { class: reason, summary, fixes } = why(world, 'a')
  assert.equal(reason, 'missing')
  assert.match(summary, /nobody who is there has input in0: last seen on entry, offline 2m/)
  assert.match(fixes.join(), /start the node that was seen with it/)
  assert.equal(world.grantCount, 1)
  dev.up()
  node.take()
  assert.deepEqual(node.names, ['a'])
  node.build()
  assert.equal(request.state, 'done')
})

test('scheduler: an output whose holders are all away is made again, not waited for', () => {
  const { world, n1, n2 } = apart({ isOpen: true })
  const grant = n2.grantOf('b')
  n1.down()
  n2.finish(missing(grant, 'in0'), grant.attempt.id)
  assert.equal(world.step('r', 'a').rewinds, 1)
  assert.deepEqual(n2.names, ['a'])
})

test('scheduler: what others are known to have counts as well as what the request says', () => {
  const { world, n2 } = apart(HIDDEN)
  assert.deepEqual(n2.names, [])
  const entry = world.step('r', 'a').outputs?.['out']
  assert(entry !== undefined && entry.kind !== 'symlink')
  world.providers.set(entry.digest, [peerOf('n2')])
  world.pass(6_000)
  assert.deepEqual(n2.names, ['b'])
})

test('scheduler: a full node gets no job, and why says what it told', () => {
  const world = new World()
  const node = world.node('n1')
  node.state = 'full'
  node.note = 'the disk has 1 GiB free'
  node.sync()
  world.submit('r', [derivation('a')], { noWait: true })
  assert.equal(world.grantCount, 0)
  const { class: reason, summary, nodes, fixes } = why(world, 'a')
  assert.equal(reason, 'away')
  assert.match(summary, /n1 \(full: the disk has 1 GiB free\)/)
  assert.match(fixes.join(), /make room/)
  const state = nodes[0]?.verdicts.find(({ requirement }) => requirement === 'state')
  assert.deepEqual(
    [state?.ok, state?.permanent, state?.have],
    [false, false, 'full: the disk has 1 GiB free'],
  )
  node.state = 'ready'
  node.sync()
  node.take()
  assert.deepEqual(node.names, ['a'])
})

test('scheduler: a disk that fills up under a job is its node’s failure, and told as such at the end', () => {
  const world = new World()
  const node = world.node('n1')
  const request = world.submit('r', [derivation('a', { run: { retries: 1 } })])
  for (let at = 0; at < 2; at += 1) {
    node.take()
    node.finish({ kind: 'infrastructure', code: 'MESH0503', message: 'no room' })
    world.pass(1_000)
  }
  assert.deepEqual([request.state, world.step('r', 'a').failure?.code], ['failed', 'MESH0503'])
})

test('scheduler: other outputs after a rewind are told by why as well', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a')])
  node.take()
  node.build(undefined, 'first')
  world.apply({ type: 'lost', request: world.request('r').wire.id, derivation: 'a' })
  node.take()
  node.build(undefined, 'second')
  assert.match(why(world, 'a').summary, /its outputs were lost, and building it again gave others/)
  world.restart()
  assert.equal(world.step('r', 'a').hasDiverged, true)
})
