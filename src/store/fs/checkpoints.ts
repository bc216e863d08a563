/**
 * Makes blobs survive a power cut some time after they were committed: every minute what is new is synced,
 * file, name and index record, and then marked so. What is not marked is hashed again after a crash.
 */
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'
import { mapLimited, nextTurn } from '../../files/map-limited.ts'
import type { Digest } from '../../wire/digest.ts'
import type { BlobIndex } from '../blob-index.ts'
import { syncFile } from './file-reads.ts'
import { writeCheckpoint, type FsLayout } from './layout.ts'

const CHECKPOINT_MS = 60_000
/** Blobs committed since the last checkpoint; at this number whoever commits waits for the next. */
const UNSYNCED_MAX = 200_000
const SYNCS_AT_ONCE = 2
const MARKS_PER_TURN = 500

export class Checkpoints {
  readonly #clock: Clock
  readonly #log: Logger
  readonly #layout: FsLayout
  readonly #index: BlobIndex
  #atWallMs: number
  #unsynced = new Set<Digest>()
  #running: Promise<void> | undefined
  #timer: Timer | undefined

  constructor(
    deps: {
      readonly clock: Clock
      readonly log: Logger
      readonly layout: FsLayout
      readonly index: BlobIndex
    },
    options: { readonly atWallMs: number },
  ) {
    this.#clock = deps.clock
    this.#log = deps.log
    this.#layout = deps.layout
    this.#index = deps.index
    this.#atWallMs = options.atWallMs
  }

  start(): void {
    this.#timer = this.#clock.setTimer(CHECKPOINT_MS, () => {
      this.#run()
        .catch((error: unknown) => this.#log.error({ err: error }, 'checkpoint failed'))
        .finally(() => {
          if (this.#timer !== undefined) this.start()
        })
    })
  }

  /** Its file is whole, and is to be synced. */
  add(digest: Digest): void {
    this.#unsynced.add(digest)
  }

  /** Waits while too much is not synced. */
  async settle(): Promise<void> {
    if (this.#unsynced.size >= UNSYNCED_MAX) await this.#run()
  }

  #run(): Promise<void> {
    this.#running ??= this.#syncAll().finally(() => {
      this.#running = undefined
    })
    return this.#running
  }

  /** Syncs what was committed before it began; blobs that come meanwhile are newer than the mark. */
  async #syncAll(): Promise<void> {
    if (this.#unsynced.size === 0) return
    const digests = [...this.#unsynced]
    const atWallMs = Math.max(this.#clock.wallMs(), this.#atWallMs)
    this.#unsynced = new Set()
    try {
      await mapLimited(digests, SYNCS_AT_ONCE, (digest) => syncFile(this.#layout.blob(digest)))
      const prefixes = new Set(digests.map((digest) => digest.slice(0, 2)))
      for (const prefix of prefixes) await syncFile(join(this.#layout.blobs, prefix))
      await syncFile(this.#layout.blobs)
      await this.#markSynced(digests)
      await writeCheckpoint(this.#layout.directory, { atWallMs, clean: false })
      this.#atWallMs = atWallMs
    } catch (error) {
      for (const digest of digests) this.#unsynced.add(digest)
      throw error
    }
  }

  async #markSynced(digests: readonly Digest[]): Promise<void> {
    for (const [at, digest] of digests.entries()) {
      if (at % MARKS_PER_TURN === MARKS_PER_TURN - 1) {
        await this.#index.settle()
        await nextTurn()
      }
      const record = this.#index.find(digest)
      // One that was written anew meanwhile has another file.
      if (record !== undefined && !this.#unsynced.has(digest))
        this.#index.set(digest, { ...record, isSynced: true })
    }
    await this.#index.sync()
  }

  /** The last one. Nothing may be added any more. Gives the time up to which everything is synced. */
  async close(): Promise<number> {
    this.#timer?.cancel()
    this.#timer = undefined
    do await this.#run()
    while (this.#unsynced.size > 0)
    return this.#atWallMs
  }
}
