/** Tokens in real FIFOs: given, taken back while jobs wait for them, lent, clamped, refunded. */
import assert from 'node:assert/strict'
import { execFile, spawn, type ChildProcess } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { test } from 'node:test'
import { promisify } from 'node:util'
import { systemClock } from '../../src/base/clock.ts'
import { TokenFifo } from '../../src/jobs/token-fifo.ts'
import { TokenPool } from '../../src/jobs/token-pool.ts'
import { until } from '../build/builds.ts'

class Pools implements AsyncDisposable {
  readonly pool: TokenPool
  readonly errors: Error[] = []
  readonly #directory: string
  readonly #fifos: TokenFifo[] = []
  readonly #children: ChildProcess[] = []

  private constructor(directory: string) {
    this.#directory = directory
    this.pool = new TokenPool(systemClock(), (error) => this.errors.push(error))
  }

  static async open(): Promise<Pools> {
    return new Pools(await mkdtemp(join(tmpdir(), 'mesh-tokens-')))
  }

  async fifo(id: string): Promise<TokenFifo> {
    const path = join(this.#directory, id)
    await promisify(execFile)('mkfifo', [path])
    const fifo = new TokenFifo(path)
    this.#fifos.push(fifo)
    return fifo
  }

  /** Takes tokens as jobs do, waiting for each in the kernel, and holds each for 0.1 s. */
  jobs(fifo: TokenFifo, count: number): void {
    const script = `exec 7<>"$1"; while head -c 1 <&7 >/dev/null; do sleep 0.1; printf + >&7; done`
    for (let at = 0; at < count; at++)
      this.#children.push(
        spawn('/bin/sh', ['-c', script, 'sh', fifo.path], { stdio: 'ignore', detached: true }),
      )
  }

  placed(id: string): number | undefined {
    return this.pool.accounts.find((account) => account.id === id)?.placed
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { pid } of this.#children) if (pid !== undefined) process.kill(-pid, 'SIGKILL')
    await this.pool[Symbol.asyncDispose]()
    for (const fifo of this.#fifos) fifo.close()
    await rm(this.#directory, { recursive: true })
    assert.deepEqual(this.errors, [])
  }
}

test('pool: a build finds its tokens at once, and more as soon as it is granted more', async () => {
  await using pools = await Pools.open()
  const fifo = await pools.fifo('a')
  pools.pool.open('a', fifo, { tokens: 3 })
  assert.equal(fifo.count(100), 3)
  pools.pool.grant('a', 5)
  assert.equal(fifo.count(100), 5)
  pools.pool.grant('a', 1)
  assert.equal(fifo.count(100), 1)
})

test('pool: tokens of a busy build are taken back as its jobs end, and the loop goes on meanwhile', async () => {
  await using pools = await Pools.open()
  const fifo = await pools.fifo('a')
  pools.pool.open('a', fifo, { tokens: 7 })
  // Twice as many as there are tokens: somebody always waits for the next one.
  pools.jobs(fifo, 14)
  await until('all tokens are in use', () => fifo.count(100) === 0)
  const lag = monitorEventLoopDelay({ resolution: 1 })
  lag.enable()
  pools.pool.grant('a', 1)
  await until('all but one are back', () => pools.placed('a') === 1)
  lag.disable()
  // The whole machine may be busy; a thread that waited in our place would show as seconds.
  assert(lag.max / 1e6 < 1000, `the loop stood still for ${lag.max / 1e6} ms`)
  pools.pool.grant('a', 7)
  assert.equal(pools.placed('a'), 7)
})

test('pool: builds that owe are served in turn, though most never give anything back', async () => {
  await using pools = await Pools.open()
  const stuck = await Promise.all(['a', 'b', 'c', 'd', 'e'].map((id) => pools.fifo(id)))
  const busy = await pools.fifo('busy')
  for (const [at, fifo] of stuck.entries()) {
    pools.pool.open(`stuck${at}`, fifo, { tokens: 4 })
    assert.equal(fifo.take(4), 4)
  }
  pools.pool.open('busy', busy, { tokens: 4 })
  pools.jobs(busy, 8)
  await until('all tokens are in use', () => busy.count(100) === 0)
  for (const at of stuck.keys()) pools.pool.grant(`stuck${at}`, 0)
  pools.pool.grant('busy', 0)
  await until('the busy one has paid', () => pools.placed('busy') === 0)
  assert((pools.placed('stuck4') ?? 0) >= 4)
  for (const [at, fifo] of stuck.entries()) {
    fifo.put(4)
    await until('the others too', () => pools.placed(`stuck${at}`) === 0)
  }
})

test('pool: idle tokens are lent within half a second, and are back when their owner wants them', async () => {
  await using pools = await Pools.open()
  const [lender, borrower] = [await pools.fifo('lender'), await pools.fifo('borrower')]
  pools.pool.open('lender', lender, { tokens: 6 })
  pools.pool.open('borrower', borrower, { tokens: 1, most: 20 })
  pools.jobs(borrower, 12)
  await until('all but one of the idle ones are lent', () => pools.placed('borrower') === 6)
  assert.equal(pools.placed('lender'), 1)
  pools.jobs(lender, 12)
  await until('they are back', () => pools.placed('lender') === 6)
  assert.equal(pools.placed('borrower'), 1)
})

test('pool: tokens that a client made up are dropped', async () => {
  await using pools = await Pools.open()
  const fifo = await pools.fifo('a')
  pools.pool.open('a', fifo, { tokens: 3 })
  fifo.put(140)
  // Another look takes them away at once; the pool's own comes five times a second.
  await until('they are gone', () => {
    const free = fifo.take(1000)
    fifo.put(free)
    return free === 3
  })
})

test('pool: what a build had is free for others when it is over, also while the thread waits for it', async () => {
  await using pools = await Pools.open()
  const [dying, other] = [await pools.fifo('dying'), await pools.fifo('other')]
  pools.pool.open('dying', dying, { tokens: 8 })
  pools.pool.open('other', other, { tokens: 1, most: 8 })
  assert.equal(dying.take(8), 8)
  pools.pool.grant('dying', 2)
  pools.pool.grant('other', 7)
  assert.equal(pools.placed('other'), 1)
  await pools.pool.close('dying')
  assert.equal(pools.placed('other'), 7)
})
