/** "Tell me when": one word for each that waits, within bounds. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { WATCH_MS, Watches } from '../../src/gossip/watches.ts'
import { sha256 } from '../../src/wire/digest.ts'

const [a, b] = [sha256('a'), sha256('b')]

test('watches: each that waits is named once', () => {
  const watches = new Watches()
  assert(watches.add(a, 'x', 0) && watches.add(a, 'y', 0) && watches.add(a, 'x', 1))
  assert(watches.add(b, 'x', 1))
  assert.deepEqual(watches.take(a, 2), ['x', 'y'])
  assert.deepEqual(watches.take(a, 2), [])
  assert.deepEqual([...watches.digests()], [b])
})

test('watches: a wait ends with its peer, and with its time unless it is renewed', () => {
  const watches = new Watches()
  for (const peer of ['x', 'y', 'z']) watches.add(a, peer, 0)
  watches.forgetPeer('y')
  watches.add(a, 'z', 1)
  assert.deepEqual(watches.take(a, WATCH_MS), ['z'])
  assert.equal(watches.size, 0)
})

test('watches: one peer cannot have more than its share, and what ended makes room', () => {
  const watches = new Watches()
  const taken = Array.from({ length: 5_000 }, (_, at) => watches.add(sha256(`${at}`), 'x', at))
  assert.equal(taken.filter(Boolean).length, 4_096)
  assert(watches.add(sha256('0'), 'x', 5_000), 'a renewal takes no room')
  assert(watches.add(a, 'y', 5_000))
  assert(!watches.add(a, 'x', WATCH_MS))
  assert(watches.add(a, 'x', WATCH_MS + 1), 'the second one ended')
})
