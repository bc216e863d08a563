/**
 * Files, directories and symbolic links on their way in: from a path to an entry, with every blob handed
 * to a sink. Used by the client for the user's files and by the daemon for the outputs of builds.
 *
 * Never follows a link. What no tree may hold (sockets, devices, names that are not UTF-8 ...) is refused
 * with MESH0207 naming the path; so is a file that changes while it is read.
 */
import {
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  openSync,
  readdirSync,
  readlinkSync,
  readSync,
  type BigIntStats,
} from 'node:fs'
import { basename, join, matchesGlob } from 'node:path'
import { hasCode, MeshError, messageOf } from '../base/errors.ts'
import { OBJECT_BYTES_MAX } from '../wire/cbor.ts'
import { BLOB_BYTES_MAX, Hasher, sha256, type BlobRef } from '../wire/digest.ts'
import {
  encodeTree,
  TARGET_BYTES_MAX,
  TREE_DEPTH_MAX,
  TREE_ENTRIES_MAX,
  type Entry,
  type TreeEntry,
} from '../wire/tree.ts'
import { PIECE_BYTES, readAt } from './file-io.ts'
import { mapLimited, nextTurn } from './map-limited.ts'

/** Files up to this size are read with calls that block: three times as fast as awaiting each. */
const SMALL_FILE_BYTES = 64 * 1024
const FILES_AT_ONCE = 16
/** Other work gets its turn after this many entries. */
const ENTRIES_PER_TURN = 64

/** Takes what is found. Its calls overlap, at most 16 at a time. */
export interface IngestSink {
  /** Takes a regular file that may be big; gives its digest and size. */
  file(path: string): Promise<BlobRef>
  /** Takes the listing of a directory. */
  tree(ref: BlobRef, bytes: Uint8Array): Promise<void>
}

export interface IngestOptions {
  /**
   * Globs of what to leave out, matched against the path under the root (`build/**`); one without `/`
   * is matched against the name at any depth (`*.o`).
   */
  readonly exclude?: readonly string[]
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
  return new Ingest(sink, options).entry(path, '', 0)
}

class Ingest {
  readonly #sink: IngestSink
  readonly #exclude: readonly string[]
  readonly #signal: AbortSignal | undefined
  #seen = 0

  constructor(sink: IngestSink, options: IngestOptions) {
    this.#sink = sink
    this.#exclude = options.exclude ?? []
    this.#signal = options.signal
  }

  async entry(path: string, relative: string, depth: number): Promise<Entry> {
    this.#signal?.throwIfAborted()
    if (++this.#seen % ENTRIES_PER_TURN === 0) await nextTurn()
    const stat = lstat(path)
    if (stat.isSymbolicLink()) return { kind: 'symlink', target: readTarget(path) }
    if (stat.isDirectory()) return this.#directory(path, relative, depth)
    if (!stat.isFile()) throw refused(path, `is a ${kindOf(stat)}`)
    const ref = await this.#sink.file(path)
    return { kind: 'file', ...ref, executable: (stat.mode & 0o111n) !== 0n }
  }

  async #directory(path: string, relative: string, depth: number): Promise<Entry> {
    if (depth >= TREE_DEPTH_MAX)
      throw refused(path, `lies deeper than ${TREE_DEPTH_MAX} directories`)
    const found = list(path).filter(({ name }) => !this.#isExcluded(`${relative}${name}`))
    if (found.length > TREE_ENTRIES_MAX)
      throw refused(path, `has ${found.length} entries, the limit is ${TREE_ENTRIES_MAX}`)
    const child = async ({ name }: Found): Promise<TreeEntry> => ({
      name,
      entry: await this.entry(join(path, name), `${relative}${name}/`, depth + 1),
    })
    // Files side by side, directories one after the other: the limit holds for the whole tree.
    const entries = await mapLimited(
      found.filter((one) => !one.isDirectory),
      FILES_AT_ONCE,
      child,
    )
    for (const one of found) if (one.isDirectory) entries.push(await child(one))
    const bytes = encodeTree(entries)
    if (bytes.byteLength > OBJECT_BYTES_MAX)
      throw refused(
        path,
        `has a listing of ${bytes.byteLength} bytes, the limit is ${OBJECT_BYTES_MAX}`,
      )
    const ref = { digest: sha256(bytes), size: bytes.byteLength }
    await this.#sink.tree(ref, bytes)
    return { kind: 'dir', ...ref }
  }

  #isExcluded(relative: string): boolean {
    return this.#exclude.some((glob) =>
      matchesGlob(glob.includes('/') ? relative : basename(relative), glob),
    )
  }
}

interface Found {
  readonly name: string
  readonly isDirectory: boolean
}

function list(path: string): Found[] {
  try {
    return readdirSync(path, { withFileTypes: true, encoding: 'buffer' }).map((found) => ({
      name: utf8(found.name, path),
      isDirectory: found.isDirectory(),
    }))
  } catch (error) {
    throw unreadable(path, error)
  }
}

/** sha256 of a regular file that does not change meanwhile, and what it was. Never follows a link. */
export async function hashFile(
  path: string,
): Promise<{ readonly ref: BlobRef; readonly identity: FileIdentity }> {
  const file = openFile(path)
  try {
    const before = fstatSync(file, { bigint: true })
    if (!before.isFile()) throw refused(path, `is a ${kindOf(before)}`)
    const size = Number(before.size)
    if (size > BLOB_BYTES_MAX)
      throw refused(path, `has ${size} bytes, the limit is ${BLOB_BYTES_MAX}`)
    const digest = size <= SMALL_FILE_BYTES ? sha256(readSmall(file, size)) : await hashLarge(file)
    const identity = identityOf(before)
    if (identityOf(fstatSync(file, { bigint: true })) !== identity) throw changed(path)
    return { ref: { digest, size }, identity }
  } catch (error) {
    throw error instanceof MeshError ? error : unreadable(path, error)
  } finally {
    closeSync(file)
  }
}

/** Inode, size and times: equal before and after a read means that nobody wrote meanwhile. */
export type FileIdentity = string
export function identityOf(stat: BigIntStats): FileIdentity {
  return `${stat.dev} ${stat.ino} ${stat.size} ${stat.mtimeNs} ${stat.ctimeNs}`
}

function openFile(path: string): number {
  try {
    // Not blocking: a pipe that took the place of a file would hold the open for ever.
    return openSync(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK)
  } catch (error) {
    throw hasCode(error, 'ELOOP') ? changed(path) : unreadable(path, error)
  }
}

function readSmall(file: number, sizeBytes: number): Uint8Array {
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
    if (identityOf(fstatSync(file, { bigint: true })) !== identity) throw changed(path)
    // Copied, since the receiver may keep it beyond the next piece.
    for await (const bytes of readOpenFile(file)) yield Buffer.from(bytes)
    if (identityOf(fstatSync(file, { bigint: true })) !== identity) throw changed(path)
  } finally {
    closeSync(file)
  }
}

function lstat(path: string): BigIntStats {
  try {
    return lstatSync(path, { bigint: true })
  } catch (error) {
    throw unreadable(path, error)
  }
}

function readTarget(path: string): string {
  const target = utf8(readlinkSync(path, { encoding: 'buffer' }), path)
  if (Buffer.byteLength(target) > TARGET_BYTES_MAX)
    throw refused(
      path,
      `has a target of ${Buffer.byteLength(target)} bytes, the limit is ${TARGET_BYTES_MAX}`,
    )
  return target
}

/** The name as text, if that loses nothing. */
function utf8(bytes: Buffer, where: string): string {
  const name = bytes.toString('utf8')
  if (Buffer.from(name).equals(bytes)) return name
  throw refused(
    where,
    `has a name or target that is not UTF-8: ${JSON.stringify(bytes.toString('latin1'))}`,
  )
}

function kindOf(stat: BigIntStats): string {
  if (stat.isSocket()) return 'socket'
  if (stat.isFIFO()) return 'pipe'
  if (stat.isCharacterDevice() || stat.isBlockDevice()) return 'device'
  return stat.isDirectory() ? 'directory' : 'special file'
}

function refused(path: string, why: string): MeshError {
  return new MeshError('MESH0207', `${path} ${why}`, { where: path })
}
function changed(path: string): MeshError {
  return refused(path, 'changed while it was read')
}
function unreadable(path: string, cause: unknown): MeshError {
  if (hasCode(cause, 'ENOENT'))
    return new MeshError('MESH0205', `${path} does not exist`, { where: path, cause })
  return new MeshError('MESH0207', `${path} cannot be read: ${messageOf(cause)}`, {
    where: path,
    cause,
  })
}
