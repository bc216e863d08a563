/** How often something happens. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Rate } from '../../src/base/rate.ts'

test('rate: is the mean of the last ten seconds, and of less while there is no more', () => {
  const rate = new Rate()
  assert.equal(rate.perSecond(5_000), 0)
  rate.add(100_000, 6)
  assert.equal(rate.perSecond(100_000), 6)
  assert.equal(rate.perSecond(102_000), 3)
  for (let second = 1; second < 20; second += 1) rate.add(100_000 + second * 1_000, 2)
  assert.equal(rate.perSecond(119_000), 2)
  assert.equal(rate.perSecond(124_000), 1)
  assert.equal(rate.perSecond(1_000_000), 0)
})
