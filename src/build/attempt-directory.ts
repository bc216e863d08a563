/**
 * The directory of one attempt on the host: made before the build, taken over after it, removed whatever
 * the build left in it. No process of the build is alive when the latter two run, so paths stay what they are.
 */
import {
  chmodSync,
  chownSync,
  constants,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  type Stats,
} from 'node:fs'
import {
  chmod,
  cp,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  rename,
  rmdir,
  symlink,
  unlink,
} from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { hasCode } from '../base/errors.ts'
import type { BuildSpec } from './executor-protocol.ts'
import { WRITABLE } from './sandbox-layout.ts'

/** Directories are emptied this deep; deeper ones are first moved up, so that no path gets too long. */
const DEPTH_MAX = 12
const UNLINKS_AT_ONCE = 16
/** Entries between two turns of the event loop. */
const BATCH = 500
/** Below this no tree can be stored (wire/tree.ts), so nobody reads it. */
const OWNED_DEPTH_MAX = 128

/** Makes the writable directories, owned by whom the build runs as. Synchronous: eight calls of microseconds. */
export function makeAttemptDirectory(
  spec: BuildSpec,
  owner: { uid: number; gid: number } | undefined,
): void {
  for (const name of WRITABLE) {
    const path = join(spec.directory, name)
    mkdirSync(path, { mode: 0o700 })
    if (owner !== undefined && owner.uid !== process.geteuid?.())
      chownSync(path, owner.uid, owner.gid)
  }
}

/** A path that begins with `/build`, as it is for a plain process. */
export function plainPath(spec: Pick<BuildSpec, 'directory'>, path: string): string {
  return path === '/build' || path.startsWith('/build/')
    ? `${spec.directory}${path.slice('/build'.length)}`
    : path
}

/** Copies inputs to where a plain process finds them: without walls nothing else protects the store. */
export async function copyInputs(spec: BuildSpec): Promise<void> {
  for (const { path, source } of spec.inputs) {
    const target = plainPath(spec, path)
    await mkdir(dirname(target), { recursive: true })
    if (source.kind === 'symlink') await symlink(source.target, target)
    else
      await cp(source.hostPath, target, {
        recursive: true,
        verbatimSymlinks: true,
        errorOnExist: true,
        force: false,
        mode: constants.COPYFILE_FICLONE,
      })
  }
}

/** Makes everything below `path` ours and readable by us. Follows no link. */
export async function takeOwnership(path: string): Promise<void> {
  const uid = process.geteuid?.() ?? 0
  const gid = process.getegid?.() ?? 0
  let count = 0
  const pending: { path: Buffer; depth: number }[] = [{ path: Buffer.from(path), depth: 0 }]
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    let stat: Stats
    try {
      stat = lstatSync(next.path)
    } catch (error) {
      if (hasCode(error, 'ENAMETOOLONG')) continue // no tree can hold it either
      throw error
    }
    if (stat.uid !== uid) lchownSync(next.path, uid, gid)
    const needed = stat.isDirectory() ? 0o700 : 0o400
    if (!stat.isSymbolicLink() && (stat.mode & needed) !== needed)
      chmodSync(next.path, (stat.mode | needed) & 0o777)
    if (stat.isDirectory() && next.depth < OWNED_DEPTH_MAX)
      for (const name of readdirSync(next.path, { encoding: 'buffer' }))
        pending.push({ path: joinBytes(next.path, name), depth: next.depth + 1 })
    if (++count % BATCH === 0) await setImmediate()
  }
}

/**
 * Removes a directory and all in it, or a file; what is absent is fine. Manages directories without any
 * permission and paths deeper than the system allows, and never follows a link.
 */
export async function removeTree(path: string): Promise<void> {
  try {
    if (!(await lstat(path)).isDirectory()) return await unlink(path)
    await empty(Buffer.from(path), path, 0)
    // Deep directories were moved up here while it was read: once more for each time.
    while (!(await tryRmdir(path))) await empty(Buffer.from(path), path, 0)
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
  }
}

async function tryRmdir(path: string): Promise<boolean> {
  try {
    await rmdir(path)
    return true
  } catch (error) {
    if (!hasCode(error, 'ENOTEMPTY', 'EEXIST')) throw error
    return false
  }
}

async function empty(directory: Buffer, top: string, depth: number): Promise<void> {
  await chmod(directory, 0o700)
  const entries = await readdir(directory, { encoding: 'buffer', withFileTypes: true })
  const others = entries.filter((entry) => !entry.isDirectory())
  for (let at = 0; at < others.length; at += UNLINKS_AT_ONCE)
    await Promise.all(
      others
        .slice(at, at + UNLINKS_AT_ONCE)
        .map((entry) => unlink(joinBytes(directory, entry.name))),
    )
  for (const entry of entries) {
    if (!entry.isDirectory()) continue
    const path = joinBytes(directory, entry.name)
    if (depth < DEPTH_MAX) {
      await empty(path, top, depth + 1)
      await rmdir(path)
    } else {
      await chmod(path, 0o700) // the kernel wants to write its `..`
      await rename(path, join(await mkdtemp(join(top, '.deep-')), 'd'))
    }
  }
}

/** Names are bytes: a build may leave some that are not UTF-8. */
function joinBytes(directory: Buffer, name: Buffer): Buffer {
  return Buffer.concat([directory, Buffer.from('/'), name])
}
