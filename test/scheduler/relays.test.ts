/** Leases on their way down a tree, and outcomes and acknowledgements on theirs. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { HEARTBEAT_MS, type DesiredMessage, type Lease } from '../../src/wire/work-messages.ts'
import { derivation, environment } from './samples.ts'
import { TreeWorld, type TreeNode } from './tree-world.ts'

interface Tree {
  readonly world: TreeWorld
  readonly root: TreeNode
  readonly middle: TreeNode
  readonly leaf: TreeNode
}

/** root - middle - leaf, of which only the leaf builds. */
function threeLevels(): Tree {
  const world = new TreeWorld()
  const root = world.node('root')
  const middle = world.node('middle', { parent: root })
  const leaf = world.node('leaf', { parent: middle, cpus: 2 })
  // Until a node that has just started knows what runs below it, nothing is taken for lost.
  world.pass(25_000)
  return { world, root, middle, leaf }
}

const granted = ({ facts }: TreeNode): number =>
  facts.filter(({ type }) => type === 'granted').length

test('relays: a lease goes down two levels unchanged, and its result and acknowledgement end to end', () => {
  const { world, root, middle, leaf } = threeLevels()
  root.submit('r', [derivation('a')])
  assert.deepEqual(leaf.names, ['a'])
  const [attempt] = root.step('r', 'a').job?.attempts ?? []
  assert.deepEqual([...leaf.running.keys()], [attempt?.id])
  assert.equal(attempt?.node.name, 'middle')
  assert.equal(attempt?.runner?.name, 'leaf')
  assert.deepEqual(
    middle.relayed.map(({ id, node }) => [id, node?.record.name]),
    [[attempt?.id, 'leaf']],
  )

  leaf.finish()
  assert.equal(root.step('r', 'a').phase, 'done')
  assert.equal(leaf.finished.size, 0)
  world.pass(HEARTBEAT_MS)
  for (const node of [middle, leaf]) assert.equal(node.relayed.length, 0, node.name)
  // Whoever only passes it on has nothing of it on its disk.
  assert.deepEqual([...new Set(middle.facts.map(({ type }) => type))], ['epoch'])
})

test('relays: an outcome is kept at every level until the owner has it durably', () => {
  const { world, root, middle, leaf } = threeLevels()
  root.submit('r', [derivation('a')])
  root.isSyncing = false
  leaf.finish()
  assert.equal(root.step('r', 'a').phase, 'done')
  assert.equal(leaf.finished.size, 1)
  assert.equal(middle.relayed[0]?.finished?.outcome.kind, 'built')
  root.sync()
  assert.equal(leaf.finished.size, 0)
  world.pass(HEARTBEAT_MS)
  assert.equal(middle.relayed.length, 0)
})

test('relays: a middle that is restarted learns from below what runs, and nothing is begun again', () => {
  const { world, root, middle, leaf } = threeLevels()
  root.submit('r', [derivation('a')])
  middle.restart()
  world.pass(60_000)
  assert.equal(granted(root), 1)
  assert.equal(middle.relayed.length, 1)
  assert.equal(middle.relayed[0]?.lease, undefined)
  leaf.finish()
  assert.equal(root.step('r', 'a').phase, 'done')
  assert.equal(leaf.finished.size, 0)
  world.pass(HEARTBEAT_MS)
  assert.equal(middle.relayed.length, 0)
})

test('relays: the root is restarted and adopts what runs two levels below', () => {
  const { world, root, leaf } = threeLevels()
  root.submit('r', [derivation('a')])
  root.restart()
  world.pass(40_000)
  assert.equal(granted(root), 1)
  leaf.finish()
  assert.equal(root.step('r', 'a').phase, 'done')
  assert.equal(granted(root), 1)
})

test('relays: a node that comes back by way of another parent goes on with what it builds', () => {
  const { world, root, middle, leaf } = threeLevels()
  const other = world.node('other', { parent: root })
  world.pass(25_000)
  root.submit('r', [derivation('a')])
  leaf.disconnect()
  world.settle()
  world.pass(2_000)
  leaf.connect(other)
  world.settle()
  world.pass(30_000)
  const [attempt] = root.step('r', 'a').job?.attempts ?? []
  assert.equal(granted(root), 1)
  assert.equal(attempt?.node.name, 'other')
  leaf.finish()
  assert.equal(root.step('r', 'a').phase, 'done')
  world.pass(30_000)
  for (const node of [middle, other, leaf]) assert.equal(node.relayed.length, 0, node.name)
})

test('relays: of two that tell of one attempt the one that is connected to its node is believed', () => {
  const { world, root, middle, leaf } = threeLevels()
  const other = world.node('other', { parent: middle })
  leaf.disconnect()
  leaf.connect(other)
  world.pass(25_000)
  root.submit('r', [derivation('a')])
  assert.deepEqual(leaf.names, ['a'])
  // It is back at its old parent before the other one has noticed that it is gone.
  leaf.disconnect()
  leaf.connect(middle)
  world.settle()
  world.pass(3_000)
  assert.equal(middle.relayed[0]?.node?.record.name, 'leaf')
  const entry = middle.scheduler.nodes.get(leaf.peerId)
  assert.equal(entry?.allocated.cpus, 1)
})

/** The parent grants this, whatever it knows of the room below. */
function grant(node: TreeNode, parent: TreeNode, lease: Lease): void {
  const message: DesiredMessage = {
    type: 'desired',
    seq: 10_000,
    ackSeq: 1,
    epoch: 1,
    grants: [lease],
    limits: [],
    cancel: [],
    ack: [],
    tools: [],
  }
  node.apply({ type: 'orders', peerId: parent.peerId, message, sentAtMs: node.world.nowMs })
  node.world.settle()
}

test('relays: what finds no room is given back after a while, and is nobody’s failure', () => {
  const { world, root, middle, leaf } = threeLevels()
  root.submit('r', [derivation('a', { cpus: 2 })])
  const [lease] = leaf.running.values()
  assert(lease !== undefined)
  root.isSilent = true
  grant(middle, root, { ...lease, attempt: 'a-22222222' })
  const outcome = (): string | undefined =>
    middle.relayed.find(({ id }) => id === 'a-22222222')?.finished?.outcome.kind
  assert.equal(middle.relayed.length, 2)
  assert.equal(outcome(), undefined)
  world.pass(2_500)
  assert.equal(outcome(), 'returned')
  assert.deepEqual(leaf.names, ['a'])
})

test('relays: what nobody needs any more is ended through two levels', () => {
  const { world, root, middle, leaf } = threeLevels()
  const request = root.submit('r', [derivation('a')])
  root.apply({ type: 'cancel', request: request.wire.id })
  world.pass(5_000)
  assert.deepEqual(leaf.names, [])
  assert.equal(leaf.finished.size, 0)
  assert.equal(middle.relayed.length, 0)
  assert.equal(middle.scheduler.nodes.get(leaf.peerId)?.allocated.cpus, 0)
})

test('relays: a drain of the root holds for a node two levels below', () => {
  const { world, root, leaf } = threeLevels()
  const order = { selector: 'leaf', reason: 'new memory', deadlineMs: null }
  root.apply({ type: 'lever', lever: { kind: 'drain', order }, by: 'test' })
  world.pass(5_000)
  root.submit('r', [derivation('a')])
  world.pass(10_000)
  assert.deepEqual(leaf.names, [])
  root.apply({ type: 'lever', lever: { kind: 'undrain', selector: 'leaf' }, by: 'test' })
  world.pass(10_000)
  assert.deepEqual(leaf.names, ['a'])
})

test('relays: programs that a job of the root declares are looked at two levels below', () => {
  const { root, leaf } = threeLevels()
  root.submit('r', [derivation('a', { tools: ['flex'] })])
  assert(leaf.tools.has('flex'))
})

test('relays: under a lease that is over nothing is begun, and what was begun goes on', () => {
  const { world, root, middle, leaf } = threeLevels()
  root.submit('r', [derivation('a')])
  assert.deepEqual(leaf.names, ['a'])
  // The leaf does not hear of the second one before the root has fallen silent.
  leaf.isSilent = true
  root.submit('s', [derivation('b')])
  world.pass(1_000)
  root.isSilent = true
  leaf.isSilent = false
  world.nowMs += 21_000
  for (const node of [middle, leaf]) node.beat()
  world.settle()
  assert.deepEqual(leaf.names, ['a'])
})

test('relays: a new life of a node is not given what an earlier one may have begun below it', () => {
  const { world, root, middle, leaf } = threeLevels()
  const second = world.node('second', { parent: middle, cpus: 2 })
  world.pass(25_000)
  root.submit('r', [derivation('a', { cpus: 2 })])
  const [builds, idle] = leaf.names.length > 0 ? [leaf, second] : [second, leaf]
  assert.deepEqual(builds.names, ['a'])
  builds.disconnect()
  middle.restart()
  root.restart()
  world.pass(3_000)
  assert.deepEqual(idle.names, [])
  builds.connect(middle)
  world.settle()
  builds.finish()
  assert.equal(root.step('r', 'a').phase, 'done')
  assert.equal(granted(root), 1)
})

test('relays: a job that failed on a node goes back to it where no one machine of a subtree has all it needs', () => {
  const world = new TreeWorld()
  const root = world.node('root')
  const good = world.node('good', { parent: root, cpus: 4 })
  const middle = world.node('middle', { parent: root })
  root.submit('r', [derivation('first'), derivation('a', { cpus: 4, after: ['first'] })])
  // Together they have the userland that the request is bound to and processors enough, and neither has both.
  world.node('small', { parent: middle, cpus: 1 })
  world.node('strange', { parent: middle, cpus: 4, environment: environment({ base: 'b' }) })
  world.pass(25_000)
  good.finish()
  world.pass(2_000)
  assert.deepEqual(good.names, ['a'])
  good.finish({ kind: 'infrastructure', code: 'MESH0505', message: 'it broke' })
  world.pass(10_000)
  assert.deepEqual(good.names, ['a'])
})

test('relays: two that are each other’s parents do not go round for ever, the smaller id is above', () => {
  const world = new TreeWorld()
  const root = world.node('root')
  const [one, two] = ['one', 'two'].map((name) => world.node(name, { parent: root }))
  assert(one !== undefined && two !== undefined)
  const [above, below] = one.peerId < two.peerId ? [one, two] : [two, one]
  below.disconnect()
  below.connect(above)
  world.settle()
  above.disconnect()
  assert.match(above.objectionTo(below) ?? '', /is itself below this node/)
  assert.equal(below.objectionTo(above), undefined)
})

test('relays: grants that do not fit one message follow with the next, and none of them is taken for lost', () => {
  const world = new TreeWorld()
  const root = world.node('root')
  const leaf = world.node('leaf', { parent: root, cpus: 8 })
  world.pass(25_000)
  const names = ['a', 'b', 'c', 'd', 'e', 'f', 'g']
  root.submit(
    'r',
    names.map((name) =>
      derivation(name, { args: [name, ...Array<string>(8).fill('x'.repeat(120_000))] }),
    ),
  )
  world.pass(10_000)
  assert.deepEqual(leaf.names.toSorted(), names)
  for (const name of names) assert.equal(root.step('r', name).job?.infraFailures, 0, name)
})
