/** Shared by the tests of chunks and partial blobs: lists of bytes at hand, and workers that tell what they did. */
import { Chunker } from '../../src/files/fastcdc.ts'
import { inlineFileWorkers, type FileWorkers } from '../../src/files/workers/file-workers.ts'
import type { JobName } from '../../src/files/workers/jobs.ts'
import type { ChunkList } from '../../src/wire/chunk-list.ts'
import { refOf } from '../contract/blob-store.ts'
import { turnOver } from './support.ts'

export function chunkListOf(bytes: Uint8Array): ChunkList {
  const chunker = new Chunker()
  chunker.add(bytes)
  return { ...refOf(bytes), chunks: chunker.finish() }
}

export interface WatchedWorkers extends FileWorkers {
  readonly started: JobName[]
  /** Every job waits for it before each step. */
  gate: Promise<void>
}

/** Workers of this thread. */
export function watchedWorkers(): WatchedWorkers {
  const workers = inlineFileWorkers()
  return {
    started: [],
    gate: Promise.resolve(),
    start(name, input) {
      this.started.push(name)
      const job = workers.start(name, input)
      return {
        next: async (...sent) => {
          await this.gate
          return job.next(...sent)
        },
        stop: () => job.stop(),
      }
    },
    [Symbol.asyncDispose]: () => workers[Symbol.asyncDispose](),
  }
}

export async function until(isSo: () => Promise<boolean> | boolean): Promise<void> {
  while (!(await isSo())) await turnOver()
}
