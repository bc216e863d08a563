/**
 * A file that is read while it is written: the writer appends, any number of readers follow at their own
 * pace, none of them holds up another or more than one piece in memory.
 *
 * Nobody gets the last byte of what they read before the whole is accepted: a reader of wrong bytes sees
 * its stream break off, never end.
 */
import { closeSync, openSync } from 'node:fs'
import { readAt, writeAllAt } from '../../files/file-io.ts'

const READ_BYTES = 256 * 1024
/** What waits for the disk at most; at this the writer waits too. */
const UNWRITTEN_BYTES_MAX = 1024 * 1024

export class Spool {
  readonly path: string
  readonly #file: number
  #sizeBytes = 0
  #unwritten: Uint8Array[] = []
  #unwrittenBytes = 0
  #writing: Promise<void> | undefined
  /** Who appends is the first of them; the last one closes the file. */
  #users = 1
  #state: 'open' | 'accepted' | 'broken' = 'open'
  #error: unknown
  #changed = Promise.withResolvers<void>()

  /** Throws ENOSPC and the like. The file must not exist. */
  constructor(path: string) {
    this.path = path
    this.#file = openSync(path, 'wx+', 0o600)
  }

  /** False once no more will come that is right. */
  get isSound(): boolean {
    return this.#state !== 'broken'
  }

  /** Whatever came while one piece was written goes to the disk together. Throws ENOSPC and the like, perhaps late. */
  async append(bytes: Uint8Array): Promise<void> {
    this.#unwritten.push(bytes)
    this.#unwrittenBytes += bytes.byteLength
    if (this.#writing === undefined) {
      this.#writing = this.#write()
      this.#writing.catch(() => undefined) // the next append or the flush tells
    }
    if (this.#unwrittenBytes >= UNWRITTEN_BYTES_MAX) await this.#writing
  }

  /** Resolves when all that was appended is in the file. */
  async flush(): Promise<void> {
    await this.#writing
  }

  /** Leaves its promise behind when it fails: then no more is written. */
  async #write(): Promise<void> {
    this.#users++ // the descriptor outlives a write that is under way
    try {
      while (this.#unwritten.length > 0 && this.#state === 'open') {
        const pieces = this.#unwritten
        const byteCount = this.#unwrittenBytes
        this.#unwritten = []
        this.#unwrittenBytes = 0
        await writeAllAt(this.#file, pieces, this.#sizeBytes)
        this.#sizeBytes += byteCount
        this.#notify()
      }
    } finally {
      this.#leave()
    }
    this.#writing = undefined
  }

  /** The whole is right: readers get their last bytes. The writer has ended. */
  accept(): void {
    this.#state = 'accepted'
    this.#notify()
    this.#leave()
  }

  /** Readers get `error`. The writer has ended. */
  break(error: unknown): void {
    this.#state = 'broken'
    this.#error = error
    this.#notify()
    this.#leave()
  }

  /** The bytes from `start` up to `end`, as they come. Iterate it once, or dispose it. */
  read(start: number, end: number): AsyncIterable<Uint8Array> & AsyncDisposable {
    this.#users++
    let isReading = true
    const leave = async (): Promise<void> => {
      if (isReading) this.#leave()
      isReading = false
    }
    const bytes = this.#bytes(start, end)
    return {
      async *[Symbol.asyncIterator]() {
        try {
          yield* bytes
        } finally {
          await leave()
        }
      },
      [Symbol.asyncDispose]: leave,
    }
  }

  async *#bytes(start: number, end: number): AsyncGenerator<Uint8Array> {
    for (let at = start; at < end;) {
      if (this.#state === 'broken') throw this.#error
      const changed = this.#changed.promise
      const limit = this.#state === 'accepted' ? end : Math.min(end - 1, this.#sizeBytes)
      if (at >= limit) {
        await changed
        continue
      }
      const buffer = Buffer.allocUnsafe(Math.min(READ_BYTES, limit - at))
      const count = await readAt(this.#file, buffer, at)
      if (count === 0) throw new Error(`${this.path} ends at ${at}, not at ${end}`)
      at += count
      yield buffer.subarray(0, count)
    }
  }

  #notify(): void {
    this.#changed.resolve()
    this.#changed = Promise.withResolvers()
  }

  #leave(): void {
    if (--this.#users === 0) closeSync(this.#file)
  }
}
