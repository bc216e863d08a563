/**
 * The control groups of one build: one in each tree that controls something, all with the same processes.
 *
 * What a build may have of memory and processes is a limit; of processors it is a share, and a limit only
 * where that is asked for: a build must not stand still on a machine that has nothing else to do.
 */
import { join } from 'node:path'
import { sleep, type Clock } from '../../base/clock.ts'
import { hasCode } from '../../base/errors.ts'
import { killProcess } from '../process-list.ts'
import { numberIn, processesIn, type ControlFiles } from './control-files.ts'
import { CONTROLS, type Control, type GroupPlace, type GroupPlaces } from './group-places.ts'

/** One processor's share. The rest of the machine has 100 (version 2) and 1024 (version 1) for each group of its own. */
const WEIGHT_PER_CPU = { 2: 10, 1: 102 } as const
const WEIGHT_RANGE = { 2: [1, 10_000], 1: [2, 262_144] } as const
const QUOTA_PERIOD_US = 100_000
/** Rounds of killing and of removing, 10 ms apart: a group is empty a moment after the end of its last process. */
const ROUNDS_MAX = 200

interface GroupLimits {
  readonly memoryBytes: number | undefined
  readonly processesMax: number
}

/** The groups of one build, by what they control. */
export type GroupPaths = Readonly<Partial<Record<Control, GroupPlace>>>

export class BuildGroup {
  readonly at: GroupPaths
  readonly #files: ControlFiles
  #isFrozen = false
  /** Something could not be taken in to where it could be killed. */
  #isPartial = false

  /** Of groups that are there already, `open` makes them. */
  constructor(files: ControlFiles, at: GroupPaths) {
    this.#files = files
    this.at = at
  }

  /** What was there when the places were found may have been taken away since: then it is done without. */
  static open(
    files: ControlFiles,
    places: GroupPlaces,
    { attempt, limits }: { readonly attempt: string; readonly limits: GroupLimits },
  ): BuildGroup {
    const name = nameOf(attempt)
    const made = new Map<string, boolean>()
    const at: Partial<Record<Control, GroupPlace>> = {}
    for (const control of CONTROLS) {
      const place = places.of[control]
      if (place === undefined) continue
      const path = join(place.path, name)
      if (!made.has(path))
        made.set(
          path,
          tryTo(() => files.make(path)),
        )
      if (made.get(path) === true) at[control] = { version: place.version, path }
    }
    const group = new BuildGroup(files, at)
    group.#limit(limits)
    return group
  }

  has(control: Control): boolean {
    return this.at[control] !== undefined
  }

  /** Each group of it once. */
  get paths(): string[] {
    return [...new Set(CONTROLS.flatMap((control) => this.at[control]?.path ?? []))]
  }

  /** Takes in a process; those that it begins from now on are in as well. */
  add(pid: number): void {
    // That by which it is killed first: what it begins before it is in there may flee.
    for (const path of this.paths.toReversed()) {
      const isIn = tryTo(() => this.#files.write(join(path, 'cgroup.procs'), `${pid}`))
      if (!isIn && path === this.at.kill?.path) this.#isPartial = true
    }
  }

  /** Whether all that was taken in, and what that began, can be killed by it. */
  get holdsAll(): boolean {
    return this.at.kill !== undefined && !this.#isPartial
  }

  /** How many processors it has a share for; `hard`: and no more than that, though others are idle. */
  setCpus(cpus: number, { hard }: { readonly hard: boolean }): void {
    const { cpu } = this.at
    if (cpu === undefined) return
    const { version, path } = cpu
    const [least, most] = WEIGHT_RANGE[version]
    const weight = Math.min(most, Math.max(least, Math.round(cpus * WEIGHT_PER_CPU[version])))
    const quotaUs = Math.max(1000, Math.round(cpus * QUOTA_PERIOD_US))
    if (version === 2) {
      this.#write(path, 'cpu.weight', `${weight}`)
      this.#write(path, 'cpu.max', `${hard ? quotaUs : 'max'} ${QUOTA_PERIOD_US}`)
    } else {
      this.#write(path, 'cpu.shares', `${weight}`)
      this.#write(path, 'cpu.cfs_quota_us', `${hard ? quotaUs : -1}`)
    }
  }

  /** Stops all of its processes where they are, or lets them go on. False where that cannot be done. */
  freeze(isFrozen: boolean): boolean {
    const { freeze } = this.at
    if (freeze === undefined) return false
    const done =
      freeze.version === 2
        ? this.#write(freeze.path, 'cgroup.freeze', isFrozen ? '1' : '0')
        : this.#write(freeze.path, 'freezer.state', isFrozen ? 'FROZEN' : 'THAWED')
    if (done) this.#isFrozen = isFrozen
    return done
  }

  /** Kills what is in it now. */
  killOnce(): void {
    killGroup(this.#files, this.at)
    if (this.#isFrozen) this.freeze(false)
  }

  /** Kills until nothing is left. Returns how many are left after all. */
  async kill(clock: Clock): Promise<number> {
    const { kill } = this.at
    if (kill === undefined) return 0
    for (let round = 0; ; round += 1) {
      const left = processesIn(this.#files, kill.path).length
      if (left === 0 || round === ROUNDS_MAX) return left
      this.killOnce()
      await sleep(clock, 10)
    }
  }

  get memoryHeldBytes(): number {
    const { memory } = this.at
    if (memory === undefined) return 0
    const text = this.#files.read(join(memory.path, 'memory.stat'))
    return [...(text ?? '').matchAll(HELD)].reduce((sum, [, bytes]) => sum + Number(bytes), 0)
  }

  /** Processes that were ended for want of memory. */
  get oomKills(): number {
    const { memory } = this.at
    if (memory === undefined) return 0
    const file = memory.version === 2 ? 'memory.events' : 'memory.oom_control'
    return numberIn(this.#files.read(join(memory.path, file)), 'oom_kill')
  }

  /** Processes that were not begun for there were too many. */
  get refused(): number {
    const { processes } = this.at
    if (processes === undefined) return 0
    return numberIn(this.#files.read(join(processes.path, 'pids.events')), 'max')
  }

  /** Once no process of it is alive. */
  async remove(clock: Clock): Promise<void> {
    for (const path of this.paths) await removeGroup(clock, this.#files, path)
  }

  #limit({ memoryBytes, processesMax }: GroupLimits): void {
    const { memory, processes } = this.at
    if (processes !== undefined) this.#write(processes.path, 'pids.max', `${processesMax}`)
    if (memory === undefined || memoryBytes === undefined) return
    limitMemory(this.#files, memory, memoryBytes)
  }

  #write(path: string, name: string, text: string): boolean {
    return tryTo(() => this.#files.write(join(path, name), text))
  }
}

/** What of `memory.stat` cannot be dropped, in versions 2 and 1. */
const HELD = /^(?:anon|shmem|total_rss|total_shmem) (\d+)$/gm

/** Nor may it have more by way of the swap, where that is counted. */
export function limitMemory(
  files: ControlFiles,
  { version, path }: GroupPlace,
  bytes: number,
): void {
  const write = (name: string, value: number): boolean =>
    tryTo(() => files.write(join(path, name), `${value}`))
  if (version === 2) {
    write('memory.max', bytes)
    write('memory.swap.max', 0)
  } else {
    write('memory.limit_in_bytes', bytes)
    write('memory.memsw.limit_in_bytes', bytes)
  }
}

/** Kills what is in groups of one build now. A fork bomb of version 1 is stopped first, for it is faster than we are. */
function killGroup(files: ControlFiles, { freeze, kill }: GroupPaths): void {
  if (kill === undefined) return
  if (kill.version === 2) {
    tryTo(() => files.write(join(kill.path, 'cgroup.kill'), '1'))
    return
  }
  const isStopped =
    freeze?.version === 1 && tryTo(() => files.write(join(freeze.path, 'freezer.state'), 'FROZEN'))
  processesIn(files, kill.path).forEach(killProcess)
  if (isStopped) tryTo(() => files.write(join(freeze.path, 'freezer.state'), 'THAWED'))
}

async function removeGroup(clock: Clock, files: ControlFiles, path: string): Promise<void> {
  for (let left = ROUNDS_MAX; left > 0; left -= 1) {
    try {
      files.remove(path)
      return
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return
      if (!hasCode(error, 'EBUSY')) throw error
      await sleep(clock, 10)
    }
  }
}

/** Attempts are named by others: what is no part of a path stays out of it. */
const nameOf = (attempt: string): string => `build-${attempt.replaceAll(/[^\w.-]/g, '_')}`

/** Whether it was done. What the kernel refuses is done without: the build is run all the same. */
function tryTo(act: () => void): boolean {
  try {
    act()
    return true
  } catch (error) {
    if (error instanceof Error && 'code' in error) return false
    throw error
  }
}
