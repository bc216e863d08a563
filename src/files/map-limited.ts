/** Bounded concurrency over lists that users make long. */

/**
 * Like `Promise.all` over `items`, with at most `limit` calls running; results in the order of `items`.
 * After a failure no further call starts; it rejects when the running ones have ended.
 */
export async function mapLimited<T, R>(
  items: readonly T[],
  limit: number,
  call: (item: T) => Promise<R>,
): Promise<R[]> {
  const results: R[] = []
  const rest = items.entries()
  let failed = false
  const runner = async (): Promise<void> => {
    for (const [at, item] of rest) {
      if (failed) return
      try {
        results[at] = await call(item)
      } catch (error) {
        failed = true
        throw error
      }
    }
  }
  const runners = await Promise.allSettled(
    Array.from({ length: Math.min(limit, items.length) }, runner),
  )
  for (const outcome of runners) if (outcome.status === 'rejected') throw outcome.reason
  return results
}

/** Lets sockets and timers have their turn in the middle of long work. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
