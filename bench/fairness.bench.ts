/**
 * What one user's flood does to another: `a` submits 10,000 jobs at once, `b` submits a few every minute.
 * Then how the machines are shared when `b` floods too, some time later. The peer is a queue of all in the
 * order of their coming.
 */
import { Dice } from '../test/sim/dice.ts'
import { waitsByBestFit, type Arrival } from './farm/fit-anchor.ts'
import { independentTasks, submitAt } from './farm/job-stream.ts'
import { MeshFarm } from './farm/mesh-farm.ts'
import { lognormal } from './farm/task-graph.ts'
import {
  breathe,
  compared,
  figure,
  quantile,
  type Context,
  type Figure,
  type Subject,
} from './subject.ts'

const MACHINES = Array.from({ length: 16 }, () => ({ cpus: 4, speed: 1 }))
const FLOOD = 10_000
const MEDIAN_MS = 60_000
const SPREAD = 0.5
const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
/** `b` submits a few for so long, floods so long after `a`, and is then watched for so long. */
const TIMES = {
  quick: { trickleMs: 20 * MINUTE_MS, laterMs: 30 * MINUTE_MS, watchMs: 90 * MINUTE_MS },
  long: { trickleMs: HOUR_MS, laterMs: HOUR_MS, watchMs: 3 * HOUR_MS },
}
type Times = (typeof TIMES)[Context['scale']]
/** Who has not begun by then waited at least so long. */
const TAIL_MS = 10 * MINUTE_MS
const SHARE_BUCKET_MS = 15 * MINUTE_MS
const SEED = 1

const durations = (dice: Dice, count: number): number[] =>
  Array.from({ length: count }, () => Math.round(lognormal(dice, MEDIAN_MS, SPREAD)))

/** Waits of `b`, who submits `batch` jobs every minute into the flood of `a`. */
function trickle(
  batch: number,
  { trickleMs }: Times,
): { readonly mesh: number[]; readonly fifo: number[] } {
  const dice = new Dice(SEED)
  const flood = durations(dice, FLOOD)
  const farm = new MeshFarm(MACHINES)
  const startMs = farm.clock.nowMs()
  const mesh: number[] = []
  const seen = new Set<string>()
  farm.onStart = ({ user, request, name, waitMs }) => {
    if (user !== 'b/local' || seen.has(`${request} ${name}`)) return
    seen.add(`${request} ${name}`)
    mesh.push(waitMs)
  }
  const arrivals: Arrival[] = flood.map((ms) => ({ atMs: 0, ms, cpus: 1 }))
  submitAt(farm, startMs, independentTasks('flood', flood, 1), { user: 'a/local', salt: 'flood' })
  for (let atMs = MINUTE_MS; atMs <= trickleMs; atMs += MINUTE_MS) {
    const few = durations(dice, batch)
    submitAt(farm, startMs + atMs, independentTasks('few', few, 1), {
      user: 'b/local',
      salt: `few ${atMs}`,
    })
    for (const ms of few) arrivals.push({ atMs, ms, cpus: 1 })
  }
  farm.runUntil(startMs + trickleMs + TAIL_MS)
  const asked = (trickleMs / MINUTE_MS) * batch
  while (mesh.length < asked) mesh.push(TAIL_MS)
  const fifo = waitsByBestFit(arrivals, MACHINES, 24 * HOUR_MS).slice(FLOOD)
  return { mesh, fifo: fifo.map((wait) => wait ?? 24 * HOUR_MS) }
}

/** Share of `b` in what was begun, by quarter of an hour since its own flood. */
function twoFloods({ laterMs, watchMs }: Times): number[] {
  const dice = new Dice(SEED)
  const farm = new MeshFarm(MACHINES)
  const startMs = farm.clock.nowMs()
  const buckets: { a: number; b: number }[] = []
  farm.onStart = ({ user, atMs }) => {
    const at = Math.floor((atMs - startMs - laterMs) / SHARE_BUCKET_MS)
    if (at < 0) return
    const bucket = (buckets[at] ??= { a: 0, b: 0 })
    if (user === 'b/local') bucket.b += 1
    else bucket.a += 1
  }
  for (const [user, atMs] of [
    ['a/local', 0],
    ['b/local', laterMs],
  ] as const)
    submitAt(farm, startMs + atMs, independentTasks('flood', durations(dice, FLOOD), 1), {
      user,
      salt: user,
    })
  farm.runUntil(startMs + laterMs + watchMs)
  return buckets.map(({ a, b }) => b / (a + b))
}

export const subject: Subject = {
  name: 'fairness',
  async run({ log, scale, signal }) {
    log(
      `seed ${SEED}; a floods with ${FLOOD} jobs of about a minute on ${MACHINES.length * 4} processors`,
    )
    const figures: Record<string, Figure> = {}
    for (const batch of [1, 10]) {
      await breathe()
      signal.throwIfAborted()
      const { mesh, fifo } = trickle(batch, TIMES[scale])
      for (const [what, share] of [
        ['median wait', 0.5],
        ['p99 of the wait', 0.99],
        ['longest wait', 1],
      ] as const)
        figures[`b submits ${batch} a minute, ${what}`] = compared(
          quantile(mesh, share) / 1000,
          's',
          quantile(fifo, share) / 1000,
        )
    }
    await breathe()
    signal.throwIfAborted()
    const shares = twoFloods(TIMES[scale])
    for (const at of [0, 1, 2, 3, 4, 6, 8, 11]) {
      const share = shares[at]
      if (share !== undefined)
        figures[`two floods, share of the later one from ${at * 15} to ${at * 15 + 15} min`] =
          figure(100 * share, '%', 'even is 50')
    }
    return figures
  },
}
