/**
 * Entries of the store as paths of this host, for the bind mounts of builds.
 *
 * A file is the store's own file; a directory is made once, out of hard links to the store's files, and
 * kept for the next build until room is needed. A build must see them read-only: whoever could write here
 * would write into the store. Trees live as long as the process: nothing on the disk has to be believed
 * after a crash.
 */
import {
  chmodSync,
  constants,
  copyFileSync,
  linkSync,
  mkdirSync,
  renameSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs'
import { copyFile, mkdir, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { hasCode, MeshError } from '../base/errors.ts'
import { nextTurn } from '../files/map-limited.ts'
import type { BlobStore } from '../store/blob-store.ts'
import { diskError } from '../store/disk.ts'
import { OBJECT_BYTES_MAX } from '../wire/cbor.ts'
import { cidOf, type BlobRef, type Digest } from '../wire/digest.ts'
import { decodeTree, TREE_DEPTH_MAX, type Entry } from '../wire/tree.ts'

/** Names in all kept trees together, and bytes that their links hold on the disk. */
const KEPT_ENTRIES_MAX = 2_000_000
const KEPT_BYTES_MAX = 64 * 1024 ** 3
/** Other work gets its turn after this many links: about 5 ms. */
const ENTRIES_PER_TURN = 256
/** Like the store's files: a build must not see when its inputs came. */
const FILE_TIME_SECONDS = 1

/** A symbolic link has no bytes to mount: the executor makes it itself out of its target. */
type MountableEntry = Exclude<Entry, { kind: 'symlink' }>

export interface Materialised {
  /** A read-only file, or a directory of hard links: only to be mounted read-only. */
  readonly path: string
  /** The path may go away from now on. Idempotent. */
  release(): void
}

export interface MaterialisedTrees extends AsyncDisposable {
  /** Everything must be in the store. Throws MESH0501 for what is not, MESH0503 for a full disk. */
  acquire(entry: MountableEntry): Promise<Materialised>
  /** Real copies at `path`, which must not exist; for builds without a sandbox. After a failure the caller removes what there is. */
  copyOut(entry: Entry, path: string): Promise<void>
}

/** Takes `directory` for itself, and empties it. It is on the file system of the store, for hard links. */
export async function openMaterialised(
  deps: { readonly store: BlobStore; readonly log: Logger },
  options: { readonly directory: string; readonly entriesMax?: number; readonly bytesMax?: number },
): Promise<MaterialisedTrees> {
  const trees = new Trees(deps, options)
  await trees.clear()
  return trees
}

interface KeptTree {
  readonly path: string
  readonly entryCount: number
  readonly bytes: number
  useCount: number
}

class Trees implements MaterialisedTrees {
  readonly #store: BlobStore
  readonly #log: Logger
  readonly #directory: string
  readonly #entriesMax: number
  readonly #bytesMax: number
  /** Least recently used first. */
  readonly #kept = new Map<Digest, KeptTree>()
  readonly #making = new Map<Digest, Promise<KeptTree>>()
  #entryCount = 0
  #bytes = 0
  #temporaries = 0
  #removing: Promise<void> = Promise.resolve()

  constructor(
    deps: { readonly store: BlobStore; readonly log: Logger },
    options: {
      readonly directory: string
      readonly entriesMax?: number
      readonly bytesMax?: number
    },
  ) {
    this.#store = deps.store
    this.#log = deps.log
    this.#directory = options.directory
    this.#entriesMax = options.entriesMax ?? KEPT_ENTRIES_MAX
    this.#bytesMax = options.bytesMax ?? KEPT_BYTES_MAX
  }

  async clear(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o755 })
    // What an earlier process left goes in the background: it may be a million links.
    const stale = join(this.#directory, 'stale')
    await rm(stale, { recursive: true, force: true })
    await mkdir(stale)
    for (const name of ['tree', 'tmp']) {
      try {
        await rename(join(this.#directory, name), join(stale, name))
      } catch (error) {
        if (!hasCode(error, 'ENOENT')) throw error
      }
      await mkdir(join(this.#directory, name))
    }
    this.#remove(stale)
  }

  async acquire(entry: MountableEntry): Promise<Materialised> {
    if (entry.kind === 'file') {
      const path = await this.#store.pathOf(entry.digest, entry.executable)
      if (path === undefined) throw missing(entry)
      return { path, release: () => undefined }
    }
    let tree = this.#kept.get(entry.digest)
    // Again when it was evicted between its making and our turn.
    while (tree === undefined || this.#kept.get(entry.digest) !== tree)
      tree = await this.#make(entry)
    tree.useCount++
    this.#kept.delete(entry.digest)
    this.#kept.set(entry.digest, tree)
    let isReleased = false
    return {
      path: tree.path,
      release: () => {
        if (isReleased) return
        isReleased = true
        tree.useCount--
        this.#evict()
      },
    }
  }

  async #make(entry: MountableEntry): Promise<KeptTree> {
    const existing = this.#making.get(entry.digest)
    if (existing !== undefined) return existing
    const making = this.#makeTree(entry).finally(() => this.#making.delete(entry.digest))
    this.#making.set(entry.digest, making)
    return making
  }

  async #makeTree(entry: MountableEntry): Promise<KeptTree> {
    const temporary = join(this.#directory, 'tmp', String(++this.#temporaries))
    const path = join(this.#directory, 'tree', entry.digest)
    try {
      const writer = new TreeWriter(this.#store, linkOrCopy)
      await writer.write(entry, temporary, 0)
      renameSync(temporary, path)
      const tree = { path, entryCount: writer.entryCount, bytes: writer.bytes, useCount: 0 }
      this.#entryCount += tree.entryCount
      this.#bytes += tree.bytes
      this.#kept.set(entry.digest, tree)
      return tree
    } catch (error) {
      await rm(temporary, { recursive: true, force: true })
      throw diskError(error, this.#directory)
    }
  }

  async copyOut(entry: Entry, path: string): Promise<void> {
    try {
      await new TreeWriter(this.#store, copy).write(entry, path, 0)
    } catch (error) {
      throw diskError(error, path)
    }
  }

  /** Removes unused trees, least recently used first, while there are too many. */
  #evict(): void {
    for (const [digest, tree] of this.#kept) {
      if (this.#entryCount <= this.#entriesMax && this.#bytes <= this.#bytesMax) return
      if (tree.useCount > 0) continue
      this.#kept.delete(digest)
      this.#entryCount -= tree.entryCount
      this.#bytes -= tree.bytes
      const temporary = join(this.#directory, 'tmp', String(++this.#temporaries))
      renameSync(tree.path, temporary)
      this.#remove(temporary)
    }
  }

  /** One after the other, so that removing never takes all threads. */
  #remove(path: string): void {
    this.#removing = this.#removing
      .then(() => rm(path, { recursive: true, force: true }))
      .catch((error: unknown) => this.#log.warn({ err: error, path }, 'old tree not removed'))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#making.values())
    await this.#removing
  }
}

/** Puts the store's file `from` at `to`. */
type Place = (
  from: string,
  to: string,
  entry: Extract<Entry, { kind: 'file' }>,
) => void | Promise<void>

class TreeWriter {
  entryCount = 0
  bytes = 0
  readonly #store: BlobStore
  readonly #place: Place

  constructor(store: BlobStore, place: Place) {
    this.#store = store
    this.#place = place
  }

  async write(entry: Entry, path: string, depth: number): Promise<void> {
    if (++this.entryCount % ENTRIES_PER_TURN === 0) await nextTurn()
    switch (entry.kind) {
      case 'symlink':
        symlinkSync(entry.target, path)
        return
      case 'file': {
        const from = await this.#store.pathOf(entry.digest, entry.executable)
        if (from === undefined) throw missing(entry)
        await this.#place(from, path, entry)
        this.bytes += entry.size
        return
      }
      case 'dir': {
        if (depth >= TREE_DEPTH_MAX)
          throw new MeshError('MESH0210', `${path} lies deeper than ${TREE_DEPTH_MAX} directories`)
        const bytes = await this.#store.read(entry.digest, OBJECT_BYTES_MAX)
        if (bytes === undefined) throw missing(entry)
        mkdirSync(path, { mode: 0o755 })
        for (const { name, entry: child } of decodeTree(bytes))
          await this.write(child, join(path, name), depth + 1)
        finish(path, 0o755)
      }
    }
  }
}

/**
 * A second name for the store's file. Empty files are made anew (a link would save nothing, and every
 * empty file of every tree would be one inode), and so is a file that has as many names as the file
 * system allows: 65,000 on ext4.
 */
const linkOrCopy: Place = (from, to, entry) => {
  const mode = entry.executable ? 0o555 : 0o444
  if (entry.size === 0) {
    writeFileSync(to, '', { flag: 'wx', mode })
    finish(to, mode)
    return
  }
  try {
    linkSync(from, to)
  } catch (error) {
    if (!hasCode(error, 'EMLINK')) throw error
    copyFileSync(from, to, constants.COPYFILE_EXCL)
    finish(to, mode)
  }
}

const copy: Place = async (from, to, entry) => {
  await copyFile(from, to, constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE)
  finish(to, entry.executable ? 0o755 : 0o644)
}

function finish(path: string, mode: number): void {
  chmodSync(path, mode) // whatever the umask made of it
  utimesSync(path, FILE_TIME_SECONDS, FILE_TIME_SECONDS)
}

function missing(ref: BlobRef): MeshError {
  return new MeshError(
    'MESH0501',
    `${cidOf(ref.digest)} (${ref.size} bytes) is not in the store of this node`,
    {
      where: cidOf(ref.digest),
    },
  )
}
