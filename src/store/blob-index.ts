/**
 * What the file store knows of its blobs without looking at the disk: size and times by digest, in Level.
 *
 * A cache, never the truth: it is rebuilt from the files (fs/recovery.ts). Changes are visible at once and
 * written in batches behind the caller's back.
 */
import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Level } from 'level'
import type { Logger } from 'pino'
import { hasCode, MeshError } from '../base/errors.ts'
import { digestBytes, digestFromBytes, type Digest } from '../wire/digest.ts'

/** Changes that wait to be written; beyond it whoever changes waits. */
const PENDING_MAX = 10_000
const BATCH_MAX = 1_000

export interface BlobRecord {
  readonly sizeBytes: number
  readonly committedAtWallMs: number
  readonly usedAtWallMs: number
}

export class BlobIndex {
  readonly #db: Level<Uint8Array, Uint8Array>
  readonly #log: Logger
  /** Not yet in the database; undefined for a removal. */
  readonly #pending = new Map<Digest, BlobRecord | undefined>()
  #flushing: Promise<void> | undefined

  constructor(db: Level<Uint8Array, Uint8Array>, log: Logger) {
    this.#db = db
    this.#log = log
  }

  find(digest: Digest): BlobRecord | undefined {
    if (this.#pending.has(digest)) return this.#pending.get(digest)
    const value = this.#db.getSync(digestBytes(digest))
    return value === undefined ? undefined : decodeRecord(value)
  }

  /** With undefined: removes. */
  set(digest: Digest, record: BlobRecord | undefined): void {
    this.#pending.set(digest, record)
    if (this.#flushing !== undefined) return
    this.#flushing = this.#flush()
    // What was not written stays pending: the next change, or who waits in `settle`, tries again.
    this.#flushing.catch((error: unknown) => this.#log.warn({ err: error }, 'index not written'))
  }

  /** Waits while too much is pending. */
  async settle(): Promise<void> {
    if (this.#pending.size >= PENDING_MAX) await this.flush()
  }

  async flush(): Promise<void> {
    // One batch at a time: two could reach the database in the wrong order.
    while (this.#pending.size > 0) await (this.#flushing ??= this.#flush())
  }

  async #flush(): Promise<void> {
    try {
      // Not in the turn of the first change, so that those of one turn share a batch.
      await Promise.resolve()
      while (this.#pending.size > 0) {
        const written = [...this.#pending.entries().take(BATCH_MAX)]
        await this.#db.batch(
          written.map(([digest, record]) =>
            record === undefined
              ? { type: 'del' as const, key: digestBytes(digest) }
              : { type: 'put' as const, key: digestBytes(digest), value: encodeRecord(record) },
          ),
        )
        for (const [digest, record] of written)
          if (this.#pending.get(digest) === record) this.#pending.delete(digest)
      }
    } finally {
      this.#flushing = undefined
    }
  }

  /** Those whose digest begins with the byte, or all; sorted. What is pending is not seen: flush first. */
  async *entries(firstByte?: number): AsyncGenerator<[Digest, BlobRecord]> {
    const range =
      firstByte === undefined
        ? {}
        : {
            gte: Buffer.alloc(32, 0).fill(firstByte, 0, 1),
            lte: Buffer.alloc(32, 0xff).fill(firstByte, 0, 1),
          }
    for await (const [key, value] of this.#db.iterator(range))
      yield [digestFromBytes(key), decodeRecord(value)]
  }

  async close(): Promise<void> {
    await this.flush()
    await this.#db.close()
  }
}

/**
 * Opens the index and with it takes the store for this process: MESH0105 when another has it. A corrupt
 * one is thrown away; `isNew` then asks for it to be rebuilt.
 */
export async function openBlobIndex(
  deps: { readonly log: Logger },
  options: { readonly directory: string },
): Promise<{ readonly index: BlobIndex; readonly isNew: boolean }> {
  const { directory } = options
  const isNew = !existsSync(join(directory, 'CURRENT'))
  try {
    return { index: new BlobIndex(await openLevel(directory), deps.log), isNew }
  } catch (error) {
    if (!(error instanceof Error) || !hasCode(error.cause, 'LEVEL_CORRUPTION')) throw error
    deps.log.warn({ err: error, directory }, 'index was corrupt and is rebuilt')
    await rm(directory, { recursive: true, force: true })
    return { index: new BlobIndex(await openLevel(directory), deps.log), isNew: true }
  }
}

/** A Level of bytes to bytes in a directory of its own. Throws MESH0105 when another process has it open. */
export async function openLevel(directory: string): Promise<Level<Uint8Array, Uint8Array>> {
  const db = new Level<Uint8Array, Uint8Array>(directory, {
    keyEncoding: 'view',
    valueEncoding: 'view',
  })
  try {
    await db.open()
  } catch (error) {
    if (error instanceof Error && hasCode(error.cause, 'LEVEL_LOCKED'))
      throw new MeshError('MESH0105', `${directory} is open in another process`, {
        where: directory,
        cause: error,
      })
    throw error
  }
  return db
}

const RECORD_BYTES = 24

function encodeRecord(record: BlobRecord): Uint8Array {
  const bytes = Buffer.allocUnsafe(RECORD_BYTES)
  bytes.writeDoubleBE(record.sizeBytes, 0)
  bytes.writeDoubleBE(record.committedAtWallMs, 8)
  bytes.writeDoubleBE(record.usedAtWallMs, 16)
  return bytes
}

function decodeRecord(value: Uint8Array): BlobRecord {
  const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength)
  return {
    sizeBytes: bytes.readDoubleBE(0),
    committedAtWallMs: bytes.readDoubleBE(8),
    usedAtWallMs: bytes.readDoubleBE(16),
  }
}
