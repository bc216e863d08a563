/** Jobs that read files: digests of whole ones, of ranges, and of the chunks where content cuts them. */
import { closeSync, readSync } from 'node:fs'
import type { Chunk } from '../../wire/chunk-list.ts'
import { BLOB_BYTES_MAX, Hasher, sha256, type BlobRef, type Digest } from '../../wire/digest.ts'
import { Chunker } from '../fastcdc.ts'
import { PIECE_BYTES } from '../file-io.ts'
import {
  mustBeSame,
  openFile,
  readSmall,
  regularFile,
  SMALL_FILE_BYTES,
  type FileIdentity,
} from '../ingest.ts'
import { unreadable } from '../refusal.ts'

export interface HashedFile {
  readonly ref: BlobRef
  readonly identity: FileIdentity
}

/** Part of a file. */
export interface FileRange {
  readonly offset: number
  readonly length: number
}

/** sha256 of a regular file that does not change meanwhile. Throws MESH0205, MESH0207. */
export function* hashFileJob(path: string): Generator<undefined, HashedFile> {
  const file = openFile(path)
  try {
    const { size, identity } = regularFile(path, file)
    const digest = yield* hashPieces(file, size)
    mustBeSame(path, file, identity)
    return { ref: { digest, size }, identity }
  } catch (error) {
    throw unreadable(path, error)
  } finally {
    closeSync(file)
  }
}

/** The sha256 of each range, in their order; undefined for one that ends beyond the file. */
export function* hashRangesJob(input: {
  readonly path: string
  readonly ranges: readonly FileRange[]
}): Generator<undefined, (Digest | undefined)[]> {
  const file = openFile(input.path)
  try {
    const digests: (Digest | undefined)[] = []
    for (const { offset, length } of input.ranges) {
      const hasher = new Hasher()
      let count = 0
      for (const bytes of readPieces(file, offset, length)) {
        hasher.update(bytes)
        count += bytes.byteLength
        yield undefined
      }
      digests.push(count === length ? hasher.digest() : undefined)
    }
    return digests
  } catch (error) {
    throw unreadable(input.path, error)
  } finally {
    closeSync(file)
  }
}

/** The chunks of a file of the store, as files/fastcdc.ts cuts them. */
export function* chunkFileJob(path: string): Generator<undefined, readonly Chunk[]> {
  const file = openFile(path)
  try {
    const chunker = new Chunker()
    for (const bytes of readPieces(file, 0, BLOB_BYTES_MAX)) {
      chunker.add(bytes)
      yield undefined
    }
    return chunker.finish()
  } catch (error) {
    throw unreadable(path, error)
  } finally {
    closeSync(file)
  }
}

/** The sha256 of an open file from its beginning; `onPiece` sees its bytes, each valid until the next. */
export function* hashPieces(
  file: number,
  sizeBytes: number,
  onPiece: (bytes: Uint8Array) => void = () => undefined,
): Generator<undefined, Digest> {
  if (sizeBytes <= SMALL_FILE_BYTES) {
    const bytes = readSmall(file, sizeBytes)
    onPiece(bytes)
    return sha256(bytes)
  }
  const hasher = new Hasher()
  for (const bytes of readPieces(file, 0, sizeBytes)) {
    hasher.update(bytes)
    onPiece(bytes)
    yield undefined
  }
  return hasher.digest()
}

/** Up to `length` bytes in pieces of at most PIECE_BYTES; each is valid until the next. Ends with the file. */
export function* readPieces(
  file: number,
  offset: number,
  length: number,
): Generator<Uint8Array, void> {
  const buffer = Buffer.allocUnsafe(Math.min(length, PIECE_BYTES))
  for (let at = 0; at < length;) {
    const count = readSync(file, buffer, 0, Math.min(buffer.byteLength, length - at), offset + at)
    if (count === 0) return
    at += count
    yield buffer.subarray(0, count)
  }
}
