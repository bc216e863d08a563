/** Sleeping and deadlines, on a clock that is stepped. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { deadline, sleep, systemClock } from '../../src/base/clock.ts'
import { SimClock } from '../sim/sim-clock.ts'

async function settled(promise: Promise<unknown>): Promise<string> {
  const waiting = Symbol('waiting')
  try {
    return (await Promise.race([promise, Promise.resolve(waiting)])) === waiting
      ? 'waiting'
      : 'resolved'
  } catch (error) {
    return error instanceof Error ? error.message : String(error)
  }
}

test('clock: a sleep ends when its time has come', async () => {
  const clock = new SimClock()
  const nap = sleep(clock, 100)
  clock.step(clock.nowMs() + 99)
  assert.equal(await settled(nap), 'waiting')
  clock.step(clock.nowMs() + 1)
  await nap
})

test('clock: an aborted sleep rejects with the reason of the signal, and leaves no timer', async () => {
  const clock = new SimClock()
  const controller = new AbortController()
  const nap = sleep(clock, 100, controller.signal)
  controller.abort(new Error('enough'))
  await assert.rejects(nap, /enough/)
  assert.equal(clock.step(clock.nowMs() + 1_000), false)
  await assert.rejects(sleep(clock, 100, controller.signal), /enough/)
})

test('clock: a deadline aborts with its reason, unless it is cancelled before', () => {
  const clock = new SimClock()
  const missed = deadline(clock, 100, () => new Error('too late'))
  const met = deadline(clock, 100, () => new Error('too late'))
  met.cancel()
  clock.step(clock.nowMs() + 100)
  assert.equal(missed.signal.reason.message, 'too late')
  assert.equal(met.signal.aborted, false)
})

test('clock: a deadline passes on the abort of its parent', () => {
  const clock = new SimClock()
  const parent = new AbortController()
  const reason = new Error('stop')
  const child = deadline(clock, 100, () => new Error('too late'), parent.signal)
  parent.abort(reason)
  assert.equal(child.signal.reason, reason)
  const later = deadline(clock, 100, () => new Error('too late'), parent.signal)
  assert.equal(later.signal.reason, reason)
  child.cancel()
  later.cancel()
})

test('clock: the time of the machine is in whole milliseconds and does not go back', () => {
  const clock = systemClock()
  const [first, second] = [clock.nowMs(), clock.nowMs()]
  assert(Number.isInteger(first) && Number.isInteger(clock.wallMs()) && second >= first)
})

test('sim-clock: events fire in the order of their times, equal ones in that of their making', () => {
  const clock = new SimClock()
  const fired: number[] = []
  for (const delayMs of [30, 10, 20, 10, 0, 30, 25])
    clock.setTimer(delayMs, () => fired.push(delayMs))
  clock.setTimer(15, () => fired.push(-1)).cancel()
  clock.setTimer(12, () => clock.setTimer(1, () => fired.push(13)))
  while (clock.step(clock.nowMs() + 40));
  assert.deepEqual(fired, [0, 10, 10, 13, 20, 25, 30, 30])
})
