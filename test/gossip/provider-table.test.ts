/** Who has which blob, in bounds. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { PROVIDERS_PER_DIGEST_MAX, ProviderTable } from '../../src/gossip/provider-table.ts'
import { sha256 } from '../../src/wire/digest.ts'

const a = sha256('a')
const b = sha256('b')

test('provider-table: names providers, newest first', () => {
  const table = new ProviderTable()
  table.add(a, 'x', 1)
  table.add(a, 'y', 2)
  table.add(a, 'x', 3)
  assert.deepEqual(table.of(a), [
    { peerId: 'x', atMs: 3 },
    { peerId: 'y', atMs: 2 },
  ])
  assert.deepEqual(table.of(b), [])
})

test('provider-table: forgets a record and a peer', () => {
  const table = new ProviderTable()
  for (const digest of [a, b]) for (const peerId of ['x', 'y']) table.add(digest, peerId, 1)
  table.forget('x', a)
  assert.deepEqual(
    table.of(a).map(({ peerId }) => peerId),
    ['y'],
  )
  table.forgetPeer('y')
  assert.deepEqual([table.of(a), table.of(b).length, table.size], [[], 1, 1])
})

test('provider-table: drops the oldest when full', () => {
  const table = new ProviderTable({ digestsMax: 100 })
  for (let at = 0; at < 1000; at++) {
    table.add(sha256(`${at}`), 'x', at)
    table.add(a, `p${at}`, at)
  }
  assert.equal(table.size, 100)
  assert.equal(table.of(a).length, PROVIDERS_PER_DIGEST_MAX)
  assert.equal(table.of(a)[0]?.peerId, 'p999')
  assert.deepEqual(table.of(sha256('900')), [])
  assert.equal(table.of(sha256('999')).length, 1)
})
