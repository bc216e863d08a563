/** How often something happens, over the last seconds. */

/** Seconds that are looked back on. */
const SPAN_S = 10

export class Rate {
  /** One counter per second, used in turn. */
  readonly #counts = Array.from({ length: SPAN_S }, () => 0)
  #second = 0
  #startedAtMs: number | undefined

  add(nowMs: number, count = 1): void {
    this.#startedAtMs ??= nowMs
    this.#advance(nowMs)
    const at = this.#second % SPAN_S
    this.#counts[at] = (this.#counts[at] ?? 0) + count
  }

  /** The mean; of a shorter time while there is no longer one. */
  perSecond(nowMs: number): number {
    if (this.#startedAtMs === undefined) return 0
    this.#advance(nowMs)
    const sum = this.#counts.reduce((total, count) => total + count, 0)
    const spanS = Math.min(SPAN_S, Math.max(1, (nowMs - this.#startedAtMs) / 1000))
    return Math.round((sum / spanS) * 10) / 10
  }

  #advance(nowMs: number): void {
    const second = Math.floor(nowMs / 1000)
    const passed = Math.min(SPAN_S, second - this.#second)
    for (let at = 1; at <= passed; at += 1) this.#counts[(second - at + 1) % SPAN_S] = 0
    this.#second = Math.max(this.#second, second)
  }
}
