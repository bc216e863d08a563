/** `mesh-node reload`: sends SIGHUP to the daemon that has a data directory, and to no other process. */
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode, MeshError } from '../../base/errors.ts'
import { NODE_FILE, NodeFile } from '../../wire/node-file.ts'
import { findHolder } from './node-directory.ts'

/** What was done, for people. Throws MESH0101 where no daemon runs, MESH0102 where it is another user's. */
export async function askReload(data: string): Promise<string> {
  const holder = await findHolder(data)
  const file = await readNodeFile(data)
  // Both: the lock names a process and not only its number, the file is there once the daemon is ready.
  if (holder === undefined || file === undefined || file.pid !== holder)
    throw new MeshError('MESH0101', `no daemon runs with the data directory ${data}`, {
      hints: ['name another one: --data DIR'],
    })
  try {
    process.kill(holder, 'SIGHUP')
  } catch (error) {
    if (!hasCode(error, 'EPERM')) throw error
    throw new MeshError('MESH0102', `the daemon with pid ${holder} is another user's`, {
      cause: error,
    })
  }
  return `${file.name} (pid ${holder}) reads its configuration and looks at its machine again; its log says what changed\n`
}

async function readNodeFile(data: string): Promise<NodeFile | undefined> {
  try {
    return NodeFile.parse(JSON.parse(await readFile(join(data, NODE_FILE), 'utf8')))
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw error
  }
}
