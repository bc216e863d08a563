/** Ids: their form, their spread, their repeatability; and the waits that are made from randomness. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { backoffMs } from '../../src/base/backoff.ts'
import {
  derivedId,
  randomFraction,
  randomId,
  systemRandom,
  type Random,
} from '../../src/base/random.ts'
import { AttemptId, JobId, RequestId } from '../../src/wire/names.ts'

/** Gives the bytes 0, 1, 2 ... 255, 0 ... */
function counting(): Random {
  let next = 0
  return { bytes: (count) => Uint8Array.from({ length: count }, () => next++ % 256) }
}

test('random: ids have the form that the wire asks for', () => {
  const random = systemRandom()
  for (let at = 0; at < 200; at += 1) {
    assert(RequestId.safeParse(randomId(random, 'r')).success)
    assert(JobId.safeParse(randomId(random, 'j', 6)).success)
    assert(AttemptId.safeParse(derivedId('a', String(at), 16)).success)
  }
})

test('random: each symbol of an id is equally likely', () => {
  const counts = new Map<string, number>()
  for (const symbol of randomId(counting(), 'x', 240 * 3).slice(2))
    counts.set(symbol, (counts.get(symbol) ?? 0) + 1)
  assert.equal(counts.size, 30)
  assert.deepEqual(new Set(counts.values()), new Set([24]))
})

test('random: a derived id is the same for the same text, and another for another', () => {
  assert.equal(derivedId('j', 'r-1/a'), 'j-h6n4wrfx6e4p')
  const ids = new Set(Array.from({ length: 5_000 }, (_, at) => derivedId('j', String(at))))
  assert.equal(ids.size, 5_000)
})

test('random: a fraction is at least 0 and below 1', () => {
  assert.equal(randomFraction({ bytes: (count) => new Uint8Array(count) }), 0)
  const largest = randomFraction({ bytes: (count) => new Uint8Array(count).fill(255) })
  assert(largest < 1 && largest > 0.99999)
})

test('backoff: the wait doubles up to its maximum, half of it random', () => {
  const least: Random = { bytes: (count) => new Uint8Array(count) }
  const most: Random = { bytes: (count) => new Uint8Array(count).fill(255) }
  const options = { firstMs: 100, maxMs: 1_000 }
  assert.deepEqual(
    [1, 2, 3, 4, 5, 99, 1e9].map((attempt) => backoffMs(least, attempt, options)),
    [50, 100, 200, 400, 500, 500, 500],
  )
  assert.deepEqual(
    [1, 2, 5, 1e9].map((attempt) => backoffMs(most, attempt, options)),
    [100, 200, 1_000, 1_000],
  )
})
