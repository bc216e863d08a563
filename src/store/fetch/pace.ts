/** Whether bytes come fast enough to stay with their source. */
import type { Clock } from '../../base/clock.ts'

/** A source below this rate is left when another is there. */
export const SLOW_BYTES_PER_S = 64 * 1024
const SLOW_AFTER_MS = 2_000

/** Tells when bytes come too slowly, looking at SLOW_AFTER_MS at a time. */
export class Pace {
  readonly #clock: Clock
  #sinceMs: number
  #bytes = 0

  constructor(clock: Clock) {
    this.#clock = clock
    this.#sinceMs = clock.nowMs()
  }

  isSlow(byteCount: number): boolean {
    this.#bytes += byteCount
    const elapsedMs = this.#clock.nowMs() - this.#sinceMs
    if (elapsedMs < SLOW_AFTER_MS) return false
    const isSlow = this.#bytes * 1000 < SLOW_BYTES_PER_S * elapsedMs
    this.#sinceMs += elapsedMs
    this.#bytes = 0
    return isSlow
  }
}
