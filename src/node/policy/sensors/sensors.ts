/** All that a policy looks at, in one reading. */
import type { Clock } from '../../../base/clock.ts'
import type { PolicyName } from '../policy.ts'
import { NOTHING_READ, type Reading } from '../reading.ts'
import { isOnBattery } from './battery.ts'
import { ForeignCpu } from './cpu-time.ts'
import { MachineFiles } from './machine-files.ts'
import { memoryForBuilds, memoryStall } from './memory.ts'
import { pageBytes, usageBelow } from './own-processes.ts'
import { readPresence } from './presence.ts'
import { askLogind, type AskLogind } from './sessions.ts'

/** Reads what the policy needs; never rejects for what a machine does not have. */
export type ReadSensors = (policy: PolicyName) => Promise<Reading>

export interface SensorOptions {
  /** Where the machine's /proc, /sys, /run and /dev are; `/` but in a container. */
  readonly root: string
  readonly ask?: AskLogind
}

export interface SensorDeps {
  readonly clock: Clock
  /** Processes of builds that this node has given processors to and that do not run below it. */
  readonly beside?: () => readonly number[]
}

export function openSensors(
  { clock, beside = () => [] }: SensorDeps,
  { root, ask }: SensorOptions,
): ReadSensors {
  const files = new MachineFiles(root)
  const foreign = new ForeignCpu(files)
  const bytesPerPage = pageBytes(process.memoryUsage.rss())
  const askOwn = ask ?? (root === '/' ? askLogind : undefined)
  return async (policy) => {
    if (policy === 'dedicated' || policy === 'disabled') return NOTHING_READ
    const missing: string[] = []
    const presence =
      policy === 'when-idle'
        ? await readPresence({ files, ask: askOwn }, clock.wallMs(), missing)
        : NOTHING_READ.presence
    // Its own process is always in the /proc of its own.
    const own = usageBelow(process.pid)
    const ticks = new Map([[process.pid, own.cpuTicks]])
    for (const pid of beside()) ticks.set(pid, usageBelow(pid).cpuTicks)
    return {
      presence,
      ...foreign.read(ticks, clock.nowMs(), missing),
      memoryStall: memoryStall(files, missing),
      memoryBytes: memoryForBuilds(files, own.residentPages * bytesPerPage, missing),
      isOnBattery: isOnBattery(files),
      missing,
    }
  }
}
