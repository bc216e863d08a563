/** A node held to its policy: when it looks, what it tells, and what people set. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { pino } from 'pino'
import { PolicyKeeper, SAMPLE_MS } from '../../../src/node/policy/keeper.ts'
import type { PolicySettings } from '../../../src/node/policy/policy.ts'
import { NOTHING_READ, type Reading } from '../../../src/node/policy/reading.ts'
import { localTimeIn } from '../../../src/node/policy/windows.ts'
import { ManualClock } from '../manual-clock.ts'

const DEDICATED: PolicySettings = {
  name: 'dedicated',
  owner: { cpus: 1, memoryBytes: undefined, idleAfterMs: 600_000, isBatteryFine: false },
  windows: [],
}
const IDLE: PolicySettings = { ...DEDICATED, name: 'when-idle' }
const NOBODY: Reading = { ...NOTHING_READ, presence: { kind: 'nobody' } }
const ANN: Reading = {
  ...NOTHING_READ,
  presence: { kind: 'somebody', who: 'ann', where: 'tty2', idleMs: 4000 },
}
const HOUR = 3_600_000

class Kept implements Disposable {
  readonly clock = new ManualClock()
  reading = NOBODY
  looks = 0
  changes = 0
  cpusOfMachine = 16
  readonly keeper: PolicyKeeper

  constructor(settings: PolicySettings) {
    this.keeper = new PolicyKeeper(
      {
        clock: this.clock,
        log: pino({ level: 'silent' }),
        read: () => {
          this.looks += 1
          return Promise.resolve(this.reading)
        },
        machine: () => ({ cpus: this.cpusOfMachine, memoryBytes: 1024 }),
        localTimeOf: localTimeIn('UTC'),
        onChange: () => (this.changes += 1),
      },
      settings,
    )
  }

  async step(ms: number): Promise<void> {
    this.clock.step(ms)
    await settle()
  }

  get cpus(): number {
    return this.keeper.decision.cpus
  }

  [Symbol.dispose](): void {
    this.keeper[Symbol.dispose]()
  }
}

/** Lets what was answered already be taken in. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('keeper: a dedicated machine is looked at once, and never again', async () => {
  using kept = new Kept(DEDICATED)
  await kept.keeper.start()
  assert.deepEqual([kept.cpus, kept.changes, kept.clock.pendingMs()], [16, 0, []])
  assert.deepEqual(kept.keeper.note, {
    name: 'dedicated',
    cpus: 16,
    of: 16,
    wholeMemoryBytes: 1024,
    reason: 'all of it is for builds',
  })
})

test('keeper: whoever comes home is seen at the next look, and told of with the reason', async () => {
  using kept = new Kept(IDLE)
  assert.equal(kept.cpus, 1, 'nothing was looked at yet')
  await kept.keeper.start()
  assert.deepEqual([kept.cpus, kept.changes], [16, 1])
  kept.reading = ANN
  await kept.step(SAMPLE_MS)
  assert.deepEqual([kept.cpus, kept.changes], [1, 2])
  assert.equal(kept.keeper.note.reason, 'ann is at the machine (tty2, idle 4 s)')
  await kept.step(SAMPLE_MS)
  assert.equal(kept.changes, 2, 'nothing changed')
  assert.equal(kept.looks, 3)
})

test('keeper: what a person set holds for its time, and the policy again afterwards', async () => {
  using kept = new Kept(DEDICATED)
  await kept.keeper.start()
  kept.keeper.setSlots({ cpus: 4, leftMs: 2 * HOUR })
  assert.deepEqual([kept.cpus, kept.changes], [4, 1])
  assert.equal(kept.keeper.note.reason, 'set with mesh slots; until 02:00')
  // It is told again and again, with less time left.
  await kept.step(HOUR)
  kept.keeper.setSlots({ cpus: 4, leftMs: HOUR })
  assert.deepEqual([kept.cpus, kept.changes], [4, 1])
  await kept.step(HOUR)
  assert.deepEqual([kept.cpus, kept.changes], [16, 2])
  kept.keeper.setSlots({ cpus: 2, leftMs: null })
  assert.equal(kept.keeper.note.reason, 'set with mesh slots')
  kept.keeper.setSlots(undefined)
  assert.equal(kept.cpus, 16)
  kept.keeper.setSlots({ cpus: 2, leftMs: 0 })
  assert.equal(kept.cpus, 16, 'it was over when it was heard of')
})

test('keeper: hours are told with their end, and hold from minute to minute', async () => {
  using kept = new Kept({
    ...DEDICATED,
    // The clock begins on Thursday, 1 January 1970, at midnight.
    windows: [{ days: [3], from: 540, to: 1080, cpus: 4, policy: undefined }],
  })
  await kept.keeper.start()
  assert.equal(kept.keeper.note.reason, 'all of it is for builds; other hours from 09:00')
  await kept.step(9 * HOUR)
  assert.equal(kept.cpus, 4)
  assert.deepEqual(
    [kept.keeper.note.reason, kept.keeper.note.untilWall],
    ['the limit of these hours; until 18:00', 18 * HOUR],
  )
  await kept.step(9 * HOUR)
  assert.equal(kept.cpus, 16)
  assert.equal(kept.keeper.note.reason, 'all of it is for builds; other hours from thu 09:00')
})

test('keeper: a machine that gets processors gives them to its builds', async () => {
  using kept = new Kept(DEDICATED)
  await kept.keeper.start()
  kept.cpusOfMachine = 24
  kept.keeper.resized()
  assert.deepEqual([kept.cpus, kept.changes, kept.keeper.note.of], [24, 1, 24])
})

test('keeper: another configuration holds at once', async () => {
  using kept = new Kept(DEDICATED)
  await kept.keeper.start()
  kept.reading = ANN
  kept.keeper.setPolicy(IDLE)
  assert.equal(kept.cpus, 1)
  await kept.step(0)
  assert.equal(kept.keeper.note.reason, 'ann is at the machine (tty2, idle 4 s)')
  kept.keeper.setPolicy(DEDICATED)
  assert.equal(kept.cpus, 16)
  await kept.step(0)
  assert.deepEqual(kept.clock.pendingMs(), [])
})

test('keeper: sensors that fail are said, and looked at again', async () => {
  using kept = new Kept(IDLE)
  await kept.keeper.start()
  const failing = new PolicyKeeper(
    {
      clock: kept.clock,
      log: pino({ level: 'silent' }),
      read: () => Promise.reject(new Error('the eye is gone')),
      machine: () => ({ cpus: 16, memoryBytes: 1024 }),
      onChange: () => undefined,
    },
    IDLE,
  )
  await failing.start()
  assert.equal(failing.decision.cpus, 1)
  assert.match(failing.note.reason, /the eye is gone/)
  failing[Symbol.dispose]()
})

test('keeper: one that is over looks no more', async () => {
  const kept = new Kept(IDLE)
  await kept.keeper.start()
  kept[Symbol.dispose]()
  await kept.step(10 * SAMPLE_MS)
  assert.equal(kept.looks, 1)
})
