/**
 * Makes the index agree with the files after the store was not closed, or its index lost.
 *
 * Neither a commit nor a rename is synced on its own, so after a power cut a file may bear its final name
 * with too few or wrong bytes: what is newer than the last checkpoint is hashed again, the rest is
 * believed. Costs a listing of the directories, not a look at every file.
 */
import { lstatSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { hasCode, MeshError } from '../../base/errors.ts'
import { hashFile } from '../../files/ingest.ts'
import { nextTurn } from '../../files/map-limited.ts'
import { isDigest, type Digest } from '../../wire/digest.ts'
import type { BlobIndex, BlobRecord } from '../blob-index.ts'
import type { StoreStats } from '../blob-store.ts'
import type { FsLayout } from './layout.ts'

export async function recover(
  deps: { readonly layout: FsLayout; readonly index: BlobIndex; readonly log: Logger },
  options: {
    readonly isIndexNew: boolean
    readonly checkpointAtWallMs: number
    readonly nowWallMs: number
  },
): Promise<StoreStats> {
  const { layout, index, log } = deps
  // Copies of blobs that may be damaged themselves; made again when they are needed.
  rmSync(layout.executables, { recursive: true, force: true })
  let count = 0
  let bytes = 0
  let damagedCount = 0
  for (let firstByte = 0; firstByte < 256; firstByte++) {
    const known = new Map<Digest, BlobRecord>()
    if (!options.isIndexNew)
      for await (const [digest, record] of index.entries(firstByte)) known.set(digest, record)
    for (const name of namesIn(layout.prefix(firstByte))) {
      if (!isDigest(name)) {
        log.warn(
          { path: join(layout.prefix(firstByte), name) },
          'foreign file in the store ignored',
        )
        continue
      }
      const record = known.get(name)
      known.delete(name)
      const sizeBytes = await believedSize(
        layout.blob(name),
        name,
        record,
        options.checkpointAtWallMs,
      )
      if (sizeBytes === undefined) {
        rmSync(layout.blob(name), { force: true, recursive: true })
        index.set(name, undefined)
        damagedCount++
        continue
      }
      count++
      bytes += sizeBytes
      if (record === undefined) {
        const { nowWallMs } = options
        index.set(name, { sizeBytes, committedAtWallMs: nowWallMs, usedAtWallMs: nowWallMs })
      }
      await index.settle()
    }
    for (const digest of known.keys()) index.set(digest, undefined)
    await nextTurn()
  }
  await index.flush()
  log.info({ count, bytes, damagedCount }, 'store recovered')
  return { count, bytes }
}

function namesIn(directory: string): string[] {
  try {
    return readdirSync(directory)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return [] // no blob has this prefix yet
    throw error
  }
}

/** Undefined for a damaged file. */
async function believedSize(
  path: string,
  digest: Digest,
  record: BlobRecord | undefined,
  checkpointAtWallMs: number,
): Promise<number | undefined> {
  if (record !== undefined && record.committedAtWallMs <= checkpointAtWallMs)
    return record.sizeBytes
  const stat = lstatSync(path)
  if (!stat.isFile()) return undefined
  // The time of its last rename: content and mode do not change after that.
  if (record === undefined && stat.ctimeMs <= checkpointAtWallMs) return stat.size
  try {
    const { ref } = await hashFile(path)
    return ref.digest === digest ? ref.size : undefined
  } catch (error) {
    if (error instanceof MeshError) return undefined // a file that cannot be read is a damaged one
    throw error
  }
}
