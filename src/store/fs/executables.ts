/**
 * Executable copies of blobs: the mode belongs to the inode, and a blob has none. Made when they are first
 * asked for, gone with their blob, and never believed after a crash.
 */
import { rmSync, statSync } from 'node:fs'
import { hasCode } from '../../base/errors.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import type { StoreStats } from '../blob-store.ts'
import { copyWithMode, LINKS_MAX } from './copy-file.ts'
import type { FsLayout } from './layout.ts'
import type { Trash } from './trash.ts'

const EXECUTABLE_MODE = 0o555

export class Executables {
  readonly #layout: FsLayout
  readonly #trash: Trash
  #stats: StoreStats

  constructor(
    deps: { readonly layout: FsLayout; readonly trash: Trash },
    options: { readonly stats: StoreStats },
  ) {
    this.#layout = deps.layout
    this.#trash = deps.trash
    this.#stats = options.stats
  }

  stats(): StoreStats {
    return this.#stats
  }

  find(digest: Digest): string | undefined {
    const path = this.#layout.executable(digest)
    const stat = statSync(path, { throwIfNoEntry: false })
    return stat === undefined || stat.nlink >= LINKS_MAX ? undefined : path
  }

  /** Copies the blob; undefined when that went away meanwhile. */
  async make({ digest, size }: BlobRef): Promise<string | undefined> {
    const blob = this.#layout.blob(digest)
    const path = this.#layout.executable(digest)
    const temporary = this.#layout.newTemporary()
    const inode = statSync(blob, { throwIfNoEntry: false })?.ino
    if (inode === undefined) return undefined
    try {
      await copyWithMode(blob, temporary, { sizeBytes: size, mode: EXECUTABLE_MODE })
      // A blob that was removed or replaced took its copies with it: this one would be left.
      if (statSync(blob, { throwIfNoEntry: false })?.ino !== inode) return undefined
      // Somebody else may have been quicker: one inode of it is enough.
      const existing = this.find(digest)
      if (existing !== undefined) return existing
      this.drop({ digest, size })
      this.#layout.moveIn(temporary, path)
      this.#count(1, size)
      return path
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return undefined
      throw error
    } finally {
      rmSync(temporary, { force: true })
    }
  }

  drop({ digest, size }: BlobRef): void {
    if (this.#trash.take(this.#layout.executable(digest))) this.#count(-1, -size)
  }

  #count(count: number, bytes: number): void {
    this.#stats = { count: this.#stats.count + count, bytes: this.#stats.bytes + bytes }
  }
}
