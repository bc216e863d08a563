/**
 * Lays directories out of files of the store: by hard links where nobody can write through them, by copies
 * where somebody could.
 *
 * Goes level by level: a job makes some directories with all that is in them, and tells which are below. It
 * asks whoever started it where the files of the store are.
 */
import {
  chmodSync,
  closeSync,
  constants,
  copyFileSync,
  linkSync,
  mkdirSync,
  openSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { hasCode } from '../../base/errors.ts'
import type { BlobRef } from '../../wire/digest.ts'
import { decodeTree, type Entry } from '../../wire/tree.ts'
import { readPieces } from './read-jobs.ts'

/** Files whose paths are asked for in one message. */
const FILES_PER_PART = 1024
/** Other jobs get their turn after this many names: less than a millisecond. */
const NAMES_PER_TURN = 64

/** What file systems answer that cannot share bytes between files. */
const CANNOT_SHARE = ['ENOTSUP', 'EOPNOTSUPP', 'EXDEV', 'EINVAL', 'ENOTTY', 'ENOSYS']

export type FileEntry = Extract<Entry, { kind: 'file' }>

export interface LaidDirectory {
  /** An empty directory; nobody else writes there. */
  readonly path: string
  /** The bytes of its tree. */
  readonly tree: Uint8Array
}

export interface LayInput {
  readonly directories: readonly LaidDirectory[]
  /** `link`: read-only and shared with the store; `copy`: writable. */
  readonly how: 'link' | 'copy'
  /** Of all that is made. */
  readonly timeSeconds: number
}

/** Where are these? Answered with a path each. Asked again, once, for those that were not there. */
export interface LayQuestion {
  readonly files: readonly FileEntry[]
}

export interface LaidOut {
  /** Directories that were made, empty, for trees still to be read. */
  readonly below: readonly { readonly path: string; readonly ref: BlobRef }[]
  readonly entryCount: number
  /** Of the files, in the tree's words. */
  readonly bytes: number
}

interface Placement {
  readonly to: string
  readonly entry: FileEntry
}

export type LayJob<T = LaidOut> = Generator<
  LayQuestion | undefined,
  T,
  readonly string[] | undefined
>

/** Throws MESH0210 for what is no tree, ENOENT for a file that is gone. */
export function* layDirectoriesJob({ directories, how, timeSeconds }: LayInput): LayJob {
  const below: { path: string; ref: BlobRef }[] = []
  const placements: Placement[] = []
  let entryCount = 0
  for (const { path, tree } of directories) {
    for (const { name, entry } of decodeTree(tree)) {
      if (++entryCount % NAMES_PER_TURN === 0) yield undefined
      const to = join(path, name)
      if (entry.kind === 'file') placements.push({ to, entry })
      else if (entry.kind === 'symlink') symlinkSync(entry.target, to)
      else {
        mkdirSync(to)
        below.push({ path: to, ref: { digest: entry.digest, size: entry.size } })
      }
    }
  }
  const placer = new Placer(how, timeSeconds)
  for (let at = 0; at < placements.length; at += FILES_PER_PART)
    yield* placer.placeAll(placements.slice(at, at + FILES_PER_PART))
  for (const { path } of directories) finish(path, 0o755, timeSeconds)
  const bytes = placements.reduce((sum, { entry }) => sum + entry.size, 0)
  return { below, entryCount, bytes }
}

class Placer {
  /** By the path of the store's file: a copy of it that has room for more names. */
  readonly #copies = new Map<string, string>()
  readonly #how: LayInput['how']
  readonly #timeSeconds: number
  #canShare = true

  constructor(how: LayInput['how'], timeSeconds: number) {
    this.#how = how
    this.#timeSeconds = timeSeconds
  }

  *placeAll(placements: readonly Placement[]): LayJob<void> {
    const gone = yield* this.#placeWhere(placements, true)
    if (gone.length > 0) yield* this.#placeWhere(gone, false)
  }

  /** Those whose file was not where it was said to be, if `mayMiss`. */
  *#placeWhere(placements: readonly Placement[], mayMiss: boolean): LayJob<Placement[]> {
    const gone: Placement[] = []
    const paths = yield { files: placements.map(({ entry }) => entry) }
    for (const [at, placement] of placements.entries()) {
      if (at % NAMES_PER_TURN === NAMES_PER_TURN - 1) yield undefined
      const from = paths?.[at]
      if (from === undefined) throw new Error('a question of a job was not answered')
      try {
        if (this.#how === 'copy') yield* this.#copy(from, placement)
        else yield* this.#link(from, placement)
      } catch (error) {
        if (!mayMiss || !hasCode(error, 'ENOENT')) throw error
        gone.push(placement)
      }
    }
    return gone
  }

  /**
   * A second name for the store's file. Empty files are made anew: a link would save nothing, and every
   * empty file of every tree would be one inode.
   */
  *#link(from: string, { to, entry }: Placement): Generator<undefined, void> {
    const mode = entry.executable ? 0o555 : 0o444
    if (entry.size === 0) {
      writeFileSync(to, '', { flag: 'wx', mode })
      finish(to, mode, this.#timeSeconds)
      return
    }
    try {
      linkSync(this.#copies.get(from) ?? from, to)
    } catch (error) {
      // As many names as the file system allows: 65,000 on ext4.
      if (!hasCode(error, 'EMLINK')) throw error
      yield* this.#copyBytes(from, to, entry.size)
      finish(to, mode, this.#timeSeconds)
      this.#copies.set(from, to)
    }
  }

  *#copy(from: string, { to, entry }: Placement): Generator<undefined, void> {
    yield* this.#copyBytes(from, to, entry.size)
    finish(to, entry.executable ? 0o755 : 0o644, this.#timeSeconds)
  }

  /** Shares the bytes where the file system can. */
  *#copyBytes(from: string, to: string, sizeBytes: number): Generator<undefined, void> {
    if (this.#canShare)
      try {
        copyFileSync(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE_FORCE)
        return
      } catch (error) {
        if (!hasCode(error, ...CANNOT_SHARE)) throw error
        this.#canShare = false
      }
    yield* copyPieces(from, to, sizeBytes)
  }
}

/** In pieces, so that others have their turn. */
function* copyPieces(from: string, to: string, sizeBytes: number): Generator<undefined, void> {
  const source = openSync(from, constants.O_RDONLY | constants.O_NOFOLLOW)
  try {
    const target = openSync(to, 'wx')
    try {
      for (const bytes of readPieces(source, 0, sizeBytes)) {
        for (let at = 0; at < bytes.byteLength;) at += writeSync(target, bytes, at)
        yield undefined
      }
    } finally {
      closeSync(target)
    }
  } finally {
    closeSync(source)
  }
}

function finish(path: string, mode: number, timeSeconds: number): void {
  chmodSync(path, mode) // whatever the umask made of it
  utimesSync(path, timeSeconds, timeSeconds)
}
