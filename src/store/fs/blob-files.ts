/**
 * The files of blobs and the index of them, changed together and in the order that every crash survives.
 *
 * In: the file gets its final name, then the index is told. Out: the index forgets, then those who care are
 * told, then the file loses its name. Whatever is cut off between leaves a file that the index does not
 * know, and recovery finds those.
 */
import { rmSync, statSync } from 'node:fs'
import type { Logger } from 'pino'
import { hasCode } from '../../base/errors.ts'
import { collectBytes } from '../../files/collect-bytes.ts'
import { nextTurn } from '../../files/map-limited.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import type { BlobIndex } from '../blob-index.ts'
import type { BlobRecord } from '../blob-record.ts'
import { Listeners } from '../retention/listeners.ts'
import type { Checkpoints } from './checkpoints.ts'
import { copyWithMode } from './copy-file.ts'
import type { Executables } from './executables.ts'
import { readWhole } from './file-reads.ts'
import { BLOB_MODE } from './file-writer.ts'
import type { FsLayout } from './layout.ts'
import type { Trash } from './trash.ts'

/** Last use is kept this exactly, so that reading does not write. */
const USED_RESOLUTION_MS = 60_000
const DISCARDS_PER_TURN = 64

/** Blobs that are not here any more, and why. */
export interface Gone {
  readonly digests: readonly Digest[]
  readonly reason: 'evicted' | 'deleted' | 'damaged'
}

export interface BlobFilesDeps {
  readonly log: Logger
  readonly layout: FsLayout
  readonly index: BlobIndex
  readonly checkpoints: Checkpoints
  readonly executables: Executables
  readonly trash: Trash
  readonly useTimeMs: () => number
}

export class BlobFiles {
  readonly gone = new Listeners<Gone>()
  readonly #deps: BlobFilesDeps

  constructor(deps: BlobFilesDeps) {
    this.#deps = deps
  }

  /** Without noting a use. */
  find(digest: Digest): BlobRecord | undefined {
    return this.#deps.index.find(digest)
  }

  /** The size, if it is here, noting the use. */
  use(digest: Digest): number | undefined {
    const record = this.#deps.index.find(digest)
    if (record === undefined) return undefined
    const usedAtMs = this.#deps.useTimeMs()
    if (usedAtMs - record.usedAtMs >= USED_RESOLUTION_MS)
      this.#deps.index.set(digest, { ...record, usedAtMs })
    return record.sizeBytes
  }

  /** The bytes as they are on the disk, without noting a use; undefined when it is not here, or is bigger. */
  async readQuietly(digest: Digest, bytesMax: number): Promise<Uint8Array | undefined> {
    const { layout, index } = this.#deps
    const record = index.find(digest)
    if (record === undefined || record.sizeBytes > bytesMax) return undefined
    try {
      return await collectBytes(readWhole(layout.blob(digest)), bytesMax)
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined
      throw error
    }
  }

  /**
   * The last step of every way in: the finished file at `temporary` becomes the blob, in the turn of the
   * call, so that no other writer or remover of it comes between. Resolves when a killed process does not
   * lose it; false when the blob was here before.
   */
  async commit(temporary: string, ref: BlobRef): Promise<boolean> {
    const { layout, index, executables } = this.#deps
    const isNew = index.find(ref.digest) === undefined
    // Also over what is here: that may have been damaged since, and these bytes were hashed just now.
    layout.moveIn(temporary, layout.blob(ref.digest))
    if (!isNew) executables.drop(ref)
    this.know(ref)
    await index.written(ref.digest)
    return isNew
  }

  /** Gives the blob an inode of its own when its file has about as many names as a file may have. */
  async breakLinks(ref: BlobRef): Promise<void> {
    const { layout } = this.#deps
    const temporary = layout.newTemporary()
    const blob = layout.blob(ref.digest)
    const inode = statSync(blob).ino
    try {
      await copyWithMode(blob, temporary, { sizeBytes: ref.size, mode: BLOB_MODE })
      if (statSync(blob, { throwIfNoEntry: false })?.ino !== inode) return
      layout.moveIn(temporary, blob)
      this.know(ref)
    } finally {
      rmSync(temporary, { force: true })
    }
  }

  /** Puts a whole file that has its final name into the index. */
  know({ digest, size }: BlobRef): void {
    const { index, checkpoints, useTimeMs } = this.#deps
    index.set(digest, { sizeBytes: size, usedAtMs: useTimeMs(), isSynced: false })
    checkpoints.add(digest)
  }

  /**
   * Removes those that are here: for others at once, in the turn of the call. When a listener fails,
   * nothing is evicted and the error is passed on; other removals go on.
   */
  async remove(digests: readonly Digest[], reason: Gone['reason']): Promise<void> {
    const { index, log } = this.#deps
    const removed = new Map<Digest, BlobRecord>()
    for (const digest of digests) {
      const record = index.find(digest)
      if (record === undefined) continue
      removed.set(digest, record)
      index.set(digest, undefined)
    }
    if (removed.size === 0) return
    try {
      await index.flush()
      await this.gone.tell({ digests: [...removed.keys()], reason })
    } catch (error) {
      if (reason !== 'evicted') {
        log.error({ err: error, reason }, 'removal of blobs was not told')
        return this.#discardAll(removed)
      }
      for (const [digest, record] of removed)
        if (index.find(digest) === undefined) index.set(digest, record)
      throw error
    }
    await this.#discardAll(removed)
  }

  async #discardAll(removed: ReadonlyMap<Digest, BlobRecord>): Promise<void> {
    const { layout, index, trash, executables } = this.#deps
    let seen = 0
    for (const [digest, { sizeBytes }] of removed) {
      if (++seen % DISCARDS_PER_TURN === 0) await nextTurn()
      // One that was put again meanwhile has a new file under the old name.
      if (index.find(digest) !== undefined) continue
      executables.drop({ digest, size: sizeBytes })
      trash.take(layout.blob(digest))
    }
  }

  /** One that is missing, or has other bytes than its name says. */
  async dropDamaged(digest: Digest, what: string): Promise<void> {
    if (this.#deps.index.find(digest) === undefined) return
    this.#deps.log.warn({ digest, reason: what }, 'blob was damaged and is dropped')
    await this.remove([digest], 'damaged')
  }
}
