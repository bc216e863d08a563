/** Heaps whose members can be taken out and moved, held against a sorted list. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Deadlines, IndexedHeap } from '../../src/scheduler/indexed-heap.ts'

interface Member {
  heapAt: number
  rank: number
  readonly id: number
}

const order = (a: Member, b: Member): number => a.rank - b.rank || a.id - b.id

test('indexed-heap: whatever is added, moved and removed, the order is that of a sorted list', () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ what: fc.nat(3), which: fc.nat(50), rank: fc.nat(20) }), {
        maxLength: 200,
      }),
      (steps) => {
        const heap = new IndexedHeap<Member>(order)
        const model: Member[] = []
        for (const [id, { what, which, rank }] of steps.entries()) {
          const member = model[which % Math.max(1, model.length)]
          if (what <= 1 || member === undefined) {
            const added = { heapAt: -1, rank, id }
            model.push(added)
            heap.add(added)
          } else if (what === 2) {
            member.rank = rank
            heap.moved(member)
          } else {
            model.splice(model.indexOf(member), 1)
            heap.remove(member)
            assert.equal(member.heapAt, -1)
          }
          model.sort(order)
          assert.equal(heap.size, model.length)
          assert.equal(heap.first, model[0])
          assert.deepEqual(heap.some(5), model.slice(0, 5))
        }
      },
    ),
  )
})

test('indexed-heap: deadlines come when they are due, the earliest first, and may be moved', () => {
  const deadlines = new Deadlines<string>()
  deadlines.set('a', 30)
  deadlines.set('b', 10)
  deadlines.set('c', 20)
  deadlines.set('d', 20)
  assert.equal(deadlines.nextMs, 10)
  deadlines.set('b', 40)
  deadlines.delete('a')
  assert.deepEqual(deadlines.takeDue(19), [])
  assert.deepEqual(deadlines.takeDue(20), ['c', 'd'])
  assert.deepEqual([deadlines.size, deadlines.nextMs], [1, 40])
  assert.deepEqual(deadlines.takeDue(100), ['b'])
  assert.equal(deadlines.nextMs, Number.POSITIVE_INFINITY)
})
