/** A file of the store with an inode of its own: for another mode, or because the first has too many names. */
import { chmodSync, constants, copyFileSync, utimesSync } from 'node:fs'
import { copyFile } from 'node:fs/promises'
import { FILE_TIME_SECONDS } from './file-writer.ts'

/**
 * A file with as many names is copied before it is handed out: ext4 allows 65,000, and whoever has the path
 * may be about to make some thousands.
 */
export const LINKS_MAX = 32_000
/** Up to this size a file is copied with a call that blocks. */
const SMALL_BYTES = 64 * 1024

export async function copyWithMode(
  from: string,
  to: string,
  options: { readonly sizeBytes: number; readonly mode: number },
): Promise<void> {
  if (options.sizeBytes <= SMALL_BYTES) copyFileSync(from, to)
  else await copyFile(from, to, constants.COPYFILE_FICLONE)
  utimesSync(to, FILE_TIME_SECONDS, FILE_TIME_SECONDS)
  chmodSync(to, options.mode)
}
