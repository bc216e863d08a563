/**
 * Divides the processors that a node has for builds now among those that run. Pure.
 *
 * The scheduler divides them better, and hears of it; but it is somewhere else, and the owner of the machine
 * has just come home. No build is ever killed for that, and none is told of 0 processors, which tools take
 * for "no limit" or wait with for ever: one for which there is none is paused.
 */

export interface ShareTaker {
  readonly attempt: string
  /** Processors that its granter means it to have. */
  readonly allotted: number
}

export interface Share {
  readonly attempt: string
  /** At least one; what it has again when it goes on, where it is paused. */
  readonly jobs: number
  readonly isPaused: boolean
}

/**
 * `builds` are in the order in which they were started. Of those that are not paused the sum of `jobs` is at
 * most `slots`; where there are fewer slots than builds the last ones are paused. Nobody gets more than
 * allotted; what is lacking is taken from those with the most. Undefined slots are no limit.
 */
export function shareOut(slots: number | undefined, builds: readonly ShareTaker[]): Share[] {
  const allotted = builds.map((build) => Math.max(1, build.allotted))
  const sum = allotted.reduce((total, cpus) => total + cpus, 0)
  if (slots === undefined || sum <= slots)
    return builds.map(({ attempt }, at) => ({
      attempt,
      jobs: allotted[at] ?? 1,
      isPaused: false,
    }))
  const running = Math.min(builds.length, Math.max(0, Math.floor(slots)))
  const jobs = builds.map(() => 1)
  for (let left = Math.floor(slots) - running; left > 0; left -= 1) {
    const lowest = lowestOf(jobs, allotted, running)
    if (lowest === undefined) break
    jobs[lowest] = (jobs[lowest] ?? 0) + 1
  }
  return builds.map(({ attempt }, at) => ({
    attempt,
    jobs: jobs[at] ?? 1,
    isPaused: at >= running,
  }))
}

/** Of the first so many, the one with the fewest that may have more; the one started first of several. */
function lowestOf(
  jobs: readonly number[],
  allotted: readonly number[],
  running: number,
): number | undefined {
  let lowest: number | undefined
  for (let at = 0; at < running; at += 1) {
    const has = jobs[at] ?? 0
    if (has >= (allotted[at] ?? 0)) continue
    if (lowest === undefined || has < (jobs[lowest] ?? 0)) lowest = at
  }
  return lowest
}
