/**
 * Blobs as plain files, one per blob, served by any static HTTP server as they are; an index beside them
 * answers what is there without a look at the disk.
 *
 * Commit: write under tmp/ while hashing, compare, rename to the final name, then tell the index. A crash
 * between two steps leaves either garbage in tmp/ or a file that the next start finds. Nothing is synced
 * per blob; a checkpoint every minute syncs what is new and moves the mark up to which recovery believes
 * the files.
 */
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  existsSync,
  fchownSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
} from 'node:fs'
import { copyFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import type { Clock, Timer } from '../base/clock.ts'
import { hasCode, MeshError } from '../base/errors.ts'
import { collectBytes } from '../files/collect-bytes.ts'
import { hashFile, identityOf } from '../files/ingest.ts'
import { mapLimited, nextTurn } from '../files/map-limited.ts'
import type { BlobRef, Digest } from '../wire/digest.ts'
import { openBlobIndex, type BlobIndex } from './blob-index.ts'
import type { BlobRange, BlobReader, BlobStore, StoredBlob, StoreStats } from './blob-store.ts'
import { diskError } from './disk.ts'
import { releaseSource } from './expected.ts'
import { FileReader } from './fs/file-reader.ts'
import { openToRead, readSmall, readWhole, syncFile } from './fs/file-reads.ts'
import { FILE_TIME_SECONDS, finishFile, writeSmall, writeStream } from './fs/file-writer.ts'
import { checkFormat, FsLayout, readCheckpoint, writeCheckpoint, writeFormat } from './fs/layout.ts'
import { recover } from './fs/recovery.ts'

/** Up to this size a blob is written and read with calls that block: they are over before a thread has begun. */
const SMALL_BYTES = 64 * 1024
const CHECKPOINT_MS = 60_000
/** Blobs committed since the last checkpoint; at this number `put` waits for the next. */
const UNSYNCED_MAX = 200_000
const SYNCS_AT_ONCE = 2
/** Last use is kept this exactly, so that reading does not write. */
const USED_RESOLUTION_MS = 60_000
const EXECUTABLE_MODE = 0o555
const LOOKUPS_PER_TURN = 1_000

/** Throws MESH0105 when another process has the store, MESH0106 when a newer version wrote it. */
export async function openFsBlobStore(
  deps: { readonly clock: Clock; readonly log: Logger },
  options: { readonly directory: string },
): Promise<BlobStore> {
  const layout = new FsLayout(options.directory)
  checkFormat(layout.directory)
  try {
    mkdirSync(layout.temporary, { recursive: true })
    // From here on the store is ours alone.
    const { index, isNew } = await openBlobIndex({ log: deps.log }, { directory: layout.index })
    try {
      writeFormat(layout.directory)
      for (const name of readdirSync(layout.temporary))
        rmSync(`${layout.temporary}/${name}`, { recursive: true, force: true })
      const checkpoint = readCheckpoint(layout.directory)
      const stats =
        checkpoint.clean && !isNew
          ? { count: checkpoint.count, bytes: checkpoint.bytes }
          : await recover(
              { layout, index, log: deps.log },
              {
                isIndexNew: isNew,
                checkpointAtWallMs: checkpoint.atWallMs,
                nowWallMs: deps.clock.wallMs(),
              },
            )
      writeCheckpoint(layout.directory, { ...stats, atWallMs: checkpoint.atWallMs, clean: false })
      return new FsBlobStore({ ...deps, layout, index }, stats, checkpoint.atWallMs)
    } catch (error) {
      await index.close()
      throw error
    }
  } catch (error) {
    throw diskError(error, layout.directory)
  }
}

class FsBlobStore implements BlobStore {
  readonly #clock: Clock
  readonly #log: Logger
  readonly #layout: FsLayout
  readonly #index: BlobIndex
  #count: number
  #bytes: number
  #checkpointAtWallMs: number
  #unsynced = new Set<Digest>()
  #checkpointing: Promise<void> | undefined
  #timer: Timer
  #closing = false

  constructor(
    deps: { clock: Clock; log: Logger; layout: FsLayout; index: BlobIndex },
    stats: StoreStats,
    checkpointAtWallMs: number,
  ) {
    this.#clock = deps.clock
    this.#log = deps.log
    this.#layout = deps.layout
    this.#index = deps.index
    this.#count = stats.count
    this.#bytes = stats.bytes
    this.#checkpointAtWallMs = checkpointAtWallMs
    this.#timer = this.#scheduleCheckpoint()
  }

  async has(digest: Digest): Promise<boolean> {
    return this.#index.find(digest) !== undefined
  }

  async sizeOf(digest: Digest): Promise<number | undefined> {
    return this.#index.find(digest)?.sizeBytes
  }

  async missing(refs: readonly BlobRef[]): Promise<BlobRef[]> {
    const missing = new Map<Digest, BlobRef>()
    for (const [at, ref] of refs.entries()) {
      if (at % LOOKUPS_PER_TURN === LOOKUPS_PER_TURN - 1) await nextTurn()
      if (this.#index.find(ref.digest) === undefined) missing.set(ref.digest, ref)
    }
    return [...missing.values()]
  }

  async open(digest: Digest, range: BlobRange = {}): Promise<BlobReader | undefined> {
    const sizeBytes = this.#use(digest)
    if (sizeBytes === undefined) return undefined
    const path = this.#layout.blob(digest)
    const file = await openToRead(path)
    if (file !== undefined && fstatSync(file).size === sizeBytes)
      return new FileReader(file, path, sizeBytes, range)
    if (file !== undefined) closeSync(file)
    await this.#dropDamaged(digest)
    return undefined
  }

  async read(digest: Digest, bytesMax: number): Promise<Uint8Array | undefined> {
    const sizeBytes = this.#use(digest)
    if (sizeBytes === undefined) return undefined
    if (sizeBytes > bytesMax)
      throw new MeshError(
        'MESH0211',
        `blob ${digest} has ${sizeBytes} bytes, at most ${bytesMax} are read at once`,
      )
    if (sizeBytes <= SMALL_BYTES) {
      const bytes = readSmall(this.#layout.blob(digest), sizeBytes)
      if (bytes === undefined) await this.#dropDamaged(digest)
      return bytes
    }
    const reader = await this.open(digest)
    if (reader === undefined) return undefined
    return collectBytes(reader, sizeBytes)
  }

  async pathOf(digest: Digest, executable: boolean): Promise<string | undefined> {
    const sizeBytes = this.#use(digest)
    if (sizeBytes === undefined) return undefined
    const path = this.#layout.blob(digest)
    if (statSync(path, { throwIfNoEntry: false })?.size !== sizeBytes) {
      await this.#dropDamaged(digest)
      return undefined
    }
    if (!executable) return path
    const executablePath = this.#layout.executable(digest)
    if (!existsSync(executablePath)) await this.#makeExecutable(path, executablePath, sizeBytes)
    return executablePath
  }

  async #makeExecutable(path: string, executablePath: string, sizeBytes: number): Promise<void> {
    const temporary = this.#layout.newTemporary()
    try {
      if (sizeBytes <= SMALL_BYTES) copyFileSync(path, temporary)
      else await copyFile(path, temporary, constants.COPYFILE_FICLONE)
      utimesSync(temporary, FILE_TIME_SECONDS, FILE_TIME_SECONDS)
      chmodSync(temporary, EXECUTABLE_MODE)
      this.#layout.moveIn(temporary, executablePath)
    } catch (error) {
      rmSync(temporary, { force: true })
      throw diskError(error, this.#layout.directory)
    }
  }

  async put(source: Uint8Array | AsyncIterable<Uint8Array>, expected?: BlobRef): Promise<BlobRef> {
    if (expected !== undefined && this.#index.find(expected.digest)?.sizeBytes === expected.size) {
      await releaseSource(source)
      return expected
    }
    const temporary = this.#layout.newTemporary()
    try {
      await this.#settle()
      const ref =
        source instanceof Uint8Array && source.byteLength <= SMALL_BYTES
          ? writeSmall(temporary, source, expected)
          : await writeStream(temporary, source, expected)
      this.#commit(temporary, ref)
      return ref
    } catch (error) {
      rmSync(temporary, { force: true })
      throw diskError(error, this.#layout.directory)
    }
  }

  async putFile(path: string, options: { readonly move: boolean }): Promise<BlobRef> {
    const { ref, identity } = await hashFile(path)
    try {
      await this.#settle()
      const isHere = this.#index.find(ref.digest) !== undefined
      // A file that is moved in takes the place of what is here: its bytes were hashed just now.
      if (!(options.move && this.#adopt(path, ref, identity)) && !isHere)
        await this.put(ref.size <= SMALL_BYTES ? readFileSync(path) : readWhole(path), ref)
      if (options.move) rmSync(path, { force: true })
      return ref
    } catch (error) {
      throw diskError(error, this.#layout.directory)
    }
  }

  /**
   * Makes the file itself the blob, unless it is on another file system, or has another name through which
   * it could be changed later, or cannot be made our own.
   */
  #adopt(path: string, ref: BlobRef, identity: string): boolean {
    const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW)
    try {
      const stat = fstatSync(file, { bigint: true })
      if (identityOf(stat) !== identity)
        throw new MeshError('MESH0207', `${path} changed while it was read`, { where: path })
      if (stat.nlink !== 1n) return false
      const uid = process.geteuid?.()
      if (uid !== undefined && stat.uid !== BigInt(uid))
        fchownSync(file, uid, process.getegid?.() ?? -1)
      finishFile(file)
      this.#commit(path, ref)
      return true
    } catch (error) {
      if (hasCode(error, 'EXDEV', 'EPERM', 'EACCES')) return false
      throw error
    } finally {
      closeSync(file)
    }
  }

  /** The last step of every way in. Synchronous: no other writer of the same blob comes between. */
  #commit(temporary: string, ref: BlobRef): void {
    const isHere = this.#index.find(ref.digest) !== undefined
    // Also over what is here: that may have been damaged since, and these bytes were hashed just now.
    this.#layout.moveIn(temporary, this.#layout.blob(ref.digest))
    if (isHere) {
      rmSync(this.#layout.executable(ref.digest), { force: true })
      return
    }
    const nowWallMs = this.#clock.wallMs()
    this.#index.set(ref.digest, {
      sizeBytes: ref.size,
      // After the checkpoint also when the wall clock was set back.
      committedAtWallMs: Math.max(nowWallMs, this.#checkpointAtWallMs + 1),
      usedAtWallMs: nowWallMs,
    })
    this.#unsynced.add(ref.digest)
    this.#count++
    this.#bytes += ref.size
  }

  async delete(digest: Digest): Promise<boolean> {
    const record = this.#index.find(digest)
    if (record === undefined) return false
    this.#index.set(digest, undefined)
    this.#count--
    this.#bytes -= record.sizeBytes
    rmSync(this.#layout.executable(digest), { force: true })
    rmSync(this.#layout.blob(digest), { force: true })
    await this.#index.settle()
    return true
  }

  stats(): StoreStats {
    return { count: this.#count, bytes: this.#bytes }
  }

  async *list(): AsyncGenerator<StoredBlob> {
    await this.#index.flush()
    for await (const [digest, record] of this.#index.entries())
      yield { digest, size: record.sizeBytes, usedAtWallMs: record.usedAtWallMs }
  }

  /** The size, if it is here, noting the use. */
  #use(digest: Digest): number | undefined {
    const record = this.#index.find(digest)
    if (record === undefined) return undefined
    const nowWallMs = this.#clock.wallMs()
    if (nowWallMs - record.usedAtWallMs >= USED_RESOLUTION_MS)
      this.#index.set(digest, { ...record, usedAtWallMs: nowWallMs })
    return record.sizeBytes
  }

  async #dropDamaged(digest: Digest): Promise<void> {
    this.#log.warn({ digest }, 'blob was missing or had another size and was dropped')
    await this.delete(digest)
  }

  async #settle(): Promise<void> {
    await this.#index.settle()
    if (this.#unsynced.size >= UNSYNCED_MAX) await this.#checkpoint()
  }

  #scheduleCheckpoint(): Timer {
    return this.#clock.setTimer(CHECKPOINT_MS, () => {
      this.#checkpoint()
        .catch((error: unknown) => this.#log.error({ err: error }, 'checkpoint failed'))
        .finally(() => {
          if (!this.#closing) this.#timer = this.#scheduleCheckpoint()
        })
    })
  }

  #checkpoint(): Promise<void> {
    this.#checkpointing ??= this.#syncAll().finally(() => {
      this.#checkpointing = undefined
    })
    return this.#checkpointing
  }

  /** Syncs what was committed before it began; blobs that come meanwhile are newer than the mark. */
  async #syncAll(): Promise<void> {
    if (this.#unsynced.size === 0) return
    const digests = [...this.#unsynced]
    const atWallMs = Math.max(this.#clock.wallMs(), this.#checkpointAtWallMs)
    const previous = this.#checkpointAtWallMs
    this.#unsynced = new Set()
    this.#checkpointAtWallMs = atWallMs
    try {
      await mapLimited(digests, SYNCS_AT_ONCE, (digest) => syncFile(this.#layout.blob(digest)))
      writeCheckpoint(this.#layout.directory, { ...this.stats(), atWallMs, clean: false })
    } catch (error) {
      this.#checkpointAtWallMs = previous
      for (const digest of digests) this.#unsynced.add(digest)
      throw error
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#closing = true
    this.#timer.cancel()
    do await this.#checkpoint()
    while (this.#unsynced.size > 0)
    await this.#index.close()
    const atWallMs = this.#checkpointAtWallMs
    writeCheckpoint(this.#layout.directory, { ...this.stats(), atWallMs, clean: true })
  }
}
