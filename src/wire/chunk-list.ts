/**
 * The chunk list of a big blob: where it is cut, and the digest of each part.
 *
 * A pure function of the blob (files/fastcdc.ts), so every node makes the same one. It lets a new version be
 * fetched as its differences and parts be had from many. A hint, never an identity: what was put together
 * after a list counts only when the sha256 of the whole is right.
 */
import { z } from 'zod'
import { decodeCanonical, encodeObject } from './cbor.ts'
import { digestBytes, DigestBytes, digestFromBytes, type BlobRef, type Digest } from './digest.ts'

/** Blobs over this have a chunk list; smaller ones are fetched whole. */
export const CHUNKED_BYTES_MIN = 4 * 1024 * 1024
/**
 * Blobs over this, 6 GiB, have none and are fetched whole as well: with chunks as short as they may be,
 * 40 bytes for each just fit into an object.
 */
export const CHUNKED_BYTES_MAX = 6 * 1024 ** 3

/** Bounds of a chunk. Only the last one of a blob may be shorter. */
export const CHUNK_BYTES_MIN = 64 * 1024
export const CHUNK_BYTES_MAX = 1024 * 1024
export const CHUNKS_MAX = CHUNKED_BYTES_MAX / CHUNK_BYTES_MIN

export interface Chunk {
  readonly digest: Digest
  /** Of its first byte in the blob. */
  readonly offset: number
  readonly length: number
}

/** Names the whole blob; its chunks cover it from the first byte to the last. */
export interface ChunkList extends BlobRef {
  readonly chunks: readonly Chunk[]
}

/** Whether blobs of this size have a chunk list. */
export const isChunked = (sizeBytes: number): boolean =>
  sizeBytes > CHUNKED_BYTES_MIN && sizeBytes <= CHUNKED_BYTES_MAX

/** Lists are long: a schema for each part of each chunk would hold the event loop ten times as long. */
const PackedChunks = z
  .custom<[Uint8Array, number][]>(
    (value) => Array.isArray(value) && value.length <= CHUNKS_MAX && value.every(isPackedChunk),
    `expected at most ${CHUNKS_MAX} chunks, each of a digest and a length`,
  )
  .refine(
    (chunks) => chunks.slice(0, -1).every(([, length]) => length >= CHUNK_BYTES_MIN),
    `a chunk before the last is shorter than ${CHUNK_BYTES_MIN} bytes`,
  )

function isPackedChunk(value: unknown): boolean {
  if (!Array.isArray(value) || value.length !== 2) return false
  const [digest, length]: unknown[] = value
  return (
    digest instanceof Uint8Array &&
    digest.byteLength === 32 &&
    typeof length === 'number' &&
    Number.isInteger(length) &&
    length >= 1 &&
    length <= CHUNK_BYTES_MAX
  )
}

const Packed = z
  .object({
    v: z.literal(1),
    whole: DigestBytes,
    size: z.int().min(0).max(CHUNKED_BYTES_MAX),
    chunks: PackedChunks,
  })
  .refine(
    ({ size, chunks }) => chunks.reduce((sum, [, length]) => sum + length, 0) === size,
    'the lengths of the chunks do not add up to the size',
  )

/** Throws MESH0210 for chunks that no list may have. */
export function encodeChunkList(list: ChunkList): Uint8Array<ArrayBuffer> {
  return encodeObject(Packed, {
    v: 1,
    whole: list.digest,
    size: list.size,
    chunks: list.chunks.map(({ digest, length }): [Uint8Array, number] => [
      digestBytes(digest),
      length,
    ]),
  })
}

/** Throws MESH0210 for anything but a canonical list. Costs about 7 ms per GiB of the blob. */
export function decodeChunkList(bytes: Uint8Array): ChunkList {
  const { whole, size, chunks } = decodeCanonical(Packed, bytes, 'chunk list')
  let end = 0
  return {
    digest: whole,
    size,
    chunks: chunks.map(([digest, length]) => {
      end += length
      return { digest: digestFromBytes(digest), offset: end - length, length }
    }),
  }
}
