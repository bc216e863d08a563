/** How much of a machine is for builds: what each policy makes of what is seen. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import {
  DOWN_MS,
  FIRST_STATE,
  POLICIES,
  step,
  UP_MS,
  type Decision,
  type Override,
  type PolicySettings,
  type PolicyState,
} from '../../../src/node/policy/policy.ts'
import { NOTHING_READ, type Presence, type Reading } from '../../../src/node/policy/reading.ts'
import type { LocalTime } from '../../../src/node/policy/windows.ts'

const GIB = 1024 ** 3
const MACHINE = { cpus: 16, memoryBytes: 32 * GIB }
const MONDAY_NOON: LocalTime = { day: 0, minute: 720 }
const QUIET: Reading = {
  ...NOTHING_READ,
  presence: { kind: 'nobody' },
  cpus: 16,
  foreignCpus: 0,
  memoryStall: 0,
  memoryBytes: 31 * GIB,
  isOnBattery: false,
}
const ann = (idleMs: number | undefined): Presence => ({
  kind: 'somebody',
  who: 'ann',
  where: 'tty2',
  idleMs,
})

function settings(more: Partial<PolicySettings> = {}): PolicySettings {
  return {
    name: 'when-idle',
    owner: { cpus: 2, memoryBytes: undefined, idleAfterMs: 600_000, isBatteryFine: false },
    windows: [],
    ...more,
  }
}

/** One machine under one policy, looked at every two seconds. */
class Looked {
  readonly settings: PolicySettings
  nowMs = 0
  state: PolicyState = FIRST_STATE
  override: Override | undefined
  localTime = MONDAY_NOON

  constructor(of: PolicySettings) {
    this.settings = of
  }

  see(more: Partial<Reading> = {}, forMs = 0): Decision {
    let decision = this.#step(more)
    for (let leftMs = forMs; leftMs > 0; leftMs -= 2000) {
      this.nowMs += 2000
      decision = this.#step(more)
    }
    return decision
  }

  #step(more: Partial<Reading>): Decision {
    const { state, decision } = step(this.state, {
      settings: this.settings,
      machine: MACHINE,
      reading: { ...QUIET, ...more },
      localTime: this.localTime,
      override: this.override,
      nowMs: this.nowMs,
    })
    this.state = state
    return decision
  }
}

test('policy: a dedicated machine gives all, whoever is there and whatever runs', () => {
  const looked = new Looked(settings({ name: 'dedicated' }))
  const { cpus, memoryBytes, cause } = looked.see({
    presence: ann(0),
    foreignCpus: 16,
    memoryBytes: GIB,
    isOnBattery: true,
  })
  assert.deepEqual([cpus, memoryBytes, cause], [16, 32 * GIB, 'all'])
})

test('policy: a disabled one gives nothing', () => {
  assert.equal(new Looked(settings({ name: 'disabled' })).see().cpus, 0)
})

test('policy: whoever comes home has their processors at the next look, and builds have all once they are away', () => {
  const looked = new Looked(settings())
  assert.equal(looked.see().cpus, 16)
  const home = looked.see({ presence: ann(400) })
  assert.deepEqual([home.cpus, home.cause], [2, 'owner'])
  assert.equal(home.reason, 'ann is at the machine (tty2, idle 0 s)')
  assert.equal(looked.see({ presence: ann(599_000) }).cpus, 2, 'a second too early')
  assert.equal(looked.see({ presence: ann(599_000) }).reason.includes('idle 9 min'), true)
  assert.equal(looked.see({ presence: ann(600_000) }).cpus, 16)
})

test('policy: somebody of whom no idle time is known counts as there', () => {
  const { cpus, reason } = new Looked(settings()).see({ presence: ann(undefined) })
  assert.deepEqual([cpus, reason], [2, 'ann is logged in (tty2)'])
})

test('policy: where nothing tells whether somebody is there, that is said and not guessed', () => {
  const { cpus, cause, reason } = new Looked(settings()).see({
    presence: { kind: 'unknown' },
    missing: ['no logind', 'no console'],
  })
  assert.deepEqual([cpus, cause], [2, 'unknown'])
  assert.match(reason, /no logind; no console/)
})

test('policy: a machine that is busy with other things is the owner’s until it was quiet for a minute', () => {
  const looked = new Looked(settings())
  assert.equal(looked.see().cpus, 16)
  assert.equal(looked.see({ foreignCpus: 8 }, 2000).cpus, 2, 'the second look')
  assert.equal(looked.see({}, 58_000).cpus, 2, 'quiet for less than a minute')
  const { cpus, cause } = looked.see({}, 30_000)
  assert.deepEqual([cpus, cause], [16, 'all'])
})

test('policy: while the use of others is being measured for the first time, the least is given', () => {
  const looked = new Looked(settings())
  assert.deepEqual([looked.see({ foreignCpus: 'soon' }).cause], ['unknown'])
  assert.equal(looked.see({ foreignCpus: 0 }).cpus, 16)
})

test('policy: on its battery, and short of memory, a machine is its owner’s', () => {
  const looked = new Looked(settings())
  assert.deepEqual(looked.see({ isOnBattery: true }).cause, 'battery')
  const fine = settings({ owner: { ...settings().owner, isBatteryFine: true } })
  assert.equal(new Looked(fine).see({ isOnBattery: true }).cpus, 16)
  assert.deepEqual(looked.see({ memoryStall: 0.3 }).cause, 'memory')
  assert.equal(looked.see({ memoryStall: 0 }, 28_000).cause, 'memory', 'for half a minute more')
  assert.equal(looked.see({ memoryStall: 0 }, 4000).cause, 'all')
  assert.equal(looked.see({ memoryBytes: -1 }).cause, 'memory', 'nothing is free')
})

test('policy: proportional gives what others leave, less at once and more after a while', () => {
  const looked = new Looked(settings({ name: 'proportional' }))
  assert.equal(looked.see().cpus, 16)
  const later = looked.see({ foreignCpus: 10 }, 4000)
  assert.ok(later.cpus <= 10, `down to ${later.cpus} after 4 s`)
  const settled = looked.see({ foreignCpus: 10 }, 30_000)
  assert.deepEqual([settled.cpus, settled.cause], [6, 'share'])
  assert.equal(settled.reason, 'what others leave (they use 10.0 cpus)')
  assert.ok(looked.see({}, 2000).cpus < 16, 'not at once')
  assert.equal(looked.see({}, 60_000).cpus, 16)
  assert.equal(looked.see({ foreignCpus: 16 }, 60_000).cpus, 2, 'the least')
})

test('policy: free memory is told in large steps, and the owner’s limit holds while they are there', () => {
  const looked = new Looked(settings())
  assert.equal(looked.see({ memoryBytes: 20 * GIB }).memoryBytes, 20 * GIB)
  assert.equal(looked.see({ memoryBytes: 19 * GIB }).memoryBytes, 20 * GIB, 'by less than a step')
  assert.equal(looked.see({ memoryBytes: 17 * GIB }).memoryBytes, 17 * GIB)
  const limited = new Looked(settings({ owner: { ...settings().owner, memoryBytes: 4 * GIB } }))
  assert.equal(limited.see({ presence: ann(0) }).memoryBytes, 4 * GIB)
  assert.equal(limited.see().memoryBytes, 31 * GIB)
})

test('policy: hours have a limit or a policy of their own; the first that holds counts', () => {
  const looked = new Looked(
    settings({
      name: 'dedicated',
      windows: [
        { days: [0], from: 540, to: 1080, cpus: 4, policy: undefined },
        { days: [0, 1], from: 0, to: 1440, cpus: undefined, policy: 'disabled' },
      ],
    }),
  )
  assert.deepEqual([looked.see().cpus, looked.see().cause], [4, 'window'])
  looked.localTime = { day: 0, minute: 1080 }
  assert.deepEqual([looked.see().cpus, looked.see().policy], [0, 'disabled'])
  looked.localTime = { day: 2, minute: 600 }
  assert.equal(looked.see().cpus, 16)
})

test('policy: what a person set comes before all, but never beyond the machine', () => {
  const looked = new Looked(settings({ name: 'disabled' }))
  looked.override = { cpus: 5, untilMs: null }
  assert.deepEqual([looked.see().cpus, looked.see().cause], [5, 'person'])
  looked.override = { cpus: 100, untilMs: null }
  assert.equal(looked.see().cpus, 16)
  looked.override = { cpus: 0, untilMs: null }
  assert.equal(looked.see().cpus, 0)
  looked.override = undefined
  assert.equal(looked.see().cause, 'disabled')
})

const seen = fc.record({
  presence: fc.oneof(
    fc.constant<Presence>({ kind: 'nobody' }),
    fc.constant<Presence>({ kind: 'unknown' }),
    fc.nat(1_200_000).map(ann),
  ),
  cpus: fc.constantFrom(undefined, 8, 16, 64),
  foreignCpus: fc.oneof(
    fc.double({ min: 0, max: 80, noNaN: true }),
    fc.constant('soon' as const),
    fc.constant(undefined),
  ),
  memoryStall: fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.constant(undefined)),
  memoryBytes: fc.oneof(fc.integer({ min: -GIB, max: 64 * GIB }), fc.constant(undefined)),
  isOnBattery: fc.constantFrom(undefined, false, true),
})

test('policy: whatever is seen, processors and memory are within 0 and the machine’s', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...POLICIES),
      fc.nat(32),
      fc.array(seen, { maxLength: 40 }),
      fc.option(fc.nat(64), { nil: undefined }),
      (name, ownerCpus, looks, set) => {
        const looked = new Looked(
          settings({ name, owner: { ...settings().owner, cpus: ownerCpus } }),
        )
        if (set !== undefined) looked.override = { cpus: set, untilMs: null }
        for (const more of looks) {
          const { cpus, memoryBytes } = looked.see(more, 2000)
          assert.ok(Number.isInteger(cpus) && cpus >= 0 && cpus <= MACHINE.cpus, `${cpus} cpus`)
          assert.ok(memoryBytes >= 0 && memoryBytes <= MACHINE.memoryBytes, `${memoryBytes} bytes`)
        }
      },
    ),
  )
})

test('policy: whatever others do, what is left to builds rises and falls no faster than it may', () => {
  fc.assert(
    fc.property(
      fc.array(fc.double({ min: 0, max: 16, noNaN: true }), { maxLength: 100 }),
      (loads) => {
        const looked = new Looked(settings({ name: 'proportional' }))
        let before = looked.see().cpus
        let changedAtMs = 0
        for (const foreignCpus of loads) {
          looked.nowMs += 500
          const { cpus } = looked.see({ foreignCpus })
          if (cpus !== before) {
            const tookMs = looked.nowMs - changedAtMs
            assert.ok(
              tookMs >= (cpus > before ? UP_MS : DOWN_MS),
              `${before} → ${cpus} in ${tookMs} ms`,
            )
            changedAtMs = looked.nowMs
          }
          before = cpus
        }
      },
    ),
  )
})

test('policy: a steady load of others makes builds neither grow nor shrink once it has settled', () => {
  fc.assert(
    fc.property(fc.double({ min: 0, max: 16, noNaN: true }), (foreignCpus) => {
      const looked = new Looked(settings({ name: 'proportional' }))
      const { cpus } = looked.see({ foreignCpus }, 120_000)
      for (let look = 0; look < 50; look += 1)
        assert.equal(looked.see({ foreignCpus }, 2000).cpus, cpus)
    }),
  )
})
