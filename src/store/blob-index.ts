/**
 * What the file store knows of its blobs without looking at the disk: size and last use by digest, and how
 * many there are, in Level.
 *
 * A cache, never the truth: it is rebuilt from the files (fs/recovery.ts), also when it has another format.
 * Changes are visible at once and written in batches. A batch has its totals in it, and the marks of those
 * blobs that may not survive a power cut, so that after a crash neither has to be counted or looked for.
 */
import { existsSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Level } from 'level'
import type { Logger } from 'pino'
import { hasCode, MeshError } from '../base/errors.ts'
import { digestFromBytes, type Digest } from '../wire/digest.ts'
import type { StoreStats } from './blob-store.ts'
import {
  changed,
  decodeRecord,
  decodeTotals,
  encodeRecord,
  encodeTotals,
  type BlobRecord,
} from './blob-record.ts'
import { LevelHealer } from './level-healer.ts'

/** Changes that wait to be written; beyond it whoever changes waits. */
const PENDING_MAX = 10_000
const BATCH_MAX = 1_000
const SCAN_BATCH = 1_000

/** Part of the index, by digest; without `firstByte` all. */
export interface ScanRange {
  readonly firstByte?: number
  /** Only what comes after it. */
  readonly after?: Digest
}

/** `record` is to be written over `base`, which is in the database. */
interface Change {
  readonly record: BlobRecord | undefined
  base: BlobRecord | undefined
}

/** `b` + digest → record; `u` + digest → nothing, for each that is not synced; `t` → totals; `v` → format. */
const [BLOB, UNSYNCED] = [0x62, 0x75]
const TOTALS_KEY = Buffer.from('t')
const FORMAT_KEY = Buffer.from('v')
const FORMAT = Buffer.from('2')
const NOTHING = Buffer.alloc(0)

export class BlobIndex {
  readonly #db: Level<Uint8Array, Uint8Array>
  readonly #healer: LevelHealer
  readonly #log: Logger
  readonly #pending = new Map<Digest, Change>()
  #writing: Promise<number> | undefined
  #isDraining = false
  #stats: StoreStats
  /** What `stats` will be after the batches written so far. */
  #written: StoreStats
  #lastUseMs: number

  constructor(db: Level<Uint8Array, Uint8Array>, log: Logger) {
    this.#db = db
    this.#healer = new LevelHealer(db)
    this.#log = log
    const { stats, lastUseMs } = decodeTotals(db.getSync(TOTALS_KEY))
    this.#stats = stats
    this.#written = stats
    this.#lastUseMs = lastUseMs
  }

  stats(): StoreStats {
    return this.#stats
  }

  /** No record has a later use. */
  get lastUseMs(): number {
    return this.#lastUseMs
  }

  find(digest: Digest): BlobRecord | undefined {
    const change = this.#pending.get(digest)
    return change === undefined ? this.#read(digest) : change.record
  }

  #read(digest: Digest): BlobRecord | undefined {
    this.#healer.check()
    const value = this.#db.getSync(keyOf(BLOB, digest))
    return value === undefined ? undefined : decodeRecord(value)
  }

  /** With undefined: removes. */
  set(digest: Digest, record: BlobRecord | undefined): void {
    const change = this.#pending.get(digest)
    const base = change === undefined ? this.#read(digest) : change.base
    const current = change === undefined ? base : change.record
    this.#stats = changed(this.#stats, current, record)
    this.#lastUseMs = Math.max(this.#lastUseMs, record?.usedAtMs ?? 0)
    this.#pending.set(digest, { record, base })
    if (this.#isDraining) return
    // What was not written stays pending: the next change, or who waits for it, tries again.
    this.#drain().catch((error: unknown) => this.#log.warn({ err: error }, 'index not written'))
  }

  async #drain(): Promise<void> {
    this.#isDraining = true
    try {
      while (this.#pending.size > 0) await this.#writeNext()
    } finally {
      this.#isDraining = false
    }
  }

  /** Waits while too much is pending. */
  async settle(): Promise<void> {
    if (this.#pending.size >= PENDING_MAX) await this.flush()
  }

  /** Resolves when the last change of the blob is in the database: a killed process does not lose it. */
  async written(digest: Digest): Promise<void> {
    while (this.#pending.has(digest)) await this.#writeNext()
  }

  /** The same for all blobs. Does not wait for changes that come meanwhile. */
  async flush(): Promise<void> {
    for (let left = this.#pending.size; left > 0 && this.#pending.size > 0;)
      left -= await this.#writeNext()
  }

  /** One batch at a time: two could reach the database in the wrong order. */
  #writeNext(): Promise<number> {
    this.#writing ??= this.#writeBatch().finally(() => {
      this.#writing = undefined
    })
    return this.#writing
  }

  /** Writes the oldest changes; gives how many of them are still the last of their blobs. */
  async #writeBatch(): Promise<number> {
    // Not in the turn of the first change, so that those of one turn share a batch.
    await Promise.resolve()
    let stats = this.#written
    const changes = [...this.#pending.entries().take(BATCH_MAX)]
    for (const [, { record, base }] of changes) stats = changed(stats, base, record)
    await this.#healer.write(() => this.#write(changes, stats))
    this.#written = stats
    let lastCount = 0
    for (const [digest, change] of changes) {
      const pending = this.#pending.get(digest)
      if (pending === undefined) continue
      pending.base = change.record
      if (pending !== change) continue
      this.#pending.delete(digest)
      lastCount++
    }
    return lastCount
  }

  async #write(changes: readonly (readonly [Digest, Change])[], stats: StoreStats): Promise<void> {
    const batch = this.#db.batch()
    for (const [digest, { record, base }] of changes) {
      if (record === undefined) batch.del(keyOf(BLOB, digest))
      else batch.put(keyOf(BLOB, digest), encodeRecord(record))
      const wasMarked = base?.isSynced === false
      const isMarked = record?.isSynced === false
      if (isMarked && !wasMarked) batch.put(keyOf(UNSYNCED, digest), NOTHING)
      if (wasMarked && !isMarked) batch.del(keyOf(UNSYNCED, digest))
    }
    batch.put(TOTALS_KEY, encodeTotals(stats, this.#lastUseMs))
    await batch.write()
  }

  /** Syncs all that was written. */
  async sync(): Promise<void> {
    await this.flush()
    while (this.#writing !== undefined) await this.#writing
    // A synced write syncs all those before it.
    this.#writing = this.#healer
      .write(() => this.#db.put(FORMAT_KEY, FORMAT, { sync: true }))
      .then(() => 0)
      .finally(() => {
        this.#writing = undefined
      })
    await this.#writing
  }

  /** In the order of the digests, as it was when the scan began: ask `find` before acting on it. */
  async *scan(range: ScanRange = {}): AsyncGenerator<readonly (readonly [Digest, BlobRecord])[]> {
    await this.flush()
    const { firstByte, after } = range
    const first = Buffer.alloc(33, 0).fill(BLOB, 0, 1)
    const last = Buffer.alloc(33, 0xff).fill(BLOB, 0, 1)
    if (firstByte !== undefined) {
      first.fill(firstByte, 1, 2)
      last.fill(firstByte, 1, 2)
    }
    const from = after === undefined ? { gte: first } : { gt: keyOf(BLOB, after) }
    const iterator = this.#db.iterator({ ...from, lte: last, fillCache: false })
    try {
      for (;;) {
        const entries = await iterator.nextv(SCAN_BATCH)
        if (entries.length === 0) return
        yield entries.map(([key, value]) => [digestFromBytes(key.subarray(1)), decodeRecord(value)])
      }
    } finally {
      await iterator.close()
    }
  }

  /** Those that are not marked as synced in the database. */
  async unsynced(): Promise<Digest[]> {
    const range = { gte: Buffer.of(UNSYNCED), lt: Buffer.of(UNSYNCED + 1) }
    const keys = await this.#db.keys(range).all()
    return keys.map((key) => digestFromBytes(key.subarray(1)))
  }

  async close(): Promise<void> {
    try {
      await this.sync()
    } finally {
      await this.#db.close()
    }
  }
}

/**
 * Opens the index and with it takes the store for this process: MESH0105 when another has it. One that is
 * corrupt or of another format is thrown away; `isNew` then asks for it to be rebuilt.
 */
export async function openBlobIndex(
  deps: { readonly log: Logger },
  options: { readonly directory: string },
): Promise<{ readonly index: BlobIndex; readonly isNew: boolean }> {
  const { directory } = options
  if (existsSync(join(directory, 'CURRENT'))) {
    try {
      const db = await openLevel(directory)
      const format = db.getSync(FORMAT_KEY)
      if (format !== undefined && FORMAT.equals(format))
        return { index: new BlobIndex(db, deps.log), isNew: false }
      await db.close()
      deps.log.info({ directory }, 'index has another format and is rebuilt')
    } catch (error) {
      if (!(error instanceof Error) || !hasCode(error.cause, 'LEVEL_CORRUPTION')) throw error
      deps.log.warn({ err: error, directory }, 'index was corrupt and is rebuilt')
    }
    await rm(directory, { recursive: true, force: true })
  }
  // The format is written by the first sync: one that is not whole is rebuilt once more.
  return { index: new BlobIndex(await openLevel(directory), deps.log), isNew: true }
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

function keyOf(kind: number, digest: Digest): Uint8Array {
  const key = Buffer.allocUnsafe(33)
  key[0] = kind
  key.write(digest, 1, 'hex')
  return key
}
