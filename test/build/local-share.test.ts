/** A node's own division of its processors among the builds that run. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { shareOut } from '../../src/build/local-share.ts'

const builds = (...allotted: number[]) =>
  allotted.map((cpus, at) => ({ attempt: `a-${at}`, allotted: cpus }))
const told = (slots: number | undefined, ...allotted: number[]): (number | 'paused')[] =>
  shareOut(slots, builds(...allotted)).map(({ jobs, isPaused }) => (isPaused ? 'paused' : jobs))

test('local share: with enough for all, each has what it is allotted', () => {
  assert.deepEqual(told(undefined, 4, 2, 8), [4, 2, 8])
  assert.deepEqual(told(14, 4, 2, 8), [4, 2, 8])
})

test('local share: those with the most give first', () => {
  assert.deepEqual(told(8, 4, 2, 8), [3, 2, 3])
  assert.deepEqual(told(3, 4, 2, 8), [1, 1, 1])
})

test('local share: with too few the ones started last are paused, and come back in their order', () => {
  assert.deepEqual(told(2, 4, 2, 8), [1, 1, 'paused'])
  assert.deepEqual(told(1, 4, 2, 8), [1, 'paused', 'paused'])
  assert.deepEqual(told(0, 4, 2, 8), ['paused', 'paused', 'paused'])
  assert.deepEqual(told(2, 4, 2, 8), [1, 1, 'paused'])
})

test('local share: a limit that changes nothing changes nothing', () => {
  assert.deepEqual(told(2.9, 2), [2])
  assert.deepEqual(told(0), [])
})

test('local share: the sum is within the slots, nobody is told of less than one or more than allotted', () => {
  fc.assert(
    fc.property(
      fc.nat(40),
      fc.array(fc.integer({ min: 0, max: 16 }), { maxLength: 20 }),
      (slots, cpus) => {
        const shares = shareOut(slots, builds(...cpus))
        const running = shares.filter(({ isPaused }) => !isPaused)
        assert.ok(running.reduce((sum, { jobs }) => sum + jobs, 0) <= slots)
        for (const [at, { jobs, attempt }] of shares.entries()) {
          assert.equal(attempt, `a-${at}`)
          assert.ok(jobs >= 1 && jobs <= Math.max(1, cpus[at] ?? 0))
        }
        // No slot is left while somebody could use it, and none is paused before one that was started later.
        const wanted = cpus.reduce((sum, one) => sum + Math.max(1, one), 0)
        assert.equal(
          running.reduce((sum, { jobs }) => sum + jobs, 0),
          Math.min(slots, wanted),
        )
        assert.deepEqual(
          shares.map(({ isPaused }) => isPaused),
          shares.map((_, at) => at >= running.length),
        )
      },
    ),
  )
})
