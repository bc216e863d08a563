/**
 * Searches lines for a regular expression in a thread of its own, which is ended when it takes too long:
 * some expressions take for ever on some lines, and whoever gives one must not stop the node.
 */
import { extname, join } from 'node:path'
import { Worker } from 'node:worker_threads'
import type { Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'

/** Threads at a time. */
const SEARCHES_MAX = 4
/** Searches that wait for one; over it a further one is refused. */
const WAITING_MAX = 32
/** For one batch of lines, about 64 KiB of the log. */
const BATCH_MS = 1_000

export interface LineSearch extends AsyncDisposable {
  /** Which of the lines it is found in; undefined when that took too long. One call at a time. */
  match(lines: readonly Uint8Array[]): Promise<readonly boolean[] | undefined>
}

export class LineSearches {
  readonly #clock: Clock
  #running = 0
  readonly #waiting: (() => void)[] = []

  constructor({ clock }: { readonly clock: Clock }) {
    this.#clock = clock
  }

  /** Waits for its turn. Throws MESH0211 when too many wait. */
  async open(pattern: { readonly source: string; readonly flags: string }): Promise<LineSearch> {
    if (this.#running >= SEARCHES_MAX) {
      if (this.#waiting.length >= WAITING_MAX)
        throw new MeshError(
          'MESH0211',
          `${SEARCHES_MAX} searches of logs run on this node and ${WAITING_MAX} wait; try again later`,
        )
      await new Promise<void>((resolve) => this.#waiting.push(resolve))
    } else this.#running += 1
    const free = (): void => {
      const next = this.#waiting.shift()
      if (next === undefined) this.#running -= 1
      else next()
    }
    return new SearchThread(this.#clock, pattern, free)
  }
}

class SearchThread implements LineSearch {
  readonly #clock: Clock
  readonly #worker: Worker
  readonly #free: () => void
  /** Never rejects: what goes wrong is told by the first match. */
  readonly #started: Promise<Error | undefined>

  constructor(clock: Clock, workerData: object, free: () => void) {
    this.#clock = clock
    this.#free = free
    const program = join(import.meta.dirname, `line-search-thread${extname(import.meta.filename)}`)
    const worker = new Worker(program, { name: 'log-search', execArgv: [], workerData })
    worker.unref()
    this.#worker = worker
    this.#started = new Promise((resolve) => {
      worker.once('message', () => resolve(undefined))
      worker.once('error', resolve)
      worker.once('exit', () => resolve(new Error('the thread that searches ended')))
    })
  }

  async match(lines: readonly Uint8Array[]): Promise<readonly boolean[] | undefined> {
    const problem = await this.#started
    if (problem !== undefined) throw problem
    const worker = this.#worker
    const { promise, resolve, reject } = Promise.withResolvers<readonly boolean[] | undefined>()
    const onMessage = (answer: unknown): void => {
      if (answer instanceof Uint8Array) resolve([...answer].map((hit) => hit === 1))
    }
    const timer = this.#clock.setTimer(BATCH_MS, () => resolve(undefined))
    worker.on('message', onMessage)
    worker.on('error', reject)
    worker.postMessage(lines, [])
    try {
      return await promise
    } finally {
      timer.cancel()
      worker.off('message', onMessage)
      worker.off('error', reject)
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    try {
      await this.#worker.terminate()
    } finally {
      this.#free()
    }
  }
}
