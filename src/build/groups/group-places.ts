/**
 * Where the groups of builds are made, and what can be controlled there: found out once, by trying.
 *
 * All builds of one data directory are below one group in each tree, named after that directory: so all of
 * them together can be kept from taking the whole machine, and whoever comes after a killed executor finds
 * what it left. In version 2 a group with processes has no children with controllers, so a daemon whose
 * group has no other processes (`Delegate=yes`) moves itself into a leaf of it; a daemon among others tries
 * to have a group beside theirs.
 */
import { basename, dirname, join } from 'node:path'
import { hasCode, messageOf } from '../../base/errors.ts'
import { processesIn, type ControlFiles } from './control-files.ts'
import { findHierarchies, type Hierarchy } from './hierarchies.ts'

/** What can be done to all processes of a build together. */
export const CONTROLS = ['memory', 'processes', 'cpu', 'freeze', 'kill'] as const
export type Control = (typeof CONTROLS)[number]

/** A group below which those of builds are made. */
export interface GroupPlace {
  readonly version: 1 | 2
  readonly path: string
}

export interface GroupPlaces {
  readonly of: Readonly<Partial<Record<Control, GroupPlace>>>
  /** Why each of the others cannot be controlled, one line each. */
  readonly reasons: readonly string[]
}

/** Name of the kernel's controller, and the file in a group that proves it to be there. */
const PROOF: Readonly<
  Record<1 | 2, Readonly<Partial<Record<Control, readonly [controller: string, file: string]>>>>
> = {
  1: {
    memory: ['memory', 'memory.limit_in_bytes'],
    processes: ['pids', 'pids.max'],
    cpu: ['cpu', 'cpu.shares'],
    freeze: ['freezer', 'freezer.state'],
  },
  2: {
    memory: ['memory', 'memory.max'],
    processes: ['pids', 'pids.max'],
    cpu: ['cpu', 'cpu.weight'],
    freeze: ['', 'cgroup.freeze'],
    kill: ['', 'cgroup.kill'],
  },
}
/** Where a daemon goes that makes room for groups below its own. */
const LEAF = 'mesh-daemon'

/** Whose groups they are: `self` runs the builds, `daemon` started it, `name` is that of the data directory. */
interface GroupOwner {
  readonly self: number
  readonly daemon: number
  readonly name: string
}

/** Makes the groups of this data directory, or finds them. Those that stay empty are removed by `removePlaces`. */
export function findPlaces(files: ControlFiles, owner: GroupOwner): GroupPlaces {
  const of: Partial<Record<Control, GroupPlace>> = {}
  const reasons: string[] = []
  const hierarchies = findHierarchies(files)
  // Version 2 first: it freezes and kills better, also where the limits are those of version 1.
  for (const hierarchy of hierarchies.toSorted((a, b) => b.version - a.version)) {
    const wanted = CONTROLS.filter((control) => {
      const [controller = '-'] = PROOF[hierarchy.version][control] ?? []
      return (
        of[control] === undefined &&
        controller !== '-' &&
        (hierarchy.version === 2 || hierarchy.controllers.includes(controller))
      )
    })
    if (wanted.length === 0) continue
    try {
      const path =
        hierarchy.version === 2
          ? makeV2(files, hierarchy, owner)
          : makeGroup(files, join(hierarchy.own, owner.name))
      const trial = makeGroup(files, join(path, `trial-${owner.self}`))
      for (const control of wanted) {
        const [controller = '', file = ''] = PROOF[hierarchy.version][control] ?? []
        if (files.read(join(trial, file)) !== undefined)
          of[control] = { version: hierarchy.version, path }
        else if (controller !== '')
          reasons.push(
            `${control}: the ${controller} controller is not given to ${dirname(path)} (version ${hierarchy.version})`,
          )
      }
      files.remove(trial)
    } catch (error) {
      reasons.push(
        `${wanted.join(', ')}: no control group of version ${hierarchy.version} can be made: ${messageOf(error)}`,
      )
    }
  }
  // Version 1 has no file for it, but any of its groups names its processes.
  const any = of.freeze ?? of.processes ?? of.memory ?? of.cpu
  if (of.kill === undefined && any !== undefined) of.kill = any
  const missing = CONTROLS.filter((control) => of[control] === undefined)
  return {
    of,
    reasons: missing.map(
      (control) =>
        reasons.find((reason) => reason.split(':')[0]?.split(', ').includes(control) === true) ??
        `${control}: no control groups are mounted`,
    ),
  }
}

/** What was made by `findPlaces`, once no build is alive. Groups of others stay. */
export function removePlaces(files: ControlFiles, places: GroupPlaces): void {
  for (const path of pathsOf(places)) {
    try {
      files.remove(path)
    } catch (error) {
      if (!hasCode(error, 'EBUSY', 'ENOENT', 'ENOTEMPTY')) throw error
    }
  }
}

/** Each place once. */
export function pathsOf({ of }: GroupPlaces): string[] {
  return [...new Set(CONTROLS.flatMap((control) => of[control]?.path ?? []))]
}

/** Makes a group, or takes one that is there. */
function makeGroup(files: ControlFiles, path: string): string {
  try {
    files.make(path)
  } catch (error) {
    if (!hasCode(error, 'EEXIST')) throw error
  }
  return path
}

/** The first place that limits what is in it; else the first at all, where builds can be frozen and killed. */
function makeV2(files: ControlFiles, hierarchy: Hierarchy, owner: GroupOwner): string {
  let second: string | undefined
  let failure: unknown
  for (const base of basesOf(files, hierarchy, owner)) {
    try {
      giveControllers(files, base)
      const path = makeGroup(files, join(base, owner.name))
      giveControllers(files, path)
      if (givenBy(files, path).includes('memory')) {
        if (second !== undefined) files.remove(second)
        return path
      }
      if (second === undefined) second = path
      else files.remove(path)
    } catch (error) {
      failure ??= error
    }
  }
  if (second === undefined) throw failure
  return second
}

/** Groups in which one of ours may be made, best first. */
function* basesOf(
  files: ControlFiles,
  { own, isTop }: Hierarchy,
  owner: GroupOwner,
): Generator<string> {
  // An executor that was started again by a daemon that has moved already.
  if (basename(own) === LEAF) {
    yield dirname(own)
    return
  }
  // The real root has no type, and may have processes beside its groups.
  const isRoot = files.read(join(own, 'cgroup.type')) === undefined
  if (!isRoot && isAllOurs(files, own, owner)) moveIntoLeaf(files, own)
  yield own
  if (!isTop) yield dirname(own)
}

/** The group holds only the daemon, what it started, and the init of a container that holds only us. */
function isAllOurs(files: ControlFiles, path: string, { self, daemon }: GroupOwner): boolean {
  const pids = processesIn(files, path)
  return pids.includes(self) && pids.every((pid) => pid === self || pid === daemon || pid === 1)
}

function moveIntoLeaf(files: ControlFiles, own: string): void {
  try {
    const leaf = makeGroup(files, join(own, LEAF))
    for (const pid of processesIn(files, own)) files.write(join(leaf, 'cgroup.procs'), `${pid}`)
  } catch (error) {
    // Not given to us to divide: a group beside it may be.
    if (!hasCode(error, 'EACCES', 'EPERM', 'EROFS', 'EBUSY', 'ENOENT', 'ESRCH', 'EOPNOTSUPP'))
      throw error
  }
}

/** What the groups in this one have. */
const givenBy = (files: ControlFiles, path: string): string[] =>
  (files.read(join(path, 'cgroup.subtree_control')) ?? '').trim().split(' ')

/** Each by itself: those that are there are given, whatever becomes of the others. */
function giveControllers(files: ControlFiles, path: string): void {
  const present = (files.read(join(path, 'cgroup.controllers')) ?? '').trim().split(' ')
  const given = givenBy(files, path)
  for (const name of ['memory', 'pids', 'cpu']) {
    if (!present.includes(name) || given.includes(name)) continue
    try {
      files.write(join(path, 'cgroup.subtree_control'), `+${name}`)
    } catch (error) {
      // A group with processes, or one that is somebody else's: the trial tells what there is without it.
      if (!hasCode(error, 'EBUSY', 'EACCES', 'EPERM', 'EROFS', 'ENOENT', 'EOPNOTSUPP')) throw error
    }
  }
}
