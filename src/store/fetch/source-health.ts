/**
 * What was learnt about sources: how soon and how fast they give, who lied and is not asked for some time,
 * who failed and is asked last. Kept for the life of the process; pure: the caller brings the time.
 */
import { backoffMs } from '../../base/backoff.ts'
import type { Random } from '../../base/random.ts'
import type { BlobSource, SourceError } from '../blob-source.ts'

const BAN_MS = 10 * 60_000
const BAN_MS_MAX = 24 * 3600_000
const BACKOFF = { firstMs: 1_000, maxMs: 60_000 }
/** Sources remembered; beyond it the one that was heard of longest ago is forgotten. */
const SOURCES_MAX = 10_000
/** A source that gave nothing for this long gets company, however slow it usually is. */
export const HEDGE_MS_MAX = 250
/** Company any sooner would double the load for a hiccup. */
const HEDGE_MS_MIN = 25
/** A source that others outran this often in a row is suspended. */
const OUTRUN_MAX = 3
/** Share of the newest measurement in an average. */
const NEWEST_SHARE = 0.3
/** A rate is measured over this much, or over HEDGE_MS_MAX of waiting. */
const RATE_SAMPLE_BYTES = 1024 * 1024
/** Below this share of the best rate a source waits until the faster ones were asked. */
const FAR_SLOWER = 1 / 4

interface Health {
  asks: number
  hits: number
  bytes: number
  firstByteMs: number | undefined
  bytesPerS: number | undefined
  /** What its transfers gave since its rate was last measured. */
  sampleBytes: number
  sampleMs: number
  lies: number
  bannedUntilMs: number
  failuresInRow: number
  outrunInRow: number
  suspendedUntilMs: number
  reason: string
}

/** One source as people see it. */
export interface SourceReport {
  readonly state: 'ok' | 'suspended' | 'untried'
  /** Why it is suspended, and for how much longer. */
  readonly reason: string | undefined
  readonly suspendedMs: number
  /** From a question to the first byte of its answer, averaged. */
  readonly firstByteMs: number | undefined
  readonly bytesPerS: number | undefined
  readonly asks: number
  /** Questions that it answered with bytes. */
  readonly hits: number
  readonly bytes: number
}

export class SourceHealth {
  readonly #random: Random
  readonly #health = new Map<string, Health>()
  #failureCount = 0

  constructor(deps: { readonly random: Random }) {
    this.#random = deps.random
  }

  /** Failures, stalls and lies of all sources since the start. */
  get failureCount(): number {
    return this.#failureCount
  }

  noteAsked(source: BlobSource): void {
    this.#touch(source.name).asks++
  }

  /** It answered `afterMs` after it was asked; `hasIt`: with the first bytes. */
  noteAnswer(source: BlobSource, afterMs: number, hasIt: boolean): void {
    const health = this.#touch(source.name)
    health.firstByteMs = averaged(health.firstByteMs, afterMs)
    health.outrunInRow = 0
    if (hasIt) health.hits++
    // That it has no such blob is an answer as good as any.
    else this.noteGood(source)
  }

  /** It gave this much in `waitedMs` of waiting for it; undefined for what came with the answer. */
  noteBytes(source: BlobSource, byteCount: number, waitedMs: number | undefined): void {
    const health = this.#touch(source.name)
    health.bytes += byteCount
    if (waitedMs === undefined) return
    health.sampleBytes += byteCount
    health.sampleMs += waitedMs
    if (health.sampleBytes < RATE_SAMPLE_BYTES && health.sampleMs < HEDGE_MS_MAX) return
    const rate = (health.sampleBytes * 1000) / Math.max(1, health.sampleMs)
    health.bytesPerS = averaged(health.bytesPerS, rate)
    health.sampleBytes = 0
    health.sampleMs = 0
  }

  /** Another that was asked later began before it; `silentMs` since it was asked. */
  noteOutrun(source: BlobSource, silentMs: number, nowMs: number): void {
    const health = this.#touch(source.name)
    health.firstByteMs = averaged(health.firstByteMs, silentMs)
    health.outrunInRow++
    if (silentMs >= HEDGE_MS_MAX || health.outrunInRow >= OUTRUN_MAX)
      this.note(source, 'slow', nowMs, `gave nothing for ${silentMs} ms`)
  }

  /** Wrong bytes: out for 10 minutes, doubling. Otherwise last in line for a while. */
  note(
    source: BlobSource,
    reason: SourceError['reason'] | 'slow',
    nowMs: number,
    text: string = REASONS[reason],
  ): void {
    const health = this.#touch(source.name)
    this.#failureCount++
    health.reason = text.slice(0, 200)
    if (reason === 'wrong') {
      health.bannedUntilMs = nowMs + Math.min(BAN_MS * 2 ** health.lies, BAN_MS_MAX)
      health.lies = Math.min(health.lies + 1, 20)
    } else {
      health.failuresInRow = Math.min(health.failuresInRow + 1, 20)
      health.suspendedUntilMs = nowMs + backoffMs(this.#random, health.failuresInRow, BACKOFF)
    }
  }

  /** It delivered; bans are not forgiven by it. */
  noteGood(source: BlobSource): void {
    const health = this.#health.get(source.name)
    if (health === undefined) return
    health.failuresInRow = 0
    health.suspendedUntilMs = 0
  }

  isBanned(source: BlobSource, nowMs: number): boolean {
    return (this.#health.get(source.name)?.bannedUntilMs ?? 0) > nowMs
  }

  /** Whether the last that it did was to fail. */
  isDoubtful(source: BlobSource): boolean {
    return (this.#health.get(source.name)?.failuresInRow ?? 0) > 0
  }

  /** How long it may be silent before the next one is asked as well. */
  hedgeMs(source: BlobSource): number {
    const usualMs = this.#health.get(source.name)?.firstByteMs
    if (usualMs === undefined) return HEDGE_MS_MAX
    return Math.min(HEDGE_MS_MAX, Math.max(HEDGE_MS_MIN, 2 * usualMs))
  }

  bytesPerS(source: BlobSource): number | undefined {
    return this.#health.get(source.name)?.bytesPerS
  }

  /** Each once, in their order, but the far slower ones at the end; those that failed lately apart. */
  inOrder(
    sources: readonly BlobSource[],
    nowMs: number,
  ): { readonly first: BlobSource[]; readonly last: BlobSource[] } {
    const unique = [...new Map(sources.map((source) => [source.name, source])).values()]
    const isLast = (source: BlobSource): boolean =>
      (this.#health.get(source.name)?.suspendedUntilMs ?? 0) > nowMs
    const first = unique.filter((source) => !isLast(source))
    const best = Math.max(0, ...first.map((source) => this.bytesPerS(source) ?? 0))
    const isFarSlower = (source: BlobSource): boolean =>
      (this.bytesPerS(source) ?? Infinity) < best * FAR_SLOWER
    return {
      first: [...first.filter((source) => !isFarSlower(source)), ...first.filter(isFarSlower)],
      last: unique.filter(isLast),
    }
  }

  report(source: BlobSource, nowMs: number): SourceReport {
    const health = this.#health.get(source.name)
    const untilMs = Math.max(health?.bannedUntilMs ?? 0, health?.suspendedUntilMs ?? 0)
    const isSuspended = untilMs > nowMs
    return {
      state: isSuspended ? 'suspended' : (health?.asks ?? 0) === 0 ? 'untried' : 'ok',
      reason: isSuspended ? health?.reason : undefined,
      suspendedMs: isSuspended ? untilMs - nowMs : 0,
      firstByteMs: health?.firstByteMs,
      bytesPerS: health?.bytesPerS,
      asks: health?.asks ?? 0,
      hits: health?.hits ?? 0,
      bytes: health?.bytes ?? 0,
    }
  }

  #touch(name: string): Health {
    const health = this.#health.get(name) ?? {
      asks: 0,
      hits: 0,
      bytes: 0,
      firstByteMs: undefined,
      bytesPerS: undefined,
      sampleBytes: 0,
      sampleMs: 0,
      lies: 0,
      bannedUntilMs: 0,
      failuresInRow: 0,
      outrunInRow: 0,
      suspendedUntilMs: 0,
      reason: '',
    }
    this.#health.delete(name)
    this.#health.set(name, health)
    if (this.#health.size > SOURCES_MAX) {
      const [oldest] = this.#health.keys()
      if (oldest !== undefined) this.#health.delete(oldest)
    }
    return health
  }
}

const REASONS = {
  wrong: 'sent wrong bytes',
  stalled: 'stalled',
  failed: 'failed',
  slow: 'was far slower than another',
} as const

function averaged(before: number | undefined, newest: number): number {
  return before === undefined ? newest : before + NEWEST_SHARE * (newest - before)
}
