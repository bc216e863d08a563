/** Announcements as a whole: whatever gets lost on the way, an index node ends up with what the node has. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { AnnouncedSet } from '../../src/gossip/announced-set.ts'
import { ProviderTable } from '../../src/gossip/provider-table.ts'
import { ANNOUNCEMENT_ITEMS_MAX, type Announcement } from '../../src/wire/announcement.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'

const digests = Array.from({ length: 12 }, (_, at) => sha256(`${at}`))

/** What may become of an announcement; most arrive. */
const ENDS = [
  ...Array.from({ length: 6 }, () => 'sent'),
  'unsent',
  'unanswered',
  'index restarts',
  'node restarts',
]

/** Sends until there is nothing to say; gives the announcements. */
function tell(set: AnnouncedSet, table: ProviderTable): Announcement[] {
  const sent: Announcement[] = []
  while (set.hasNews) {
    assert(sent.length < 100, 'announcing comes to an end')
    const announcement = set.next()
    sent.push(announcement)
    set.answered(table.announce('x', announcement, 0))
  }
  return sent
}

function held(table: ProviderTable, of: readonly Digest[] = digests): Digest[] {
  return of.filter((digest) => table.of(digest, 0).includes('x'))
}

test('announced-set: an index node ends up with the set, whatever was lost before', () => {
  const step = fc.oneof(
    fc.record({ kind: fc.constantFrom('add', 'remove'), at: fc.nat(digests.length - 1) }),
    fc.record({
      kind: fc.constantFrom(...ENDS),
      at: fc.constant(0),
    }),
  )
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      let table = new ProviderTable()
      let set = new AnnouncedSet()
      const wanted = new Set<Digest>()
      for (const { kind, at } of steps) {
        const digest = digests[at] ?? sha256('')
        if (kind === 'add') {
          wanted.add(digest)
          set.add(digest)
        } else if (kind === 'remove') {
          wanted.delete(digest)
          set.remove(digest)
        } else if (kind === 'sent') set.answered(table.announce('x', set.next(), 0))
        else if (kind === 'unsent') set.next()
        else if (kind === 'unanswered') table.announce('x', set.next(), 0)
        else if (kind === 'index restarts') table = new ProviderTable()
        else {
          set = new AnnouncedSet()
          for (const one of wanted) set.add(one)
        }
      }
      tell(set, table)
      // A last renewal tells it that the index node restarted meanwhile.
      set.answered(table.announce('x', set.next(), 0))
      tell(set, table)
      assert.deepEqual(
        held(table),
        digests.filter((digest) => wanted.has(digest)),
      )
      assert.equal(table.announcedBy('x'), wanted.size)
      // And it knows the set by the fingerprint that a restarted node gives it.
      const again = new AnnouncedSet()
      for (const one of wanted) again.add(one)
      assert.equal(tell(again, table).length, 1)
    }),
    { numRuns: 1_000 },
  )
})

test('announced-set: after a restart of the node nothing is repeated that the index node still has', () => {
  const table = new ProviderTable()
  const before = new AnnouncedSet()
  for (const digest of digests) before.add(digest)
  tell(before, table)
  const after = new AnnouncedSet()
  for (const digest of digests.toReversed()) after.add(digest)
  const [question, ...more] = tell(after, table)
  assert.deepEqual([question?.added, question?.gone, more], [[], [], []])
  after.remove(digests[0] ?? sha256(''))
  const sent = tell(after, table)
  assert.equal(sent.length, 1)
  assert.deepEqual(held(table), digests.slice(1))
})

test('announced-set: what was lost is told newest first, in messages of bounded size', () => {
  const many = Array.from({ length: 2 * ANNOUNCEMENT_ITEMS_MAX + 1 }, (_, at) => sha256(`m${at}`))
  const table = new ProviderTable()
  const set = new AnnouncedSet()
  for (const digest of many) set.add(digest)
  set.answered(table.announce('x', set.next(), 0))
  const sizes: number[] = []
  while (set.hasNews) {
    const announcement = set.next()
    if (sizes.length === 0) {
      assert.equal(announcement.from, null)
      assert.deepEqual(announcement.added, many.toReversed().slice(0, ANNOUNCEMENT_ITEMS_MAX))
    }
    sizes.push(announcement.added.length)
    set.answered(table.announce('x', announcement, 0))
  }
  assert.deepEqual(sizes, [ANNOUNCEMENT_ITEMS_MAX, ANNOUNCEMENT_ITEMS_MAX, 1])
  assert.equal(held(table, many).length, many.length)
})

test('announced-set: what comes and goes before it was told costs nothing', () => {
  const table = new ProviderTable()
  const set = new AnnouncedSet()
  tell(set, table)
  const [one = sha256('')] = digests
  set.add(one)
  set.remove(one)
  assert(!set.hasNews)
  set.add(one)
  set.next()
  set.remove(one)
  const sent = tell(set, table)
  assert.deepEqual(held(table), [])
  assert.equal(sent.length, 2)
})
