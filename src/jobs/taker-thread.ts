/**
 * A thread that waits for tokens which builds owe: whoever polls loses every race against their jobs, which
 * wait in the kernel's queue for the same byte. It stays with a build until nothing is owed, or it is needed
 * elsewhere.
 */
import { readSync } from 'node:fs'
import { setPriority } from 'node:os'
import { parentPort, workerData } from 'node:worker_threads'
import { hasCode } from '../base/errors.ts'
import { AWAY, DEBT, FD, NOBODY, OWNER, SLOTS_MAX, WAKE, type TakerData } from './taker-memory.ts'

const READ_BYTES_MAX = 256
/** It runs for microseconds at a time. */
const PRIORITY = -19

const { shared, thread }: TakerData = workerData
const memory = new Int32Array(shared)
const bytes = Buffer.alloc(READ_BYTES_MAX)
hurry()

for (let slot = 0; ;) {
  const seen = Atomics.load(memory, WAKE)
  const next = claimAfter(slot)
  if (next === undefined) {
    Atomics.wait(memory, WAKE, seen)
    continue
  }
  slot = next
  // Looked at once more: who forgives a debt sees us here afterwards, and puts a token in so that we go on.
  let owed = Atomics.load(memory, DEBT + slot)
  while (owed > 0 && Atomics.load(memory, AWAY + slot) === 0) {
    const fd = Atomics.load(memory, FD + slot)
    const count = readSync(fd, bytes, 0, Math.min(owed, READ_BYTES_MAX), null)
    owed = Atomics.sub(memory, DEBT + slot, count) - count
    parentPort?.postMessage({ slot, count }, [])
  }
  Atomics.store(memory, AWAY + slot, 0)
  Atomics.store(memory, OWNER + slot, NOBODY)
}

/**
 * ninja takes a token back within microseconds of giving it: on a busy machine only who is woken at once is
 * faster. Of this thread alone, in Linux; where it is not allowed, it takes longer.
 */
function hurry(): void {
  try {
    setPriority(PRIORITY)
  } catch (error) {
    if (!hasCode(error, 'ERR_SYSTEM_ERROR')) throw error
  }
}

/** The next slot that owes and has no owner: ours now. */
function claimAfter(last: number): number | undefined {
  for (let step = 1; step <= SLOTS_MAX; step++) {
    const slot = (last + step) % SLOTS_MAX
    if (Atomics.load(memory, DEBT + slot) <= 0) continue
    if (Atomics.compareExchange(memory, OWNER + slot, NOBODY, thread) === NOBODY) return slot
  }
  return undefined
}
