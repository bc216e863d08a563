/** Hours of the week in local time: over midnight, over the changes of the clock, and when they end. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  holdsAt,
  localTimeIn,
  nextChangeMs,
  windowAt,
  type TimeWindow,
} from '../../../src/node/policy/windows.ts'

const OFFICE: TimeWindow = { days: [0, 1, 2, 3, 4], from: 540, to: 1080 }
const NIGHT: TimeWindow = { days: [4], from: 1320, to: 360 }
const berlin = localTimeIn('Europe/Berlin')
const at = (iso: string): number => Date.parse(iso)

test('windows: a day of the office, from its first minute to the one before its end', () => {
  assert.equal(holdsAt(OFFICE, { day: 0, minute: 539 }), false)
  assert.equal(holdsAt(OFFICE, { day: 0, minute: 540 }), true)
  assert.equal(holdsAt(OFFICE, { day: 4, minute: 1079 }), true)
  assert.equal(holdsAt(OFFICE, { day: 4, minute: 1080 }), false)
  assert.equal(holdsAt(OFFICE, { day: 5, minute: 600 }), false)
})

test('windows: a night begins on its day and ends on the next one', () => {
  assert.equal(holdsAt(NIGHT, { day: 4, minute: 1320 }), true)
  assert.equal(holdsAt(NIGHT, { day: 5, minute: 359 }), true)
  assert.equal(holdsAt(NIGHT, { day: 5, minute: 360 }), false)
  assert.equal(holdsAt(NIGHT, { day: 4, minute: 100 }), false)
  assert.equal(holdsAt({ ...NIGHT, days: [6] }, { day: 0, minute: 0 }), true, 'sunday to monday')
})

test('windows: local time is that of the zone, in summer and in winter', () => {
  assert.deepEqual(berlin(at('2026-01-05T08:00:00Z')), { day: 0, minute: 540 })
  assert.deepEqual(berlin(at('2026-07-06T07:00:00Z')), { day: 0, minute: 540 })
  assert.deepEqual(berlin(at('2026-01-05T23:00:00Z')), { day: 1, minute: 0 })
})

test('windows: they move with summer time, and tell their ends by the clock on the wall', () => {
  // The clock goes from 02:00 to 03:00 on 29 March 2026, and back on 25 October.
  for (const [now, end] of [
    ['2026-03-27T16:00:00Z', '2026-03-27T17:00:00Z'],
    ['2026-03-30T08:00:00Z', '2026-03-30T16:00:00Z'],
    ['2026-10-26T09:00:00Z', '2026-10-26T17:00:00Z'],
  ] as const)
    assert.equal(nextChangeMs([OFFICE], at(now), berlin), at(end), now)
  // From Friday evening to Monday morning, with the change in between.
  assert.equal(
    nextChangeMs([OFFICE], at('2026-03-27T18:00:00Z'), berlin),
    at('2026-03-30T07:00:00Z'),
  )
  assert.equal(
    nextChangeMs([OFFICE], at('2026-10-23T18:00:00Z'), berlin),
    at('2026-10-26T08:00:00Z'),
  )
})

test('windows: one in the hour that is skipped does not hold, and one in the hour that comes twice lasts two', () => {
  const early: TimeWindow = { days: [6], from: 120, to: 180 }
  const minutesIn = (day: string): number => {
    let held = 0
    for (let minute = 0; minute < 24 * 60; minute += 1)
      if (holdsAt(early, berlin(at(`${day}T00:00:00Z`) + minute * 60_000))) held += 1
    return held
  }
  assert.equal(minutesIn('2026-03-29'), 0)
  assert.equal(minutesIn('2026-10-25'), 120)
  assert.equal(minutesIn('2026-11-01'), 60)
})

test('windows: of several the first that holds counts, and one that always holds never ends', () => {
  const all: TimeWindow = { days: [0, 1, 2, 3, 4, 5, 6], from: 0, to: 1440 }
  assert.equal(windowAt([OFFICE, all], { day: 0, minute: 600 }), 0)
  assert.equal(windowAt([OFFICE, all], { day: 0, minute: 0 }), 1)
  assert.equal(windowAt([NIGHT], { day: 0, minute: 0 }), undefined)
  assert.equal(nextChangeMs([all], at('2026-01-05T08:00:00Z'), berlin), undefined)
})

test('windows: until the moment that is told, and not at it, the same window holds', () => {
  const windows = fc.array(
    fc.record({
      days: fc.subarray([0, 1, 2, 3, 4, 5, 6] as const, { minLength: 1 }),
      from: fc.nat(1439),
      to: fc.integer({ min: 1, max: 1440 }),
    }),
    { minLength: 1, maxLength: 3 },
  )
  // In UTC, where no clock is changed.
  const utc = localTimeIn('UTC')
  fc.assert(
    fc.property(windows, fc.nat(7 * 24 * 60), (some, minute) => {
      const now = at('2026-01-05T00:00:30Z') + minute * 60_000
      const held = windowAt(some, utc(now))
      const change = nextChangeMs(some, now, utc)
      if (change === undefined) return
      assert.notEqual(windowAt(some, utc(change)), held)
      for (let one = now; one < change; one += Math.max(60_000, (change - now) / 200))
        assert.equal(windowAt(some, utc(one)), held, new Date(one).toISOString())
    }),
    { numRuns: 50 },
  )
})
