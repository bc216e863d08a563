/** Who has which blob: leases, bounds, and what a peer announces. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PROVIDERS_PER_DIGEST_MAX, ProviderTable } from '../../src/gossip/provider-table.ts'
import { SetDigest } from '../../src/wire/set-digest.ts'
import { ANNOUNCED_MAX, ANNOUNCED_MS, type Fingerprint } from '../../src/wire/announcement.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'

const a = sha256('a')
const b = sha256('b')
const c = sha256('c')

function fingerprint(...digests: Digest[]): Fingerprint {
  const set = new SetDigest()
  for (const digest of digests) set.include(digest)
  return set.value
}

test('set-digest: order does not matter, and what is taken out was never in', () => {
  const set = new SetDigest()
  for (const digest of [c, b, a]) set.include(digest)
  assert.deepEqual(set.value, fingerprint(a, b, c))
  set.exclude(b)
  assert.deepEqual(set.value, fingerprint(c, a))
  assert.notDeepEqual(set.value, fingerprint(a, b))
  assert.deepEqual(fingerprint(a), { digest: a, count: 1 })
})

test('provider-table: names providers, newest first', () => {
  const table = new ProviderTable()
  table.add(a, 'x', 1)
  table.add(a, 'y', 2)
  table.add(a, 'x', 3)
  assert.deepEqual(table.of(a, 3), ['x', 'y'])
  assert.deepEqual(table.of(b, 3), [])
})

test('provider-table: forgets a record, and all that a peer announced', () => {
  const table = new ProviderTable()
  for (const digest of [a, b]) table.add(digest, 'x', 1)
  table.announce('y', { from: null, added: [a, b], gone: [], to: fingerprint(a, b) }, 1)
  table.forget('x', a)
  assert.deepEqual([table.of(a, 1), table.of(b, 1)], [['y'], ['y', 'x']])
  table.forgetPeer('y')
  assert.deepEqual([table.of(a, 1), table.of(b, 1), table.size], [[], ['x'], 1])
  assert.equal(table.announcedBy('y'), 0)
  // The same node may come back, and what was concluded before it did is one record with what it says.
  table.add(c, 'y', 1)
  table.forgetPeer('y')
  table.announce('y', { from: null, added: [c], gone: [], to: fingerprint(c) }, 1)
  assert.deepEqual(table.of(c, 1), ['y'])
})

test('provider-table: a record ends with its lease', () => {
  const table = new ProviderTable()
  table.add(a, 'x', 0)
  table.add(a, 'y', 10)
  assert.deepEqual(table.of(a, ANNOUNCED_MS - 1), ['y', 'x'])
  assert.deepEqual(table.of(a, ANNOUNCED_MS), ['y'])
  assert.deepEqual([table.of(a, ANNOUNCED_MS + 10), table.size], [[], 0])
})

test('provider-table: one renewal is good for all that a peer announced', () => {
  const table = new ProviderTable()
  const to = fingerprint(a, b)
  assert.deepEqual(table.announce('x', { from: null, added: [a, b], gone: [], to }, 0), to)
  const renewedAtMs = ANNOUNCED_MS - 1
  assert.deepEqual(table.announce('x', { from: to, added: [], gone: [], to }, renewedAtMs), to)
  assert.deepEqual(table.of(a, renewedAtMs + ANNOUNCED_MS - 1), ['x'])
  assert.deepEqual(table.of(b, renewedAtMs + ANNOUNCED_MS), [])
  // What ended is not believed any more, whatever fingerprint is shown.
  const late = renewedAtMs + ANNOUNCED_MS
  assert.equal(table.announce('x', { from: to, added: [], gone: [], to }, late), null)
})

test('provider-table: takes a change in only on top of what it starts from, and once', () => {
  const table = new ProviderTable()
  const [one, two] = [fingerprint(a), fingerprint(b)]
  const change = { from: one, added: [b], gone: [a], to: two }
  assert.equal(table.announce('x', change, 0), null)
  table.announce('x', { from: null, added: [a], gone: [], to: one }, 0)
  for (let time = 0; time < 2; time++) assert.deepEqual(table.announce('x', change, 0), two)
  assert.deepEqual([table.of(a, 0), table.of(b, 0), table.announcedBy('x')], [[], ['x'], 1])
  assert.deepEqual(table.announce('x', { from: one, added: [c], gone: [], to: one }, 0), two)
  assert.deepEqual(table.of(c, 0), [])
  // From nothing: what was announced before is gone.
  table.announce('x', { from: null, added: [c, c], gone: [], to: fingerprint(c) }, 0)
  assert.deepEqual([table.of(b, 0), table.of(c, 0), table.announcedBy('x')], [[], ['x'], 1])
})

test('provider-table: drops the oldest when full, and takes no more of a peer than a node announces', () => {
  const table = new ProviderTable({ digestsMax: 100 })
  for (let at = 0; at < 1000; at++) {
    table.add(sha256(`${at}`), 'x', at)
    table.add(a, `p${at}`, at)
  }
  assert(table.size > 95 && table.size <= 100, `${table.size} digests`)
  assert.equal(table.of(a, 1000).length, PROVIDERS_PER_DIGEST_MAX)
  assert.equal(table.of(a, 1000)[0], 'p999')
  assert.deepEqual(table.of(sha256('900'), 1000), [])
  assert.equal(table.of(sha256('999'), 1000).length, 1)

  const greedy = new ProviderTable()
  let held: Fingerprint | null = null
  for (let at = 0; at <= ANNOUNCED_MAX; at += 4096) {
    const added = Array.from({ length: 4096 }, (_, index) => sha256(`${at + index}`))
    held = greedy.announce('x', { from: held, added, gone: [], to: fingerprint(...added) }, 0)
  }
  assert.equal(greedy.announcedBy('x'), ANNOUNCED_MAX)
})

test('provider-table: counts of a peer go down when its records are pushed out', () => {
  const table = new ProviderTable({ digestsMax: 2 })
  table.announce('x', { from: null, added: [a, b, c], gone: [], to: fingerprint(a, b, c) }, 0)
  assert.equal(table.announcedBy('x'), 2)
  for (let peer = 0; peer < PROVIDERS_PER_DIGEST_MAX; peer++) table.add(c, `p${peer}`, 0)
  assert.equal(table.announcedBy('x'), 1)
})
