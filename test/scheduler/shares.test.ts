/** Fair shares: decay, groups, charges, what runs now, and clocks that jump. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { Core } from '../../src/scheduler/core.ts'
import type { Fact } from '../../src/wire/facts.ts'
import type { ShareOptions } from '../../src/scheduler/shares.ts'
import { HALF_LIFE_MS_DEFAULT, USERS_MAX, UsageTable } from '../../src/scheduler/usage.ts'
import { derivation, LINUX, peerOf, requestWire, sha } from './samples.ts'

const HOUR_MS = 3600 * 1000

/** A core that is told facts, as a replay or a live scheduler would tell them. */
class Told {
  readonly core: Core
  wallMs = 1_000_000_000

  constructor(shares?: ShareOptions) {
    this.core = new Core({
      selfId: peerOf('root'),
      providersOf: () => [],
      ...(shares === undefined ? {} : { shares }),
    })
    this.#now()
  }

  #now(): void {
    this.core.begin({ nowMs: this.wallMs, wallMs: this.wallMs, ownBlobBytes: 0 })
  }

  pass(ms: number): void {
    this.wallMs += ms
    this.#now()
  }

  fact(fact: Fact): void {
    this.core.fact(fact)
  }

  /** The users' equal jobs are one, granted to a node; the attempt's id. */
  run(name: string, users: readonly string[], cpus = 1): string {
    const key = sha(name)
    for (const user of users) {
      const request = requestWire(`${name} of ${user}`, [derivation(name, { cpus })], { user })
      this.fact({ type: 'accepted', request })
      this.fact({ type: 'joined', request: request.id, derivation: name, job: `j-${name}`, key })
    }
    this.fact({
      type: 'granted',
      job: `j-${name}`,
      attempt: `a-${name}`,
      node: { peerId: peerOf('n'), name: 'n' },
      boot: '1',
      system: LINUX,
      isolation: 'namespace',
      label: 'x',
      action: key,
      userland: null,
      cpus,
      memoryBytes: 0,
      diskBytes: 0,
      atWall: this.wallMs,
    })
    return `a-${name}`
  }

  end(attempt: string, cpuMs: number, wallMs = cpuMs): void {
    this.fact({
      type: 'ended',
      attempt,
      state: 'failed',
      error: 'MESH0401: exit 1',
      usage: { wallMs, cpuMs, maxRssBytes: 0 },
      phases: {},
      bytes: { peer: 0, mirror: 0, local: 0 },
      log: null,
      exitCode: 1,
      atWall: this.wallMs,
    })
  }

  get order(): string[] {
    return this.core.shares.view().map(({ user }) => user)
  }
}

test('shares: who has had less goes first', () => {
  const told = new Told()
  told.end(told.run('a', ['n/alice']), HOUR_MS)
  told.end(told.run('b', ['n/bob']), 2 * HOUR_MS)
  assert.deepEqual(told.order, ['n/alice', 'n/bob'])
  assert(told.core.shares.score('n/new') < told.core.shares.score('n/alice'))
})

test('shares: what runs counts as it runs, and no longer when it has ended', () => {
  const told = new Told()
  const attempt = told.run('a', ['n/alice'], 3)
  assert.equal(told.core.shares.score('n/alice'), 3)
  assert.equal(told.core.shares.runningCpus('n/alice'), 3)
  told.end(attempt, 0, 0)
  assert.equal(told.core.shares.score('n/alice'), 0)
})

test('shares: use is halved after each half-life', () => {
  const told = new Told({ halfLifeMs: HOUR_MS })
  told.end(told.run('a', ['n/alice']), 8 * HOUR_MS)
  assert.equal(told.core.shares.score('n/alice'), 8)
  told.pass(HOUR_MS)
  assert.equal(told.core.shares.score('n/alice'), 4)
  told.pass(2 * HOUR_MS)
  assert.equal(told.core.shares.score('n/alice'), 1)
})

test('shares: those who wait for one run bear it in equal parts', () => {
  const told = new Told({ halfLifeMs: HOUR_MS })
  const attempt = told.run('a', ['n/alice', 'n/bob', 'n/carol'], 1)
  assert(Math.abs(told.core.shares.runningCpus('n/bob') - 1 / 3) < 1e-6)
  told.end(attempt, 3 * HOUR_MS)
  for (const user of ['n/alice', 'n/bob', 'n/carol'])
    assert.equal(told.core.shares.score(user), 1, user)
})

test('shares: who joins a run bears a part of it at once, and who leaves does no longer', () => {
  const told = new Told()
  told.run('a', ['n/alice'], 2)
  const request = requestWire('late', [derivation('a', { cpus: 2 })], { user: 'n/bob' })
  told.fact({ type: 'accepted', request })
  told.fact({ type: 'joined', request: request.id, derivation: 'a', job: 'j-a', key: sha('a') })
  assert.deepEqual(
    ['n/alice', 'n/bob'].map((user) => told.core.shares.runningCpus(user)),
    [1, 1],
  )
  told.fact({ type: 'closed', request: request.id, state: 'cancelled', rootBytes: 0, atWall: 1 })
  assert.deepEqual(
    ['n/alice', 'n/bob'].map((user) => told.core.shares.runningCpus(user)),
    [2, 0],
  )
})

test('shares: a reservation that is not used is charged all the same', () => {
  const told = new Told({ halfLifeMs: HOUR_MS })
  told.end(told.run('a', ['n/alice'], 4), 0, HOUR_MS)
  assert.equal(told.core.shares.score('n/alice'), 4)
})

test('shares: a node that claims to have used years is believed up to what it was given', () => {
  const told = new Told({ halfLifeMs: HOUR_MS })
  told.end(told.run('a', ['n/alice'], 2), 1e15, HOUR_MS)
  assert.equal(told.core.shares.score('n/alice'), 2)
})

test('shares: groups come before users, by their weight', () => {
  const told = new Told({
    halfLifeMs: HOUR_MS,
    groups: [
      { name: 'ci', users: ['ci-*/local', 'n/ci'], weight: 3 },
      { name: 'people', users: ['*/people-*'], weight: 1 },
    ],
  })
  told.end(told.run('a', ['ci-1/local']), 2 * HOUR_MS)
  told.end(told.run('b', ['n/people-b']), HOUR_MS)
  // Two hours on a weight of three are less than one on one; its other users share the group's place.
  assert(told.core.shares.score('ci-1/local') < told.core.shares.score('n/people-b'))
  assert(told.core.shares.score('n/ci') < told.core.shares.score('ci-1/local'), 'within the group')
  assert(
    told.core.shares.score('n/ci') > told.core.shares.score('n/other'),
    'nobody of default had any',
  )
  assert.deepEqual(
    told.core.shares.view().map(({ user, group, weight }) => [user, group, weight]),
    [
      ['ci-1/local', 'ci', 3],
      ['n/people-b', 'people', 1],
    ],
  )
})

test('shares: a clock that jumps an hour either way turns nobody around', () => {
  fc.assert(
    fc.property(
      fc.array(
        fc.record({
          user: fc.constantFrom('a', 'b', 'c', 'd'),
          cpuMs: fc.integer({ min: 0, max: 100 * HOUR_MS }),
          stepMs: fc.constantFrom(0, 1_000, HOUR_MS, -HOUR_MS, 50 * HOUR_MS),
        }),
        { maxLength: 30 },
      ),
      fc.constantFrom(HOUR_MS, -HOUR_MS),
      (charges, jumpMs) => {
        const usage = new UsageTable()
        let wallMs = 1_000 * HOUR_MS
        for (const { user, cpuMs, stepMs } of charges) {
          wallMs += stepMs
          usage.charge([user], cpuMs, wallMs)
        }
        const orderAt = (atMs: number): string[] =>
          [...usage.users].toSorted((x, y) => usage.of(x, atMs) - usage.of(y, atMs))
        const before = orderAt(wallMs)
        assert.deepEqual(orderAt(wallMs + jumpMs), before)
        usage.charge([], 0, wallMs + jumpMs)
        assert.deepEqual(orderAt(wallMs + jumpMs), before)
        assert.deepEqual(orderAt(wallMs), before)
        for (const user of usage.users) {
          const usedMs = usage.of(user, wallMs + jumpMs)
          assert(Number.isFinite(usedMs) && usedMs >= 0)
        }
      },
    ),
  )
})

test('shares: of too many users those with the least use are forgotten', () => {
  const usage = new UsageTable(HALF_LIFE_MS_DEFAULT)
  usage.charge(['heavy'], 1e9, 0)
  for (let at = 0; at <= USERS_MAX; at += 1) usage.charge([`u${at}`], 1 + at, 0)
  assert([...usage.users].length <= USERS_MAX)
  assert.equal(usage.of('heavy', 0), 1e9)
  assert.equal(usage.of('u0', 0), 0)
})

test('shares: after a restart what ran is counted again', () => {
  const told = new Told()
  told.run('a', ['n/alice'], 5)
  const fresh = new Core({ selfId: peerOf('root'), providersOf: () => [] })
  for (const effect of told.core.effects)
    if (effect.type === 'fact') fresh.state.evolve(effect.fact)
  assert.equal(fresh.shares.runningCpus('n/alice'), 0)
  fresh.shares.recover()
  assert.equal(fresh.shares.runningCpus('n/alice'), 5)
})
