/** Room for a bounded number of bytes (or anything else that is counted), given out in order of asking. */
export class ByteWindow {
  #free: number
  readonly #waiting: { readonly count: number; readonly enter: () => void }[] = []

  constructor(options: { readonly bytesMax: number }) {
    this.#free = options.bytesMax
  }

  /** Takes room at once, or none. */
  tryAcquire(byteCount: number): boolean {
    if (this.#waiting.length > 0 || byteCount > this.#free) return false
    this.#free -= byteCount
    return true
  }

  /**
   * Waits for room; rejects with the signal's reason. Who holds room already must not wait for more: two
   * such would wait for each other.
   */
  async acquire(byteCount: number, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted()
    if (this.tryAcquire(byteCount)) return
    await new Promise<void>((resolve, reject) => {
      const entry = {
        count: byteCount,
        enter: (): void => {
          signal.removeEventListener('abort', onAbort)
          resolve()
        },
      }
      const onAbort = (): void => {
        const at = this.#waiting.indexOf(entry)
        if (at !== -1) this.#waiting.splice(at, 1)
        this.#admit()
        reject(signal.reason)
      }
      signal.addEventListener('abort', onAbort, { once: true })
      this.#waiting.push(entry)
    })
  }

  release(byteCount: number): void {
    this.#free += byteCount
    this.#admit()
  }

  #admit(): void {
    for (
      let first = this.#waiting[0];
      first !== undefined && first.count <= this.#free;
      first = this.#waiting[0]
    ) {
      this.#waiting.shift()
      this.#free -= first.count
      first.enter()
    }
  }
}
