/** Finding and killing processes through /proc, for what no process group or namespace holds together. */
import { readFileSync } from 'node:fs'
import { readdir, readFile, readlink } from 'node:fs/promises'
import { basename } from 'node:path'
import { sleep, type Clock } from '../base/clock.ts'
import { hasCode } from '../base/errors.ts'

/** Rounds of killing what is left, 10 ms apart: processes that fork faster than that are told as left. */
const ROUNDS_MAX = 200
/** Processes of one build that are looked at by way of their parents. */
const DESCENDANTS_MAX = 512
/** In the environment of each plain build: its attempt's directory. */
export const DIRECTORY_VARIABLE = 'MESH_DIRECTORY'

/** SIGKILL to a process, or to a group as a negative number; one that is gone is fine. */
export function killProcess(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch (error) {
    if (!hasCode(error, 'ESRCH')) throw error
  }
}

/** The children of the main thread of a process; empty when it is gone. Synchronous, so that what it names is still there. */
export function childrenOf(pid: number): number[] {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8')
      .split(' ')
      .filter((word) => word !== '')
      .map(Number)
  } catch (error) {
    ignoreGone(error)
    return []
  }
}

/** Those that a process began, and those that they began, as far as their parents live. */
export function descendantsOf(pid: number): number[] {
  const found: number[] = []
  const open = [pid]
  for (let next = open.pop(); next !== undefined; next = open.pop())
    for (const child of childrenOf(next)) {
      if (found.length >= DESCENDANTS_MAX) return found
      found.push(child)
      open.push(child)
    }
  return found
}

/** What the kernel tells of a process that no other one with its number has. */
export interface ProcessFacts {
  readonly parent: number
  readonly group: number
  readonly session: number
  /** Since the start of the machine. Numbers are given again, but never twice at one such moment. */
  readonly startTicks: number
}

/** Undefined when it is gone; one that is only waiting to be reaped is gone, too. */
export function findProcess(pid: number): ProcessFacts | undefined {
  let text: string
  try {
    text = readFileSync(`/proc/${pid}/stat`, 'latin1')
  } catch (error) {
    ignoreGone(error)
    return undefined
  }
  // Its name is in parentheses, and may have any byte in it.
  const [state, ...numbers] = text.slice(text.lastIndexOf(')') + 2).split(' ')
  const [parent = 0, group = 0, session = 0] = numbers.map(Number)
  if (state === 'Z' || state === 'X') return undefined
  return { parent, group, session, startTicks: Number(numbers[18]) }
}

/** One boot of this machine: start times are told apart only within it. */
export function bootId(): string {
  return readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()
}

/**
 * Kills every process of the attempt in `directory`, or of all attempts below it: plain ones are known by
 * a variable in their environment, sealed ones by what is mounted in their root. Returns how many are left.
 */
export async function killLeftovers(
  clock: Clock,
  directory: string,
  scope: 'attempt' | 'below',
): Promise<number> {
  const mark =
    scope === 'attempt'
      ? `\0${DIRECTORY_VARIABLE}=${directory}\0`
      : `\0${DIRECTORY_VARIABLE}=${directory}/`
  const mounted = scope === 'attempt' ? `/${basename(directory)}/work /build/work ` : undefined
  for (let round = 0; ; round++) {
    const pids = await matching(mark, mounted)
    if (pids.length === 0 || round === ROUNDS_MAX) return pids.length
    pids.forEach(killProcess)
    await sleep(clock, 10)
  }
}

async function matching(mark: string, mounted: string | undefined): Promise<number[]> {
  const own = await readlink('/proc/self/ns/mnt')
  const pids: number[] = []
  for (const name of await readdir('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    const environ = await readFile(`/proc/${pid}/environ`, 'latin1').catch(ignoreGone)
    if (environ !== undefined && `\0${environ}`.includes(Buffer.from(mark).toString('latin1')))
      pids.push(pid)
    else if (mounted !== undefined) {
      const namespace = await readlink(`/proc/${pid}/ns/mnt`).catch(ignoreGone)
      if (namespace === undefined || namespace === own) continue
      const mounts = await readFile(`/proc/${pid}/mountinfo`, 'utf8').catch(ignoreGone)
      if (mounts?.includes(mounted)) pids.push(pid)
    }
  }
  return pids
}

/** A process that ended meanwhile, or that is another user's. */
function ignoreGone(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM', 'EINVAL')) throw error
}
