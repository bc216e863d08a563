/**
 * What systems without reservations do with a stream of jobs of different sizes: who came first of those
 * that fit goes to the machine that it fills best. In virtual time, with no messages and no transfers.
 */
import { SimClock } from '../../test/sim/sim-clock.ts'

export interface Arrival {
  readonly atMs: number
  /** On a processor of speed 1. */
  readonly ms: number
  readonly cpus: number
}

/** How long each waited for its start, in the order of `arrivals`; undefined for those not begun by `endMs`. */
export function waitsByBestFit(
  arrivals: readonly Arrival[],
  machines: readonly { readonly cpus: number }[],
  endMs: number,
): (number | undefined)[] {
  const clock = new SimClock()
  const startMs = clock.nowMs()
  const free = machines.map(({ cpus }) => cpus)
  const waits: (number | undefined)[] = arrivals.map(() => undefined)
  /** By processors asked for: indexes of those that wait, the first first. */
  const queues = new Map<number, number[]>()
  const heads = new Map<number, number>()

  const headOf = (cpus: number): number | undefined => queues.get(cpus)?.[heads.get(cpus) ?? 0]

  const dispatch = (): void => {
    for (;;) {
      let best: { cpus: number; at: number; machine: number } | undefined
      for (const cpus of queues.keys()) {
        const at = headOf(cpus)
        if (at === undefined || (best !== undefined && best.at < at)) continue
        const machine = bestFit(free, cpus)
        if (machine !== undefined) best = { cpus, at, machine }
      }
      if (best === undefined) return
      begin(best)
    }
  }

  const begin = ({ cpus, at, machine }: { cpus: number; at: number; machine: number }): void => {
    const job = arrivals[at]
    if (job === undefined) return
    heads.set(cpus, (heads.get(cpus) ?? 0) + 1)
    free[machine] = (free[machine] ?? 0) - cpus
    waits[at] = clock.nowMs() - startMs - job.atMs
    clock.setTimer(job.ms, () => {
      free[machine] = (free[machine] ?? 0) + cpus
      dispatch()
    })
  }

  for (const [at, { atMs, cpus }] of arrivals.entries())
    clock.setTimer(atMs, () => {
      const queue = queues.get(cpus) ?? []
      queues.set(cpus, queue)
      queue.push(at)
      dispatch()
    })
  while (clock.step(startMs + endMs));
  return waits
}

/** The machine with the fewest free processors that are enough. */
function bestFit(free: readonly number[], cpus: number): number | undefined {
  let best: number | undefined
  for (const [machine, has] of free.entries())
    if (has >= cpus && (best === undefined || has < (free[best] ?? 0))) best = machine
  return best
}
