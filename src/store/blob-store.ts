/**
 * The one interface of every place on this machine that keeps blobs.
 *
 * What is in a store has the size and sha256 of its name: nothing becomes visible before both match, and
 * what is visible never changes. A blob may be evicted at any moment, also between `has` and `open`: not
 * found is therefore a value everywhere. A reader that has opened a blob keeps it to the end.
 */
import type { BlobRef, Digest } from '../wire/digest.ts'
import type { Entry } from '../wire/tree.ts'

/** Part of a blob; without `lengthBytes` to its end. A range that begins beyond the end is empty. */
export interface BlobRange {
  readonly offsetBytes?: number
  readonly lengthBytes?: number
}

/**
 * An open blob. Iterate it once, to the end or not: leaving the loop releases it. Dispose one that is not
 * iterated. Throws MESH0502 when the stored bytes end early.
 */
export interface BlobReader extends AsyncIterable<Uint8Array>, AsyncDisposable {
  /** Of the whole blob, whatever the range. */
  readonly sizeBytes: number
}

export interface StoreStats {
  readonly count: number
  readonly bytes: number
}

export interface StoredBlob extends BlobRef {
  /** Milliseconds since the epoch; written in batches, so up to a minute old after a crash. */
  readonly usedAtWallMs: number
}

export interface BlobStore extends AsyncDisposable {
  /** From the index alone: cheap, and true also for a blob whose file somebody else removed. */
  has(digest: Digest): Promise<boolean>
  /** Like `has`, with the size. */
  sizeOf(digest: Digest): Promise<number | undefined>
  /** Those of `refs` that are not here, without duplicates. */
  missing(refs: readonly BlobRef[]): Promise<BlobRef[]>
  open(digest: Digest, range?: BlobRange): Promise<BlobReader | undefined>
  /** The whole blob in memory. Throws MESH0211 when it has more than `bytesMax` bytes. */
  read(digest: Digest, bytesMax: number): Promise<Uint8Array | undefined>
  /**
   * A real file with these bytes, read-only (0444, or 0555 for executables, which are inodes of their
   * own); undefined where the blob is absent or the store has no files. Never write to it: hard links of
   * it are in trees.
   */
  pathOf(digest: Digest, executable: boolean): Promise<string | undefined>
  /**
   * Stores bytes; a stream is hashed while it is written. With `expected`, anything else is refused with
   * MESH0502 and leaves nothing behind. A full disk is MESH0503. Concurrent writers of one blob are
   * harmless.
   */
  put(source: Uint8Array | AsyncIterable<Uint8Array>, expected?: BlobRef): Promise<BlobRef>
  /**
   * Stores a regular file (never a link). With `move` the file itself becomes the blob where it can (same
   * file system, no other hard link) and is gone afterwards in any case. Nobody may have it open for
   * writing. Throws MESH0207 for anything but a file that stays as it is.
   */
  putFile(path: string, options: { readonly move: boolean }): Promise<BlobRef>
  /**
   * Stores a file, a symbolic link, or a directory with all that is in it, by moving files in like `putFile`;
   * what is left at `path` is nobody's any more. Throws MESH0207 for what no tree may hold.
   */
  putTree(path: string): Promise<Entry>
  /** False when it was not here. Open readers are not disturbed. */
  delete(digest: Digest): Promise<boolean>
  stats(): StoreStats
  /** All blobs in no particular order, as they are while it is read. */
  list(): AsyncIterable<StoredBlob>
}
