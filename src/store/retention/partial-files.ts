/** How much the blobs in the making take, as far as the store must know: their files are somebody else's. */
import { lstat } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode } from '../../base/errors.ts'
import type { StoreStats } from '../blob-store.ts'
import { namesIn } from '../fs/layout.ts'

const BLOCK_BYTES = 512

export class PartialFiles {
  readonly #directory: string
  #stats: StoreStats = { count: 0, bytes: 0 }

  constructor(options: { readonly directory: string }) {
    this.#directory = options.directory
  }

  /** As of the last measurement. */
  stats(): StoreStats {
    return this.#stats
  }

  async measure(): Promise<StoreStats> {
    let [count, bytes] = [0, 0]
    for (const name of await namesIn(this.#directory)) {
      try {
        // They have holes: what counts is what is on the disk.
        bytes += (await lstat(join(this.#directory, name))).blocks * BLOCK_BYTES
        if (name.endsWith('.data')) count++
      } catch (error) {
        if (!hasCode(error, 'ENOENT')) throw error
      }
    }
    this.#stats = { count, bytes }
    return this.#stats
  }
}
