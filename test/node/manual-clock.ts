/** A clock that stands still until a test steps it. */
import type { Clock } from '../../src/base/clock.ts'

export class ManualClock implements Clock {
  #nowMs = 0
  readonly #timers = new Set<{ readonly atMs: number; readonly fire: () => void }>()

  nowMs(): number {
    return this.#nowMs
  }
  wallMs(): number {
    return this.#nowMs
  }
  setTimer(delayMs: number, fire: () => void) {
    const timer = { atMs: this.#nowMs + delayMs, fire }
    this.#timers.add(timer)
    return { cancel: () => void this.#timers.delete(timer) }
  }
  /** Delays of the timers that are set, from now. */
  pendingMs(): number[] {
    return [...this.#timers].map(({ atMs }) => atMs - this.#nowMs)
  }
  step(ms: number): void {
    this.#nowMs += ms
    for (const timer of [...this.#timers].toSorted((a, b) => a.atMs - b.atMs)) {
      if (timer.atMs > this.#nowMs || !this.#timers.delete(timer)) continue
      timer.fire()
    }
  }
}
