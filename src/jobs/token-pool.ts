/**
 * The tokens of all builds that one process runs: the ledger's decisions carried out on their FIFOs.
 *
 * Giving is a write and takes effect at once. Taking reads what lies free at once, and leaves the rest to the
 * taker, which gets each further token when a job of the build ends.
 */
import type { Clock, Timer } from '../base/clock.ts'
import { TokenLedger, type TokenAccount, type TokenSample } from './token-ledger.ts'
import type { TokenFifo } from './token-fifo.ts'
import { TokenTaker } from './token-taker.ts'

/** Idle in two looks, a token is lent: well within half a second. */
const SAMPLE_MS = 200

export interface PooledBuild {
  /** Tokens granted. */
  readonly tokens: number
  /** More are never lent to it; absent: none. */
  readonly most?: number
  /** Processors that its processes keep busy; looked at only when there is something to lend. */
  readonly busy?: () => number | undefined
}

interface Member {
  readonly fifo: TokenFifo
  readonly busy: (() => number | undefined) | undefined
}

export class TokenPool implements AsyncDisposable {
  readonly #clock: Clock
  readonly #ledger = new TokenLedger()
  readonly #members = new Map<string, Member>()
  readonly #taker: TokenTaker
  readonly #onError: (error: Error) => void
  #timer: Timer | undefined

  /** `onError` hears of a thread that failed; builds then keep what they owe until they end. */
  constructor(clock: Clock, onError: (error: Error) => void) {
    this.#clock = clock
    this.#onError = onError
    this.#taker = new TokenTaker(clock, {
      onTaken: (fifo, count) => this.#moved(fifo, count),
      onPut: (fifo) => this.#moved(fifo, -1),
      onError,
    })
  }

  get accounts(): TokenAccount[] {
    return this.#ledger.accounts
  }

  /** Fills the FIFO of a build that begins. Its owner closes the FIFO after `close`. */
  open(id: string, fifo: TokenFifo, { tokens, most = tokens, busy }: PooledBuild): void {
    this.#members.set(id, { fifo, busy })
    this.#ledger.open(id, tokens, most)
    this.#settle()
    this.#timer ??= this.#clock.setTimer(SAMPLE_MS, () => this.#sample())
  }

  grant(id: string, tokens: number): void {
    this.#ledger.grant(id, tokens)
    this.#settle()
  }

  /** The build is over: all that it had goes to others. Resolves when nobody uses its FIFO any more. */
  async close(id: string): Promise<void> {
    const member = this.#members.get(id)
    if (member === undefined) return
    this.#members.delete(id)
    this.#ledger.close(id)
    this.#settle()
    await this.#taker.leave(member.fifo)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#timer?.cancel()
    for (const id of [...this.#members.keys()]) await this.close(id)
    await this.#taker.close()
  }

  #moved(fifo: TokenFifo, count: number): void {
    for (const [id, member] of this.#members) if (member.fifo === fifo) this.#ledger.took(id, count)
    // A call to the thread is no reason to settle: what it put in is what it takes out.
    if (count > 0) this.#settle()
  }

  #settle(): void {
    try {
      for (const { id, placed, wanted } of this.#ledger.accounts)
        if (placed > wanted)
          this.#ledger.took(id, this.#members.get(id)?.fifo.take(placed - wanted) ?? 0)
      for (const [id, count] of this.#ledger.give()) this.#members.get(id)?.fifo.put(count)
      for (const { id, placed, wanted } of this.#ledger.accounts) {
        const fifo = this.#members.get(id)?.fifo
        if (fifo !== undefined) this.#taker.owe(fifo, Math.max(0, placed - wanted))
      }
    } catch (error) {
      this.#onError(error instanceof Error ? error : new Error(String(error)))
    }
  }

  #sample(): void {
    this.#timer = undefined
    if (this.#members.size === 0) return
    this.#timer = this.#clock.setTimer(SAMPLE_MS, () => this.#sample())
    this.#ledger.sampled(this.#look())
    this.#settle()
  }

  /** Looks at processors cost, so they are left alone unless somebody has a token to lend. */
  #look(): Map<string, TokenSample> {
    const free = new Map<string, number>()
    for (const { id, placed } of this.#ledger.accounts)
      free.set(id, this.#members.get(id)?.fifo.count(placed) ?? 0)
    const isLending =
      free.size > 1 &&
      (Math.max(...free.values()) > 1 ||
        this.#ledger.accounts.some(({ placed, granted }) => placed > granted))
    const samples = new Map<string, TokenSample>()
    for (const { id, placed } of this.#ledger.accounts) {
      const count = free.get(id) ?? 0
      const matters = isLending && (count > 0 || placed === 0)
      samples.set(id, {
        free: count,
        busy: matters ? this.#members.get(id)?.busy?.() : undefined,
      })
    }
    return samples
  }
}
