/**
 * The thread of measure-speed.ts: counts how many pieces of a fixed work fit into a short window, and posts
 * the best of several windows, since what else goes on can only make one worse.
 */
import { parentPort } from 'node:worker_threads'
import { systemClock } from '../base/clock.ts'

const WINDOWS = 26
const WINDOW_MS = 3
/** Steps of one piece: a few µs, so that a window holds some hundreds. */
const STEPS = 2_048
/** 256 KiB: more than the first cache, less than the second. */
const CELLS = 32 * 1024

const clock = systemClock()
const cells = new Float64Array(CELLS).fill(1)
let state = 0x9e37_79b9

function piece(): void {
  for (let step = 0; step < STEPS; step += 1) {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    const at = state & (CELLS - 1)
    cells[at] = (cells[at] ?? 0) * 0.999 + (Math.imul(state, 31) & 255)
  }
}

/** The clock counts whole milliseconds: a window begins with a new one. */
function countPieces(): number {
  const before = clock.nowMs()
  let startMs = before
  while (startMs === before) startMs = clock.nowMs()
  let count = 0
  while (clock.nowMs() < startMs + WINDOW_MS) {
    piece()
    count += 1
  }
  return count
}

let best = 0
for (let window = 0; window < WINDOWS; window += 1) best = Math.max(best, countPieces())
// What was computed takes part, so that none of it is optimised away.
parentPort?.postMessage(cells.every(Number.isFinite) ? best : 0, [])
