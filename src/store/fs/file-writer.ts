/** Blobs on their way into a file of the store: hashed while they are written, and compared at the end. */
import { closeSync, fchmodSync, futimesSync, openSync, writeSync } from 'node:fs'
import { PIECE_BYTES } from '../../files/file-io.ts'
import { SMALL_FILE_BYTES } from '../../files/ingest.ts'
import {
  inlineFileWorkers,
  type FileWorkers,
  type RunningJob,
} from '../../files/workers/file-workers.ts'
import type { Step } from '../../files/workers/messages.ts'
import { sha256, type BlobRef } from '../../wire/digest.ts'
import { checkExpected, SizeGuard } from '../expected.ts'

/** One time for all files: a build must not see when its inputs were fetched. */
export const FILE_TIME_SECONDS = 1
export const BLOB_MODE = 0o444
/** Pieces that a worker has to write; the next one waits. */
const PIECES_AHEAD = 3

export function writeSmall(
  path: string,
  bytes: Uint8Array,
  expected: BlobRef | undefined,
): BlobRef {
  const ref = { digest: sha256(bytes), size: bytes.byteLength }
  checkExpected(ref, expected)
  const file = openSync(path, 'wx', BLOB_MODE)
  try {
    for (let at = 0; at < bytes.byteLength;) at += writeSync(file, bytes, at)
    finishFile(file)
  } finally {
    closeSync(file)
  }
  return ref
}

/**
 * Writes and hashes in a worker, piece by piece; waits when it is behind. What turns out to be small is
 * written here: a message would cost more.
 */
export async function writeStream(
  path: string,
  source: Uint8Array | AsyncIterable<Uint8Array>,
  expected: BlobRef | undefined,
  workers: FileWorkers = inlineFileWorkers(),
): Promise<BlobRef> {
  const guard = new SizeGuard(expected)
  const writing = new Writing(workers, path, expected)
  try {
    for await (const bytes of source instanceof Uint8Array ? [source] : source) {
      guard.add(bytes.byteLength)
      await writing.add(bytes)
    }
    const ref = await writing.finish()
    checkExpected(ref, expected)
    return ref
  } finally {
    await writing.stop()
  }
}

/** Fills buffers and gives them to the job that writes the file. */
class Writing {
  readonly #workers: FileWorkers
  readonly #path: string
  readonly #expected: BlobRef | undefined
  #job: RunningJob<'write-file'> | undefined
  /** Answers that are to come, oldest first. */
  readonly #steps: Promise<Step<'write-file'>>[] = []
  #buffer: Uint8Array<ArrayBuffer> | undefined
  #filled = 0
  #spare: Uint8Array<ArrayBuffer> | undefined

  constructor(workers: FileWorkers, path: string, expected: BlobRef | undefined) {
    this.#workers = workers
    this.#path = path
    this.#expected = expected
  }

  async add(bytes: Uint8Array): Promise<void> {
    for (let at = 0; at < bytes.byteLength;) {
      if (this.#filled === this.#buffer?.byteLength) await this.#send({ isLast: false })
      this.#buffer ??= this.#takeSpare() ?? this.#newBuffer()
      const part = bytes.subarray(at, at + this.#buffer.byteLength - this.#filled)
      this.#buffer.set(part, this.#filled)
      this.#filled += part.byteLength
      at += part.byteLength
    }
  }

  async finish(): Promise<BlobRef> {
    if (this.#job === undefined && this.#filled <= SMALL_FILE_BYTES) {
      const bytes = this.#buffer?.subarray(0, this.#filled) ?? new Uint8Array()
      return writeSmall(this.#path, bytes, this.#expected)
    }
    await this.#send({ isLast: true })
    for (;;) {
      const step = await this.#steps.shift()
      if (step?.kind === 'result') return step.result
    }
  }

  /** Releases the file; what was written of it stays. */
  async stop(): Promise<void> {
    await this.#job?.stop()
    await Promise.allSettled(this.#steps)
  }

  #takeSpare(): Uint8Array<ArrayBuffer> | undefined {
    const spare = this.#spare
    this.#spare = undefined
    return spare
  }

  /** No more than is known to come, and little as long as it may be little. */
  #newBuffer(): Uint8Array<ArrayBuffer> {
    const usual = this.#job === undefined ? SMALL_FILE_BYTES : PIECE_BYTES
    return new Uint8Array(
      Buffer.allocUnsafeSlow(Math.min(this.#expected?.size ?? usual, PIECE_BYTES)).buffer,
    )
  }

  async #send({ isLast }: { readonly isLast: boolean }): Promise<void> {
    if (this.#job === undefined) {
      this.#job = this.#workers.start('write-file', {
        path: this.#path,
        mode: BLOB_MODE,
        timeSeconds: FILE_TIME_SECONDS,
      })
      this.#expect(this.#job.next())
    }
    while (this.#steps.length >= PIECES_AHEAD) {
      const step = await this.#steps.shift()
      if (step?.kind === 'part' && step.part.buffer?.byteLength === PIECE_BYTES)
        this.#spare = new Uint8Array(step.part.buffer)
    }
    const { buffer } = this.#buffer ?? new Uint8Array()
    this.#expect(this.#job.next({ buffer, length: this.#filled, isLast }))
    this.#buffer = undefined
    this.#filled = 0
  }

  #expect(step: Promise<Step<'write-file'>>): void {
    this.#steps.push(step)
    // A failure is told to whoever awaits the step, which may be much later.
    void Promise.allSettled([step])
  }
}

export function finishFile(file: number): void {
  fchmodSync(file, BLOB_MODE) // whatever the umask made of it
  futimesSync(file, FILE_TIME_SECONDS, FILE_TIME_SECONDS)
}
