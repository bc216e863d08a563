/**
 * Blobs as plain files, one per blob, served by any static HTTP server as they are; an index beside them
 * answers what is there without a look at the disk.
 *
 * Commit: write under tmp/ while hashing, compare, rename to the final name, then tell the index. A crash
 * between two steps leaves either garbage in tmp/ or a file that recovery finds. Nothing is synced per blob;
 * a checkpoint every minute syncs what is new. What may go when room is needed is decided in retention/.
 */
import { closeSync, constants, fstatSync, openSync, rmSync, statSync } from 'node:fs'
import { isDiskFull, MeshError } from '../base/errors.ts'
import { collectBytes } from '../files/collect-bytes.ts'
import { nextTurn } from '../files/map-limited.ts'
import type { BlobRef, Digest } from '../wire/digest.ts'
import type { Entry } from '../wire/tree.ts'
import type { BlobRange, BlobReader, BlobStore, StoredBlob, StoreStats } from './blob-store.ts'
import { diskError } from './disk.ts'
import { releaseSource } from './expected.ts'
import type { BlobFiles, Gone } from './fs/blob-files.ts'
import { LINKS_MAX } from './fs/copy-file.ts'
import { FileReader } from './fs/file-reader.ts'
import { openToRead, readSmall } from './fs/file-reads.ts'
import { finishFile, writeSmall, writeStream } from './fs/file-writer.ts'
import { Intake } from './fs/intake.ts'
import {
  openStoreParts,
  type StoreDeps,
  type StoreOptions,
  type StoreParts,
} from './fs/store-parts.ts'
import type { GcReport, GcRequest } from './retention/collector.ts'
import type { Amount, BlobClass } from './retention/gc-plan.ts'
import type { Leases } from './retention/leases.ts'
import { Listeners } from './retention/listeners.ts'
import type { Pins } from './retention/pins.ts'
import type { Reservation, Space } from './retention/space.ts'

/** Up to this size a blob is written and read with calls that block: they are over before a thread has begun. */
const SMALL_BYTES = 64 * 1024
const LOOKUPS_PER_TURN = 1_000
/** What is removed for a stream that found no room and did not say how long it is. */
const STREAM_BYTES = 64 * 1024 * 1024

/** What the disk is used for. */
export interface StoreUsage {
  /** Each blob in one class, the first that fits. */
  readonly classes: Readonly<Record<BlobClass, Amount>>
  readonly executables: Amount
  readonly partial: Amount
  readonly trash: Amount
}

/** A blob store with a disk to look after. */
export interface FsBlobStore extends BlobStore {
  readonly pins: Pins
  readonly leases: Leases
  /** Counts bytes that are about to be stored by other ways than `put`; like it, MESH0503 when they do not fit. */
  reserve(sizeBytes: number): Promise<Reservation>
  space(): Space
  /** Told when the state of `space` changes. */
  onSpace(listener: (space: Space) => void | Promise<void>): Disposable
  /** Told before the files of removed blobs go, and waited for; an error keeps them from being evicted. */
  onGone(listener: (gone: Gone) => void | Promise<void>): Disposable
  /** Told of each blob that was not here before, once a killed process does not lose it. */
  onStored(listener: (ref: BlobRef) => void): Disposable
  /**
   * Makes a finished file of the store's own file system the blob. The caller has checked every byte of it,
   * and nobody writes to it any more. MESH0502 when it has another size.
   */
  adopt(path: string, ref: BlobRef): Promise<void>
  /** Removes the least recently used of what may go. One at a time; a million blobs take seconds. */
  collect(request: GcRequest): Promise<GcReport>
  /** A look at all blobs: seconds for a million. */
  usage(): Promise<StoreUsage>
  /** Hashes a blob soon, since what came of it was wrong; it is dropped if it is damaged. */
  suspect(digest: Digest): void
  /** Resolves when what an unclean stop left has been looked at. The store may be used before. */
  readonly recovered: Promise<void>
}

/** Throws MESH0105 when another process has the store, MESH0106 when a newer version wrote it. */
export async function openFsBlobStore(
  deps: StoreDeps,
  options: StoreOptions,
): Promise<FsBlobStore> {
  try {
    return new FileStore(await openStoreParts(deps, options))
  } catch (error) {
    throw diskError(error, options.directory)
  }
}

class FileStore implements FsBlobStore {
  readonly #parts: StoreParts
  readonly #files: BlobFiles
  readonly #intake: Intake
  readonly #stored = new Listeners<BlobRef>()

  constructor(parts: StoreParts) {
    this.#parts = parts
    this.#files = parts.files
    const { workers, layout, keeper } = parts
    this.#intake = new Intake({
      workers,
      newTemporary: () => layout.newTemporary(),
      has: (digest) => this.has(digest),
      reserve: (sizeBytes) => keeper.reserve(sizeBytes),
      makeRoom: (sizeBytes) => keeper.makeRoom(sizeBytes),
      commit: (path, ref) => this.#commit(path, ref),
    })
  }

  get pins(): Pins {
    return this.#parts.pins
  }
  get leases(): Leases {
    return this.#parts.leases
  }
  get recovered(): Promise<void> {
    return this.#parts.recovered
  }

  async has(digest: Digest): Promise<boolean> {
    return (await this.sizeOf(digest)) !== undefined
  }

  async sizeOf(digest: Digest): Promise<number | undefined> {
    await this.#verify(digest)
    return this.#files.find(digest)?.sizeBytes
  }

  async missing(refs: readonly BlobRef[]): Promise<BlobRef[]> {
    const missing = new Map<Digest, BlobRef>()
    for (const [at, ref] of refs.entries()) {
      if (at % LOOKUPS_PER_TURN === LOOKUPS_PER_TURN - 1) {
        await this.#parts.index.settle()
        await nextTurn()
      }
      if (this.#parts.unverified.has(ref.digest)) await this.#verify(ref.digest)
      // Who is told that it is here will not send it, and needs it soon: that is a use.
      if (this.#files.use(ref.digest) === undefined) missing.set(ref.digest, ref)
    }
    return [...missing.values()]
  }

  async open(digest: Digest, range: BlobRange = {}): Promise<BlobReader | undefined> {
    await this.#verify(digest)
    const sizeBytes = this.#files.use(digest)
    if (sizeBytes === undefined) return undefined
    const path = this.#parts.layout.blob(digest)
    const file = await openToRead(path)
    if (file !== undefined && fstatSync(file).size === sizeBytes)
      return new FileReader(file, path, sizeBytes, range)
    if (file !== undefined) closeSync(file)
    await this.#dropDamaged(digest)
    return undefined
  }

  async read(digest: Digest, bytesMax: number): Promise<Uint8Array | undefined> {
    await this.#verify(digest)
    const sizeBytes = this.#files.use(digest)
    if (sizeBytes === undefined) return undefined
    if (sizeBytes > bytesMax)
      throw new MeshError(
        'MESH0211',
        `blob ${digest} has ${sizeBytes} bytes, at most ${bytesMax} are read at once`,
      )
    if (sizeBytes <= SMALL_BYTES) {
      const bytes = readSmall(this.#parts.layout.blob(digest), sizeBytes)
      if (bytes === undefined) await this.#dropDamaged(digest)
      return bytes
    }
    const reader = await this.open(digest)
    if (reader === undefined) return undefined
    return collectBytes(reader, sizeBytes)
  }

  async pathOf(digest: Digest, executable: boolean): Promise<string | undefined> {
    await this.#verify(digest)
    const size = this.#files.use(digest)
    if (size === undefined) return undefined
    const { layout, executables, keeper } = this.#parts
    const path = layout.blob(digest)
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat?.size !== size) {
      await this.#dropDamaged(digest)
      return undefined
    }
    const existing = executable ? executables.find(digest) : path
    const hasTooManyNames = !executable && stat.nlink >= LINKS_MAX
    if (existing !== undefined && !hasTooManyNames) return existing
    const reservation = await keeper.reserve(size)
    try {
      if (!hasTooManyNames) return await executables.make({ digest, size })
      await this.#files.breakLinks({ digest, size })
      return path
    } catch (error) {
      throw diskError(error, layout.directory)
    } finally {
      reservation[Symbol.dispose]()
    }
  }

  async put(source: Uint8Array | AsyncIterable<Uint8Array>, expected?: BlobRef): Promise<BlobRef> {
    try {
      if (expected !== undefined && (await this.sizeOf(expected.digest)) === expected.size) {
        await releaseSource(source)
        return expected
      }
      await this.#settle()
      return source instanceof Uint8Array
        ? await this.#putBytes(source, expected)
        : await this.#putStream(source, expected)
    } catch (error) {
      throw diskError(error, this.#parts.layout.directory)
    }
  }

  async #putBytes(bytes: Uint8Array, expected: BlobRef | undefined): Promise<BlobRef> {
    using reservation = await this.#parts.keeper.reserve(bytes.byteLength)
    try {
      return await this.#write(bytes, expected, reservation)
    } catch (error) {
      if (!isDiskFull(error)) throw error
      await this.#parts.keeper.makeRoom(bytes.byteLength)
      return await this.#write(bytes, expected, reservation)
    }
  }

  /** A stream comes once, so a disk that is full after all can only be cleared for the next. */
  async #putStream(
    source: AsyncIterable<Uint8Array>,
    expected: BlobRef | undefined,
  ): Promise<BlobRef> {
    const { keeper } = this.#parts
    try {
      using reservation = await keeper.reserve(expected?.size ?? 0)
      const bytes = expected === undefined ? keeper.reserveEach(source, reservation) : source
      return await this.#write(bytes, expected, reservation)
    } catch (error) {
      await releaseSource(source)
      if (isDiskFull(error)) await keeper.makeRoom(expected?.size ?? STREAM_BYTES)
      throw error
    }
  }

  /** The reservation ends where the blob itself counts. */
  async #write(
    source: Uint8Array | AsyncIterable<Uint8Array>,
    expected: BlobRef | undefined,
    reservation: Reservation,
  ): Promise<BlobRef> {
    const temporary = this.#parts.layout.newTemporary()
    try {
      const ref =
        source instanceof Uint8Array && source.byteLength <= SMALL_BYTES
          ? writeSmall(temporary, source, expected)
          : await writeStream(temporary, source, expected, this.#parts.workers)
      const committing = this.#commit(temporary, ref)
      reservation[Symbol.dispose]()
      await committing
      return ref
    } catch (error) {
      rmSync(temporary, { force: true })
      throw error
    }
  }

  async putFile(path: string, options: { readonly move: boolean }): Promise<BlobRef> {
    try {
      await this.#settle()
      return await this.#intake.file(path, options)
    } catch (error) {
      throw diskError(error, this.#parts.layout.directory)
    }
  }

  async putTree(path: string): Promise<Entry> {
    try {
      await this.#settle()
      return await this.#intake.tree(path)
    } catch (error) {
      throw diskError(error, this.#parts.layout.directory)
    }
  }

  async #commit(temporary: string, ref: BlobRef): Promise<void> {
    const isWritten = this.#files.commit(temporary, ref)
    this.#parts.unverified.forget(ref.digest)
    this.#parts.keeper.wrote(ref.size)
    if (await isWritten) await this.#stored.tell(ref)
  }

  async adopt(path: string, ref: BlobRef): Promise<void> {
    const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW)
    try {
      const sizeBytes = fstatSync(file).size
      if (sizeBytes !== ref.size)
        throw new MeshError('MESH0502', `${path} has ${sizeBytes} bytes, not ${ref.size}`)
      finishFile(file)
    } finally {
      closeSync(file)
    }
    await this.#commit(path, ref)
  }

  async delete(digest: Digest): Promise<boolean> {
    if (this.#files.find(digest) === undefined) return false
    await this.#files.remove([digest], 'deleted')
    return true
  }

  stats(): StoreStats {
    return this.#parts.index.stats()
  }

  async *list(): AsyncGenerator<StoredBlob> {
    for await (const batch of this.#parts.index.scan())
      for (const [digest, { sizeBytes, usedAtMs }] of batch)
        yield { digest, size: sizeBytes, usedAtWallMs: usedAtMs }
  }

  reserve(sizeBytes: number): Promise<Reservation> {
    return this.#parts.keeper.reserve(sizeBytes)
  }
  space(): Space {
    return this.#parts.meter.space()
  }
  onSpace(listener: (space: Space) => void | Promise<void>): Disposable {
    return this.#parts.meter.changes.add(listener)
  }
  onGone(listener: (gone: Gone) => void | Promise<void>): Disposable {
    return this.#files.gone.add(listener)
  }
  onStored(listener: (ref: BlobRef) => void): Disposable {
    return this.#stored.add(listener)
  }
  collect(request: GcRequest): Promise<GcReport> {
    return this.#parts.keeper.collect(request)
  }
  suspect(digest: Digest): void {
    this.#parts.scrubber.suspect(digest)
  }

  async usage(): Promise<StoreUsage> {
    const { executables, partials, trash } = this.#parts
    const { classes } = await this.collect({ freeBytes: 0, takesRecent: false, isDryRun: true })
    return {
      classes,
      executables: executables.stats(),
      partial: await partials.measure(),
      trash: await trash.stats(),
    }
  }

  /** After an unclean stop, before the first use. */
  async #verify(digest: Digest): Promise<void> {
    const { unverified } = this.#parts
    if (unverified.has(digest)) await unverified.check(digest)
  }

  /** What is not here any more was evicted meanwhile. */
  async #dropDamaged(digest: Digest): Promise<void> {
    await this.#files.dropDamaged(digest, 'it was missing or had another size')
  }

  async #settle(): Promise<void> {
    await this.#parts.index.settle()
    await this.#parts.checkpoints.settle()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#parts[Symbol.asyncDispose]()
  }
}
