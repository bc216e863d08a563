/** The plan of garbage collection against a plain model of it: sort by last use, and take until there is enough. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  bucketOf,
  BUSY_MS,
  classOf,
  mayGo,
  planGc,
  RECENT_MS,
  Tally,
  type GcPlan,
  type GcRules,
} from '../../src/store/retention/gc-plan.ts'

const DAY_MS = 24 * 60 * 60_000
const nowMs = 1_700_000_000_000

interface Blob {
  readonly sizeBytes: number
  readonly ageMs: number
  readonly isPinned: boolean
  readonly isLeased: boolean
}

const rulesOf = (takesRecent: boolean): GcRules => ({ nowMs, recentMs: RECENT_MS, takesRecent })
const usedAt = ({ ageMs }: Blob): number => nowMs - ageMs

function planOf(blobs: readonly Blob[], freeBytes: number, takesRecent: boolean): GcPlan {
  const tally = new Tally(rulesOf(takesRecent))
  for (const blob of blobs)
    tally.add(
      classOf({ ...blob, usedAtMs: usedAt(blob) }, tally.rules),
      blob.sizeBytes,
      usedAt(blob),
    )
  return planGc(tally, freeBytes)
}

/** What the second pass removes, in the order in which it meets the blobs. */
function removed(blobs: readonly Blob[], plan: GcPlan): Blob[] {
  let partBytes = plan.partBytes
  return blobs.filter((blob) => {
    const bucketMs = bucketOf(usedAt(blob), nowMs)
    const blobClass = classOf({ ...blob, usedAtMs: usedAt(blob) }, plan.rules)
    if (!mayGo(blobClass, usedAt(blob), plan.rules)) return false
    if (bucketMs > plan.allBeforeMs || (bucketMs === plan.allBeforeMs && partBytes <= 0))
      return false
    if (bucketMs === plan.allBeforeMs) partBytes -= blob.sizeBytes
    return true
  })
}

const bytes = (blobs: readonly Blob[]): number =>
  blobs.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0)

const blob = fc.record({
  sizeBytes: fc.nat({ max: 1000 }),
  ageMs: fc.oneof(fc.nat({ max: 3 * 60 * 60_000 }), fc.nat({ max: 400 * DAY_MS })),
  isPinned: fc.boolean(),
  isLeased: fc.boolean(),
})

test('gc-plan: frees what is asked for if it can, the oldest first, and never what is kept', () => {
  fc.assert(
    fc.property(
      fc.array(blob, { maxLength: 60 }),
      fc.nat({ max: 30_000 }),
      fc.boolean(),
      (blobs, freeBytes, takesRecent) => {
        const plan = planOf(blobs, freeBytes, takesRecent)
        const gone = removed(blobs, plan)
        const may = blobs.filter(
          (one) =>
            !one.isPinned && !one.isLeased && one.ageMs >= (takesRecent ? BUSY_MS : RECENT_MS),
        )
        assert(gone.every((one) => may.includes(one)))
        // Enough, or all; and what could not be freed is told.
        assert.equal(plan.shortBytes, Math.max(0, freeBytes - bytes(may)))
        assert(bytes(gone) >= freeBytes - plan.shortBytes)
        if (plan.shortBytes > 0) assert.equal(gone.length, may.length)
        // No more than needed: without the biggest of the youngest there is not enough.
        if (freeBytes > 0 && gone.length > 0 && plan.shortBytes === 0)
          assert(bytes(gone) - freeBytes <= Math.max(...gone.map(({ sizeBytes }) => sizeBytes)))
        // Nobody stays that was used clearly before somebody who goes.
        const youngest = Math.max(...gone.map((one) => bucketOf(usedAt(one), nowMs)))
        for (const one of may)
          if (!gone.includes(one)) assert(bucketOf(usedAt(one), nowMs) >= youngest)
      },
    ),
  )
})

test('gc-plan: every blob is in one class, and the classes add up', () => {
  fc.assert(
    fc.property(fc.array(blob, { maxLength: 60 }), (blobs) => {
      const { classes } = planOf(blobs, 0, false)
      const amounts = Object.values(classes)
      assert.equal(
        amounts.reduce((sum, { count }) => sum + count, 0),
        blobs.length,
      )
      assert.equal(
        amounts.reduce((sum, amount) => sum + amount.bytes, 0),
        bytes(blobs),
      )
      assert.equal(classes.pinned.count, blobs.filter(({ isPinned }) => isPinned).length)
    }),
  )
})

test('gc-plan: with no end to what is asked for all goes that may', () => {
  const ages = [0, BUSY_MS, RECENT_MS, RECENT_MS + 1, 400 * DAY_MS]
  const blobs = ages.map((ageMs) => ({ sizeBytes: 0, ageMs, isPinned: false, isLeased: false }))
  assert.equal(removed(blobs, planOf(blobs, Infinity, false)).length, 3)
  assert.equal(removed(blobs, planOf(blobs, Infinity, true)).length, 4)
  assert.equal(removed(blobs, planOf(blobs, 0, true)).length, 0)
  assert.equal(planOf(blobs, Infinity, true).shortBytes, 0)
})

test('gc-plan: a blob from the future is in use', () => {
  const future = { sizeBytes: 1, ageMs: -DAY_MS, isPinned: false, isLeased: false }
  const plan = planOf([future], Infinity, true)
  assert.deepEqual([plan.classes.recent.count, plan.evict.count], [1, 0])
})
