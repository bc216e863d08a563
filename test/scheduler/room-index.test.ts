/** The index of free room finds what a scan of all places would find, and looks at few of them. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { RoomIndex, shareOf, type Room } from '../../src/scheduler/room-index.ts'

const room = (max: number): fc.Arbitrary<Room> =>
  fc.record({
    cpus: fc.nat(max),
    memoryBytes: fc.nat(max),
    diskBytes: fc.nat(max),
  })

interface Member {
  readonly id: number
  readonly free: Room | undefined
  readonly capacity: Room
}

const hasRoom = (have: Room, need: Room): boolean =>
  have.cpus >= need.cpus && have.memoryBytes >= need.memoryBytes && have.diskBytes >= need.diskBytes

test('room-index: the best is that of a scan, after any changes', () => {
  const change = fc.record({
    what: fc.nat(4),
    which: fc.nat(40),
    // Few values, so that ties are common.
    free: fc.option(room(3), { nil: undefined }),
    capacity: room(4),
  })
  fc.assert(
    fc.property(
      fc.array(change, { maxLength: 80, size: 'max' }),
      room(2),
      fc.nat(3),
      (changes, need, odd) => {
        const index = new RoomIndex<number>()
        const model = new Map<number, Member>()
        for (const [id, { what, which, free, capacity }] of changes.entries()) {
          const places = [...model.keys()]
          const place = places[which % Math.max(1, places.length)]
          if (what === 0 && place !== undefined) {
            index.remove(place)
            model.delete(place)
          } else {
            const at = what <= 2 || place === undefined ? index.add(id) : place
            index.set(at, free, capacity)
            model.set(at, { id: model.get(at)?.id ?? id, free, capacity })
          }
          const accepts = (member: number): boolean => odd === 0 || member % (odd + 1) !== 0
          const expected = [...model]
            .flatMap(([at, member]) =>
              member.free !== undefined && hasRoom(member.free, need) && accepts(member.id)
                ? [{ at, id: member.id, share: shareOf(member.free, member.capacity) }]
                : [],
            )
            .toSorted((a, b) => b.share - a.share || a.at - b.at)[0]
          const best = index.best(need, accepts)
          assert.deepEqual(
            best && { at: best.place, id: best.member, share: best.share },
            expected && { at: expected.at, id: expected.id, share: expected.share },
          )
          const taken = index.best(need, accepts, 'tightest')?.share
          const shares = [...model.values()].flatMap((member) =>
            member.free !== undefined && hasRoom(member.free, need) && accepts(member.id)
              ? [shareOf(member.free, member.capacity)]
              : [],
          )
          assert.equal(
            taken,
            shares.length === 0 ? undefined : Math.max(0, 1 - Math.min(...shares)),
          )
          const able = [...model.values()].filter(
            (member) => hasRoom(member.capacity, need) && accepts(member.id),
          )
          assert.equal(index.some(need, 3, accepts).length, Math.min(3, able.length))
          const largest = [...model.values()]
            .filter(
              ({ capacity: { cpus, diskBytes } }) =>
                cpus >= need.cpus && diskBytes >= need.diskBytes,
            )
            .reduce((most, member) => Math.max(most, member.capacity.memoryBytes), 0)
          assert.equal(index.largestMemory(need), largest)
          assert.equal(index.size, model.size)
        }
      },
    ),
    { numRuns: 60 },
  )
})

test('room-index: of ten thousand busy nodes the one with room is found in a few steps', () => {
  const index = new RoomIndex<number>()
  const capacity = { cpus: 8, memoryBytes: 64, diskBytes: 64 }
  for (let id = 0; id < 10_000; id += 1)
    index.set(index.add(id), { cpus: 0, memoryBytes: 8, diskBytes: 8 }, capacity)
  index.set(7_654, { cpus: 1, memoryBytes: 8, diskBytes: 8 }, capacity)
  const before = index.visitCount
  assert.equal(index.best({ cpus: 1, memoryBytes: 0, diskBytes: 0 })?.member, 7_654)
  assert(index.visitCount - before <= 2 * 14 + 1)
})
