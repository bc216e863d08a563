/**
 * One connection between a worker and the owner. Messages keep their order, may come twice, come late
 * while the network is cut, and are lost when it breaks. Each end learns of the break in its own time.
 */
import type { Dice } from './dice.ts'
import type { SimClock } from './sim-clock.ts'

/** A silent connection is given up by both ends after this. */
export const SILENCE_MS = 12_000

export class Connection {
  readonly #clock: SimClock
  readonly #dice: Dice
  readonly #last = { up: 0, down: 0 }
  #stalledUntilMs = 0
  isOpen = true

  constructor(clock: SimClock, dice: Dice) {
    this.#clock = clock
    this.#dice = dice
  }

  send(direction: 'up' | 'down', deliver: () => void): void {
    if (!this.isOpen) return
    const latencyMs = this.#dice.chance(0.05)
      ? this.#dice.between(50, 800)
      : this.#dice.between(1, 30)
    const atMs = Math.max(
      this.#last[direction],
      this.#clock.nowMs() + latencyMs,
      this.#stalledUntilMs,
    )
    this.#last[direction] = atMs
    const times = this.#dice.chance(0.02) ? 2 : 1
    for (let at = 0; at < times; at += 1)
      this.#clock.setTimer(atMs - this.#clock.nowMs(), () => {
        if (this.isOpen) deliver()
      })
  }

  /** Nothing gets through for this long. */
  stall(ms: number): void {
    this.#stalledUntilMs = Math.max(this.#stalledUntilMs, this.#clock.nowMs() + ms)
  }

  /** What is under way is lost. */
  break(): void {
    this.isOpen = false
  }
}
