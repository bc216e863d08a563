/** Small files that are for their owner alone, such as keys: read with suspicion, written whole or not at all. */
import { open, rename, stat, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode, MeshError } from '../../base/errors.ts'
import { makeDirectories } from '../../files/make-directories.ts'

/** Makes a directory for such files. Throws MESH0104 when others have access to it. */
export async function openPrivateDirectory(path: string): Promise<void> {
  await makeDirectories(path, 0o700)
  refuseOthers(path, await stat(path), '700')
}

/** Undefined when there is none. Throws MESH0104 when others have access to it. */
export async function readPrivate(path: string): Promise<Buffer | undefined> {
  let file: FileHandle
  try {
    file = await open(path, 'r')
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
  await using _ = file
  refuseOthers(path, await file.stat(), '600')
  return await file.readFile()
}

/** After a crash at any moment there is the whole file, or what was there before. */
export async function writePrivate(
  directory: string,
  name: string,
  bytes: Uint8Array | string,
): Promise<void> {
  const draft = join(directory, `${name}.new`)
  {
    await using file = await open(draft, 'w', 0o600)
    await file.writeFile(bytes)
    await file.sync()
  }
  await rename(draft, join(directory, name))
  await using parent = await open(directory, 'r')
  await parent.sync()
}

function refuseOthers(path: string, { mode }: { readonly mode: number }, right: string): void {
  if ((mode & 0o077) === 0) return
  const observed = (mode & 0o777).toString(8)
  throw new MeshError(
    'MESH0104',
    `other users have access to the key of this node: mode ${observed} instead of ${right}`,
    {
      where: path,
      hints: [
        `chmod ${right} ${path}`,
        'and if somebody may have read the key, remove it: the node then gets a new one',
      ],
    },
  )
}
