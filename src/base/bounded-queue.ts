/** A first-in first-out queue with a hard limit: what does not fit is refused, never dropped silently. */
import assert from 'node:assert/strict'

export class BoundedQueue<T> {
  readonly #items: T[] = []
  readonly #lengthMax: number
  #waiting: ((item: T | undefined) => void) | undefined
  #closed = false

  constructor(options: { readonly lengthMax: number }) {
    this.#lengthMax = options.lengthMax
  }

  get length(): number {
    return this.#items.length
  }

  /** False when the queue is full or closed; the caller decides what that means. */
  push(item: T): boolean {
    if (this.#closed) return false
    const waiting = this.#waiting
    if (waiting !== undefined) {
      this.#waiting = undefined
      waiting(item)
      return true
    }
    if (this.#items.length >= this.#lengthMax) return false
    this.#items.push(item)
    return true
  }

  /** The next item, waiting for one; undefined once the queue is closed and empty. One reader at a time. */
  shift(): Promise<T | undefined> {
    assert(this.#waiting === undefined, 'one reader at a time')
    const item = this.#items.shift()
    if (item !== undefined || this.#closed) return Promise.resolve(item)
    return new Promise((resolve) => {
      this.#waiting = resolve
    })
  }

  close(): void {
    this.#closed = true
    this.#waiting?.(undefined)
    this.#waiting = undefined
  }
}
