/** Where this process is in the trees of control groups of its machine, of both versions of the interface. */
import { join } from 'node:path'
import type { ControlFiles } from './control-files.ts'

export interface Hierarchy {
  readonly version: 1 | 2
  /** Of version 1, what this tree is for; empty for version 2, whose groups say so themselves. */
  readonly controllers: readonly string[]
  /** The group of this process. */
  readonly own: string
  /** `own` is as far up as can be seen from here. */
  readonly isTop: boolean
}

/** Those that are mounted, and in which this process's own group can be seen. */
export function findHierarchies(files: ControlFiles): Hierarchy[] {
  const found: Hierarchy[] = []
  const groups = lines(files, '/proc/self/cgroup').map((line) => {
    const [id = '', controllers = '', ...path] = line.split(':')
    return { id, controllers: controllers.split(','), path: path.join(':') }
  })
  for (const line of lines(files, '/proc/self/mountinfo')) {
    const [before = '', after = ''] = line.split(' - ')
    const [, , , root = '', at = ''] = before.split(' ')
    const [type = '', , options = ''] = after.split(' ')
    if (type !== 'cgroup' && type !== 'cgroup2') continue
    const version = type === 'cgroup2' ? 2 : 1
    const words = options.split(',')
    const group = groups.find(({ id, controllers }) =>
      version === 2 ? id === '0' : id !== '0' && controllers.every((name) => words.includes(name)),
    )
    // Mounts of other groups than our own, made by hand, are not ours to use.
    if (group === undefined || !isBelow(group.path, root)) continue
    const path = root === '/' ? group.path : group.path.slice(root.length)
    found.push({
      version,
      controllers: version === 2 ? [] : group.controllers,
      own: join(unescaped(at), path),
      isTop: path === '' || path === '/',
    })
  }
  return found
}

function isBelow(path: string, root: string): boolean {
  return root === '/' || path === root || path.startsWith(`${root}/`)
}

function lines(files: ControlFiles, path: string): string[] {
  return (files.read(path) ?? '').split('\n').filter((line) => line !== '')
}

const unescaped = (path: string): string =>
  path.replaceAll(/\\(\d{3})/g, (_, octal: string) => String.fromCharCode(parseInt(octal, 8)))
