/** The memory that the taker and its threads share: integers, each changed with Atomics alone. */

/** Builds that may owe tokens at once. */
export const SLOTS_MAX = 1024
/** Counts what threads should look at; they sleep on it. */
export const WAKE = 0
/** Then for each slot: the descriptor of its FIFO, how many tokens are owed, */
export const FD = 1
export const DEBT = FD + SLOTS_MAX
/** which thread waits in it, and whether that should go elsewhere. */
export const OWNER = DEBT + SLOTS_MAX
export const AWAY = OWNER + SLOTS_MAX
export const MEMORY_BYTES = 4 * (AWAY + SLOTS_MAX)
/** Of a slot without an owner; threads count from 1. */
export const NOBODY = 0

export interface TakerData {
  readonly shared: SharedArrayBuffer
  readonly thread: number
}
/** What a thread tells: it took so many tokens. */
export interface Taken {
  readonly slot: number
  readonly count: number
}
