/** Drains and quarantine in a tree: what is said at the top is done where the nodes are. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { desiredMessage } from '../../src/node/owner/desired-message.ts'
import type { Grant } from '../../src/scheduler/events.ts'
import { FEATURE_TREE } from '../../src/wire/work-messages.ts'
import { derivation, peerOf } from './samples.ts'
import { broken, World, type WorldNode } from './world.ts'

const TOP = peerOf('top')
/** A world takes itself for this node. */
const MIDDLE = peerOf('root')

/** Two levels: `top` owns the requests, `middle` has the nodes. */
class Tree {
  readonly top = new World()
  readonly middle = new World()
  /** Grants as the top made them, by attempt. */
  readonly grants = new Map<string, Grant>()
  #up = 0
  #down = 0

  constructor() {
    this.top.apply({
      type: 'node-up',
      record: { peerId: MIDDLE, name: 'middle', roles: ['worker'], addresses: [], http: null },
      version: { mesh: '0', protocols: [], features: [FEATURE_TREE] },
      boot: '1',
    })
    this.middle.apply({ type: 'uplink-up', peerId: TOP })
  }

  /** Everybody hears everybody, until nothing is new. */
  talk(): void {
    for (let round = 0; round < 6; round += 1) {
      for (const node of this.middle.nodes) this.#take(node)
      const message = this.middle.scheduler.syncUp((this.#up += 1))
      assert(message !== undefined)
      this.top.apply({ type: 'sync', peerId: MIDDLE, message, results: new Map() })
      const desired = this.top.scheduler.desiredOf(MIDDLE, this.top.syncedSeq, (this.#down += 1))
      assert(desired !== undefined)
      for (const grant of desired.grants) this.grants.set(grant.attempt.id, grant)
      const self = { peerId: TOP, name: 'top' }
      const orders = desiredMessage(desired, this.#down, self, () => ({ hints: [], peers: [] }))
      this.middle.apply({
        type: 'orders',
        peerId: TOP,
        message: orders,
        sentAtMs: this.middle.nowMs,
      })
    }
  }

  /** The node begins what was passed on to it, and ends what is to end. */
  #take(node: WorldNode): void {
    if (!node.isConnected || node.isSilent) return
    const desired = node.receive()
    if (desired === undefined) return
    for (const { attempt } of desired.relayed) {
      const grant = this.grants.get(attempt)
      if (grant !== undefined && !node.finished.has(attempt)) node.running.set(attempt, grant)
    }
    for (const attempt of desired.cancel) node.running.delete(attempt)
    for (const attempt of desired.ack) node.finished.delete(attempt)
    node.sync()
  }

  pass(ms: number): void {
    for (let passed = 0; passed < ms; passed += 1_000) {
      this.top.pass(1_000)
      this.middle.pass(1_000)
      this.talk()
    }
  }

  drain(selector: string, deadlineMs: number | null = null): void {
    const order = { selector, reason: 'move', deadlineMs }
    this.top.apply({ type: 'lever', lever: { kind: 'drain', order }, by: 'ann' })
  }
}

test('drains: one that is said at the top holds for a node two levels below', () => {
  const tree = new Tree()
  const leaf = tree.middle.node('leaf')
  const other = tree.middle.node('other')
  tree.drain('leaf')
  tree.talk()
  assert.deepEqual([leaf.entry.state, other.entry.state], ['drained', 'ready'])
  tree.top.submit('r', [derivation('a')])
  tree.pass(2_000)
  assert.deepEqual([leaf.names, other.names], [[], ['a']])
  tree.top.apply({ type: 'lever', lever: { kind: 'undrain', selector: 'leaf' }, by: 'ann' })
  tree.talk()
  assert.equal(leaf.entry.state, 'ready')
})

test('drains: what a node two levels below has not begun goes elsewhere, as nobody’s failure', () => {
  const tree = new Tree()
  const leaf = tree.middle.node('leaf')
  leaf.isSilent = true
  tree.top.submit('r', [derivation('a', { run: { retries: 0 } })])
  tree.talk()
  const other = tree.middle.node('other')
  assert.deepEqual([leaf.entry.relayed.size, leaf.names], [1, []])
  tree.drain('leaf')
  tree.talk()
  tree.pass(3_000)
  assert.deepEqual(other.names, ['a'])
  const job = tree.top.step('r', 'a').job
  assert.equal(job?.infraFailures, 0)
})

test('drains: at the deadline what runs two levels below is ended and runs elsewhere', () => {
  const tree = new Tree()
  const leaf = tree.middle.node('leaf')
  tree.top.submit('r', [derivation('a', { run: { retries: 0 } })])
  tree.talk()
  assert.deepEqual(leaf.names, ['a'])
  const other = tree.middle.node('other')
  tree.drain('leaf', 20_000)
  tree.talk()
  assert.equal(leaf.entry.state, 'draining')
  tree.pass(10_000)
  assert.deepEqual([leaf.names, other.names], [['a'], []])
  tree.pass(15_000)
  assert.deepEqual([leaf.names, other.names], [[], ['a']])
  assert.equal(tree.top.step('r', 'a').job?.infraFailures, 0)
})

test('quarantine: a node that fails what was passed on to it is left alone by the one above it', () => {
  const tree = new Tree()
  const leaf = tree.middle.node('leaf')
  for (const name of ['a', 'b', 'c']) {
    tree.top.submit(name, [derivation(name, { run: { retries: 16 } })])
    tree.talk()
    for (const [attempt, grant] of [...leaf.running])
      if (grant.name === name) leaf.finish(broken, attempt)
    tree.talk()
  }
  assert.equal(leaf.entry.state, 'quarantined')
  assert.equal(tree.top.scheduler.nodes.get(MIDDLE)?.state, 'ready', 'not its whole subtree')
})

test('poison: a death two levels below is a death, and all that died with the node is one failure of it', () => {
  const tree = new Tree()
  const leaf = tree.middle.node('leaf')
  tree.top.submit(
    'r',
    ['a', 'b', 'c', 'd'].map((name) => derivation(name, { run: { retries: 9 } })),
  )
  tree.talk()
  assert.equal(leaf.attempts.length, 4)
  leaf.restart()
  tree.talk()
  const { deaths } = tree.top.scheduler.state.nodeFacts
  assert.deepEqual(
    [...deaths.values()].map(([death]) => death?.node.name),
    ['leaf', 'leaf', 'leaf', 'leaf'],
  )
  assert.equal(leaf.entry.state, 'ready')
})
