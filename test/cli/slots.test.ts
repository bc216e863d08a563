/** What `mesh slots` reads and prints; test/e2e/slots.test.ts has it against daemons. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { jobSlotsLine, nodeSlotsLines, slotsLines } from '../../src/cli/slots-views.ts'
import { parseUntil } from '../../src/cli/until.ts'
import type { JobView } from '../../src/wire/api.ts'
import type { SlotsView } from '../../src/wire/slots.ts'
import { PEER_ID } from './fake-daemon.ts'
import { Workplace } from './mesh-process.ts'

const AT = '2026-05-01T10:00:00.000Z'
const MINUTE_MS = 60_000
const options = {
  style: { colour: false, unicode: true },
  width: 120,
  nowWallMs: Date.parse(AT) + MINUTE_MS,
}

const view: SlotsView = {
  nodes: [
    {
      selector: 'desk-*',
      cpus: 2,
      by: 'ann',
      at: AT,
      until: '2026-05-01T10:31:00.000Z',
      reason: 'lunch',
      nodes: [{ name: 'desk-7', peerId: PEER_ID, state: 'ready', cpus: 8, busy: 5 }],
    },
  ],
  jobs: [
    {
      job: 'j-1',
      name: 'gcc',
      request: 'r-1',
      state: 'running',
      has: 8,
      cpus: 12,
      by: 'bob',
      at: AT,
    },
  ],
}

test('slots: times of day, dates and durations are read; what is over or no time is not', () => {
  const nowMs = new Date('2026-05-01T12:30:00').getTime()
  assert.equal(parseUntil('90m', nowMs), 90 * MINUTE_MS)
  assert.equal(parseUntil('18:00', nowMs), 330 * MINUTE_MS)
  assert.equal(parseUntil('12:30', nowMs), 24 * 60 * MINUTE_MS, 'the next one')
  assert.equal(parseUntil('2026-05-01T13:00', nowMs), 30 * MINUTE_MS)
  assert.equal(
    parseUntil('2026-05-01T13:00:00Z', Date.parse('2026-05-01T12:00:00Z')),
    60 * MINUTE_MS,
  )
  for (const text of ['', '25:00', '12:60', 'soon', '0s', '2026-04-01', '2026-13-01', '18'])
    assert.equal(parseUntil(text, nowMs), undefined, text)
})

test('slots: the list says what is set, by whom, until when, and what it comes to', () => {
  assert.deepEqual(slotsLines(view, options), [
    'NODES   SLOTS  BY     AGE  UNTIL                   NOW         REASON',
    'desk-*      2  ann  1m00s  for 30m00s (10:31 UTC)  desk-7 5/8  lunch',
    '',
    'JOB  SLOTS  HAS  STATE    BY     AGE  NAME',
    'j-1     12    8  running  bob  1m00s  gcc',
  ])
  assert.match(slotsLines({ nodes: [], jobs: [] }, options).join(), /nobody has set anything/)
})

test('slots: one node that runs more than it is to give is named, and how to end it', () => {
  assert.deepEqual(nodeSlotsLines('desk-*', view, options), [
    "'desk-*': 2 processors for builds for 30m00s (10:31 UTC)",
    '  desk-7 runs 5 now: that goes on, and nothing new begins before it is less',
    "End it: mesh slots 'desk-*' auto",
  ])
  assert.deepEqual(nodeSlotsLines('desk-7', { nodes: [], jobs: [] }, options), [
    'desk-7: what its nodes give by themselves again',
  ])
})

test('slots: a job is said to have what it has now', () => {
  const job: JobView = {
    id: 'j-1',
    request: 'r-1',
    name: 'gcc',
    key: null,
    state: 'waiting',
    cached: false,
    attempts: [],
    rewinds: 0,
    slots: { cpus: 12, by: 'ann', at: AT },
  }
  assert.equal(jobSlotsLine(job), 'gcc (j-1) is to have 12 processors; it is waiting')
  const { slots: _slots, ...auto } = job
  assert.match(jobSlotsLine(auto), /gets what it asks for by itself again; it is waiting/)
})

test('slots: words that mean nothing are refused before anybody is asked', async () => {
  using place = new Workplace()
  const wrong = async (...args: readonly string[]): Promise<string> => {
    const { code, stderr } = await place.mesh('slots', ...args)
    assert.equal(code, 2, stderr)
    return stderr
  }
  assert.match(await wrong('desk-7', 'many'), /"many": expected a number of processors from 0 to/)
  assert.match(await wrong('desk-7', '5000'), /expected a number of processors/)
  assert.match(await wrong('desk-7', '2', '--until', 'soon'), /--until/)
  assert.match(await wrong('desk-7', 'auto', '--until', '1h'), /go with a number/)
  assert.match(await wrong('desk-7', '--reason', 'why'), /go with a number/)
})
