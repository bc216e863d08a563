/**
 * The control groups of one executor: found once, with limits for all of its builds together, so that they
 * never take what the daemon and the rest of the machine need, whatever was or was not declared.
 */
import { readFileSync, statSync } from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { basename, dirname, join } from 'node:path'
import type { Clock } from '../../base/clock.ts'
import { sha256 } from '../../wire/digest.ts'
import { findProcess } from '../process-list.ts'
import { BuildGroup, limitMemory, type GroupPaths } from './build-group.ts'
import { kernelControlFiles, type ControlFiles } from './control-files.ts'
import {
  CONTROLS,
  findPlaces,
  pathsOf,
  removePlaces,
  type Control,
  type GroupPlace,
  type GroupPlaces,
} from './group-places.ts'

/** Processes and threads of one build: so many for each processor, within these, and a quarter of what the kernel allows. */
const PROCESSES_PER_CPU = 512
const PROCESSES_MAX = { least: 2048, most: 8192 } as const
/** What all builds together leave of the memory: a sixteenth, within these. */
const RESERVE_BYTES = { least: 256 * 2 ** 20, most: 2 * 2 ** 30 } as const

export interface ExecutorGroups {
  readonly places: GroupPlaces
  /** The most processes of one build, where nothing else is said. */
  readonly processesMax: number
  open(options: {
    readonly attempt: string
    readonly memoryBytes: number | undefined
    readonly processesMax: number | undefined
  }): BuildGroup
  /** Ends what an earlier executor of this data directory left. Returns how many processes are left after all. */
  endLeft(clock: Clock): Promise<number>
  /** Once no build is alive. */
  close(): void
}

/** `directory` is the data directory, in which one executor works at a time. */
export function openGroups(
  directory: string,
  files: ControlFiles = kernelControlFiles,
): ExecutorGroups {
  const prefix = prefixOf(directory)
  const name = `${prefix}${process.pid}`
  const places = findPlaces(files, { self: process.pid, daemon: process.ppid, name })
  const machineMax = Math.min(
    kernelNumber('/proc/sys/kernel/pid_max'),
    kernelNumber('/proc/sys/kernel/threads-max'),
  )
  const wanted = PROCESSES_PER_CPU * availableParallelism()
  const processesMax = Math.min(
    Math.max(PROCESSES_MAX.least, Math.min(PROCESSES_MAX.most, wanted)),
    Math.max(64, Math.floor(machineMax / 4)),
  )
  const { memory, processes } = places.of
  if (memory !== undefined) limitMemory(files, memory, memoryForBuilds())
  if (processes !== undefined && Number.isFinite(machineMax))
    limitProcesses(files, processes, Math.floor((machineMax * 3) / 4))
  return {
    places,
    processesMax,
    open: ({ attempt, memoryBytes, processesMax: own }) =>
      BuildGroup.open(files, places, {
        attempt,
        limits: { memoryBytes, processesMax: own ?? processesMax },
      }),
    async endLeft(clock) {
      let left = 0
      const { mine, dead } = findLeft(files, places, prefix)
      for (const each of mine) {
        const at = pathsNamed(files, places, each)
        for (const build of new Set(
          Object.values(at).flatMap(({ path }) => files.groupsIn(path)),
        )) {
          const group = new BuildGroup(files, below(files, at, build))
          left += await group.kill(clock)
          await group.remove(clock)
        }
      }
      const ours = new Set(pathsOf(places).map((path) => basename(path)))
      for (const each of [...mine, ...dead].filter((one) => !ours.has(one)))
        removePlaces(files, { of: pathsNamed(files, places, each), reasons: [] })
      return left
    },
    close: () => removePlaces(files, places),
  }
}

/** What groups of this directory are named after, and of no other on the machine, also where containers use the same paths. */
function prefixOf(directory: string): string {
  const { dev, ino } = statSync(directory)
  return `mesh-${sha256(`${dev} ${ino} ${directory}`).slice(0, 16)}-`
}

/**
 * What earlier executors left beside the groups of this one: `mine` of the same directory, of which one is
 * alive at a time; `dead` of others that are gone, for whom nobody may ever come.
 */
function findLeft(
  files: ControlFiles,
  places: GroupPlaces,
  prefix: string,
): { mine: string[]; dead: string[] } {
  const names = new Set(pathsOf(places).flatMap((path) => files.groupsIn(dirname(path))))
  return {
    mine: [...names].filter((name) => name.startsWith(prefix)),
    dead: [...names].filter((name) => {
      const pid = /^mesh-[0-9a-f]{16}-(\d+)$/.exec(name)?.[1]
      return pid !== undefined && !name.startsWith(prefix) && findProcess(Number(pid)) === undefined
    }),
  }
}

/** The groups of that name beside those of this executor. */
function pathsNamed(files: ControlFiles, places: GroupPlaces, name: string): GroupPaths {
  const at: Partial<Record<Control, GroupPlace>> = {}
  for (const control of CONTROLS) {
    const place = places.of[control]
    if (place !== undefined && files.groupsIn(dirname(place.path)).includes(name))
      at[control] = { version: place.version, path: join(dirname(place.path), name) }
  }
  return at
}

function below(files: ControlFiles, parent: GroupPaths, name: string): GroupPaths {
  const at: Partial<Record<Control, GroupPlace>> = {}
  for (const control of CONTROLS) {
    const place = parent[control]
    if (place !== undefined && files.groupsIn(place.path).includes(name))
      at[control] = { version: place.version, path: join(place.path, name) }
  }
  return at
}

function limitProcesses(files: ControlFiles, { path }: GroupPlace, max: number): void {
  try {
    files.write(join(path, 'pids.max'), `${max}`)
  } catch {
    // Each build has a limit of its own besides.
  }
}

/** What this process may have of memory, less a reserve for everything that is not a build. */
function memoryForBuilds(): number {
  const constrained = process.constrainedMemory()
  const total = constrained > 0 ? Math.min(constrained, totalmem()) : totalmem()
  const reserve = Math.min(RESERVE_BYTES.most, Math.max(RESERVE_BYTES.least, total / 16))
  return Math.floor(Math.max(total / 2, total - reserve))
}

function kernelNumber(path: string): number {
  try {
    return Number(readFileSync(path, 'utf8'))
  } catch {
    return Number.POSITIVE_INFINITY
  }
}
