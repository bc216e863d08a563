/** What the parts of the store share about disks: the error of a full one, free space, and small files written whole. */
import { closeSync, fsyncSync, openSync, renameSync, writeFileSync } from 'node:fs'
import { open, rename, statfs } from 'node:fs/promises'
import { dirname } from 'node:path'
import { isDiskFull, MeshError, messageOf } from '../base/errors.ts'

/** MESH0503 for a full disk or quota; any other error as it is. */
export function diskError(error: unknown, directory: string): unknown {
  if (!isDiskFull(error)) return error
  return new MeshError('MESH0503', `no room in ${directory}: ${messageOf(error)}`, {
    where: directory,
    cause: error,
    hints: ['free disk space, or move the data directory with --data'],
  })
}

export interface DiskSpace {
  readonly totalBytes: number
  /** What this user may still write. */
  readonly freeBytes: number
}

export async function diskSpace(path: string): Promise<DiskSpace> {
  const { blocks, bavail, bsize } = await statfs(path)
  return { totalBytes: blocks * bsize, freeBytes: bavail * bsize }
}

/** Replaces a small file: after a crash it has the old or the new content; the new one from the return on. */
export function replaceFile(path: string, text: string): void {
  const temporary = `${path}.new`
  const file = openSync(temporary, 'w', 0o644)
  try {
    writeFileSync(file, text)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  renameSync(temporary, path)
  syncDirectory(dirname(path))
}

/** The same without keeping the event loop: a sync takes as long as the disk likes. One at a time per path. */
export async function replaceFileLater(path: string, text: string): Promise<void> {
  const temporary = `${path}.new`
  {
    await using file = await open(temporary, 'w', 0o644)
    await file.writeFile(text)
    await file.sync()
  }
  await rename(temporary, path)
  await using directory = await open(dirname(path), 'r')
  await directory.sync()
}

/** Makes the names in a directory survive a power cut. */
export function syncDirectory(path: string): void {
  const directory = openSync(path, 'r')
  try {
    fsyncSync(directory)
  } finally {
    closeSync(directory)
  }
}
