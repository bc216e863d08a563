/** The logs of attempts of this node: the spool of one that runs, the blob of one that has ended. */
import { open, type FileHandle } from 'node:fs/promises'
import { hasCode } from '../../base/errors.ts'
import type { AttemptRecords } from '../../build/attempt-records.ts'
import type { LiveLog } from '../../build/attempt/attempt.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import type { BlobRef } from '../../wire/digest.ts'
import type { LogView } from '../../wire/log-view.ts'
import { showsAll, viewedLog, type ViewDeps } from './viewed-log.ts'

const READ_BYTES = 64 * 1024

export interface ReadOptions {
  readonly offsetBytes: number
  /** Go on until the attempt has ended. */
  readonly follow: boolean
  readonly view: LogView
  readonly signal: AbortSignal
}

/** Why a log is not here. */
export interface Absent {
  readonly absent: string
}

export interface LocalLogsDeps extends ViewDeps {
  readonly store: Pick<BlobStore, 'open'>
  readonly worker:
    | {
        liveLog(attempt: string): LiveLog | undefined
        readonly records: Pick<AttemptRecords, 'find' | 'whyGone'> | undefined
      }
    | undefined
}

export class LocalLogs {
  readonly #deps: LocalLogsDeps

  constructor(deps: LocalLogsDeps) {
    this.#deps = deps
  }

  /** The part of the log that is wanted; the caller reads it to its end or leaves the loop. */
  async read(attempt: string, options: ReadOptions): Promise<AsyncIterable<Uint8Array> | Absent> {
    const { worker } = this.#deps
    const live = worker?.liveLog(attempt)
    if (live !== undefined) {
      const file = await openSpool(live, options)
      if (file !== undefined)
        return this.#viewed(readLive(live, file, options), options, live.sizeBytes())
      if (live.isOpen() && !options.follow) return nothing()
    }
    const record = worker?.records?.find(attempt)
    if (record !== undefined) {
      const stored = await this.stored(record.log, options)
      if (stored !== undefined) return stored
    }
    const why = worker?.records?.whyGone(attempt)
    return {
      absent:
        why ??
        (record === undefined
          ? 'its node knows nothing of it'
          : 'its node had to make room, or found it damaged'),
    }
  }

  /** The same of a blob of this node's store; undefined where that is not here. */
  async stored(
    ref: BlobRef,
    { offsetBytes, view }: Pick<ReadOptions, 'offsetBytes' | 'view'>,
  ): Promise<AsyncIterable<Uint8Array> | undefined> {
    const reader = await this.#deps.store.open(ref.digest, { offsetBytes })
    if (reader === undefined) return undefined
    return this.#viewed(reader, { offsetBytes, view }, ref.size)
  }

  #viewed(
    source: AsyncIterable<Uint8Array>,
    { offsetBytes, view }: Pick<ReadOptions, 'offsetBytes' | 'view'>,
    sizeBytes: number,
  ): AsyncIterable<Uint8Array> {
    return showsAll(view) ? source : viewedLog(this.#deps, source, { view, offsetBytes, sizeBytes })
  }
}

async function* nothing(): AsyncIterable<Uint8Array> {
  // A build that has not begun to print.
}

/** Waits for the file where the reader follows. Undefined when there is none, or it has become a blob. */
async function openSpool(
  log: LiveLog,
  { follow, signal }: Pick<ReadOptions, 'follow' | 'signal'>,
): Promise<FileHandle | undefined> {
  if (follow) await changed(log, signal, () => log.sizeBytes() > 0)
  if (log.sizeBytes() === 0) return undefined
  try {
    return await open(log.path, 'r')
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

/** Resolves when the condition holds, the attempt has ended, or the signal aborts. */
async function changed(log: LiveLog, signal: AbortSignal, condition: () => boolean): Promise<void> {
  let wake: (() => void) | undefined
  using changes = log.onChange(() => wake?.())
  void changes
  const onAbort = (): void => wake?.()
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    while (!condition() && log.isOpen() && !signal.aborted)
      await new Promise<void>((resolve) => {
        wake = resolve
        // It may have grown or ended before anybody listened.
        if (condition() || !log.isOpen() || signal.aborted) resolve()
      })
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

/** Reads the spool file as it grows; its handle stays good when the file is moved into the store. */
async function* readLive(
  log: LiveLog,
  file: FileHandle,
  { offsetBytes, follow, signal }: ReadOptions,
): AsyncIterable<Uint8Array> {
  let position = offsetBytes
  await using opened = file
  while (!signal.aborted) {
    const isOpen = log.isOpen()
    const buffer = Buffer.allocUnsafe(READ_BYTES)
    const { bytesRead } = await opened.read(buffer, 0, READ_BYTES, position)
    if (bytesRead > 0) {
      position += bytesRead
      yield buffer.subarray(0, bytesRead)
      continue
    }
    if (!isOpen || !follow) return
    await changed(log, signal, () => log.sizeBytes() > position)
  }
}
