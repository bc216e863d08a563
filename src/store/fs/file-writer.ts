/** Blobs on their way into a file of the store: hashed while they are written, and compared at the end. */
import { closeSync, fchmodSync, futimesSync, openSync, writeSync } from 'node:fs'
import { PIECE_BYTES, writeAllAt } from '../../files/file-io.ts'
import { Hasher, sha256, type BlobRef } from '../../wire/digest.ts'
import { checkExpected, SizeGuard } from '../expected.ts'

/** One time for all files: a build must not see when its inputs were fetched. */
export const FILE_TIME_SECONDS = 1
const BLOB_MODE = 0o444

export function writeSmall(
  path: string,
  bytes: Uint8Array,
  expected: BlobRef | undefined,
): BlobRef {
  const ref = { digest: sha256(bytes), size: bytes.byteLength }
  checkExpected(ref, expected)
  const file = openSync(path, 'wx', BLOB_MODE)
  try {
    for (let at = 0; at < bytes.byteLength;) at += writeSync(file, bytes, at)
    finishFile(file)
  } finally {
    closeSync(file)
  }
  return ref
}

/** Hashes one part while the one before is being written. */
export async function writeStream(
  path: string,
  source: Uint8Array | AsyncIterable<Uint8Array>,
  expected: BlobRef | undefined,
): Promise<BlobRef> {
  const file = openSync(path, 'wx', BLOB_MODE)
  const hasher = new Hasher()
  const guard = new SizeGuard(expected)
  let writing = Promise.resolve()
  let pieces: Uint8Array[] = []
  let pieceBytes = 0
  let writtenBytes = 0
  const writeOut = async (): Promise<void> => {
    await writing
    writing = writeAllAt(file, pieces, writtenBytes)
    writtenBytes += pieceBytes
    pieces = []
    pieceBytes = 0
  }
  try {
    for await (const bytes of source instanceof Uint8Array ? inPieces(source) : source) {
      guard.add(bytes.byteLength)
      hasher.update(bytes)
      pieces.push(bytes)
      pieceBytes += bytes.byteLength
      if (pieceBytes >= PIECE_BYTES) await writeOut()
    }
    if (pieces.length > 0) await writeOut()
    await writing
    const ref = { digest: hasher.digest(), size: guard.sizeBytes }
    checkExpected(ref, expected)
    finishFile(file)
    return ref
  } finally {
    // The descriptor must outlive a write that is under way when the source failed.
    await Promise.allSettled([writing])
    closeSync(file)
  }
}

export function finishFile(file: number): void {
  fchmodSync(file, BLOB_MODE) // whatever the umask made of it
  futimesSync(file, FILE_TIME_SECONDS, FILE_TIME_SECONDS)
}

async function* inPieces(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.byteLength; at += PIECE_BYTES)
    yield bytes.subarray(at, at + PIECE_BYTES)
}
