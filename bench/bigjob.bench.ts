/**
 * Whether a big job starves among small ones: eight machines of 16 processors, jobs of one processor that
 * come at random, and every ten minutes one that needs a whole machine. Beside it, best fit without
 * reservations, on the same arrivals.
 *
 * The load is that of the small jobs; the big ones add 0.06.
 */
import { Dice } from '../test/sim/dice.ts'
import { waitsByBestFit, type Arrival } from './farm/fit-anchor.ts'
import { exponential, independentTasks, submitAt } from './farm/job-stream.ts'
import { MeshFarm } from './farm/mesh-farm.ts'
import { breathe, compared, quantile, type Figure, type Subject } from './subject.ts'

const MACHINES = 8
const CPUS = 16
const LOADS = [0.6, 0.8, 0.9] as const
const SMALL_MEAN_MS = 60_000
const BIG_MS = 300_000
const BIG_EVERY_MS = 600_000
const HOUR_MS = 3_600_000
const HOURS = { quick: 4, long: 16 } as const
const SEED = 1

function arrivalsOf(dice: Dice, load: number, endMs: number): Arrival[] {
  const arrivals: Arrival[] = []
  const everyMs = SMALL_MEAN_MS / (load * MACHINES * CPUS)
  for (let atMs = exponential(dice, everyMs); atMs < endMs; atMs += exponential(dice, everyMs))
    arrivals.push({
      atMs: Math.round(atMs),
      ms: Math.ceil(exponential(dice, SMALL_MEAN_MS)),
      cpus: 1,
    })
  for (let atMs = BIG_EVERY_MS; atMs < endMs; atMs += BIG_EVERY_MS)
    arrivals.push({ atMs, ms: BIG_MS, cpus: CPUS })
  return arrivals.toSorted((a, b) => a.atMs - b.atMs)
}

/** Those that did not begin count as having waited to the end. */
function waitsByMesh(arrivals: readonly Arrival[], endMs: number): readonly (number | undefined)[] {
  const farm = new MeshFarm(Array.from({ length: MACHINES }, () => ({ cpus: CPUS, speed: 1 })))
  const startMs = farm.clock.nowMs()
  const waits: (number | undefined)[] = arrivals.map(() => undefined)
  const indexes = new Map<string, number>()
  farm.onStart = ({ request, waitMs }) => {
    const at = indexes.get(request)
    // A second attempt is not a second start.
    if (at !== undefined) waits[at] ??= waitMs
  }
  for (const [at, { atMs, ms, cpus }] of arrivals.entries())
    submitAt(farm, startMs + atMs, independentTasks(cpus === 1 ? 'small' : 'big', [ms], cpus), {
      user: 'ci/local',
      salt: `job ${at}`,
      onSubmitted: (request) => void indexes.set(request.id, at),
    })
  farm.runUntil(startMs + endMs)
  return waits
}

export const subject: Subject = {
  name: 'bigjob',
  async run({ log, scale, signal }) {
    const endMs = HOURS[scale] * HOUR_MS
    log(
      `seed ${SEED}, ${HOURS[scale]} hours of virtual time; the peer is best fit without reservations`,
    )
    const figures: Record<string, Figure> = {}
    for (const load of LOADS) {
      await breathe()
      signal.throwIfAborted()
      const arrivals = arrivalsOf(new Dice(SEED), load, endMs)
      const startedAt = performance.now()
      const mesh = waitsByMesh(arrivals, endMs)
      log(
        `load ${load}: ${arrivals.length} jobs in ${((performance.now() - startedAt) / 1000).toFixed(1)} s`,
      )
      const peer = waitsByBestFit(
        arrivals,
        Array.from({ length: MACHINES }, () => ({ cpus: CPUS })),
        endMs,
      )
      const seconds = (
        waits: readonly (number | undefined)[],
        cpus: number,
        share: number,
      ): number => {
        const of = arrivals.flatMap((arrival, at) =>
          arrival.cpus === cpus ? [(waits[at] ?? endMs - arrival.atMs) / 1000] : [],
        )
        return quantile(of, share)
      }
      const begun = (waits: readonly (number | undefined)[]): number =>
        waits.filter((wait, at) => wait !== undefined && arrivals[at]?.cpus === CPUS).length
      const bigCount = arrivals.filter(({ cpus }) => cpus === CPUS).length
      figures[`load ${load}, big jobs begun of ${bigCount}`] = compared(
        begun(mesh),
        'jobs',
        begun(peer),
      )
      for (const [what, cpus, share] of [
        ['big job, median wait', CPUS, 0.5],
        ['big job, longest wait', CPUS, 1],
        ['small job, p99 of the wait', 1, 0.99],
        ['small job, longest wait', 1, 1],
      ] as const)
        figures[`load ${load}, ${what}`] = compared(
          seconds(mesh, cpus, share),
          's',
          seconds(peer, cpus, share),
        )
    }
    return figures
  },
}
