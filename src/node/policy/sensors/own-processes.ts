/**
 * What this node and all of its builds have used: the processes below the daemon, and those below them that
 * ended, whose times their parents have inherited.
 *
 * Builds in a pid namespace cannot leave the tree. A plain build that makes itself a daemon does, and is a
 * stranger from then on until it is killed with its build.
 */
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { hasCode } from '../../../base/errors.ts'

/** Processes that are looked at; what is below further ones counts as others'. */
const PROCESSES_MAX = 4096
/** Threads of one process that are asked for their children. */
const THREADS_MAX = 256
/** Ticks of a second in /proc: USER_HZ, 100 on all that Node runs on. */
export const TICKS_PER_SECOND = 100

export interface Usage {
  /** Of all processes together, ended ones included. */
  readonly cpuTicks: number
  /** Of all but the first. */
  readonly residentPages: number
}

/** Of the process `pid` and all below it. Costs a few reads per process. */
export function usageBelow(pid: number, proc = '/proc'): Usage {
  let cpuTicks = 0
  let residentPages = 0
  const found = [pid]
  for (let at = 0; at < found.length && at < PROCESSES_MAX; at++) {
    const one = found[at] ?? pid
    const fields = fieldsOf(proc, one)
    if (fields === undefined) continue
    // utime, stime, cutime, cstime; rss.
    for (const index of [11, 12, 13, 14]) cpuTicks += Number(fields[index])
    if (one !== pid) residentPages += Number(fields[21])
    for (const child of childrenOf(proc, one)) found.push(child)
  }
  return { cpuTicks, residentPages }
}

/** Those after the name, which may hold blanks and parentheses. */
function fieldsOf(proc: string, pid: number): string[] | undefined {
  const text = readGone(() => readFileSync(join(proc, String(pid), 'stat'), 'latin1'))
  return text?.slice(text.lastIndexOf(')') + 2).split(' ')
}

/** Any thread of a process may have started a child. */
function childrenOf(proc: string, pid: number): number[] {
  const tasks = join(proc, String(pid), 'task')
  const children: number[] = []
  for (const thread of (readGone(() => readdirSync(tasks)) ?? []).slice(0, THREADS_MAX))
    for (const word of (
      readGone(() => readFileSync(join(tasks, thread, 'children'), 'latin1')) ?? ''
    ).split(' '))
      if (word !== '') children.push(Number(word))
  return children
}

function readGone<T>(read: () => T): T | undefined {
  try {
    return read()
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM')) throw error
    return undefined
  }
}

/** Bytes of a page, which Node does not tell: what it has itself, in bytes and in pages. */
export function pageBytes(
  residentBytes: number,
  proc = '/proc',
  pid: number = process.pid,
): number {
  const pages = Number(fieldsOf(proc, pid)?.[21] ?? 0)
  return pages > 0 ? 2 ** Math.round(Math.log2(residentBytes / pages)) : 4096
}
