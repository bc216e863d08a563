/**
 * Files that are on this machine already, on their way into the store: workers hash them and make them what
 * a blob is, here they get their names.
 */
import { lstatSync } from 'node:fs'
import { rm, unlink } from 'node:fs/promises'
import { hasCode, isDiskFull } from '../../base/errors.ts'
import { identityOf } from '../../files/ingest.ts'
import { nextTurn } from '../../files/map-limited.ts'
import { changed } from '../../files/refusal.ts'
import { runJob, type FileWorkers } from '../../files/workers/file-workers.ts'
import type { TakenFile, TakeOptions } from '../../files/workers/write-jobs.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import type { Entry } from '../../wire/tree.ts'
import { BLOB_MODE, FILE_TIME_SECONDS } from './file-writer.ts'

/** Other work gets its turn after this many renames: about 2 ms. */
const COMMITS_PER_TURN = 64

export interface IntakeDeps {
  readonly workers: FileWorkers
  readonly newTemporary: () => string
  readonly has: (digest: Digest) => Promise<boolean>
  /** Counts bytes that come; MESH0503 when they do not fit. */
  readonly reserve: (sizeBytes: number) => Promise<Disposable>
  /** After a disk was full in spite of that. */
  readonly makeRoom: (sizeBytes: number) => Promise<void>
  /** Gives a finished file its final name in the turn of the call. */
  readonly commit: (path: string, ref: BlobRef) => Promise<void>
}

export class Intake {
  readonly #deps: IntakeDeps

  constructor(deps: IntakeDeps) {
    this.#deps = deps
  }

  /** What `BlobStore.putFile` says. */
  async file(path: string, { move }: { readonly move: boolean }): Promise<BlobRef> {
    const { workers, has, reserve, makeRoom } = this.#deps
    if (!move) {
      const { ref } = await runJob(workers, 'hash-file', path)
      if (await has(ref.digest)) return ref
    }
    const sizeBytes = lstatSync(path, { throwIfNoEntry: false })?.size ?? 0
    using reservation = await reserve(sizeBytes)
    try {
      return await this.#takeFile(path, move, reservation)
    } catch (error) {
      if (!isDiskFull(error)) throw error
      await makeRoom(sizeBytes)
      return this.#takeFile(path, move, reservation)
    }
  }

  async #takeFile(path: string, move: boolean, reservation: Disposable): Promise<BlobRef> {
    const options = this.#options(move)
    try {
      const taken = await runJob(this.#deps.workers, 'take-file', { path, ...options })
      const committing = this.#commit(taken)
      reservation[Symbol.dispose]()
      await committing
      if (move) await removeIfThere(path)
      return taken.ref
    } finally {
      await removeIfThere(options.temporary)
    }
  }

  /** What `BlobStore.putTree` says. */
  async tree(path: string): Promise<Entry> {
    const options = this.#options(true)
    const job = this.#deps.workers.start('take-tree', { path, ...options })
    try {
      for (let next = job.next(); ;) {
        const step = await next
        if (step.kind === 'result') return step.result
        // The worker goes on with the next files while these get their names.
        next = job.next()
        void Promise.allSettled([next])
        await this.#commitAll(step.part)
      }
    } finally {
      await job.stop()
      await rm(options.temporary, { recursive: true, force: true })
    }
  }

  async #commitAll(files: readonly TakenFile[]): Promise<void> {
    const sizeBytes = files.reduce((sum, { ref }) => sum + ref.size, 0)
    using reservation = await this.#deps.reserve(sizeBytes)
    const committing: Promise<void>[] = []
    for (const file of files) {
      committing.push(this.#commit(file))
      if (committing.length % COMMITS_PER_TURN === 0) await nextTurn()
    }
    reservation[Symbol.dispose]()
    await Promise.all(committing)
  }

  /** Throws MESH0207 for a file that is not what it was when the worker had it. */
  async #commit({ path, ref, identity }: TakenFile): Promise<void> {
    if (identityOf(lstatSync(path, { bigint: true })) !== identity) throw changed(path)
    await this.#deps.commit(path, ref)
  }

  #options(move: boolean): TakeOptions {
    const temporary = this.#deps.newTemporary()
    return { temporary, move, mode: BLOB_MODE, timeSeconds: FILE_TIME_SECONDS }
  }
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await unlink(path)
  } catch (error) {
    if (!hasCode(error, 'ENOENT')) throw error
  }
}
