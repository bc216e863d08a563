/**
 * The one interface of everything that blobs are fetched from: peers over HTTP or over a frame channel,
 * and plain HTTP mirrors. A source is asked and may fail or lie; only the store decides what is true.
 */
import type { ChunkList } from '../wire/chunk-list.ts'
import type { BlobRef, Digest } from '../wire/digest.ts'

/** Blobs up to this size are fetched many at a time and held in memory. */
export const SMALL_BLOB_BYTES_MAX = 256 * 1024
/** The most blobs of one batched request. */
export const BATCH_ITEMS_MAX = 1024
/** A source that gives nothing for this long in the middle of an answer has stalled. */
export const STALL_MS = 5_000
export const CONNECT_MS = 2_000
/** A chunk list may have to be made by reading the whole blob. */
export const LIST_MS = 15_000

/** The range is within the blob. */
export interface FetchRange {
  readonly offsetBytes: number
  readonly lengthBytes?: number
  readonly signal: AbortSignal
}

export interface BlobSource {
  /** For people, for bans and for scores: unique among the sources of a node. */
  readonly name: string
  readonly kind: 'peer' | 'mirror'
  /**
   * The bytes from `offsetBytes` on, `lengthBytes` of them or to the end, or undefined when the source does
   * not have the blob, or does not give these bytes now. Throws SourceError; the bytes given may be wrong,
   * but are never more than asked for.
   */
  fetch(ref: BlobRef, options: FetchRange): Promise<AsyncIterable<Uint8Array> | undefined>
  /** The chunk list of a blob; undefined when it has none. Throws SourceError. */
  chunkList?(
    digest: Digest,
    options: { readonly signal: AbortSignal },
  ): Promise<ChunkList | undefined>
  /**
   * Any number of blobs of at most SMALL_BLOB_BYTES_MAX bytes each, in any order; absent ones are left
   * out. The bytes have the right length, but may be wrong.
   */
  fetchMany?(
    refs: readonly BlobRef[],
    options: { readonly signal: AbortSignal },
  ): AsyncIterable<{ readonly ref: BlobRef; readonly bytes: Uint8Array }>
  /** The size of a blob, as the source says; undefined when it does not have it, or does not tell. */
  sizeOf?(digest: Digest, options: { readonly signal: AbortSignal }): Promise<number | undefined>
  /** Which of `digests` it has, by position. */
  has?(digests: readonly Digest[], options: { readonly signal: AbortSignal }): Promise<boolean[]>
}

/**
 * Why a source did not deliver. `wrong`: it sent what cannot be the blob, and is banned; `stalled` and
 * `failed`: it backs off.
 */
export class SourceError extends Error {
  override readonly name = 'SourceError'
  readonly reason: 'wrong' | 'stalled' | 'failed'

  constructor(reason: SourceError['reason'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.reason = reason
  }
}
