/**
 * What the disk of a data directory gives: writing and reading in bulk, small files as a store makes
 * them, and one small synced write as the journal makes them. Bounded in bytes and in time.
 */
import { execFile } from 'node:child_process'
import { mkdir, open, rename, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Clock } from '../../../base/clock.ts'
import { findTool } from '../../../build/tool-path.ts'
import type { DiskSpeed } from '../machine.ts'

const PIECE_BYTES = 4 * 1024 ** 2
const BULK_BYTES_MAX = 128 * 1024 ** 2
/** Of what is free. */
const BULK_SHARE_MAX = 0.02
const BULK_MS = 1_000
const FILES_MAX = 2_000
const FILES_MS = 500
const FILE_BYTES = 4096
const SYNCS_MAX = 20
const SYNCS_MS = 500
const READ_MS_MAX = 5_000

/** `directory` is empty and ours; what is left in it is removed by the caller. Rejects with the signal's reason. */
export async function measureDisk(
  { clock }: { readonly clock: Clock },
  directory: string,
  { freeBytes, signal }: { readonly freeBytes: number; readonly signal: AbortSignal },
): Promise<DiskSpeed> {
  const path = join(directory, 'bulk')
  const bulk = await writeBulk(clock, path, { freeBytes, signal })
  const read = await readBulk(clock, path, { bytes: bulk.bytes, signal })
  return {
    writeBytesPerS: perSecond(bulk.bytes, bulk.ms),
    ...read,
    filesPerS: await makeFiles(clock, join(directory, 'files'), signal),
    syncMs: await syncOften(clock, join(directory, 'synced'), signal),
  }
}

const perSecond = (count: number, ms: number): number => (count * 1000) / Math.max(1, ms)

async function writeBulk(
  clock: Clock,
  path: string,
  { freeBytes, signal }: { readonly freeBytes: number; readonly signal: AbortSignal },
): Promise<{ readonly bytes: number; readonly ms: number }> {
  const most = Math.max(PIECE_BYTES, Math.min(BULK_BYTES_MAX, freeBytes * BULK_SHARE_MAX))
  // Zeros would cost nothing on a disk that compresses.
  const piece = Buffer.allocUnsafe(PIECE_BYTES)
  for (let at = 0; at < PIECE_BYTES; at += 4)
    piece.writeUInt32LE(Math.imul(at ^ 0x5bd1_e995, 0x85eb_ca6b) >>> 0, at)
  const file = await open(path, 'wx')
  try {
    const startMs = clock.nowMs()
    let bytes = 0
    while (bytes + PIECE_BYTES <= most && clock.nowMs() - startMs < BULK_MS) {
      signal.throwIfAborted()
      await file.write(piece, 0, PIECE_BYTES)
      bytes += PIECE_BYTES
    }
    await file.sync()
    return { bytes, ms: clock.nowMs() - startMs }
  } finally {
    await file.close()
  }
}

/** Past the cache where `dd` and the file system can, else out of it. */
async function readBulk(
  clock: Clock,
  path: string,
  { bytes, signal }: { readonly bytes: number; readonly signal: AbortSignal },
): Promise<Pick<DiskSpeed, 'readBytesPerS' | 'isReadCached'>> {
  const dd = await findTool('dd')
  if (dd !== undefined) {
    const startMs = clock.nowMs()
    const isRead = await promisify(execFile)(
      dd,
      [`if=${path}`, 'of=/dev/null', 'bs=4M', 'iflag=direct'],
      {
        signal,
        timeout: READ_MS_MAX,
      },
    ).then(
      () => true,
      () => false, // Not every file system can: then it is read through the cache.
    )
    signal.throwIfAborted()
    if (isRead)
      return { readBytesPerS: perSecond(bytes, clock.nowMs() - startMs), isReadCached: false }
  }
  const piece = Buffer.alloc(PIECE_BYTES)
  const file = await open(path, 'r')
  try {
    const startMs = clock.nowMs()
    while ((await file.read(piece, 0, PIECE_BYTES)).bytesRead > 0) signal.throwIfAborted()
    return { readBytesPerS: perSecond(bytes, clock.nowMs() - startMs), isReadCached: true }
  } finally {
    await file.close()
  }
}

async function makeFiles(clock: Clock, directory: string, signal: AbortSignal): Promise<number> {
  await mkdir(directory)
  const bytes = Buffer.alloc(FILE_BYTES, 7)
  const startMs = clock.nowMs()
  let count = 0
  while (count < FILES_MAX && clock.nowMs() - startMs < FILES_MS) {
    signal.throwIfAborted()
    const path = join(directory, `${count}`)
    await writeFile(`${path}.new`, bytes)
    await rename(`${path}.new`, path)
    count += 1
  }
  return perSecond(count, clock.nowMs() - startMs)
}

async function syncOften(clock: Clock, path: string, signal: AbortSignal): Promise<number> {
  const bytes = Buffer.alloc(FILE_BYTES, 7)
  const file = await open(path, 'wx')
  try {
    const startMs = clock.nowMs()
    let count = 0
    while (count < SYNCS_MAX && clock.nowMs() - startMs < SYNCS_MS) {
      signal.throwIfAborted()
      await file.write(bytes)
      await file.datasync()
      count += 1
    }
    // The clock counts whole milliseconds: the mean says more than a median of them.
    return (clock.nowMs() - startMs) / Math.max(1, count)
  } finally {
    await file.close()
  }
}
