/**
 * Which limits control groups can really hold builds to: a group is made and removed, and each limit of it
 * written. Version 1 has a hierarchy for each controller, version 2 one for all; machines may have both.
 *
 * Told to people, and told truly: what limits a build itself finds its groups on its own.
 */
import { mkdir, readFile, rmdir, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode, messageOf } from '../../base/errors.ts'
import type { Ability } from './known.ts'

export const CONTROLLERS = ['cpu', 'memory', 'pids', 'freezer'] as const
type Controller = (typeof CONTROLLERS)[number]

export interface Cgroups {
  readonly version: 'v1' | 'v2' | 'both' | 'none'
  readonly controllers: Readonly<Record<Controller, Ability>>
}

/** A limit that holds nobody back, in the words of each version. */
const FREE: Readonly<Record<1 | 2, Readonly<Record<Controller, readonly [string, string]>>>> = {
  1: {
    cpu: ['cpu.cfs_quota_us', '-1'],
    memory: ['memory.limit_in_bytes', '-1'],
    pids: ['pids.max', 'max'],
    freezer: ['freezer.state', 'THAWED'],
  },
  2: {
    cpu: ['cpu.max', 'max'],
    memory: ['memory.max', 'max'],
    pids: ['pids.max', 'max'],
    freezer: ['cgroup.freeze', '0'],
  },
}

interface Hierarchy {
  readonly version: 1 | 2
  readonly controllers: readonly string[]
  /** Where this process's own group lies in the file system. */
  readonly path: string
  /** Whether that is the highest one that is seen here. */
  readonly isTop: boolean
}

/** `root` is another root directory, for tests. */
export async function probeCgroups(root = '/'): Promise<Cgroups> {
  const all = await hierarchiesOf(root)
  const has = (version: 1 | 2): boolean => all.some((each) => each.version === version)
  const of = (controller: Controller): Promise<Ability> => tryController(controller, all)
  return {
    version: has(1) ? (has(2) ? 'both' : 'v1') : has(2) ? 'v2' : 'none',
    controllers: {
      cpu: await of('cpu'),
      memory: await of('memory'),
      pids: await of('pids'),
      freezer: await of('freezer'),
    },
  }
}

/** Those that are mounted where this process sees them. */
async function hierarchiesOf(root: string): Promise<Hierarchy[]> {
  const groups = (await readText(join(root, 'proc/self/cgroup'))).split('\n').flatMap((line) => {
    const [, controllers, path] = /^\d+:([^:]*):(.*)$/.exec(line) ?? []
    return controllers === undefined || path === undefined
      ? []
      : [{ controllers: controllers.split(','), path }]
  })
  const mounts = (await readText(join(root, 'proc/self/mountinfo'))).split('\n')
  return mounts.flatMap((line): Hierarchy[] => {
    const [before = '', after = ''] = line.split(' - ')
    const [, , , top = '', at = ''] = before.split(' ')
    const [type, , options = ''] = after.split(' ')
    if (type !== 'cgroup' && type !== 'cgroup2') return []
    const own = groups.find(({ controllers }) =>
      type === 'cgroup2'
        ? controllers.join() === ''
        : controllers.every((name) => options.split(',').includes(name)),
    )
    if (own === undefined) return []
    const isInside = own.path === top || own.path.startsWith(top === '/' ? '/' : `${top}/`)
    // A container may see less than its own path: then the mount is the group.
    const below = isInside ? own.path.slice(top === '/' ? 0 : top.length) : ''
    return [
      {
        version: type === 'cgroup2' ? 2 : 1,
        controllers: type === 'cgroup2' ? [] : own.controllers,
        path: join(root, at, below).replace(/(?<=.)\/$/, ''),
        isTop: below === '' || below === '/',
      },
    ]
  })
}

async function tryController(controller: Controller, all: readonly Hierarchy[]): Promise<Ability> {
  const reasons: string[] = []
  for (const { version, controllers, path, isTop } of all) {
    if (version === 1 && !controllers.includes(controller)) continue
    const [file, value] = FREE[version][controller]
    // In version 2 a group with processes has no children with controllers: one beside it may.
    for (const parent of version === 1 || isTop ? [path] : [path, join(path, '..')]) {
      const tried = await tryLimit(join(parent, `mesh-probe-${process.pid}`), file, value)
      if (tried === '') return { ok: true, why: `${file} in ${parent}` }
      reasons.push(`v${version}: ${tried}`)
    }
  }
  const [first = 'no hierarchy of it is mounted'] = reasons
  return { ok: false, why: first }
}

/** Empty when the limit could be set. */
async function tryLimit(group: string, file: string, value: string): Promise<string> {
  try {
    await mkdir(group)
  } catch (error) {
    return messageOf(error)
  }
  try {
    // `r+` and not `w`: a file that the kernel does not have must not be made.
    await writeFile(join(group, file), value, { flag: 'r+' })
    return ''
  } catch (error) {
    return hasCode(error, 'ENOENT') ? `groups here have no ${file}` : messageOf(error)
  } finally {
    await rmdir(group)
  }
}

async function readText(path: string): Promise<string> {
  return readFile(path, 'utf8').catch((error: unknown) => {
    if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES')) throw error
    return ''
  })
}
