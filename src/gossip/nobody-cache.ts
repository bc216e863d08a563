/**
 * What nobody had when it was last asked for, and until when it is not asked for again: longer each time.
 * Whoever is told that it came takes it out. Pure.
 */
import type { Digest } from '../wire/digest.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import { oldestOf } from './oldest.ts'

const FIRST_MS = 5_000
const GROWTH = 4
const MAX_MS = 60_000
/** Where the index says when somebody has it. Not for ever: an announcement may have been dropped. */
const WATCHED_MAX_MS = 15 * 60_000
/** Beyond it those that were noted longest ago are asked for again. */
const NOBODY_MAX = 16_384

interface Nobody {
  readonly untilMs: number
  readonly holdMs: number
  readonly perhaps: readonly PeerRecord[]
}

export class NobodyCache {
  readonly #nobody = new Map<Digest, Nobody>()

  /** While it is not to be asked for: those that may have it all the same. */
  find(digest: Digest, nowMs: number): readonly PeerRecord[] | undefined {
    const nobody = this.#nobody.get(digest)
    return nobody !== undefined && nobody.untilMs > nowMs ? nobody.perhaps : undefined
  }

  /** Whether it was asked for in vain lately. */
  has(digest: Digest): boolean {
    return this.#nobody.has(digest)
  }

  /** `perhaps` are store nodes that could not be asked. */
  note(
    digest: Digest,
    options: { readonly isWatched: boolean; readonly perhaps: readonly PeerRecord[] },
    nowMs: number,
  ): void {
    const { isWatched, perhaps } = options
    const before = this.#nobody.get(digest)
    const holdMs = Math.min(
      before === undefined ? FIRST_MS : before.holdMs * GROWTH,
      isWatched ? WATCHED_MAX_MS : MAX_MS,
    )
    this.#nobody.delete(digest)
    for (const oldest of oldestOf(this.#nobody, NOBODY_MAX)) this.#nobody.delete(oldest)
    this.#nobody.set(digest, { untilMs: nowMs + holdMs, holdMs, perhaps })
  }

  delete(digest: Digest): void {
    this.#nobody.delete(digest)
  }

  clear(): void {
    this.#nobody.clear()
  }
}
