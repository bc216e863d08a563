/** Where programs of the host are looked up: fixed places, so that no daemon's PATH decides about builds. */
import { constants } from 'node:fs'
import { access, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode } from '../base/errors.ts'

/** For programs that the node itself uses. */
export const SEARCH_PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

/** The first executable file of that name, or undefined. */
export async function findTool(
  name: string,
  searchPath = SEARCH_PATH,
): Promise<string | undefined> {
  for (const directory of searchPath.split(':')) {
    const path = join(directory, name)
    try {
      await access(path, constants.X_OK)
      if ((await stat(path)).isFile()) return path
    } catch (error) {
      if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES', 'ELOOP')) throw error
    }
  }
  return undefined
}
