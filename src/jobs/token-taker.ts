/**
 * Collects the tokens that builds owe, as their jobs give them back, by a few threads that may wait.
 *
 * They are started as builds owe: most nodes never need one. Where more builds owe than there are threads,
 * one is called away from its build after a while, by a token put there, which counts as placed.
 */
import { extname, join } from 'node:path'
import { Worker } from 'node:worker_threads'
import { sleep, type Clock, type Timer } from '../base/clock.ts'
import { MeshError, messageOf } from '../base/errors.ts'
import {
  AWAY,
  DEBT,
  FD,
  MEMORY_BYTES,
  NOBODY,
  OWNER,
  SLOTS_MAX,
  WAKE,
  type TakerData,
  type Taken,
} from './taker-memory.ts'
import type { TokenFifo } from './token-fifo.ts'

/** Each costs some 5 MiB. When the owner of a machine comes home, all of its builds owe at once. */
const THREADS_MAX = 4
/** How long a thread waits for one build while another owes too. */
const TURN_MS = 300
/** Between two looks at whether a thread has left a FIFO that is to be closed. */
const LEAVE_MS = 2

export interface TakerEvents {
  /** `count` tokens came out of this FIFO. */
  readonly onTaken: (fifo: TokenFifo, count: number) => void
  /** A token was put into this FIFO to call a thread away. */
  readonly onPut: (fifo: TokenFifo) => void
  readonly onError: (error: Error) => void
}

export class TokenTaker {
  readonly #clock: Clock
  readonly #events: TakerEvents
  readonly #memory = new Int32Array(new SharedArrayBuffer(MEMORY_BYTES))
  readonly #slots: (TokenFifo | undefined)[] = []
  readonly #threads = new Map<number, Worker>()
  #started = 0
  #turn: Timer | undefined
  /** The slot that a thread was last called away from. */
  #lastAway = -1
  /** No thread may be waiting when the process ends: the end would wait for it. */
  readonly #onExit = (): void => this.#callAll()

  constructor(clock: Clock, events: TakerEvents) {
    this.#clock = clock
    this.#events = events
  }

  /** So many tokens of this FIFO are owed from now on. Throws MESH0211 for one FIFO too many. */
  owe(fifo: TokenFifo, count: number): void {
    const slot = this.#slotOf(fifo, count > 0)
    if (slot === undefined) return
    const before = Atomics.exchange(this.#memory, DEBT + slot, count)
    if (count === 0) return
    if (before <= 0) {
      if (this.#threads.size < Math.min(THREADS_MAX, this.#owing().length)) this.#start()
      Atomics.add(this.#memory, WAKE, 1)
      Atomics.notify(this.#memory, WAKE)
    }
    this.#turn ??= this.#clock.setTimer(TURN_MS, () => this.#nextTurn())
  }

  /** Nothing is owed of it any more; resolves when nobody waits in it. */
  async leave(fifo: TokenFifo): Promise<void> {
    const slot = this.#slots.indexOf(fifo)
    if (slot === -1) return
    Atomics.store(this.#memory, DEBT + slot, 0)
    while (this.#ownerOf(slot) !== NOBODY) {
      fifo.put(1)
      await sleep(this.#clock, LEAVE_MS)
    }
    this.#slots[slot] = undefined
  }

  /** Every FIFO was left before. */
  async close(): Promise<void> {
    this.#turn?.cancel()
    process.off('exit', this.#onExit)
    await Promise.all([...this.#threads.values()].map((thread) => thread.terminate()))
  }

  #slotOf(fifo: TokenFifo, isNeeded: boolean): number | undefined {
    const known = this.#slots.indexOf(fifo)
    if (known !== -1) return known
    if (!isNeeded) return undefined
    const free = this.#slots.indexOf(undefined)
    const slot = free === -1 ? this.#slots.length : free
    if (slot >= SLOTS_MAX)
      throw new MeshError('MESH0211', `tokens of more than ${SLOTS_MAX} builds cannot be collected`)
    this.#slots[slot] = fifo
    Atomics.store(this.#memory, FD + slot, fifo.waitingFd)
    Atomics.store(this.#memory, AWAY + slot, 0)
    return slot
  }

  #owing(): number[] {
    return this.#slots.flatMap((fifo, slot) =>
      fifo !== undefined && Atomics.load(this.#memory, DEBT + slot) > 0 ? [slot] : [],
    )
  }

  #ownerOf(slot: number): number {
    return Atomics.load(this.#memory, OWNER + slot)
  }

  #start(): void {
    const number = ++this.#started
    const workerData: TakerData = { shared: this.#memory.buffer, thread: number }
    // The same extension as this file: sources run as they are, packages from dist/.
    const program = join(import.meta.dirname, `taker-thread${extname(import.meta.filename)}`)
    // Without the options of this process: a test runner's are not for threads.
    const thread = new Worker(program, { name: 'tokens', workerData, execArgv: [], env: {} })
    thread.unref()
    thread.on('message', ({ slot, count }: Taken) => {
      const fifo = this.#slots[slot]
      if (fifo !== undefined) this.#events.onTaken(fifo, count)
    })
    thread.on('error', (error) => this.#failed(number, error))
    if (this.#threads.size === 0) process.on('exit', this.#onExit)
    this.#threads.set(number, thread)
  }

  #failed(number: number, error: unknown): void {
    this.#threads.delete(number)
    for (const slot of this.#slots.keys())
      Atomics.compareExchange(this.#memory, OWNER + slot, number, NOBODY)
    this.#events.onError(
      new MeshError('MESH0505', `a thread that takes tokens failed: ${messageOf(error)}`, {
        cause: error,
      }),
    )
  }

  #nextTurn(): void {
    this.#turn = undefined
    const owing = this.#owing()
    if (owing.length === 0) return
    this.#turn = this.#clock.setTimer(TURN_MS, () => this.#nextTurn())
    if (owing.every((slot) => this.#ownerOf(slot) !== NOBODY)) return
    // Round and round, so that whoever gives nothing back does not keep all threads for ever.
    const waiting = [...this.#slots.keys()].filter((slot) => this.#ownerOf(slot) !== NOBODY)
    const slot = waiting.find((at) => at > this.#lastAway) ?? waiting[0]
    const fifo = slot === undefined ? undefined : this.#slots[slot]
    if (slot === undefined || fifo === undefined) return
    this.#lastAway = slot
    Atomics.store(this.#memory, AWAY + slot, 1)
    this.#events.onPut(fifo)
    fifo.put(1)
  }

  #callAll(): void {
    for (const [slot, fifo] of this.#slots.entries()) {
      if (fifo === undefined) continue
      Atomics.store(this.#memory, DEBT + slot, 0)
      // One for each thread, and for clients that may be faster.
      fifo.put(16)
    }
  }
}
