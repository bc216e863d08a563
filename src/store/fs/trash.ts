/**
 * Where removed files wait until they are unlinked: a rename takes their name away at once, and the time
 * that the file system needs to free a big file is nobody's but the trash's.
 */
import { mkdirSync, readdirSync, renameSync } from 'node:fs'
import { lstat, rm } from 'node:fs/promises'
import { join } from 'node:path'
import type { Logger } from 'pino'
import { hasCode } from '../../base/errors.ts'
import type { StoreStats } from '../blob-store.ts'
import { namesIn } from './layout.ts'

export class Trash implements AsyncDisposable {
  readonly #directory: string
  readonly #log: Logger
  #sequence = 0
  #isClosed = false
  #emptying: Promise<void> | undefined

  /** What an earlier process left there begins to go at once. */
  constructor(deps: { readonly log: Logger }, options: { readonly directory: string }) {
    this.#log = deps.log
    this.#directory = options.directory
    mkdirSync(this.#directory, { recursive: true })
    for (const name of readdirSync(this.#directory))
      this.#sequence = Math.max(this.#sequence, Number.parseInt(name, 10) || 0)
    this.#emptyInBackground()
  }

  /** Takes a file or a whole directory; false when it is not there. */
  take(path: string): boolean {
    try {
      renameSync(path, join(this.#directory, String(++this.#sequence)))
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return false
      throw error
    }
    this.#emptyInBackground()
    return true
  }

  /** Resolves when all that was taken before is gone from the disk. */
  async empty(): Promise<void> {
    await this.#emptying
    await (this.#emptying ??= this.#empty())
  }

  /** What is not yet gone; directories count as one. */
  async stats(): Promise<StoreStats> {
    let [count, bytes] = [0, 0]
    for (const name of await namesIn(this.#directory)) {
      try {
        bytes += (await lstat(join(this.#directory, name))).size
        count++
      } catch (error) {
        if (!hasCode(error, 'ENOENT')) throw error
      }
    }
    return { count, bytes }
  }

  #emptyInBackground(): void {
    if (this.#emptying !== undefined) return
    this.#emptying = this.#empty()
    // What could not be removed stays, and goes with what is taken next or at the next start.
    this.#emptying.catch((error: unknown) => this.#log.warn({ err: error }, 'trash not emptied'))
  }

  /** One file after the other: removing never takes all threads. */
  async #empty(): Promise<void> {
    try {
      for (let last = -1; !this.#isClosed && last !== this.#sequence;) {
        last = this.#sequence
        for (const name of await namesIn(this.#directory)) {
          if (this.#isClosed) return
          await rm(join(this.#directory, name), { recursive: true, force: true })
        }
      }
    } finally {
      this.#emptying = undefined
    }
  }

  /** Does not wait for what is left: the next start removes it. */
  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true
    await Promise.allSettled([this.#emptying])
  }
}
