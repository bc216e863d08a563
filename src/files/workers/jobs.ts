/**
 * What can be done away from the main thread, by name.
 *
 * A job is a generator over calls that block. It yields undefined after a millisecond or so, to let others
 * have their turn, a promise to wait for it, and a part when it has something to tell or to ask: then it waits
 * until it is sent the next value. What goes in and out is copied between threads, but for an ArrayBuffer in a
 * field `buffer`, which is given away.
 */
import type { Chunk } from '../../wire/chunk-list.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import type { Entry } from '../../wire/tree.ts'
import { layDirectoriesJob, type LaidOut, type LayInput, type LayQuestion } from './lay-job.ts'
import {
  chunkFileJob,
  hashFileJob,
  hashRangesJob,
  type FileRange,
  type HashedFile,
} from './read-jobs.ts'
import { removeTreeJob } from './remove-job.ts'
import {
  takeFileJob,
  takeTreeJob,
  writeFileJob,
  type Finish,
  type TakenFile,
  type TakeOptions,
  type WritePiece,
  type WrittenPiece,
} from './write-jobs.ts'

interface JobType<I, R, P = never, S = undefined> {
  readonly input: I
  readonly result: R
  readonly part: P
  readonly sent: S
}

interface JobTypes {
  'hash-file': JobType<string, HashedFile>
  'hash-ranges': JobType<
    { readonly path: string; readonly ranges: readonly FileRange[] },
    (Digest | undefined)[]
  >
  'chunk-file': JobType<string, readonly Chunk[]>
  'write-file': JobType<Finish & { readonly path: string }, BlobRef, WrittenPiece, WritePiece>
  'take-file': JobType<TakeOptions & { readonly path: string }, TakenFile>
  'take-tree': JobType<TakeOptions & { readonly path: string }, Entry, readonly TakenFile[]>
  'lay-directories': JobType<LayInput, LaidOut, LayQuestion, readonly string[]>
  'remove-tree': JobType<string, void>
}
export type JobName = keyof JobTypes
export type Input<N extends JobName> = JobTypes[N]['input']
export type Result<N extends JobName> = JobTypes[N]['result']
export type Part<N extends JobName> = JobTypes[N]['part']
export type Sent<N extends JobName> = JobTypes[N]['sent']

export type Job<N extends JobName> = Generator<
  Part<N> | Promise<void> | undefined,
  Result<N>,
  Sent<N> | undefined
>

export const JOBS: { readonly [N in JobName]: (input: Input<N>) => Job<N> } = {
  'hash-file': hashFileJob,
  'hash-ranges': hashRangesJob,
  'chunk-file': chunkFileJob,
  'write-file': writeFileJob,
  'take-file': takeFileJob,
  'take-tree': takeTreeJob,
  'lay-directories': layDirectoriesJob,
  'remove-tree': removeTreeJob,
}
