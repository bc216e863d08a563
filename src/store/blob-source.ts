/**
 * The one interface of everything that blobs are fetched from: peers over HTTP or over a frame channel,
 * and plain HTTP mirrors. A source is asked and may fail or lie; only the store decides what is true.
 */
import type { BlobRef, Digest } from '../wire/digest.ts'

/** Blobs up to this size are fetched many at a time and held in memory. */
export const SMALL_BLOB_BYTES_MAX = 256 * 1024
/** The most blobs of one batched request. */
export const BATCH_ITEMS_MAX = 1024
/** A source that gives nothing for this long in the middle of an answer has stalled. */
export const STALL_MS = 5_000
export const CONNECT_MS = 2_000

export interface BlobSource {
  /** For people, for bans and for scores: unique among the sources of a node. */
  readonly name: string
  readonly kind: 'peer' | 'mirror'
  /**
   * The bytes from `offsetBytes` to the end, or undefined when the source does not have the blob.
   * Throws SourceError; the bytes given may be wrong, but are never more than asked for.
   */
  fetch(
    ref: BlobRef,
    options: { readonly offsetBytes: number; readonly signal: AbortSignal },
  ): Promise<AsyncIterable<Uint8Array> | undefined>
  /**
   * Any number of blobs of at most SMALL_BLOB_BYTES_MAX bytes each, in any order; absent ones are left
   * out. The bytes have the right length, but may be wrong.
   */
  fetchMany?(
    refs: readonly BlobRef[],
    options: { readonly signal: AbortSignal },
  ): AsyncIterable<{ readonly ref: BlobRef; readonly bytes: Uint8Array }>
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
