/** Shared by the tests of the store: a silent log, a stepped clock, directories that go away, channels in memory. */
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import { createServer, type RequestListener } from 'node:http'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { TestContext } from 'node:test'
import { pino } from 'pino'
import type { Clock, Timer } from '../../src/base/clock.ts'
import type { Random } from '../../src/base/random.ts'
import type { FrameChannel } from '../../src/wire/frame-channel.ts'

export const log = pino({ level: 'silent' })
export const never = new AbortController().signal
/** Always the middle. */
export const random: Random = { bytes: (count) => new Uint8Array(count).fill(128) }

export function temporaryDirectory(): Disposable & { readonly path: string } {
  const path = mkdtempSync(join(tmpdir(), 'mesh-'))
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) }
}

/** An HTTP server until the test ends; gives its URL. */
export async function serve(context: TestContext, listener: RequestListener): Promise<string> {
  const server = createServer(listener)
  await new Promise<void>((resolve) => void server.listen(0, '127.0.0.1', resolve))
  context.after(() => {
    server.closeAllConnections()
    server.close()
  })
  const address = server.address()
  assert(typeof address === 'object' && address !== null)
  return `http://127.0.0.1:${address.port}`
}

/** Time that passes only when it is told to. */
export class StepClock implements Clock {
  #nowMs = 0
  readonly #timers = new Set<{ readonly atMs: number; readonly fire: () => void }>()

  nowMs(): number {
    return this.#nowMs
  }
  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs
  }
  setTimer(delayMs: number, fire: () => void): Timer {
    const timer = { atMs: this.#nowMs + delayMs, fire }
    this.#timers.add(timer)
    return { cancel: () => this.#timers.delete(timer) }
  }
  step(ms: number): void {
    this.#nowMs += ms
    for (const timer of [...this.#timers].toSorted((a, b) => a.atMs - b.atMs))
      if (timer.atMs <= this.#nowMs && this.#timers.delete(timer)) timer.fire()
  }
  /** Steps until `promise` settles, giving I/O its turns. */
  async run<T>(promise: Promise<T>, stepMs = 50): Promise<T> {
    const state = { isSettled: false }
    const settle = (): void => {
      state.isSettled = true
    }
    promise.then(settle, settle)
    while (!state.isSettled) {
      for (let turn = 0; turn < 5 && !state.isSettled; turn++) await turnOver()
      if (!state.isSettled) this.step(stepMs)
    }
    return promise
  }
}

export function turnOver(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}

/** One end of a channel in memory; `sent` counts, `transform` may lie. */
export interface MemoryChannel extends FrameChannel {
  readonly sent: { frames: number; bytes: number }
  /** Frames that the other end has not received. */
  readonly queued: () => number
  transform: (frame: Uint8Array) => Uint8Array | undefined
}

/** Two ends; a sender waits while the other has more than 1 MiB to receive. */
export function memoryChannels(): [MemoryChannel, MemoryChannel] {
  const pipes = [new Pipe(), new Pipe()] as const
  const closed = Promise.withResolvers<void>()
  const close = (): void => {
    for (const pipe of pipes) pipe.close()
    closed.resolve()
  }
  const end = (remotePeer: string, out: Pipe, into: Pipe): MemoryChannel => ({
    remotePeer,
    sent: { frames: 0, bytes: 0 },
    queued: () => out.length,
    transform: (frame) => frame,
    async send(frame) {
      this.sent.frames++
      this.sent.bytes += frame.byteLength
      const transformed = this.transform(frame)
      if (transformed !== undefined) await out.push(Buffer.from(transformed))
    },
    receive: () => into.shift(),
    close,
    closed: closed.promise,
  })
  return [end('b', pipes[0], pipes[1]), end('a', pipes[1], pipes[0])]
}

class Pipe {
  readonly #frames: Uint8Array[] = []
  #bytes = 0
  #isClosed = false
  #changed = Promise.withResolvers<void>()

  get length(): number {
    return this.#frames.length
  }
  #change(): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }
  async push(frame: Uint8Array): Promise<void> {
    if (this.#isClosed) throw new Error('closed')
    this.#frames.push(frame)
    this.#bytes += frame.byteLength
    this.#change()
    while (this.#bytes > 1024 * 1024 && !this.#isClosed) await this.#changed.promise
  }
  async shift(): Promise<Uint8Array | undefined> {
    for (;;) {
      if (this.#isClosed) return undefined
      const frame = this.#frames.shift()
      if (frame !== undefined) {
        this.#bytes -= frame.byteLength
        this.#change()
        return frame
      }
      await this.#changed.promise
    }
  }
  close(): void {
    this.#isClosed = true
    this.#change()
  }
}
