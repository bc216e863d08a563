/**
 * What memory a build takes, all of its processes together, and whether the kernel ended one for want of it.
 *
 * A control group of its own tells both, and keeps the build within its limit; versions 1 and 2 of the
 * interface are used where this process may write them. What counts is what cannot be dropped: the file
 * cache is left out, which the kernel's own peak is full of. Elsewhere the memory is summed up over the
 * build's processes, and a build that failed is taken to have run out of memory when the machine's count of
 * such ends went up meanwhile. Either is looked at now and then: a short peak may be missed, and of a plain
 * process or a weaker sandbox what it took in its first moments.
 */
import { mkdirSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { sleep, type Clock, type Timer } from '../base/clock.ts'
import { hasCode } from '../base/errors.ts'
import { childrenOf } from './process-list.ts'

/** What a build had of memory. */
export interface MemoryUse {
  /** The most that it was seen to have at once; 0 where it was over before anybody looked. */
  readonly peakBytes: number
  readonly from: 'cgroup' | 'sampled'
  /** The kernel ended a process of it for want of memory. */
  readonly isOut: boolean
}

/** What one build is measured with. */
export interface MemoryMeter {
  /** The first process of the build, before or just after it has begun. */
  add(pid: number): void
  /** To be called once no process of the build is alive; frees what it needed. */
  end(): Promise<MemoryUse>
}

/** From one look at a build to the next: soon at first, for short builds, and then every half second. */
const SAMPLE_FIRST_MS = 20
const SAMPLE_MS = 500
/** Processes of one build that are looked at; beyond it, its memory is told as less than it is. */
const PROCESSES_MAX = 512
/** What of `memory.stat` cannot be dropped, in versions 2 and 1. */
const HELD = /^(?:anon|shmem|total_rss|total_shmem) (\d+)$/gm
/** A group is empty a moment after the end of its last process. */
const REMOVE_TRIES = 50

interface GroupFiles {
  /** Lines `NAME BYTES`. */
  readonly stat: string
  readonly limit: string
  /** Has a line `oom_kill N`. */
  readonly events: string
}

const VERSIONS: readonly { readonly kind: 1 | 2; readonly files: GroupFiles }[] = [
  { kind: 2, files: { stat: 'memory.stat', limit: 'memory.max', events: 'memory.events' } },
  {
    kind: 1,
    files: {
      stat: 'memory.stat',
      limit: 'memory.limit_in_bytes',
      events: 'memory.oom_control',
    },
  },
]

/** Where groups may be made: found out once. */
export interface MemoryGroups {
  /** Undefined where none may be made. */
  readonly parent: { readonly path: string; readonly files: GroupFiles } | undefined
}

/** Tries to make a group below this process's own, and beside it. What cannot be made is done without. */
export function findMemoryGroups(): MemoryGroups {
  for (const { kind, files } of VERSIONS) {
    for (const path of candidates(kind)) {
      const trial = join(path, `mesh-trial-${process.pid}`)
      try {
        mkdirSync(trial)
      } catch {
        continue
      }
      try {
        for (const name of Object.values(files)) readFileSync(join(trial, name))
        removeStale(path)
        return { parent: { path, files } }
      } catch {
        // The memory controller is not given to groups here.
      } finally {
        rmdirSync(trial)
      }
    }
  }
  return { parent: undefined }
}

/** Groups of processes that were killed before they could remove them. Only empty ones can be removed. */
function removeStale(path: string): void {
  for (const name of readdirSync(path)) {
    const pid = /^mesh-(\d+)-/.exec(name)?.[1]
    if (pid === undefined || readText(`/proc/${pid}/stat`) !== '') continue
    try {
      rmdirSync(join(path, name))
    } catch (error) {
      if (!hasCode(error, 'EBUSY', 'ENOENT', 'ENOTEMPTY')) throw error
    }
  }
}

/** Directories of the hierarchy in which this process is, or could put a group beside itself. */
function candidates(kind: 1 | 2): string[] {
  const own = readText('/proc/self/cgroup')
    .split('\n')
    .map((line) => line.split(':'))
    .find(([id, controllers = '']) =>
      kind === 2 ? id === '0' : controllers.split(',').includes('memory'),
    )
  const path = own?.slice(2).join(':')
  if (path === undefined) return []
  // The daemon's own control groups, not those that were made by hand elsewhere.
  const mounts = readText('/proc/self/mountinfo')
    .split('\n')
    .flatMap((line) => {
      const [before = '', after = ''] = line.split(' - ')
      const [, , , root = '', at = ''] = before.split(' ')
      const [type = '', , options = ''] = after.split(' ')
      const isRight =
        kind === 2 ? type === 'cgroup2' : type === 'cgroup' && options.split(',').includes('memory')
      return isRight && (path === root || path.startsWith(root === '/' ? '/' : `${root}/`))
        ? [join(at, path.slice(root === '/' ? 0 : root.length))]
        : []
    })
  // In version 2 a group with processes has no children with controllers: one beside it may.
  return mounts.flatMap((at) => (kind === 2 ? [at, join(at, '..')] : [at]))
}

/** Begins to measure one build. `limitBytes` is the most that it may have; undefined for all there is. */
export function openMemoryMeter(
  { clock, groups }: { readonly clock: Clock; readonly groups: MemoryGroups },
  { attempt, limitBytes }: { readonly attempt: string; readonly limitBytes: number | undefined },
): MemoryMeter {
  const { parent } = groups
  if (parent !== undefined) {
    try {
      return new GroupMeter(
        clock,
        join(parent.path, `mesh-${process.pid}-${attempt}`),
        parent.files,
        limitBytes,
      )
    } catch {
      // The groups may have been taken away since: then it is measured without.
    }
  }
  return new SampleMeter(clock)
}

/** Looks again and again, soon at first and then less often, and keeps the largest of what it saw. */
class Peak {
  readonly #clock: Clock
  readonly #look: () => Promise<number>
  #delayMs = SAMPLE_FIRST_MS
  #timer: Timer | undefined
  #isOver = false
  bytes = 0

  constructor(clock: Clock, look: () => Promise<number>) {
    this.#clock = clock
    this.#look = look
    this.#arm()
  }

  #arm(): void {
    this.#timer = this.#clock.setTimer(this.#delayMs, () => {
      this.#delayMs = Math.min(SAMPLE_MS, 2 * this.#delayMs)
      void this.#take()
    })
  }

  async #take(): Promise<void> {
    this.bytes = Math.max(this.bytes, await this.#look())
    if (!this.#isOver) this.#arm()
  }

  stop(): void {
    this.#isOver = true
    this.#timer?.cancel()
  }
}

class GroupMeter implements MemoryMeter {
  readonly #clock: Clock
  readonly #path: string
  readonly #files: GroupFiles
  #peak: Peak | undefined

  constructor(clock: Clock, path: string, files: GroupFiles, limitBytes: number | undefined) {
    this.#clock = clock
    this.#path = path
    this.#files = files
    mkdirSync(path)
    try {
      if (limitBytes !== undefined) writeFileSync(join(path, files.limit), `${limitBytes}`)
    } catch (error) {
      rmdirSync(path)
      throw error
    }
  }

  add(pid: number): void {
    // A child that was begun meanwhile is in no group yet; those that come later are.
    for (const each of [pid, ...descendantsOf(pid)]) {
      try {
        writeFileSync(join(this.#path, 'cgroup.procs'), `${each}`)
      } catch (error) {
        if (!hasCode(error, 'ESRCH', 'EINVAL')) throw error
      }
    }
    this.#peak ??= new Peak(this.#clock, () => this.#held())
  }

  async #held(): Promise<number> {
    const text = await readFile(join(this.#path, this.#files.stat), 'utf8').catch(() => '')
    return [...text.matchAll(HELD)].reduce((sum, [, bytes]) => sum + Number(bytes), 0)
  }

  async end(): Promise<MemoryUse> {
    this.#peak?.stop()
    const kills = /^oom_kill (\d+)$/m.exec(readText(join(this.#path, this.#files.events)))?.[1]
    for (let left = REMOVE_TRIES; left > 0; left -= 1) {
      try {
        rmdirSync(this.#path)
        break
      } catch (error) {
        if (hasCode(error, 'ENOENT')) break
        if (!hasCode(error, 'EBUSY')) throw error
        await sleep(this.#clock, 10)
      }
    }
    return { peakBytes: this.#peak?.bytes ?? 0, from: 'cgroup', isOut: Number(kills ?? 0) > 0 }
  }
}

class SampleMeter implements MemoryMeter {
  readonly #clock: Clock
  readonly #killsBefore = countKills()
  #peak: Peak | undefined

  constructor(clock: Clock) {
    this.#clock = clock
  }

  add(pid: number): void {
    this.#peak ??= new Peak(this.#clock, async () => {
      let bytes = 0
      for (const each of [pid, ...descendantsOf(pid)]) bytes += await residentBytes(each)
      return bytes
    })
  }

  async end(): Promise<MemoryUse> {
    this.#peak?.stop()
    return {
      peakBytes: this.#peak?.bytes ?? 0,
      from: 'sampled',
      isOut: countKills() > this.#killsBefore,
    }
  }
}

function descendantsOf(pid: number): number[] {
  const found: number[] = []
  const open = [pid]
  for (let next = open.pop(); next !== undefined; next = open.pop())
    for (const child of childrenOf(next)) {
      if (found.length >= PROCESSES_MAX) return found
      found.push(child)
      open.push(child)
    }
  return found
}

/** What the process has for itself, and its part of what it shares. */
async function residentBytes(pid: number): Promise<number> {
  try {
    const text = await readFile(`/proc/${pid}/smaps_rollup`, 'utf8')
    const kib = /^Pss: +(\d+) kB$/m.exec(text)?.[1]
    return 1024 * Number(kib ?? 0)
  } catch {
    return 0
  }
}

/** How often the kernel of this machine has ended a process for want of memory. */
function countKills(): number {
  return Number(/^oom_kill (\d+)$/m.exec(readText('/proc/vmstat'))?.[1] ?? 0)
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
