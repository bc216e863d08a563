/** Jittered exponential back-off, as a pure value: the caller owns the timer. */
import { randomFraction, type Random } from './random.ts'

export interface BackoffOptions {
  readonly firstMs: number
  readonly maxMs: number
}

/** The wait before try number `attempt` (1 is the first retry): half fixed, half random, doubling up to `maxMs`. */
export function backoffMs(random: Random, attempt: number, options: BackoffOptions): number {
  const ceiling = Math.min(options.maxMs, options.firstMs * 2 ** Math.min(attempt - 1, 30))
  return Math.round(ceiling / 2 + (ceiling / 2) * randomFraction(random))
}
