/** Reading and syncing files of the store by path. Absence is a value; links are never followed. */
import { closeSync, constants, fdatasync, open, openSync, readSync } from 'node:fs'
import { hasCode } from '../../base/errors.ts'
import { PIECE_BYTES, readAt } from '../../files/file-io.ts'

export function openToRead(path: string): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    open(path, constants.O_RDONLY | constants.O_NOFOLLOW, (error, file) => {
      if (error === null) resolve(file)
      else if (hasCode(error, 'ENOENT')) resolve(undefined)
      else reject(error)
    })
  })
}

/** Undefined when the file is not there or has another size. */
export function readSmall(path: string, sizeBytes: number): Uint8Array | undefined {
  let file: number
  try {
    file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
  try {
    // One byte more than there should be, to see that there is none.
    const bytes = Buffer.allocUnsafeSlow(sizeBytes + 1)
    return readSync(file, bytes, 0, sizeBytes + 1, 0) === sizeBytes
      ? bytes.subarray(0, sizeBytes)
      : undefined
  } finally {
    closeSync(file)
  }
}

export async function* readWhole(path: string): AsyncGenerator<Uint8Array> {
  const file = openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    for (let at = 0; ;) {
      const buffer = Buffer.allocUnsafe(PIECE_BYTES)
      const count = await readAt(file, buffer, at)
      if (count === 0) return
      at += count
      yield buffer.subarray(0, count)
    }
  } finally {
    closeSync(file)
  }
}

export async function syncFile(path: string): Promise<void> {
  const file = await openToRead(path)
  if (file === undefined) return // deleted meanwhile
  try {
    await new Promise<void>((resolve, reject) => {
      fdatasync(file, (error) => (error === null ? resolve() : reject(error)))
    })
  } finally {
    closeSync(file)
  }
}
