/** One open file as a blob reader: holds the descriptor until it is read, left or disposed. */
import { close } from 'node:fs'
import { PIECE_BYTES, readAt } from '../../files/file-io.ts'
import { MeshError } from '../../base/errors.ts'
import type { BlobRange, BlobReader } from '../blob-store.ts'

export class FileReader implements BlobReader {
  readonly sizeBytes: number
  readonly #path: string
  readonly #startBytes: number
  readonly #endBytes: number
  #file: number | undefined

  /** Takes the descriptor over. */
  constructor(file: number, path: string, sizeBytes: number, range: BlobRange) {
    this.#file = file
    this.#path = path
    this.sizeBytes = sizeBytes
    this.#startBytes = Math.min(range.offsetBytes ?? 0, sizeBytes)
    this.#endBytes = Math.min(this.#startBytes + (range.lengthBytes ?? Infinity), sizeBytes)
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array> {
    const file = this.#file
    if (file === undefined) throw new Error('a blob reader is iterated once')
    try {
      for (let at = this.#startBytes; at < this.#endBytes;) {
        const buffer = Buffer.allocUnsafe(Math.min(PIECE_BYTES, this.#endBytes - at))
        const count = await readAt(file, buffer, at)
        if (count === 0)
          throw new MeshError('MESH0502', `${this.#path} ends at ${at} of ${this.sizeBytes} bytes`)
        at += count
        yield buffer.subarray(0, count)
      }
    } finally {
      await this[Symbol.asyncDispose]()
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    const file = this.#file
    this.#file = undefined
    return new Promise((resolve, reject) => {
      if (file === undefined) resolve()
      else close(file, (error) => (error ? reject(error) : resolve()))
    })
  }
}
