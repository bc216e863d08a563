/** What a build takes of the disk and how large its outputs are, by looking through its directories. */
import { lstatSync, readdirSync, type Stats } from 'node:fs'
import { join } from 'node:path'
import { setImmediate } from 'node:timers/promises'
import { hasCode } from '../base/errors.ts'
import { CHANGES, WRITABLE } from './sandbox-layout.ts'

/** Entries between two turns of the event loop. */
const BATCH = 500
/** Entries that are looked at; of more than that the rest is not counted. */
const ENTRIES_MAX = 2_000_000
/** Files with several names, to count them once; of more than that some count twice. */
const LINKED_MAX = 100_000
/** What an entry takes besides its bytes: a million empty files are not nothing. */
const ENTRY_BYTES = 256

export interface DiskUse {
  /** Of all of its directories. */
  readonly bytes: number
  /**
   * Of what lies where outputs go: lengths of files, for holes in them take no disk here, and are bytes like
   * others wherever the output goes.
   */
  readonly outputBytes: number
}

/** Of the attempt in `directory`; what comes and goes meanwhile is counted or not. `isOver` ends it early. */
export async function readDiskUse(directory: string, isOver = () => false): Promise<DiskUse> {
  let bytes = 0
  let outputBytes = 0
  let count = 0
  const linked = new Set<number>()
  const pending = [...WRITABLE, CHANGES].map((name) => ({
    path: Buffer.from(join(directory, name)),
    isOutput: name === 'out',
  }))
  for (let next = pending.pop(); next !== undefined; next = pending.pop()) {
    const { path, isOutput } = next
    const stat = look(path)
    if (stat === undefined) continue
    count += 1
    const isCounted = stat.nlink > 1 && !stat.isDirectory() && linked.has(stat.ino)
    if (!isCounted) {
      bytes += 512 * stat.blocks + ENTRY_BYTES
      if (isOutput) outputBytes += stat.isFile() ? stat.size : ENTRY_BYTES
      if (stat.nlink > 1 && linked.size < LINKED_MAX) linked.add(stat.ino)
    }
    if (stat.isDirectory())
      for (const name of namesIn(path))
        pending.push({ path: Buffer.concat([path, Buffer.from('/'), name]), isOutput })
    if (count >= ENTRIES_MAX) break
    if (count % BATCH === 0) {
      await setImmediate()
      if (isOver()) break
    }
  }
  return { bytes, outputBytes }
}

/** What is gone by now, or closed to us by its mode, is not counted. */
function look(path: Buffer): Stats | undefined {
  try {
    return lstatSync(path)
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'EACCES', 'ENAMETOOLONG', 'ENOTDIR', 'ELOOP')) throw error
    return undefined
  }
}

/** Names are bytes: a build may leave some that are not UTF-8. */
function namesIn(path: Buffer): Buffer[] {
  try {
    return readdirSync(path, { encoding: 'buffer' })
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'EACCES', 'ENAMETOOLONG', 'ENOTDIR', 'ELOOP')) throw error
    return []
  }
}
