/** Whether the file of a blob has the bytes that its name says: for recovery, the scrubber and complaints. */
import { closeSync } from 'node:fs'
import { hasCode } from '../../base/errors.ts'
import { PIECE_BYTES, readAt } from '../../files/file-io.ts'
import { Hasher, type BlobRef, type Digest } from '../../wire/digest.ts'
import { openToRead } from './file-reads.ts'

export type Verdict = 'whole' | 'damaged' | 'absent'

/** Waits after so many bytes were read, or not. */
export type Pace = (bytes: number) => Promise<void> | void

/** What looks damaged is read twice: it may have been replaced meanwhile. */
export async function verifyFile(
  path: string,
  digest: Digest,
  pace: Pace = () => undefined,
): Promise<{ readonly verdict: Verdict; readonly size: number }> {
  for (let isSecond = false; ; isSecond = true) {
    try {
      const ref = await hashOf(path, pace)
      if (ref === undefined) return { verdict: 'absent', size: 0 }
      if (ref.digest === digest) return { verdict: 'whole', size: ref.size }
      if (isSecond) return { verdict: 'damaged', size: ref.size }
    } catch (error) {
      // A bad sector, or a directory or link in the place of a file.
      if (hasCode(error, 'EIO', 'EISDIR', 'ELOOP', 'EUCLEAN'))
        return { verdict: 'damaged', size: 0 }
      throw error
    }
  }
}

/**
 * Opens the file for each piece anew: one that is removed in the midst of a slow read takes no room any
 * more, and one that is replaced has another digest in the end.
 */
async function hashOf(path: string, pace: Pace): Promise<BlobRef | undefined> {
  const hasher = new Hasher()
  const buffer = Buffer.allocUnsafe(PIECE_BYTES)
  for (let size = 0; ;) {
    const count = await readPiece(path, buffer, size)
    if (count === undefined) return undefined
    if (count === 0) return { digest: hasher.digest(), size }
    hasher.update(buffer.subarray(0, count))
    size += count
    await pace(count)
  }
}

async function readPiece(
  path: string,
  buffer: Buffer,
  positionBytes: number,
): Promise<number | undefined> {
  const file = await openToRead(path)
  if (file === undefined) return undefined
  try {
    return await readAt(file, buffer, positionBytes)
  } finally {
    closeSync(file)
  }
}
