/** `mkdir -p`, without a loop of Node's own: its recursive mkdir never ends where the kernel refuses with ENOENT, as in /proc. */
import { mkdir, stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { hasCode } from '../base/errors.ts'

/** Makes a directory and those above it; `mode` is for all that are made. What is there already stays as it is. */
export async function makeDirectories(path: string, mode = 0o777): Promise<void> {
  try {
    await mkdir(path, { mode })
  } catch (error) {
    if (hasCode(error, 'EEXIST') && (await stat(path)).isDirectory()) return
    const parent = dirname(path)
    if (!hasCode(error, 'ENOENT') || parent === path) throw error
    await makeDirectories(parent, mode)
    // Once more and no oftener. Another one may have made it meanwhile.
    await mkdir(path, { mode }).catch(async (again: unknown) => {
      if (!hasCode(again, 'EEXIST') || !(await stat(path)).isDirectory()) throw again
    })
  }
}
