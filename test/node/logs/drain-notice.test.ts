/** Who stops a node is told for what it waits. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { noticeDrain } from '../../../src/node/process/drain-notice.ts'
import { ManualClock } from '../manual-clock.ts'

test('drain-notice: told at once, when it changes, and every five seconds', () => {
  const clock = new ManualClock()
  const told: string[] = []
  let running = 2
  const options = { deadlineMs: 25_000 }
  using notice = noticeDrain(
    { clock, running: () => running, tell: (text) => told.push(text) },
    options,
  )
  void notice
  for (let second = 0; second < 6; second++) clock.step(1_000)
  running = 1
  clock.step(1_000)
  running = 0
  clock.step(1_000)
  clock.step(60_000)
  assert.deepEqual(told, [
    'waiting for 2 builds, 25 s left',
    'waiting for 2 builds, 20 s left',
    'waiting for 1 build, 18 s left',
  ])
  assert.deepEqual(clock.pendingMs(), [])
})

test('drain-notice: nothing is said where nothing runs, and no timer is left behind', () => {
  const clock = new ManualClock()
  const told: string[] = []
  const tell = (text: string): number => told.push(text)
  noticeDrain({ clock, running: () => 0, tell }, { deadlineMs: 1_000 })[Symbol.dispose]()
  noticeDrain({ clock, running: () => 1, tell }, { deadlineMs: 1_000 })[Symbol.dispose]()
  assert.deepEqual([told, clock.pendingMs()], [['waiting for 1 build, 1 s left'], []])
})
