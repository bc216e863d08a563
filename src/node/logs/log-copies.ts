/**
 * Brings logs of builds of this node to a store node, where there is one, so that they outlive this one.
 * Logs are gathered for a moment and offered together; one that cannot be brought is tried once more.
 */
import type { Logger } from 'pino'
import { deadline, type Clock, type Timer } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import type { BlobRef } from '../../wire/digest.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import type { Entry } from '../../wire/tree.ts'

const GATHER_MS = 1_000
/** Offered at once. */
const BATCH_MAX = 256
/** Logs that wait to be brought; beyond it the oldest stay where they are. */
const WAITING_MAX = 4_096
/** Larger ones stay at their node: nobody may ever want them. */
const LOG_BYTES_MAX = 64 * 1024 * 1024
const TRIES_MAX = 2
const COPY_MS = 60_000

export interface LogCopiesDeps {
  readonly clock: Clock
  readonly log: Logger
  /** Store nodes but this one, the best first. */
  readonly stores: (signal: AbortSignal) => Promise<readonly PeerRecord[]>
  readonly push: (
    entries: readonly Entry[],
    to: PeerRecord,
    signal: AbortSignal,
  ) => Promise<unknown>
}

interface Waiting {
  readonly ref: BlobRef
  tries: number
}

export class LogCopies implements Disposable {
  readonly #deps: LogCopiesDeps
  readonly #lifetime = new AbortController()
  #waiting: Waiting[] = []
  #timer: Timer | undefined
  #copying: Promise<void> = Promise.resolve()

  constructor(deps: LogCopiesDeps) {
    this.#deps = deps
  }

  add(ref: BlobRef): void {
    if (ref.size === 0 || ref.size > LOG_BYTES_MAX || this.#lifetime.signal.aborted) return
    this.#waiting.push({ ref, tries: 0 })
    if (this.#waiting.length > WAITING_MAX) this.#waiting.shift()
    this.#timer ??= this.#deps.clock.setTimer(GATHER_MS, () => {
      this.#timer = undefined
      void this.flush()
    })
  }

  /** Brings these as well, such as outputs of a node that stops. Never rejects. */
  async bring(entries: readonly Entry[]): Promise<void> {
    const { stores, push, log } = this.#deps
    const { signal } = this.#lifetime
    if (entries.length === 0) return
    try {
      const [store] = await stores(signal)
      if (store !== undefined) await push(entries, store, signal)
    } catch (error) {
      log.info({ err: error, count: entries.length }, 'outputs were not brought to a store node')
    }
  }

  /** Brings what waits now. Never rejects. */
  flush(): Promise<void> {
    this.#copying = this.#copying.then(() => this.#copyAll())
    return this.#copying
  }

  async #copyAll(): Promise<void> {
    const { clock, log, stores, push } = this.#deps
    while (this.#waiting.length > 0 && !this.#lifetime.signal.aborted) {
      const batch = this.#waiting.splice(0, BATCH_MAX)
      const limit = deadline(
        clock,
        COPY_MS,
        () => new MeshError('MESH0505', `logs were not copied within ${COPY_MS / 1000} s`),
        this.#lifetime.signal,
      )
      try {
        const [store] = await stores(limit.signal)
        if (store === undefined) continue
        const entries = batch.map(({ ref }): Entry => ({ kind: 'file', ...ref, executable: false }))
        await push(entries, store, limit.signal)
      } catch (error) {
        if (this.#lifetime.signal.aborted) return
        log.debug({ err: error, count: batch.length }, 'logs were not brought to a store node')
        for (const each of batch) {
          each.tries += 1
          if (each.tries < TRIES_MAX) this.#waiting.push(each)
        }
      } finally {
        limit.cancel()
      }
    }
  }

  [Symbol.dispose](): void {
    this.#timer?.cancel()
    this.#lifetime.abort(new MeshError('MESH0108', 'the node is stopping'))
  }
}
