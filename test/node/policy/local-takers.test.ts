/** Builds outside of the mesh that take processors of a node. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { sharesOf, TakerPool } from '../../../src/node/policy/local-takers.ts'
import { MeshError } from '../../../src/base/errors.ts'

test('local takers: what one takes is no longer there, and is back when it ends', () => {
  let changes = 0
  const pool = new TakerPool(8, () => (changes += 1))
  const one = pool.take({ cpus: 3 })
  assert.deepEqual([one.cpus, pool.taken, changes], [3, 3, 1])
  one[Symbol.dispose]()
  one[Symbol.dispose]()
  assert.deepEqual([pool.taken, changes], [0, 2])
})

test('local takers: builds of the mesh keep one processor each, and takers share the rest equally', () => {
  const pool = new TakerPool(8, () => undefined)
  pool.setPool(8, 2)
  const heard: number[] = []
  const one = pool.take({ cpus: 8, onShare: (cpus) => heard.push(cpus) })
  assert.equal(one.cpus, 6)
  const two = pool.take({ cpus: 2 })
  assert.deepEqual([one.cpus, two.cpus, heard], [4, 2, [4]])
  two.want(8)
  assert.deepEqual([one.cpus, two.cpus, heard], [3, 3, [4, 3]])
  pool.setPool(1, 2)
  assert.deepEqual([one.cpus, two.cpus], [1, 1], 'they run, and are never told of nothing')
  two[Symbol.dispose]()
  pool.setPool(8, 0)
  assert.deepEqual([one.cpus, heard.at(-1)], [8, 8])
})

test('local takers: there is a limit to their number, and it is named', () => {
  const pool = new TakerPool(8, () => undefined)
  for (let count = 0; count < 64; count += 1) pool.take({ cpus: 1 })
  assert.throws(
    () => pool.take({ cpus: 1 }),
    (error) => error instanceof MeshError && error.code === 'MESH0211' && /64/.test(error.message),
  )
})

test('local takers: the sum is within what there is, unless each has but one', () => {
  fc.assert(
    fc.property(
      fc.nat(64),
      fc.nat(8),
      fc.array(fc.integer({ min: 1, max: 16 }), { maxLength: 10 }),
      (slots, builds, wanted) => {
        const shares = sharesOf(slots, builds, wanted)
        const sum = shares.reduce((total, cpus) => total + cpus, 0)
        assert.ok(sum <= Math.max(wanted.length, slots - builds))
        for (const [at, cpus] of shares.entries()) assert.ok(cpus >= 1 && cpus <= (wanted[at] ?? 0))
      },
    ),
  )
})
