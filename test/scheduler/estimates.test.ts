/** What is learnt of jobs: bounds, fallbacks, and that a replayed journal teaches the same. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { decodeObject, encodeObject } from '../../src/wire/cbor.ts'
import { Fact } from '../../src/wire/facts.ts'
import {
  DEFAULT_MS,
  ESTIMATE_KEYS_MAX,
  Estimates,
  type Estimate,
  type Outcome,
} from '../../src/scheduler/estimates.ts'
import { snapshotOf } from '../../src/scheduler/learnt.ts'
import { State } from '../../src/scheduler/state.ts'
import { derivation, GIB } from './samples.ts'
import { World } from './world.ts'

const MIB = 2 ** 20

function ran(durationMs: number, more: Partial<Outcome> = {}): Outcome {
  return { kind: 'done', durationMs, memoryBytes: 0, diskBytes: 0, cpuShare: 1, ...more }
}

const numbers = fc.oneof(
  fc.double(),
  fc.constantFrom(Number.NaN, Infinity, -Infinity, -1, 0, 2 ** 60),
  fc.integer({ min: 0, max: 10_000_000 }),
)
const outcomes: fc.Arbitrary<Outcome> = fc.record({
  kind: fc.constantFrom('done', 'memory', 'limit'),
  durationMs: numbers,
  memoryBytes: numbers,
  diskBytes: numbers,
  cpuShare: numbers,
})

function assertSane(estimate: Estimate): void {
  for (const [name, value] of Object.entries(estimate))
    assert(Number.isFinite(value) && value >= 0, `${name} is ${value}`)
  assert(estimate.durationMs >= 1)
  assert(estimate.durationP90Ms >= estimate.durationMs)
  assert(Number.isInteger(estimate.memoryBytes) && estimate.memoryBytes <= 2 ** 46)
}

test('estimates: whatever nodes claim, an estimate can be calculated with', () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(fc.constantFrom('a', 'b'), outcomes)), (runs) => {
      const estimates = new Estimates()
      for (const [name, outcome] of runs) {
        estimates.learn([derivation(name)], outcome)
        for (const each of ['a', 'b', 'c']) assertSane(estimates.of(derivation(each)))
      }
    }),
  )
})

test('estimates: longer runs never make an estimate shorter', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: 100_000 }), { minLength: 1, maxLength: 40 }),
      fc.nat(),
      fc.integer({ min: 0, max: 100_000 }),
      (durations, at, more) => {
        const [shorter, longer] = [new Estimates(), new Estimates()]
        const changed = at % durations.length
        for (const [index, durationMs] of durations.entries()) {
          shorter.learn([derivation('a')], ran(durationMs))
          longer.learn([derivation('a')], ran(durationMs + (index === changed ? more : 0)))
        }
        const [low, high] = [shorter.of(derivation('a')), longer.of(derivation('a'))]
        assert(low.durationMs <= high.durationMs && low.durationP90Ms <= high.durationP90Ms)
      },
    ),
  )
})

test('estimates: first the recipe itself, then its name, then all jobs, then a guess', () => {
  const estimates = new Estimates()
  const exact = derivation('compile', { args: ['-O2'] })
  assert.deepEqual(estimates.of(exact).durationMs, DEFAULT_MS)
  assert.equal(estimates.of(exact).sampleCount, 0)
  estimates.learn([derivation('other')], ran(700))
  assert.deepEqual(
    [estimates.of(exact).durationMs, estimates.of(exact).sampleCount],
    [700, 0],
    'all jobs',
  )
  estimates.learn([derivation('compile', { args: ['-O3'] })], ran(3_000))
  assert.deepEqual([estimates.of(exact).durationMs, estimates.of(exact).sampleCount], [3_000, 1])
  estimates.learn([exact], ran(5_000))
  assert.equal(estimates.of(exact).durationMs, 5_000)
  const changedSource = derivation('compile', { args: ['-O2'], sources: [] })
  assert.equal(estimates.of(changedSource).durationMs, 5_000)
})

test('estimates: the contents of inputs do not matter, the recipe does', () => {
  const estimates = new Estimates()
  estimates.learn([derivation('a', { sources: ['one'] })], ran(1_000))
  assert.equal(estimates.of(derivation('a', { sources: ['two'] })).durationMs, 1_000)
  estimates.learn([derivation('b', { args: ['x'] })], ran(2_000))
  estimates.learn([derivation('b', { args: ['y'] })], ran(4_000))
  assert.equal(estimates.of(derivation('b', { args: ['x'] })).durationMs, 2_000)
})

test('estimates: the middle for the order, nine of ten for stragglers, with a margin for memory', () => {
  const estimates = new Estimates()
  for (let at = 1; at <= 20; at += 1)
    estimates.learn([derivation('a')], ran(1_000 + at, { memoryBytes: at * MIB, cpuShare: 3 }))
  const estimate = estimates.of(derivation('a'))
  assert.equal(estimate.durationMs, 1_010)
  assert.equal(estimate.durationP90Ms, 1_018)
  assert.equal(estimate.memoryBytes, Math.ceil(18 * MIB * 1.2))
  assert.deepEqual([estimate.cpuShare, estimate.sampleCount], [3, 20])
})

test('estimates: one run far from all others moves little, a lasting change gets through', () => {
  const estimates = new Estimates()
  for (let at = 0; at < 8; at += 1) estimates.learn([derivation('a')], ran(1_000))
  estimates.learn([derivation('a')], ran(1_000_000_000))
  assert.equal(estimates.of(derivation('a')).durationMs, 1_000)
  assert(estimates.of(derivation('a')).durationP90Ms <= 8_000)
  for (let at = 0; at < 64; at += 1) estimates.learn([derivation('a')], ran(60_000))
  assert.equal(estimates.of(derivation('a')).durationMs, 60_000)
})

test('estimates: after a run out of memory the next starts with twice as much, until one has shown what it needs', () => {
  const estimates = new Estimates()
  const short = ran(10, { kind: 'memory', memoryBytes: GIB })
  estimates.learn([derivation('a')], short)
  assert.equal(estimates.of(derivation('a')).memoryBytes, 2 * GIB)
  assert.equal(
    estimates.of(derivation('a')).sampleCount,
    0,
    'it tells nothing of how long it takes',
  )
  estimates.learn([derivation('a')], ran(10, { memoryBytes: 1.5 * GIB }))
  assert.equal(estimates.of(derivation('a')).memoryBytes, Math.ceil(1.8 * GIB))
})

test('estimates: a bounded number of keys is kept, and the one learnt longest ago goes', () => {
  const estimates = new Estimates()
  for (let at = 0; at <= ESTIMATE_KEYS_MAX / 2; at += 1)
    estimates.learn([derivation(`d${at}`)], ran(50_000 + at))
  assert.equal([...estimates.snapshot()].filter(([key]) => key !== 'all').length, ESTIMATE_KEYS_MAX)
  assert.equal(estimates.of(derivation('d0')).sampleCount, 0)
  assert.equal(estimates.of(derivation('d1')).durationMs, 50_001)
})

/** A world in which things were built, failed and ran out of memory. */
function lived(): World {
  const world = new World()
  const node = world.node('n1', { cpus: 2, speed: 2 })
  for (let at = 0; at < 12; at += 1) {
    world.submit(
      `r${at}`,
      [derivation('a', { args: [`${at}`] }), derivation('b', { args: ['b', `${at}`] })],
      {
        user: `user-${at % 3}`,
      },
    )
    node.take()
    for (const id of node.attempts)
      node.build(id, undefined, {
        usage: { wallMs: 1_000 + 100 * at, cpuMs: 900, maxRssBytes: 5 * MIB },
        measured: { memoryBytes: 7 * MIB, memoryFrom: 'sampled', diskBytes: MIB },
      })
    world.pass(60_000)
  }
  return world
}

function learntOf(state: State, wallMs: number): unknown {
  return {
    estimates: [...state.estimates.snapshot()],
    usage: [...state.usage.snapshot(wallMs)].map(([user, usedMs]) => [user, Math.round(usedMs)]),
  }
}

test('estimates: durations are those of a machine of speed 1', () => {
  const world = new World()
  const node = world.node('n1', { speed: 2 })
  world.submit('r', [derivation('a')])
  node.take()
  node.build(undefined, undefined, { usage: { wallMs: 1_000, cpuMs: 1, maxRssBytes: 0 } })
  assert.equal(world.scheduler.state.estimates.of(derivation('a')).durationMs, 2_000)
})

test('estimates: a replayed journal teaches the same, and so does a snapshot of it', () => {
  const world = lived()
  const { wallMs } = world.moment
  const replayed = new State()
  for (const fact of world.facts)
    replayed.evolve(decodeObject(Fact, encodeObject(Fact, fact), 'fact'))
  const expected = learntOf(world.scheduler.state, wallMs)
  assert.deepEqual(learntOf(replayed, wallMs), expected)

  const restored = new State()
  // What is kept of a journal comes before the snapshot, and is not counted twice.
  for (const fact of world.facts) restored.evolve(fact)
  const snapshot = [...snapshotOf(world.scheduler.state, wallMs)]
  for (const fact of snapshot) restored.evolve(decodeObject(Fact, encodeObject(Fact, fact), 'fact'))
  assert.deepEqual(learntOf(restored, wallMs), expected)
  assert.deepEqual(
    restored.estimates.of(derivation('never seen')),
    world.scheduler.state.estimates.of(derivation('never seen')),
  )
})

test('estimates: a large snapshot goes into many facts, none of which is large', () => {
  const state = new State()
  for (let at = 0; at < 1_000; at += 1) {
    state.estimates.learn([derivation(`d${at}`)], ran(at))
    state.usage.charge([`u${at}`], 1_000, 5)
  }
  const facts = [...snapshotOf(state, 5)]
  assert(facts.length > 8)
  const restored = new State()
  for (const fact of facts) restored.evolve(decodeObject(Fact, encodeObject(Fact, fact), 'fact'))
  assert.deepEqual(learntOf(restored, 5), learntOf(state, 5))
})

test('estimates: a journal of a version that measured nothing still replays', () => {
  const world = lived()
  const state = new State()
  for (const fact of world.facts) {
    if (fact.type !== 'ended') state.evolve(fact)
    else {
      const { measured: _measured, speed: _speed, ...old } = fact
      state.evolve(decodeObject(Fact, encodeObject(Fact, old), 'fact'))
    }
  }
  const estimate = state.estimates.of(derivation('a', { args: ['3'] }))
  assert.equal(estimate.durationMs, 1_300)
  assert.equal(estimate.memoryBytes, Math.ceil(5 * MIB * 1.2))
})
