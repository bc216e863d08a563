/**
 * sha256 of a partial blob as a whole: chunks that come in order are hashed as they pass by, what came a
 * little before its turn is read back from the file, and where it is far behind all is left to a thread at
 * the end.
 */
import { runJob, type FileWorkers } from '../../files/workers/file-workers.ts'
import type { ChunkList } from '../../wire/chunk-list.ts'
import { Hasher, type Digest } from '../../wire/digest.ts'
import { readRange } from './read-range.ts'

/** Written and not yet in the hash: with more it waits for the end. */
const LAG_BYTES_MAX = 16 * 1024 * 1024

interface Options {
  readonly list: ChunkList
  readonly path: string
  readonly file: number
  /** Whether a chunk was written. */
  readonly has: (chunk: number) => boolean
  /** Of the chunks that were written before. */
  readonly heldBytes: number
}

export class WholeHash {
  readonly #workers: FileWorkers
  readonly #options: Options
  readonly #hasher = new Hasher()
  /** The first chunk that is not in the hash, and where it begins. */
  #next = 0
  #endBytes = 0
  /** Of all chunks that were written. */
  #heldBytes: number
  #reading: Promise<void> | undefined

  constructor(deps: { readonly workers: FileWorkers }, options: Options) {
    this.#workers = deps.workers
    this.#options = options
    this.#heldBytes = options.heldBytes
  }

  /** Takes a chunk that was written. Hashes its bytes, at most 1 MiB, if it is its turn. */
  add(chunk: number, bytes: Uint8Array): void {
    this.#heldBytes += bytes.byteLength
    if (this.#reading !== undefined || this.#isFarBehind()) return
    if (chunk === this.#next) this.#update(bytes)
    if (this.#options.has(this.#next)) this.#reading = this.#readOn()
  }

  #isFarBehind(): boolean {
    return this.#heldBytes - this.#endBytes > LAG_BYTES_MAX
  }

  #update(bytes: Uint8Array): void {
    this.#hasher.update(bytes)
    this.#next++
    this.#endBytes += bytes.byteLength
  }

  /** Never rejects: after a failure the rest is left to the end, which tells it. */
  async #readOn(): Promise<void> {
    const { list, file, has } = this.#options
    try {
      for (;;) {
        const chunk = list.chunks[this.#next]
        if (chunk === undefined || !has(this.#next) || this.#isFarBehind()) break
        this.#update(await readRange(file, chunk.offset, chunk.length))
      }
    } catch {
      // Nothing was added for the chunk that could not be read.
    }
    // In the turn of the last look at `has`, so that no chunk comes between.
    this.#reading = undefined
  }

  /** Resolves when the file is not being read. */
  async settle(): Promise<void> {
    await this.#reading
  }

  /** To be called when all chunks were written. */
  async digest(): Promise<Digest | undefined> {
    const { list, path } = this.#options
    await this.#reading
    await (this.#reading = this.#readOn())
    if (this.#endBytes === list.size) return this.#hasher.digest()
    const ranges = [{ offset: 0, length: list.size }]
    const [digest] = await runJob(this.#workers, 'hash-ranges', { path, ranges })
    return digest
  }
}
