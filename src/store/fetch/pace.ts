/** Whether bytes come fast enough to stay with their source alone. Pure: the caller brings the time. */

/** A source below this rate gets company when another is there. */
const SLOW_BYTES_PER_S = 64 * 1024
/** The same below this share of what another usually gives. */
const SLOW_SHARE = 1 / 8
/** The time over which a rate is taken. Only waiting for the source counts. */
const PACE_MS = 250
/** What is over sooner is not worth a second source. */
const WORTHWHILE_MS = 250

/** Tells when bytes come too slowly, looking at PACE_MS of waiting at a time, or not at all for as long. */
export class Pace {
  #waitedMs = 0
  #bytes = 0
  /** Since the last bytes, and the longest that it took between two of them. */
  #silentMs = 0
  #longestMs = 0

  /** How much longer there is to wait until something can be told. */
  get restMs(): number {
    return Math.max(1, Math.min(PACE_MS - this.#waitedMs, this.#silenceMsMax - this.#silentMs))
  }

  /** A source that gives a lot at long intervals is known after the first of them. */
  get #silenceMsMax(): number {
    return Math.max(PACE_MS, 2 * this.#longestMs)
  }

  isSlow(options: {
    readonly byteCount: number
    readonly waitedMs: number
    readonly remainingBytes: number
    readonly bestBytesPerS: number
  }): boolean {
    this.#bytes += options.byteCount
    this.#waitedMs += options.waitedMs
    this.#silentMs += options.waitedMs
    if (options.byteCount > 0) {
      this.#longestMs = Math.max(this.#longestMs, this.#silentMs)
      this.#silentMs = 0
    }
    if (this.#silentMs >= this.#silenceMsMax) return options.remainingBytes > 0
    if (this.#waitedMs < PACE_MS) return false
    const rate = (this.#bytes * 1000) / this.#waitedMs
    this.#waitedMs = 0
    this.#bytes = 0
    return (
      rate < Math.max(SLOW_BYTES_PER_S, options.bestBytesPerS * SLOW_SHARE) &&
      options.remainingBytes * 1000 > rate * WORTHWHILE_MS
    )
  }
}
