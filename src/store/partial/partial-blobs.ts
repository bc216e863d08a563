/**
 * The interface of blobs that are being put together out of chunks, from any number of sources, over
 * restarts. Nothing of them is a blob before the sha256 of the whole is right.
 */
import type { ChunkList } from '../../wire/chunk-list.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'

export interface PartialBlobs extends AsyncDisposable {
  /**
   * Opens or resumes. One per digest at a time, shared: it is closed when each who opened it has disposed
   * of it. One that is open keeps its list. Throws MESH0502 for a list of another blob, MESH0503.
   */
  open(ref: BlobRef, list: ChunkList): Promise<PartialBlob>
  /** One that is open now, for serving its parts; not to be disposed of. */
  find(digest: Digest): PartialBlob | undefined
  /**
   * Removes what nobody works at, as much as is over the bounds; with `leftBytesMax`, for a disk that is
   * full, down to that.
   */
  trim(leftBytesMax?: number): Promise<void>
  /** Of all, whether open or left. */
  stats(): { readonly count: number; readonly bytes: number }
}

export interface PartialBlob extends AsyncDisposable {
  readonly ref: BlobRef
  readonly list: ChunkList
  has(chunk: number): boolean
  readonly missingCount: number
  /** A copy: bit n, lowest first in each byte, tells of chunk n. */
  bitmap(): Uint8Array
  /**
   * Checks bytes against the digest of the chunk and writes them, wherever the blob has them; false for
   * wrong ones. `bytes` must not change until then. Throws MESH0503 for a full disk; what is there stays.
   */
  write(chunk: number, bytes: Uint8Array): Promise<boolean>
  /** Bytes of a range all of whose chunks are here; undefined otherwise, and when it was finished or closed. */
  read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array | undefined>
  /** Takes every missing chunk that blobs of the store have. Gives the number of bytes taken. */
  fillFromLocal(): Promise<number>
  /**
   * Checks the sha256 of the whole and moves it into the store; nothing may be missing. Throws MESH0502 when
   * that is another: the list was forged, and nothing of it is kept.
   */
  finish(): Promise<void>
  /** Calls back for each chunk from when it can be read. */
  onChunk(listener: (chunk: number) => void): Disposable
}
