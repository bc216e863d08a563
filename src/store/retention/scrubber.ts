/**
 * Hashes every file of the store again from time to time, so that rot is found before somebody needs the
 * blob: one round a month, at the rate that this takes, and from where the last process stopped. A blob
 * that a reader complained about is looked at right away.
 */
import { readFileSync } from 'node:fs'
import type { Logger } from 'pino'
import { z } from 'zod'
import { sleep, type Clock } from '../../base/clock.ts'
import { hasCode } from '../../base/errors.ts'
import { DigestHex, type Digest } from '../../wire/digest.ts'
import type { BlobIndex } from '../blob-index.ts'
import { replaceFileLater } from '../disk.ts'
import type { Pace } from '../fs/verify.ts'

const ROUND_MS = 30 * 24 * 60 * 60_000
/** A small store is through sooner, and then rests until the month is over. */
const BYTES_PER_SECOND_MIN = 256 * 1024
/** What a file costs however small it is. */
const FILE_COST_BYTES = 64 * 1024
/** Reads in bursts this far apart, so that an idle machine is mostly left alone. */
const BURST_MS = 10_000
const SAVE_MS = 10 * 60_000
/** The longest timer: the system's own reach 24 days. */
const REST_MS = 60 * 60_000
/** Complaints that wait; beyond it they are ignored, and the round comes by. */
const SUSPECTS_MAX = 1_000

export interface ScrubberDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly index: BlobIndex
  /** Hashes the blob's files, and drops the blob when they are damaged. */
  readonly check: (digest: Digest, pace: Pace) => Promise<void>
}

export interface ScrubberOptions {
  /** Where it keeps how far it came. */
  readonly file: string
  readonly roundMs?: number | undefined
  readonly bytesPerSecondMin?: number | undefined
}

const Progress = z.object({
  /** The last that was checked in this round; null between two rounds. */
  after: DigestHex.nullable(),
  roundBeganAtWallMs: z.number(),
})
type Progress = z.infer<typeof Progress>

export class Scrubber implements AsyncDisposable {
  readonly #deps: ScrubberDeps
  readonly #options: ScrubberOptions
  readonly #lifetime = new AbortController()
  readonly #suspects = new Set<Digest>()
  #progress: Progress
  #savedAtMs: number
  #debtBytes = 0
  #rounds: Promise<void> | undefined
  #complaints: Promise<void> | undefined

  constructor(deps: ScrubberDeps, options: ScrubberOptions) {
    this.#deps = deps
    this.#options = options
    this.#progress = readProgress(options.file) ?? {
      after: null,
      roundBeganAtWallMs: -Infinity,
    }
    this.#savedAtMs = deps.clock.nowMs()
  }

  start(): void {
    const { signal } = this.#lifetime
    this.#rounds ??= this.#goRound(signal).catch((error: unknown) => {
      if (!signal.aborted) this.#deps.log.error({ err: error }, 'scrubbing ended')
    })
  }

  /** Looks at the blob soon: what came from it was wrong. */
  suspect(digest: Digest): void {
    if (this.#suspects.size < SUSPECTS_MAX) this.#suspects.add(digest)
    this.#complaints ??= this.#checkSuspects()
      .catch((error: unknown) => this.#deps.log.error({ err: error }, 'complaint not looked into'))
      .finally(() => {
        this.#complaints = undefined
      })
  }

  async #checkSuspects(): Promise<void> {
    for (const digest of this.#suspects) {
      this.#suspects.delete(digest)
      if (!this.#lifetime.signal.aborted) await this.#deps.check(digest, () => undefined)
    }
  }

  async #goRound(signal: AbortSignal): Promise<void> {
    const { clock, index } = this.#deps
    for (;;) {
      if (this.#progress.after === null) {
        await this.#rest(signal)
        this.#progress = { ...this.#progress, roundBeganAtWallMs: clock.wallMs() }
      }
      for (;;) {
        const [batch] = await firstOf(index.scan(afterOf(this.#progress)))
        if (batch === undefined) break
        for (const [digest, { sizeBytes }] of batch) {
          await this.#deps.check(digest, (bytes) => this.#pace(bytes, signal))
          await this.#pace(Math.max(0, FILE_COST_BYTES - sizeBytes), signal)
          this.#progress = { ...this.#progress, after: digest }
          if (clock.nowMs() - this.#savedAtMs >= SAVE_MS) await this.#save()
        }
      }
      this.#progress = { ...this.#progress, after: null }
      await this.#save()
      this.#deps.log.info({ ...index.stats() }, 'all blobs were checked')
    }
  }

  /** Until a month after the round began. A clock that was set back does not make it longer. */
  async #rest(signal: AbortSignal): Promise<void> {
    const { clock } = this.#deps
    const roundMs = this.#options.roundMs ?? ROUND_MS
    const sinceMs = clock.wallMs() - this.#progress.roundBeganAtWallMs
    const endsAtMs = clock.nowMs() + roundMs - Math.max(0, sinceMs)
    // At least one timer, so that an empty store is not gone round and round.
    do await sleep(clock, Math.min(REST_MS, Math.max(BURST_MS, endsAtMs - clock.nowMs())), signal)
    while (clock.nowMs() < endsAtMs)
  }

  async #pace(bytes: number, signal: AbortSignal): Promise<void> {
    const { clock, index } = this.#deps
    const { roundMs = ROUND_MS, bytesPerSecondMin = BYTES_PER_SECOND_MIN } = this.#options
    signal.throwIfAborted()
    this.#debtBytes += bytes
    const stats = index.stats()
    const costBytes = stats.bytes + stats.count * FILE_COST_BYTES
    const bytesPerMs = Math.max(bytesPerSecondMin / 1000, costBytes / roundMs)
    if (this.#debtBytes < bytesPerMs * BURST_MS) return
    const debtBytes = this.#debtBytes
    this.#debtBytes = 0
    await sleep(clock, debtBytes / bytesPerMs, signal)
  }

  async #save(): Promise<void> {
    this.#savedAtMs = this.#deps.clock.nowMs()
    const { roundBeganAtWallMs } = this.#progress
    if (roundBeganAtWallMs === -Infinity) return
    await replaceFileLater(this.#options.file, `${JSON.stringify(this.#progress)}\n`)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new Error('the store is closing'))
    await Promise.all([this.#rounds, this.#complaints])
    await this.#save()
  }
}

async function firstOf<T>(items: AsyncGenerator<T>): Promise<T[]> {
  for await (const item of items) return [item]
  return []
}

const afterOf = ({ after }: Progress): { after?: Digest } => (after === null ? {} : { after })

function readProgress(file: string): Progress | undefined {
  try {
    return Progress.parse(JSON.parse(readFileSync(file, 'utf8')))
  } catch (error) {
    // Without it, or with a damaged one, a new round begins.
    if (hasCode(error, 'ENOENT') || error instanceof SyntaxError || error instanceof z.ZodError)
      return undefined
    throw error
  }
}
