/**
 * The files through which the kernel is told of control groups. An interface, so that the rules of version 2
 * are tested on machines that have only version 1, and the other way round.
 *
 * Synchronous: each call is a few microseconds, and a build must be in its group before it goes on.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { hasCode } from '../../base/errors.ts'

export interface ControlFiles {
  /** Undefined where it is not there or cannot be read. */
  read(path: string): string | undefined
  /** Throws the kernel's error. */
  write(path: string, text: string): void
  /** Makes one group. Throws EEXIST where it is there already. */
  make(path: string): void
  /** Throws EBUSY while the group has processes or groups in it. */
  remove(path: string): void
  /** Names of the groups in a group; none where it is not there. */
  groupsIn(path: string): string[]
}

/** Of the kernel itself. */
export const kernelControlFiles: ControlFiles = {
  read(path) {
    try {
      return readFileSync(path, 'utf8')
    } catch {
      // Whatever the reason, what it tells is not known here.
      return undefined
    }
  },
  write: (path, text) => writeFileSync(path, text),
  make: (path) => mkdirSync(path),
  remove: (path) => rmdirSync(path),
  groupsIn(path) {
    try {
      return readdirSync(path, { withFileTypes: true })
        .filter((entry) => entry.isDirectory())
        .map(({ name }) => name)
    } catch (error) {
      if (!hasCode(error, 'ENOENT', 'EACCES', 'ENOTDIR')) throw error
      return []
    }
  },
}

/** The processes of one group, as this process sees them. */
export function processesIn(files: ControlFiles, path: string): number[] {
  return (files.read(`${path}/cgroup.procs`) ?? '')
    .split('\n')
    .map(Number)
    .filter((pid) => pid > 0)
}

/** A line `NAME VALUE` of a file of such lines; 0 where there is none. */
export function numberIn(text: string | undefined, name: string): number {
  for (const line of (text ?? '').split('\n'))
    if (line.startsWith(`${name} `)) return Number(line.slice(name.length + 1))
  return 0
}
