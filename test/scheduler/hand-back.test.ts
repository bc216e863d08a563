/** What a stopping node hands back runs elsewhere at once; what failures leave is told. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { jobView } from '../../src/scheduler/views.ts'
import { cidOf, sha256 } from '../../src/wire/digest.ts'
import { derivation } from './samples.ts'
import { failed, World } from './world.ts'

const log = { digest: sha256(Buffer.from('log')), size: 10 }

test('hand-back: it runs elsewhere at once, as nobody’s failure, and its log is known', () => {
  const world = new World()
  const first = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a', { run: { retries: 0 } })])
  first.take()
  first.finish({ kind: 'cancelled', isHandedBack: true, log })
  const { job } = world.step('r', 'a')
  assert.deepEqual([job?.infraFailures, job?.avoid.size], [0, 0])
  const [attempt] = job?.attempts ?? []
  assert.deepEqual([attempt?.state, attempt?.cause, attempt?.log], ['lost', 'drained', log])
  assert.match(attempt?.error ?? '', /n1 stopped and handed it back/)
  // This node takes new work again: without a pause, and without a retry that could be used up.
  assert.equal(job?.attempts.length, 2)
  first.take()
  first.build()
  assert.equal(world.request('r').state, 'done')
})

test('hand-back: what a node gives up for no reason that it tells is a failure of it', () => {
  const world = new World()
  const first = world.node('n1', { cpus: 1 })
  world.submit('r', [derivation('a')])
  first.take()
  first.finish({ kind: 'cancelled' })
  assert.equal(world.step('r', 'a').job?.infraFailures, 1)
})

test('hand-back: the directory that a failure left is told as what to get', () => {
  const world = new World()
  const node = world.node('n1')
  world.submit('r', [derivation('a', { run: { keepFailed: true } })])
  node.take()
  assert.equal(node.grantOf('a').limits.keepFailed, true)
  const digest = sha256(Buffer.from('tree'))
  node.finish({ ...failed, log, kept: { kind: 'dir', digest, size: 5 } })
  assert.equal(world.step('r', 'a').failure?.kept, cidOf(digest, 'object'))
})

test('hand-back: that a directory is to be kept does not change the key', () => {
  const world = new World()
  world.submit('r', [derivation('a')])
  world.submit('s', [derivation('a', { run: { keepFailed: true } })])
  assert.equal(world.step('r', 'a').key, world.step('s', 'a').key)
  assert.equal(world.step('r', 'a').job, world.step('s', 'a').job)
})

test('hand-back: an attempt says which node of a name ran it', () => {
  const world = new World()
  const node = world.node('twin', { cpus: 1 })
  world.submit('r', [derivation('a')])
  node.take()
  const { attempts } = jobView(world.scheduler, world.step('r', 'a'), world.moment)
  assert.deepEqual(
    attempts.map(({ node: name, peerId }) => [name, peerId]),
    [['twin', node.entry.peerId]],
  )
})
