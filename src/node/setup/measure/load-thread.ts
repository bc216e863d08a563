/**
 * A thread of measure-scaling.ts: waits until all of its kind are ready, computes for a fixed time, and
 * posts how much it did.
 */
import { parentPort, workerData } from 'node:worker_threads'
import { z } from 'zod'
import { systemClock } from '../../../base/clock.ts'

const { gate, windowMs } = z
  .object({ gate: z.instanceof(SharedArrayBuffer), windowMs: z.int().min(1) })
  .parse(workerData)
/** Steps between two looks at the clock: tens of µs. */
const STEPS = 16_384
const WARM_UP_PIECES = 200

let state = 0x9e37_79b9
function piece(): void {
  for (let step = 0; step < STEPS; step += 1) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
  }
}

const clock = systemClock()
for (let count = 0; count < WARM_UP_PIECES; count += 1) piece()
parentPort?.postMessage('ready', [])
Atomics.wait(new Int32Array(gate), 0, 0)
const endMs = clock.nowMs() + windowMs
let pieces = 0
while (clock.nowMs() < endMs) {
  piece()
  pieces += 1
}
// What was computed takes part, so that none of it is optimised away.
parentPort?.postMessage(state === 0 ? 0 : pieces, [])
