/** How many processors a job may have: what its waiters ask for together, unless a person has said a number. */
import type { Job, Slots, Step } from './model.ts'

export interface CpuRange {
  readonly min: number
  readonly max: number
  /** What a person wants it to have; it is reached as far as its node has so many. */
  readonly asked?: number
}

/** The newest word of a person on the processors of the job that these steps wait for. */
export function slotsOfSteps(steps: Iterable<Step>): Slots | undefined {
  let newest: Slots | undefined
  for (const { slots } of steps)
    if (slots !== undefined && (newest === undefined || slots.atWall >= newest.atWall))
      newest = slots
  return newest
}

/** The least and the most that any of the steps asks for. */
export function cpuRangeOfSteps(steps: Iterable<Step>): CpuRange {
  let min = 1
  let max = 1
  const all = [...steps]
  for (const { derivation } of all) {
    min = Math.max(min, derivation.needs.cpus.min)
    max = Math.max(max, derivation.needs.cpus.max)
  }
  const slots = slotsOfSteps(all)
  // It may start with what it asks for by itself: what is wanted beyond is given to it once it runs.
  if (slots !== undefined)
    return { min: Math.min(min, slots.cpus), max: slots.cpus, asked: slots.cpus }
  return { min, max: Math.max(min, max) }
}

/** The range of processors that the waiters of the job ask for together. */
export function cpuRangeOf({ waiters, shownBy }: Job): CpuRange {
  return cpuRangeOfSteps(waiters.size > 0 ? waiters : shownBy)
}
