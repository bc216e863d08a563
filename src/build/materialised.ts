/**
 * Entries of the store as paths of this host, for the bind mounts of builds.
 *
 * A file is the store's own file; a directory is made once, out of hard links to the store's files, and
 * kept for the next build until room is needed. A build must see them read-only: whoever could write here
 * would write into the store. Trees live as long as the process: nothing on the disk has to be believed
 * after a crash.
 */
import { constants, renameSync } from 'node:fs'
import { chmod, copyFile, mkdir, rename, symlink, utimes } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { hasCode, MeshError, messageOf } from '../base/errors.ts'
import { mapLimited, nextTurn } from '../files/map-limited.ts'
import { inlineFileWorkers, runJob, type FileWorkers } from '../files/workers/file-workers.ts'
import type { FileEntry, LaidDirectory, LaidOut } from '../files/workers/lay-job.ts'
import type { BlobStore } from '../store/blob-store.ts'
import { diskError } from '../store/disk.ts'
import { OBJECT_BYTES_MAX } from '../wire/cbor.ts'
import { cidOf, type BlobRef, type Digest } from '../wire/digest.ts'
import { TREE_DEPTH_MAX, type Entry } from '../wire/tree.ts'

/** Names in all kept trees together, and bytes that their links hold on the disk. */
const KEPT_ENTRIES_MAX = 2_000_000
const KEPT_BYTES_MAX = 64 * 1024 ** 3
/** Other work gets its turn after this many paths were looked up: about 1 ms. */
const PATHS_PER_TURN = 256
/** Directories that one job makes, and bytes of their listings. */
const DIRECTORIES_PER_JOB = 32
const LISTING_BYTES_PER_JOB = 128 * 1024
/** Of one tree: while one asks for paths, each thread has another. */
const JOBS_AT_ONCE = 4
/** Like the store's files: a build must not see when its inputs came. */
const FILE_TIME_SECONDS = 1

/** A new file, sharing its bytes where the file system can. */
const CLONE = constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE

/** A symbolic link has no bytes to mount: the executor makes it itself out of its target. */
type MountableEntry = Exclude<Entry, { kind: 'symlink' }>

interface Materialised {
  /** A read-only file, or a directory of hard links: only to be mounted read-only. */
  readonly path: string
  /** The path may go away from now on. Idempotent. */
  release(): void
}

export interface MaterialisedTrees extends AsyncDisposable {
  /** Everything must be in the store. Throws MESH0501 for what is not, MESH0503 for a full disk. */
  acquire(entry: MountableEntry): Promise<Materialised>
  /** Removes all that nobody uses: their links keep evicted blobs on the disk. */
  trim(): Promise<void>
  /** Real copies at `path`, which must not exist; for builds without a sandbox. After a failure the caller removes what there is. */
  copyOut(entry: Entry, path: string): Promise<void>
}

/** Takes `directory` for itself, and empties it. It is on the file system of the store, for hard links. */
export async function openMaterialised(
  deps: { readonly store: BlobStore; readonly log: Logger; readonly workers?: FileWorkers },
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
  readonly #workers: FileWorkers
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
    deps: { readonly store: BlobStore; readonly log: Logger; readonly workers?: FileWorkers },
    options: {
      readonly directory: string
      readonly entriesMax?: number
      readonly bytesMax?: number
    },
  ) {
    this.#store = deps.store
    this.#log = deps.log
    this.#workers = deps.workers ?? inlineFileWorkers()
    this.#directory = options.directory
    this.#entriesMax = options.entriesMax ?? KEPT_ENTRIES_MAX
    this.#bytesMax = options.bytesMax ?? KEPT_BYTES_MAX
  }

  async clear(): Promise<void> {
    await mkdir(this.#directory, { recursive: true, mode: 0o755 })
    // What an earlier process left goes in the background: it may be a million links.
    const stale = join(this.#directory, 'stale')
    await runJob(this.#workers, 'remove-tree', stale)
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
    const temporary = this.#newTemporary()
    const path = join(this.#directory, 'tree', entry.digest)
    try {
      const { entryCount, bytes } = await this.#lay(entry, temporary, 'link')
      renameSync(temporary, path)
      const tree = { path, entryCount, bytes, useCount: 0 }
      this.#entryCount += tree.entryCount
      this.#bytes += tree.bytes
      this.#kept.set(entry.digest, tree)
      return tree
    } catch (error) {
      await runJob(this.#workers, 'remove-tree', temporary)
      throw diskError(error, this.#directory)
    }
  }

  /** The directory and all that is in it, level by level. After a failure the caller removes what there is. */
  async #lay(ref: BlobRef, path: string, how: 'link' | 'copy'): Promise<LaidTree> {
    await mkdir(path, { mode: 0o700 })
    const tree: LaidTree = { entryCount: 0, bytes: 0 }
    let level: LaidOut['below'] = [{ path, ref }]
    for (let depth = 0; level.length > 0; depth++) {
      if (depth >= TREE_DEPTH_MAX)
        throw new MeshError('MESH0210', `${path} lies deeper than ${TREE_DEPTH_MAX} directories`)
      const made = await mapLimited(inBatches(level), JOBS_AT_ONCE, (batch) =>
        this.#layBatch(batch, how),
      )
      for (const { entryCount, bytes } of made) {
        tree.entryCount += entryCount
        tree.bytes += bytes
      }
      level = made.flatMap(({ below }) => below)
    }
    return tree
  }

  async #layBatch(batch: LaidOut['below'], how: 'link' | 'copy'): Promise<LaidOut> {
    const directories: LaidDirectory[] = []
    for (const { path, ref } of batch) {
      const tree = await this.#store.read(ref.digest, OBJECT_BYTES_MAX)
      if (tree === undefined) throw missing(ref)
      directories.push({ path, tree })
    }
    const timeSeconds = FILE_TIME_SECONDS
    const job = this.#workers.start('lay-directories', { directories, how, timeSeconds })
    try {
      let step = await job.next()
      while (step.kind === 'part') step = await job.next(await this.#pathsOf(step.part.files))
      return step.result
    } catch (error) {
      // One that is gone although it was there twice: somebody evicts as fast as we ask.
      throw hasCode(error, 'ENOENT') ? new MeshError('MESH0501', messageOf(error)) : error
    } finally {
      await job.stop()
    }
  }

  async #pathsOf(files: readonly FileEntry[]): Promise<string[]> {
    const paths: string[] = []
    for (const [at, file] of files.entries()) {
      if (at % PATHS_PER_TURN === PATHS_PER_TURN - 1) await nextTurn()
      paths.push(await this.#pathOf(file))
    }
    return paths
  }

  async #pathOf(file: FileEntry): Promise<string> {
    const path = await this.#store.pathOf(file.digest, file.executable)
    if (path === undefined) throw missing(file)
    return path
  }

  async copyOut(entry: Entry, path: string): Promise<void> {
    try {
      switch (entry.kind) {
        case 'dir':
          await this.#lay(entry, path, 'copy')
          return
        case 'symlink':
          await symlink(entry.target, path)
          return
        case 'file':
          await copyFile(await this.#pathOf(entry), path, CLONE)
          await chmod(path, entry.executable ? 0o755 : 0o644)
          await utimes(path, FILE_TIME_SECONDS, FILE_TIME_SECONDS)
      }
    } catch (error) {
      throw diskError(error, path)
    }
  }

  #newTemporary(): string {
    return join(this.#directory, 'tmp', String(++this.#temporaries))
  }

  trim(): Promise<void> {
    this.#evict({ entries: 0, bytes: 0 })
    return this.#removing
  }

  /** Removes unused trees, least recently used first, while there are more. */
  #evict(max = { entries: this.#entriesMax, bytes: this.#bytesMax }): void {
    for (const [digest, tree] of this.#kept) {
      if (this.#entryCount <= max.entries && this.#bytes <= max.bytes) return
      if (tree.useCount > 0) continue
      this.#kept.delete(digest)
      this.#entryCount -= tree.entryCount
      this.#bytes -= tree.bytes
      const temporary = this.#newTemporary()
      renameSync(tree.path, temporary)
      this.#remove(temporary)
    }
  }

  /** One after the other, so that removing never takes all threads. */
  #remove(path: string): void {
    this.#removing = this.#removing
      .then(() => runJob(this.#workers, 'remove-tree', path))
      .catch((error: unknown) => this.#log.warn({ err: error, path }, 'old tree not removed'))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await Promise.allSettled(this.#making.values())
    await this.#removing
  }
}

interface LaidTree {
  entryCount: number
  bytes: number
}

function inBatches(directories: LaidOut['below']): LaidOut['below'][] {
  const batches: LaidOut['below'][number][][] = []
  let batch: LaidOut['below'][number][] = []
  let listingBytes = 0
  for (const directory of directories) {
    if (batch.length >= DIRECTORIES_PER_JOB || listingBytes >= LISTING_BYTES_PER_JOB) {
      batches.push(batch)
      batch = []
      listingBytes = 0
    }
    batch.push(directory)
    listingBytes += directory.ref.size
  }
  if (batch.length > 0) batches.push(batch)
  return batches
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
