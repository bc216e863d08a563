/**
 * Files, directories and symbolic links on their way in: from a path to an entry, with every blob handed
 * to a sink. Used by the client for the user's files; outputs of builds come in through workers/.
 *
 * Never follows a link. What no tree may hold (sockets, devices, names that are not UTF-8 ...) is refused
 * with MESH0207 naming the path; so is a file that changes while it is read.
 */
import { closeSync, constants, fstatSync, openSync, readSync, type BigIntStats } from 'node:fs'
import { hasCode } from '../base/errors.ts'
import { BLOB_BYTES_MAX, Hasher, sha256, type BlobRef } from '../wire/digest.ts'
import type { Entry } from '../wire/tree.ts'
import { PIECE_BYTES, readAt } from './file-io.ts'
import { mapLimited, nextTurn } from './map-limited.ts'
import { changed, kindOf, refused, unreadable } from './refusal.ts'
import { walk, type WalkOptions } from './walk.ts'

/** Files up to this size are read with calls that block: three times as fast as awaiting each. */
export const SMALL_FILE_BYTES = 64 * 1024
const FILES_AT_ONCE = 16
/** Other work gets its turn after this many files. */
const FILES_PER_TURN = 64

/** Takes what is found. Its calls overlap, at most 16 at a time. */
export interface IngestSink {
  /** Takes a regular file that may be big; gives its digest and size. */
  file(path: string): Promise<BlobRef>
  /** Takes the listing of a directory. */
  tree(ref: BlobRef, bytes: Uint8Array): Promise<void>
}

export interface IngestOptions extends WalkOptions {
  readonly signal?: AbortSignal
}

/** A blob as the client sees it: small enough to keep by the thousand, opened when it is sent. */
export interface IngestedBlob {
  readonly ref: BlobRef
  /** The bytes, from memory or read again; throws MESH0207 when the file changed since it was hashed. */
  readonly open: () => AsyncIterable<Uint8Array>
}

/** A sink that hashes files where they are and passes on every blob, duplicates included. */
export function hashingSink(onBlob: (blob: IngestedBlob) => void | Promise<void>): IngestSink {
  return {
    async file(path) {
      const { ref, identity } = await hashFile(path)
      await onBlob({ ref, open: () => readFileAgain(path, identity) })
      return ref
    },
    async tree(ref, bytes) {
      await onBlob({
        ref,
        async *open() {
          yield bytes
        },
      })
    },
  }
}

/** The entry of what is at `path`. Every blob that it needs has gone to the sink when it resolves. */
export async function ingest(
  sink: IngestSink,
  path: string,
  options: IngestOptions = {},
): Promise<Entry> {
  const walking = walk(path, options)
  let step = walking.next()
  while (step.done !== true) {
    options.signal?.throwIfAborted()
    let refs: readonly BlobRef[] | undefined
    if (step.value === undefined) await nextTurn()
    else if (step.value.kind === 'tree') await sink.tree(step.value.ref, step.value.bytes)
    else refs = await takeAll(sink, step.value.paths, options.signal)
    step = walking.next(refs)
  }
  return step.value
}

async function takeAll(
  sink: IngestSink,
  paths: readonly string[],
  signal: AbortSignal | undefined,
): Promise<readonly BlobRef[]> {
  let count = 0
  return mapLimited(paths, FILES_AT_ONCE, async (path) => {
    signal?.throwIfAborted()
    if (++count % FILES_PER_TURN === 0) await nextTurn()
    return sink.file(path)
  })
}

/** sha256 of a regular file that does not change meanwhile, and what it was. Never follows a link. */
export async function hashFile(
  path: string,
): Promise<{ readonly ref: BlobRef; readonly identity: FileIdentity }> {
  const file = openFile(path)
  try {
    const { size, identity } = regularFile(path, file)
    const digest = size <= SMALL_FILE_BYTES ? sha256(readSmall(file, size)) : await hashLarge(file)
    mustBeSame(path, file, identity)
    return { ref: { digest, size }, identity }
  } catch (error) {
    throw unreadable(path, error)
  } finally {
    closeSync(file)
  }
}

/** Inode, size and times: equal before and after a read means that nobody wrote meanwhile. */
export type FileIdentity = string
export function identityOf(stat: BigIntStats): FileIdentity {
  return `${stat.dev} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`
}

/** What an open file is, before it is read. Throws MESH0207 for what cannot be a blob. */
export function regularFile(
  path: string,
  file: number,
): { readonly stat: BigIntStats; readonly size: number; readonly identity: FileIdentity } {
  const stat = fstatSync(file, { bigint: true })
  if (!stat.isFile()) throw refused(path, `is a ${kindOf(stat)}`)
  const size = Number(stat.size)
  if (size > BLOB_BYTES_MAX)
    throw refused(path, `has ${size} bytes, the limit is ${BLOB_BYTES_MAX}`)
  return { stat, size, identity: identityOf(stat) }
}

/** Throws MESH0207 when somebody wrote meanwhile. */
export function mustBeSame(path: string, file: number, identity: FileIdentity): void {
  if (identityOf(fstatSync(file, { bigint: true })) !== identity) throw changed(path)
}

/** Opens a file to read and nothing else: no link, and no pipe that would wait for a writer. The caller closes it. */
export function openFile(path: string): number {
  try {
    // Not blocking: a pipe that took the place of a file would hold the open for ever.
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    throw hasCode(error, 'ELOOP') ? changed(path) : unreadable(path, error)
  }
}

/** All bytes of an open file, at most `sizeBytes`. */
export function readSmall(file: number, sizeBytes: number): Uint8Array {
  const bytes = Buffer.allocUnsafe(sizeBytes)
  let at = 0
  while (at < sizeBytes) {
    const count = readSync(file, bytes, at, sizeBytes - at, at)
    if (count === 0) break // it became shorter: its identity tells
    at += count
  }
  return bytes.subarray(0, at)
}

async function hashLarge(file: number): Promise<BlobRef['digest']> {
  const hasher = new Hasher()
  for await (const bytes of readOpenFile(file)) hasher.update(bytes)
  return hasher.digest()
}

/** The bytes of an open file from its beginning; the caller closes it. Each piece is valid until the next. */
async function* readOpenFile(file: number): AsyncGenerator<Uint8Array> {
  const buffer = Buffer.allocUnsafe(PIECE_BYTES)
  for (let at = 0; ;) {
    const count = await readAt(file, buffer, at)
    if (count === 0) return
    at += count
    yield buffer.subarray(0, count)
  }
}

async function* readFileAgain(path: string, identity: FileIdentity): AsyncGenerator<Uint8Array> {
  const file = openFile(path)
  try {
    mustBeSame(path, file, identity)
    // Copied, since the receiver may keep it beyond the next piece.
    for await (const bytes of readOpenFile(file)) yield Buffer.from(bytes)
    mustBeSame(path, file, identity)
  } finally {
    closeSync(file)
  }
}
