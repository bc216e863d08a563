/**
 * What a build takes, from before its start until no process of it is alive: its control groups, the looks at
 * its memory and its disk, and the record by which its processes are found if this one is killed.
 */
import { writeFileSync } from 'node:fs'
import type { Clock } from '../../base/clock.ts'
import { hasCode } from '../../base/errors.ts'
import { removeBuildRecord, writeBuildRecord } from '../build-records.ts'
import { BuildWatch } from '../build-watch.ts'
import type { BuildEnd, BuildLimits, BuildOutcome, BuildSpec } from '../executor-protocol.ts'
import type { BuildGroup } from '../groups/build-group.ts'
import type { ExecutorGroups } from '../groups/executor-groups.ts'
import { MemoryMeter } from '../groups/memory-meter.ts'
import { descendantsOf } from '../process-list.ts'

interface WeighingDeps {
  readonly clock: Clock
  readonly groups: ExecutorGroups
  /** Of the records; left out where nobody comes after us. */
  readonly dataDirectory?: string | undefined
}

/** What is told of a build at its end, and the limit that nobody had seen it reach. */
type Measured = Pick<BuildOutcome, 'memory' | 'diskBytes'> & {
  readonly reached?: BuildEnd | undefined
}

export class Weighing {
  /** As far as this machine lets us have one. */
  readonly group: BuildGroup
  readonly #deps: WeighingDeps
  readonly #spec: BuildSpec
  readonly #meter: MemoryMeter
  readonly #watch: BuildWatch
  #measured: Measured | undefined

  /** Makes the control groups. `limits` is asked at each look; `onEnd` is called with what was reached. */
  constructor(
    deps: WeighingDeps,
    spec: BuildSpec,
    { limits, onEnd }: { limits: () => BuildLimits; onEnd: (end: BuildEnd) => void },
  ) {
    const { clock, groups } = deps
    const { attempt, directory, memoryLimitBytes: memoryBytes, processesMax } = spec
    this.#deps = deps
    this.#spec = spec
    this.group = groups.open({ attempt, memoryBytes, processesMax })
    this.#meter = new MemoryMeter(clock, this.group)
    this.#watch = new BuildWatch(
      { clock, group: this.group },
      directory,
      () => ({
        ...limits(),
        diskBytes: spec.diskLimitBytes,
        processesMax: processesMax ?? groups.processesMax,
      }),
      onEnd,
    )
  }

  /** Takes in its first process and what that began, writes it down, and begins to look. */
  begin(pid: number): void {
    const { attempt, directory } = this.#spec
    preferToEnd(pid)
    // What it began before it was in is taken in after it, until nobody new is found: those that come later are in.
    const known = new Set<number>()
    for (let found = [pid]; found.length > 0;) {
      for (const each of found) this.group.add(each)
      for (const each of found) known.add(each)
      found = descendantsOf(pid).filter((each) => !known.has(each))
    }
    const { dataDirectory } = this.#deps
    if (dataDirectory !== undefined)
      writeBuildRecord(dataDirectory, { attempt, directory, pid, groups: this.group.at })
    this.#meter.start(pid)
    this.#watch.start()
  }

  /** Once no process of it is alive; again, the same. That it cannot be told costs nobody the build. */
  async end(): Promise<Measured> {
    if (this.#measured !== undefined) return this.#measured
    this.#measured = { memory: this.#meter.end() }
    try {
      const { use, end } = await this.#watch.finish()
      this.#measured = { ...this.#measured, diskBytes: use.bytes, reached: end }
      await this.group.remove(this.#deps.clock)
      const { dataDirectory } = this.#deps
      if (dataDirectory !== undefined) removeBuildRecord(dataDirectory, this.#spec.attempt)
    } catch {
      // A directory that cannot be looked at, a group that is not empty: it is found at the next start.
    }
    return this.#measured
  }
}

/** Out of memory, the kernel ends rather a build than its daemon. */
function preferToEnd(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, '500')
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM')) throw error
  }
}
