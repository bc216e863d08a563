/**
 * What was learnt about sources: who lied and is not asked for some time, who failed and is asked last.
 * Pure: the caller brings the time.
 */
import { backoffMs } from '../../base/backoff.ts'
import type { Random } from '../../base/random.ts'
import type { BlobSource, SourceError } from '../blob-source.ts'

const BAN_MS = 10 * 60_000
const BAN_MS_MAX = 24 * 3600_000
const BACKOFF = { firstMs: 1_000, maxMs: 60_000 }
/** Sources remembered; beyond it the one that was heard of longest ago is forgotten. */
const SOURCES_MAX = 10_000

interface Health {
  bans: number
  bannedUntilMs: number
  failures: number
  lastUntilMs: number
}

export class SourceHealth {
  readonly #random: Random
  readonly #health = new Map<string, Health>()

  constructor(deps: { readonly random: Random }) {
    this.#random = deps.random
  }

  /** Wrong bytes: out for 10 minutes, doubling. Otherwise last in line for a while. */
  note(source: BlobSource, reason: SourceError['reason'] | 'slow', nowMs: number): void {
    const health = this.#touch(source.name)
    if (reason === 'wrong') {
      health.bannedUntilMs = nowMs + Math.min(BAN_MS * 2 ** health.bans, BAN_MS_MAX)
      health.bans = Math.min(health.bans + 1, 20)
    } else {
      health.failures = Math.min(health.failures + 1, 20)
      health.lastUntilMs = nowMs + backoffMs(this.#random, health.failures, BACKOFF)
    }
  }

  /** It delivered; bans are not forgiven by it. */
  noteGood(source: BlobSource): void {
    const health = this.#health.get(source.name)
    if (health === undefined) return
    health.failures = 0
    health.lastUntilMs = 0
  }

  isBanned(source: BlobSource, nowMs: number): boolean {
    return (this.#health.get(source.name)?.bannedUntilMs ?? 0) > nowMs
  }

  /** Each once, in their order; those that failed lately apart. */
  inOrder(
    sources: readonly BlobSource[],
    nowMs: number,
  ): { readonly first: BlobSource[]; readonly last: BlobSource[] } {
    const unique = [...new Map(sources.map((source) => [source.name, source])).values()]
    const isLast = (source: BlobSource): boolean =>
      (this.#health.get(source.name)?.lastUntilMs ?? 0) > nowMs
    return { first: unique.filter((source) => !isLast(source)), last: unique.filter(isLast) }
  }

  #touch(name: string): Health {
    const health = this.#health.get(name) ?? {
      bans: 0,
      bannedUntilMs: 0,
      failures: 0,
      lastUntilMs: 0,
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
