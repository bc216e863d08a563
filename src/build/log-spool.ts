/** The spool file of one build's log: records in the order of their arrival, up to a limit. */
import { open, type FileHandle } from 'node:fs/promises'
import {
  encodeLogRecord,
  LOG_RECORD_BYTES_MAX,
  LOG_RECORD_HEAD_BYTES,
  type LogStream,
} from '../wire/log-record.ts'

export class LogSpool {
  readonly #file: FileHandle
  readonly #elapsedMs: () => number
  readonly #onGrowth: (sizeBytes: number) => void
  #accepted = 0
  #written = 0
  #tail: Promise<void> = Promise.resolve()

  private constructor(
    file: FileHandle,
    elapsedMs: () => number,
    onGrowth: (sizeBytes: number) => void,
  ) {
    this.#file = file
    this.#elapsedMs = elapsedMs
    this.#onGrowth = onGrowth
  }

  /** Makes the file, which must not exist. */
  static async open(
    path: string,
    options: { elapsedMs: () => number; onGrowth: (sizeBytes: number) => void },
  ): Promise<LogSpool> {
    return new LogSpool(await open(path, 'wx', 0o600), options.elapsedMs, options.onGrowth)
  }

  /** Bytes in the file. */
  get sizeBytes(): number {
    return this.#written
  }

  /**
   * Appends what was read from a stream, at most up to `sizeBytesMax` of the file; false when not all of it
   * fitted. Resolves when it is written, so that a reader that waits is slowed to the disk. Throws what
   * the disk says, here and at all later calls.
   */
  async append(
    stream: LogStream,
    bytes: Uint8Array,
    sizeBytesMax = Number.POSITIVE_INFINITY,
  ): Promise<boolean> {
    const records: Uint8Array[] = []
    let at = 0
    while (at < bytes.byteLength) {
      const room = sizeBytesMax - this.#accepted - LOG_RECORD_HEAD_BYTES
      const length = Math.min(bytes.byteLength - at, LOG_RECORD_BYTES_MAX, room)
      if (length <= 0) break
      records.push(
        encodeLogRecord({
          stream,
          atMs: this.#elapsedMs(),
          bytes: bytes.subarray(at, at + length),
        }),
      )
      this.#accepted += LOG_RECORD_HEAD_BYTES + length
      at += length
    }
    this.#tail = this.#tail.then(() => this.#write(Buffer.concat(records)))
    await this.#tail
    return at === bytes.byteLength
  }

  async close(): Promise<void> {
    await this.#file.close()
  }

  async #write(bytes: Uint8Array): Promise<void> {
    if (bytes.byteLength === 0) return
    await this.#file.writeFile(bytes) // goes on after short writes, at the current position
    this.#written += bytes.byteLength
    this.#onGrowth(this.#written)
  }
}
