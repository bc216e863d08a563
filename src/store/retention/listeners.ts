/** Who wants to be told when something happened; in the order in which they came. */

export class Listeners<T> {
  readonly #listeners = new Set<(what: T) => void | Promise<void>>()

  add(listener: (what: T) => void | Promise<void>): Disposable {
    this.#listeners.add(listener)
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) }
  }

  /** Waits for each listener; rejects with the error of the first that fails, when all have been told. */
  async tell(what: T): Promise<void> {
    const told = await Promise.allSettled(
      [...this.#listeners].map(async (listener) => listener(what)),
    )
    for (const outcome of told) if (outcome.status === 'rejected') throw outcome.reason
  }
}
