/** The queue with a hard limit. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { BoundedQueue } from '../../src/base/bounded-queue.ts'

test('bounded-queue: items come out in the order in which they went in', async () => {
  const queue = new BoundedQueue<number>({ lengthMax: 3 })
  assert.deepEqual(
    [1, 2, 3, 4].map((item) => queue.push(item)),
    [true, true, true, false],
  )
  assert.deepEqual([await queue.shift(), await queue.shift()], [1, 2])
  assert.equal(queue.push(5), true)
  assert.deepEqual([await queue.shift(), await queue.shift(), queue.length], [3, 5, 0])
})

test('bounded-queue: a reader that waits gets the next item at once, without taking room', async () => {
  const queue = new BoundedQueue<string>({ lengthMax: 0 })
  const next = queue.shift()
  assert.equal(queue.push('a'), true)
  assert.equal(queue.push('b'), false)
  assert.equal(await next, 'a')
})

test('bounded-queue: a closed queue gives what it has, then ends', async () => {
  const queue = new BoundedQueue<number>({ lengthMax: 2 })
  queue.push(1)
  queue.close()
  assert.equal(queue.push(2), false)
  assert.deepEqual(
    [await queue.shift(), await queue.shift(), await queue.shift()],
    [1, undefined, undefined],
  )
})

test('bounded-queue: closing wakes the reader', async () => {
  const queue = new BoundedQueue<number>({ lengthMax: 2 })
  const next = queue.shift()
  queue.close()
  queue.close()
  assert.equal(await next, undefined)
})

test('bounded-queue: a second reader is a bug', () => {
  const queue = new BoundedQueue<number>({ lengthMax: 2 })
  void queue.shift()
  assert.throws(() => queue.shift(), /one reader at a time/)
})
