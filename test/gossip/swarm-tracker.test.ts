/** Who is fetching which big blob. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { systemRandom } from '../../src/base/random.ts'
import { PARTIAL_MS, SWARM_PEERS_MAX, SwarmTracker } from '../../src/gossip/swarm-tracker.ts'
import { sha256 } from '../../src/wire/digest.ts'

const a = sha256('a')

test('swarm-tracker: others are named, those that asked no more are not', () => {
  const tracker = new SwarmTracker({ random: systemRandom() })
  tracker.join(a, 'x', 0)
  tracker.join(a, 'y', 10)
  assert.deepEqual(tracker.others(a, 'x', 10), ['y'])
  tracker.join(a, 'x', 20)
  assert.deepEqual(tracker.others(a, 'z', PARTIAL_MS + 10), ['x'])
  assert(tracker.isOn(a, PARTIAL_MS + 10) && !tracker.isOn(a, PARTIAL_MS + 20))
  assert.deepEqual(tracker.others(a, 'z', PARTIAL_MS + 20), [])
})

test('swarm-tracker: who has it all, or is gone, has left', () => {
  const tracker = new SwarmTracker({ random: systemRandom() })
  for (const peer of ['x', 'y', 'z'])
    for (const name of ['a', 'b']) tracker.join(sha256(name), peer, 0)
  tracker.leave(a, 'x')
  tracker.forgetPeer('y')
  assert.deepEqual(tracker.others(a, 'z', 0), [])
  assert.deepEqual(tracker.others(sha256('b'), 'z', 0), ['x'])
})

test('swarm-tracker: a crowd is bounded, and each of it is named now and then', () => {
  const tracker = new SwarmTracker({ random: systemRandom() })
  const crowd = Array.from({ length: 40 }, (_, at) => `p${at}`)
  for (const peer of crowd) tracker.join(a, peer, 0)
  const named = new Set<string>()
  for (let time = 0; time < 200; time++) {
    const others = tracker.others(a, 'p0', 0)
    assert.equal(new Set(others).size, SWARM_PEERS_MAX)
    for (const other of others) named.add(other)
  }
  assert.deepEqual([...named].toSorted(), crowd.slice(1).toSorted())

  for (let at = 0; at < 3_000; at++) tracker.join(a, `q${at}`, 1)
  for (let at = 0; at < 2_000; at++) tracker.join(sha256(`${at}`), 'x', 1)
  const alive = Array.from({ length: 2_000 }, (_, at) => tracker.isOn(sha256(`${at}`), 1))
  assert.equal(alive.filter(Boolean).length, 1_000)
  assert(alive.at(-1))
})
