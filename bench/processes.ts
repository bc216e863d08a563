/** CPU time and memory of processes, from /proc. */
import { readFileSync } from 'node:fs'

/** USER_HZ: 100 on every Linux that Node runs on. */
const TICKS_PER_SECOND = 100

/** User and system seconds of the process itself, without its children. */
export function ownCpuSeconds(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
  // The second field, the name, may hold spaces; the third follows its closing parenthesis.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  return (Number(fields[11]) + Number(fields[12])) / TICKS_PER_SECOND
}

/** The process and its direct children that live: a daemon and its executor, not the builds it ran. */
function family(pid: number): number[] {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim()
  return [pid, ...children.split(' ').filter(Boolean).map(Number)]
}

export function cpuSeconds(pids: readonly number[]): number {
  return pids.flatMap(family).reduce((sum, pid) => sum + ownCpuSeconds(pid), 0)
}

/** Resident memory of the process and its direct children. */
export function residentBytes(pid: number): number {
  return family(pid).reduce((sum, member) => {
    const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(
      readFileSync(`/proc/${member}/status`, 'utf8'),
    )?.[1]
    return sum + Number(kibibytes ?? 0) * 1024
  }, 0)
}
