/**
 * The directory of one attempt on the host: made before the build, taken over after it, when no process of
 * the build is alive, so that paths stay what they are.
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
import { cp, mkdir, symlink } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { hasCode } from '../base/errors.ts'
import type { BuildSpec } from './executor-protocol.ts'
import { CHANGES, WRITABLE } from './sandbox-layout.ts'

/** Entries between two turns of the event loop. */
const BATCH = 500
/** Below this no tree can be stored (wire/tree.ts), so nobody reads it. */
const OWNED_DEPTH_MAX = 128

/** Makes the writable directories, owned by whom the build runs as. Synchronous: eight calls of microseconds. */
export function makeAttemptDirectory(
  spec: BuildSpec,
  owner: { uid: number; gid: number } | undefined,
): void {
  if (spec.image !== undefined) mkdirSync(join(spec.directory, CHANGES), { mode: 0o700 })
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
    // Nor does what it left run as anybody, or belong to a group, when it is ours.
    const isOdd = (stat.mode & needed) !== needed || (stat.mode & 0o6000) !== 0
    if (!stat.isSymbolicLink() && isOdd) chmodSync(next.path, (stat.mode | needed) & 0o777)
    if (stat.isDirectory() && next.depth < OWNED_DEPTH_MAX)
      for (const name of readdirSync(next.path, { encoding: 'buffer' }))
        pending.push({ path: joinBytes(next.path, name), depth: next.depth + 1 })
    if (++count % BATCH === 0) await setImmediate()
  }
}

/** Names are bytes: a build may leave some that are not UTF-8. */
function joinBytes(directory: Buffer, name: Buffer): Buffer {
  return Buffer.concat([directory, Buffer.from('/'), name])
}
