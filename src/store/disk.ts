/** What the parts of the store share about files: the error of a full disk, and small files written whole. */
import { closeSync, fsyncSync, openSync, renameSync, writeFileSync } from 'node:fs'
import { hasCode, MeshError, messageOf } from '../base/errors.ts'

/** MESH0503 for a full disk or quota; any other error as it is. */
export function diskError(error: unknown, directory: string): unknown {
  if (!hasCode(error, 'ENOSPC', 'EDQUOT')) return error
  return new MeshError('MESH0503', `no room in ${directory}: ${messageOf(error)}`, {
    where: directory,
    cause: error,
    hints: ['free disk space, or move the data directory with --data'],
  })
}

/** Replaces a small file: after a crash it has the old or the new content. */
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
}
