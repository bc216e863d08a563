/** A limit on silence: for what arrives from others piece by piece. */
import type { Clock, Timer } from '../base/clock.ts'

/**
 * Passes `source` on; throws `stalled()` when one piece takes longer than `limitMs` to come. The time that
 * the reader takes between two pieces does not count. The source is ended in every case, without waiting
 * for it: one that hangs cannot hold its reader.
 */
export async function* withStallLimit<T>(
  clock: Clock,
  source: AsyncIterable<T>,
  limitMs: number,
  stalled: () => Error,
): AsyncGenerator<T> {
  const iterator = source[Symbol.asyncIterator]()
  let isEnded = false
  try {
    for (;;) {
      const next = await within(clock, iterator.next(), limitMs, stalled)
      if (next.done === true) {
        isEnded = true
        return
      }
      yield next.value
    }
  } finally {
    if (!isEnded) iterator.return?.().catch(() => undefined) // its error would be about being left
  }
}

/** The value of `promise`, or `late()` thrown after `limitMs`; then its later outcome is ignored. */
export async function within<T>(
  clock: Clock,
  promise: Promise<T>,
  limitMs: number,
  late: () => Error,
): Promise<T> {
  let timer: Timer | undefined
  const limit = new Promise<never>((_, reject) => {
    timer = clock.setTimer(limitMs, () => reject(late()))
  })
  try {
    return await Promise.race([promise, limit])
  } finally {
    timer?.cancel()
    promise.catch(() => undefined) // nobody listens after the limit
  }
}
