/** Who has how many tokens: never more out than granted, what lies idle is lent, and comes back. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import fc from 'fast-check'
import { TokenLedger, type TokenAccount } from '../../src/jobs/token-ledger.ts'

/** Builds as the ledger sees them: each uses as many tokens as it can get, up to its number of jobs. */
class World {
  readonly ledger = new TokenLedger()
  /** Jobs beside the first that each build would run. */
  readonly appetite = new Map<string, number>()
  readonly used = new Map<string, number>()

  open(id: string, granted: number, most: number, appetite: number): void {
    this.ledger.open(id, granted, most)
    this.appetite.set(id, appetite)
    this.used.set(id, 0)
    this.settle()
  }

  close(id: string): void {
    this.ledger.close(id)
    this.used.delete(id)
    this.settle()
  }

  free(account: TokenAccount): number {
    return account.placed - (this.used.get(account.id) ?? 0)
  }

  /** Jobs end, as many as `ends` says of each, and their tokens are looked for first by whom they are owed. */
  settle(ends = 0): void {
    for (const account of this.ledger.accounts) {
      const used = this.used.get(account.id) ?? 0
      this.used.set(account.id, Math.max(0, used - ends))
      const owed = account.placed - account.wanted
      if (owed > 0) this.ledger.took(account.id, Math.min(owed, this.free(account)))
    }
    this.ledger.give()
    for (const account of this.ledger.accounts) {
      const wants = this.appetite.get(account.id) ?? 0
      const used = this.used.get(account.id) ?? 0
      if (wants > used) this.used.set(account.id, Math.min(wants, account.placed))
    }
  }

  sample(): void {
    this.ledger.sampled(
      new Map(this.ledger.accounts.map((account) => [account.id, { free: this.free(account) }])),
    )
    this.settle()
  }

  placed(id: string): number {
    return this.ledger.find(id)?.placed ?? Number.NaN
  }
  sum(of: (account: TokenAccount) => number): number {
    return this.ledger.accounts.reduce((sum, account) => sum + of(account), 0)
  }
}

const Step = fc.oneof(
  fc.record({
    kind: fc.constant('open' as const),
    granted: fc.nat(12),
    more: fc.nat(12),
    appetite: fc.nat(16),
  }),
  fc.record({ kind: fc.constant('grant' as const), at: fc.nat(7), granted: fc.nat(12) }),
  fc.record({ kind: fc.constant('appetite' as const), at: fc.nat(7), appetite: fc.nat(16) }),
  fc.record({ kind: fc.constant('close' as const), at: fc.nat(7) }),
  fc.record({ kind: fc.constant('sample' as const) }),
  fc.record({ kind: fc.constant('end' as const), count: fc.nat(3) }),
)

test('ledger: giving never puts out more than is granted, whatever happens', () => {
  fc.assert(
    fc.property(fc.array(Step, { maxLength: 60 }), (steps) => {
      const world = new World()
      let count = 0
      for (const step of steps) {
        const ids = world.ledger.accounts.map(({ id }) => id)
        const before = world.sum(({ placed }) => placed)
        if (step.kind === 'open' && ids.length < 8)
          world.open(`b${count++}`, step.granted, step.granted + step.more, step.appetite)
        if (step.kind === 'sample') world.sample()
        if (step.kind === 'end') world.settle(step.count)
        const id = 'at' in step ? ids[step.at] : undefined
        if (id !== undefined && step.kind === 'grant') {
          world.ledger.grant(id, step.granted)
          world.settle()
        }
        if (id !== undefined && step.kind === 'appetite') world.appetite.set(id, step.appetite)
        if (id !== undefined && step.kind === 'close') world.close(id)
        const placed = world.sum((account) => account.placed)
        assert(placed <= Math.max(before, world.ledger.grantedCount), 'tokens from nowhere')
        assert(world.sum(({ wanted }) => wanted) <= world.ledger.grantedCount, 'promised too much')
        for (const { placed: out, wanted, granted, most } of world.ledger.accounts) {
          assert(out >= 0 && wanted >= 0)
          // An order of the node may be below what is in use; that is owed, and not wanted.
          assert(wanted <= Math.max(granted, most, out), 'more than it can use')
        }
      }
    }),
  )
})

test('ledger: once nothing changes, hungry builds have their grant and nothing that could be used lies idle', () => {
  const Build = fc.record({ granted: fc.nat(10), more: fc.nat(10), appetite: fc.nat(20) })
  fc.assert(
    fc.property(fc.array(Build, { minLength: 1, maxLength: 6 }), (builds) => {
      const world = new World()
      for (const [at, { granted, more, appetite }] of builds.entries())
        world.open(`b${at}`, granted, granted + more, appetite)
      for (let round = 0; round < 12; round++) {
        world.sample()
        world.settle(1)
      }
      const accounts = world.ledger.accounts
      for (const account of accounts) {
        const appetite = world.appetite.get(account.id) ?? 0
        assert(account.placed >= Math.min(appetite, account.granted), `${account.id} lacks its own`)
      }
      // One that lends keeps one free token to show that it wants them back; no more than that is idle.
      const isWanting = accounts.some(({ id, placed, most }) => {
        const appetite = world.appetite.get(id) ?? 0
        return placed < Math.min(appetite, most)
      })
      if (isWanting)
        for (const account of accounts)
          assert(world.free(account) <= 1, `${account.id} sits on ${world.free(account)} tokens`)
    }),
  )
})

test('ledger: idle tokens are lent after two looks, and are back once their owner takes its last one', () => {
  const world = new World()
  world.open('idle', 7, 7, 0)
  world.open('busy', 1, 7, 20)
  world.sample()
  assert.equal(world.placed('busy'), 1)
  world.sample()
  assert.deepEqual([world.placed('idle'), world.placed('busy')], [1, 7])
  world.appetite.set('idle', 20)
  world.settle()
  world.sample()
  // What the borrower uses is not taken away; it comes back as its jobs end.
  assert.deepEqual([world.placed('idle'), world.placed('busy')], [1, 7])
  world.settle(3)
  world.settle(3)
  assert.deepEqual([world.placed('idle'), world.placed('busy')], [7, 1])
})

test('ledger: one that has no use for what it borrows is left alone for a while', () => {
  const world = new World()
  world.open('idle', 7, 7, 0)
  world.open('serial', 0, 7, 0)
  let borrowed = 0
  for (let round = 0; round < 20; round++) {
    world.sample()
    if (world.placed('serial') > 0) borrowed++
  }
  assert(borrowed <= 3, `it held a token in ${borrowed} of 20 looks`)
})

test('ledger: a build that runs without its tokens, but keeps its processors busy, lends none', () => {
  const ledger = new TokenLedger()
  ledger.open('own', 7, 7)
  ledger.open('busy', 1, 7)
  ledger.give()
  for (let round = 0; round < 4; round++) {
    ledger.sampled(
      new Map([
        ['own', { free: 7, busy: 8 }],
        ['busy', { free: 0, busy: 2 }],
      ]),
    )
    assert.equal(ledger.find('own')?.wanted, 7)
    ledger.give()
  }
})

test('ledger: what a dead build had and had borrowed is free for others at once', () => {
  const world = new World()
  world.open('lender', 7, 7, 0)
  world.open('dying', 1, 7, 20)
  world.sample()
  world.sample()
  assert.equal(world.placed('dying'), 7)
  world.close('dying')
  assert.equal(world.placed('lender'), 7)
})

test('ledger: what one is granted waits for what another still has', () => {
  const world = new World()
  world.open('a', 5, 5, 20)
  world.open('b', 1, 7, 20)
  world.ledger.grant('a', 1)
  world.ledger.grant('b', 5)
  world.settle()
  assert.deepEqual([world.placed('a'), world.placed('b')], [5, 1])
  world.settle(2)
  assert.deepEqual([world.placed('a'), world.placed('b')], [3, 3])
  world.settle(2)
  assert.deepEqual([world.placed('a'), world.placed('b')], [1, 5])
})
