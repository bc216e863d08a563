/**
 * Removes directories whatever a build left in them: some without any permission, names that are not text,
 * and paths deeper than the system allows. Never follows a link.
 */
import {
  chmodSync,
  lstatSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmdirSync,
  unlinkSync,
} from 'node:fs'
import { join } from 'node:path'
import { hasCode } from '../../base/errors.ts'
import { nextTurn } from '../map-limited.ts'

/** Directories are emptied this deep; deeper ones are first moved up, so that no path gets too long. */
const DEPTH_MAX = 12
/** Others get their turn after this many names: less than a millisecond. */
const UNLINKS_PER_TURN = 64

/** A directory and all in it, or a file; what is absent is fine. */
export function* removeTreeJob(path: string): Generator<undefined, void> {
  try {
    if (!lstatSync(path).isDirectory()) return unlinkSync(path)
    yield* empty(Buffer.from(path), path, 0)
    // Deep directories were moved up here while it was read: once more for each time.
    while (!tryRmdir(path)) yield* empty(Buffer.from(path), path, 0)
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
  }
}

/** Does the job here. */
export async function removeTree(path: string): Promise<void> {
  const removing = removeTreeJob(path)
  while (removing.next().done !== true) await nextTurn()
}

function tryRmdir(path: string): boolean {
  try {
    rmdirSync(path)
    return true
  } catch (error) {
    if (!hasCode(error, 'ENOTEMPTY', 'EEXIST')) throw error
    return false
  }
}

function* empty(directory: Buffer, top: string, depth: number): Generator<undefined, void> {
  chmodSync(directory, 0o700)
  const entries = readdirSync(directory, { encoding: 'buffer', withFileTypes: true })
  for (const [at, entry] of entries.entries()) {
    if (at % UNLINKS_PER_TURN === UNLINKS_PER_TURN - 1) yield undefined
    const path = joinBytes(directory, entry.name)
    if (!entry.isDirectory()) unlinkSync(path)
    else if (depth < DEPTH_MAX) {
      yield* empty(path, top, depth + 1)
      rmdirSync(path)
    } else {
      chmodSync(path, 0o700) // the kernel wants to write its `..`
      renameSync(path, join(mkdtempSync(join(top, '.deep-')), 'd'))
    }
  }
}

/** Names are bytes: a build may leave some that are not UTF-8. */
function joinBytes(directory: Buffer, name: Buffer): Buffer {
  return Buffer.concat([directory, Buffer.from('/'), name])
}
