/** Logs are brought to a store node together, and again when that failed. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pino } from 'pino'
import { LogCopies } from '../../../src/node/logs/log-copies.ts'
import { sha256, type BlobRef } from '../../../src/wire/digest.ts'
import type { PeerRecord } from '../../../src/wire/peer-record.ts'
import type { Entry } from '../../../src/wire/tree.ts'
import { ManualClock } from '../manual-clock.ts'

const record = (name: string): PeerRecord => ({
  peerId: '12D3KooWDFoRzo8QNoBiKR2vw25J4VW8YTYKQFDCbvnyGnqMMfxM',
  name,
  roles: ['store'],
  addresses: [],
  http: null,
})

const ref = (n: number, size = 10): BlobRef => ({ digest: sha256(Buffer.from(`${n}`)), size })

function bench(stores: () => readonly PeerRecord[]) {
  const clock = new ManualClock()
  const pushed: number[] = []
  let failures = 0
  const copies = new LogCopies({
    clock,
    log: pino({ level: 'silent' }),
    stores: async () => stores(),
    async push(entries: readonly Entry[]) {
      if (failures > 0) {
        failures -= 1
        throw new Error('no way')
      }
      pushed.push(entries.length)
    },
  })
  return { clock, pushed, copies, fail: (count: number) => (failures = count) }
}

test('log-copies: what ends within a second goes in one offer, empty logs stay', async () => {
  const { clock, pushed, copies } = bench(() => [record('store')])
  for (let n = 0; n < 300; n++) copies.add(ref(n))
  copies.add(ref(0, 0))
  copies.add(ref(1, 2 ** 40))
  assert.deepEqual(pushed, [])
  clock.step(1_000)
  await copies.flush()
  assert.deepEqual(pushed, [256, 44])
})

test('log-copies: tried twice, then left where it is', async () => {
  const { pushed, copies, fail } = bench(() => [record('store')])
  fail(1)
  copies.add(ref(1))
  await copies.flush()
  assert.deepEqual(pushed, [1])
  fail(2)
  copies.add(ref(2))
  await copies.flush()
  await copies.flush()
  assert.deepEqual(pushed, [1])
})

test('log-copies: without a store node nothing waits, and nothing is left after its end', async () => {
  const { clock, pushed, copies } = bench(() => [])
  copies.add(ref(1))
  await copies.flush()
  copies.add(ref(2))
  copies[Symbol.dispose]()
  assert.deepEqual([pushed, clock.pendingMs()], [[], []])
})
