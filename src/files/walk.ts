/**
 * The walk over a directory, a file or a link that becomes an entry: what is refused, in which order things
 * come, and how listings are made; what is done with the files is left to whoever drives it.
 *
 * A generator, so that one walk serves the client, which awaits its sink, and worker threads, which do not
 * wait at all. Never follows a link. Throws MESH0205 and MESH0207 naming the path.
 */
import { lstatSync, readdirSync, readlinkSync, type BigIntStats } from 'node:fs'
import { basename, join, matchesGlob } from 'node:path'
import { OBJECT_BYTES_MAX } from '../wire/cbor.ts'
import { sha256, type BlobRef } from '../wire/digest.ts'
import {
  encodeTree,
  TARGET_BYTES_MAX,
  TREE_DEPTH_MAX,
  TREE_ENTRIES_MAX,
  type Entry,
  type TreeEntry,
} from '../wire/tree.ts'
import { kindOf, refused, unreadable } from './refusal.ts'

/** Other work gets its turn after this many entries. */
const ENTRIES_PER_TURN = 64

/**
 * `files`: regular files of one directory, answered with their digests and sizes in the same order;
 * `tree`: a listing, all of whose entries came before; undefined: nothing, let others have their turn.
 */
type WalkStep =
  | { readonly kind: 'files'; readonly paths: readonly string[] }
  | { readonly kind: 'tree'; readonly ref: BlobRef; readonly bytes: Uint8Array<ArrayBuffer> }
  | undefined
export type Walk<T = Entry> = Generator<WalkStep, T, readonly BlobRef[] | undefined>

/** What was found below the root. */
export interface Found {
  readonly path: string
  /** Under the root. */
  readonly relative: string
  readonly stat: BigIntStats
}

export interface WalkOptions {
  /** Globs against the path under the root; those without `/` against the name at any depth. */
  readonly exclude?: readonly string[] | undefined
  /** True for what is not taken, although no glob excludes it. Asked before anything of it is read. */
  readonly leaveOut?: ((found: Found) => boolean) | undefined
}

export function* walk(path: string, options: WalkOptions = {}): Walk {
  const stat = lstat(path)
  if (stat.isDirectory()) return yield* walkDirectory({ path, relative: '', depth: 0 }, options)
  if (stat.isSymbolicLink()) return { kind: 'symlink', target: readTarget(path) }
  if (!stat.isFile()) throw refused(path, `is a ${kindOf(stat)}`)
  const [ref] = (yield { kind: 'files', paths: [path] }) ?? []
  return fileEntry(ref, stat)
}

interface Place {
  readonly path: string
  /** Under the root, with `/` at its end; empty for the root. */
  readonly relative: string
  readonly depth: number
}

function* walkDirectory({ path, relative, depth }: Place, options: WalkOptions): Walk {
  const { exclude = [], leaveOut } = options
  if (depth >= TREE_DEPTH_MAX) throw refused(path, `lies deeper than ${TREE_DEPTH_MAX} directories`)
  const names = list(path).filter((name) => !isExcluded(`${relative}${name}`, exclude))
  if (names.length > TREE_ENTRIES_MAX)
    throw refused(path, `has ${names.length} entries, the limit is ${TREE_ENTRIES_MAX}`)
  const entries: TreeEntry[] = []
  const files: { readonly name: string; readonly path: string; readonly stat: BigIntStats }[] = []
  const directories: string[] = []
  for (const [at, name] of names.entries()) {
    if (at % ENTRIES_PER_TURN === ENTRIES_PER_TURN - 1) yield undefined
    const child = join(path, name)
    const stat = lstat(child)
    if (leaveOut?.({ path: child, relative: `${relative}${name}`, stat }) === true) continue
    if (stat.isDirectory()) directories.push(name)
    else if (stat.isSymbolicLink())
      entries.push({ name, entry: { kind: 'symlink', target: readTarget(child) } })
    else if (stat.isFile()) files.push({ name, path: child, stat })
    else throw refused(child, `is a ${kindOf(stat)}`)
  }
  if (files.length > 0) {
    const refs = (yield { kind: 'files', paths: files.map((file) => file.path) }) ?? []
    for (const [at, { name, stat }] of files.entries())
      entries.push({ name, entry: fileEntry(refs[at], stat) })
  }
  for (const name of directories) {
    const place = { path: join(path, name), relative: `${relative}${name}/`, depth: depth + 1 }
    entries.push({ name, entry: yield* walkDirectory(place, options) })
  }
  return yield* listing(path, entries)
}

function* listing(path: string, entries: readonly TreeEntry[]): Walk {
  const bytes = encodeTree(entries)
  const size = bytes.byteLength
  if (size > OBJECT_BYTES_MAX)
    throw refused(path, `has a listing of ${size} bytes, the limit is ${OBJECT_BYTES_MAX}`)
  const ref = { digest: sha256(bytes), size }
  yield { kind: 'tree', ref, bytes }
  return { kind: 'dir', ...ref }
}

function fileEntry(ref: BlobRef | undefined, stat: BigIntStats): Entry {
  if (ref === undefined) throw new Error('a step of a walk was not answered')
  const { digest, size } = ref
  return { kind: 'file', digest, size, executable: (stat.mode & 0o111n) !== 0n }
}

function isExcluded(relative: string, exclude: readonly string[]): boolean {
  return exclude.some((glob) =>
    matchesGlob(glob.includes('/') ? relative : basename(relative), glob),
  )
}

function list(path: string): string[] {
  try {
    return readdirSync(path, { encoding: 'buffer' }).map((name) => utf8(name, path))
  } catch (error) {
    throw unreadable(path, error)
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
  const length = Buffer.byteLength(target)
  if (length > TARGET_BYTES_MAX)
    throw refused(path, `has a target of ${length} bytes, the limit is ${TARGET_BYTES_MAX}`)
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
