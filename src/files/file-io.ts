/** Positioned reads and writes of open descriptors: what `node:fs` has, without its short counts. */
import { read, writev } from 'node:fs'

/** Pieces in which files are read and written: one trip to the thread pool each. */
export const PIECE_BYTES = 512 * 1024

/** Up to `buffer.byteLength` bytes from `positionBytes`; 0 at the end of the file. */
export function readAt(file: number, buffer: Buffer, positionBytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    read(file, buffer, 0, buffer.byteLength, positionBytes, (error, count) => {
      if (error === null) resolve(count)
      else reject(error)
    })
  })
}

/** Writes all of `pieces` one after the other from `positionBytes`. */
export async function writeAllAt(
  file: number,
  pieces: readonly Uint8Array[],
  positionBytes: number,
): Promise<void> {
  let rest = [...pieces]
  for (let at = positionBytes; rest.length > 0;) {
    const count = await writevAt(file, rest, at)
    at += count
    rest = withoutFirst(rest, count)
  }
}

function writevAt(file: number, pieces: Uint8Array[], positionBytes: number): Promise<number> {
  return new Promise((resolve, reject) => {
    writev(file, pieces, positionBytes, (error, count) => {
      if (error === null) resolve(count)
      else reject(error)
    })
  })
}

function withoutFirst(pieces: readonly Uint8Array[], byteCount: number): Uint8Array[] {
  let skip = byteCount
  const rest: Uint8Array[] = []
  for (const piece of pieces) {
    if (skip < piece.byteLength) rest.push(skip === 0 ? piece : piece.subarray(skip))
    skip = Math.max(0, skip - piece.byteLength)
  }
  return rest
}
