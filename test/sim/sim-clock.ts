/** Virtual time: events in the order of their times, equal times in the order of their making. */
import type { Clock, Timer } from '../../src/base/clock.ts'

interface Scheduled {
  readonly atMs: number
  readonly order: number
  fire: (() => void) | undefined
}

const before = (a: Scheduled, b: Scheduled): boolean =>
  a.atMs < b.atMs || (a.atMs === b.atMs && a.order < b.order)

export class SimClock implements Clock {
  #nowMs = 1_000
  #order = 0
  /** A binary heap, the next event first. */
  readonly #heap: Scheduled[] = []

  nowMs(): number {
    return this.#nowMs
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#nowMs
  }

  setTimer(delayMs: number, fire: () => void): Timer {
    const event: Scheduled = {
      atMs: this.#nowMs + Math.max(0, delayMs),
      order: (this.#order += 1),
      fire,
    }
    this.#heap.push(event)
    this.#rise(this.#heap.length - 1)
    return {
      cancel() {
        event.fire = undefined
      },
    }
  }

  /** Fires the next event; false when there is none up to `untilMs`, and then it is that late. */
  step(untilMs: number): boolean {
    for (;;) {
      const [next] = this.#heap
      if (next === undefined || next.atMs > untilMs) {
        this.#nowMs = Math.max(this.#nowMs, untilMs)
        return false
      }
      this.#drop()
      if (next.fire === undefined) continue
      this.#nowMs = next.atMs
      next.fire()
      return true
    }
  }

  #rise(from: number): void {
    for (let at = from; at > 0;) {
      const parent = (at - 1) >>> 1
      if (!this.#swapIfBefore(at, parent)) return
      at = parent
    }
  }

  #drop(): void {
    const last = this.#heap.pop()
    if (last === undefined || this.#heap.length === 0) return
    this.#heap[0] = last
    for (let at = 0; ;) {
      const left = 2 * at + 1
      const [a, b] = [this.#heap[left], this.#heap[left + 1]]
      const child = a !== undefined && b !== undefined && before(b, a) ? left + 1 : left
      if (!this.#swapIfBefore(child, at)) return
      at = child
    }
  }

  #swapIfBefore(at: number, other: number): boolean {
    const [a, b] = [this.#heap[at], this.#heap[other]]
    if (a === undefined || b === undefined || !before(a, b)) return false
    this.#heap[at] = b
    this.#heap[other] = a
    return true
  }
}
