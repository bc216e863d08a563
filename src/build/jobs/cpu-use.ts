/**
 * How many processors the processes of one build keep busy, read from /proc.
 *
 * Where the machine has less to give than a build would use, time alone tells too little: so processes that
 * run or wait for a processor are counted as well.
 */
import { readFileSync } from 'node:fs'
import type { Clock } from '../../base/clock.ts'
import { hasCode } from '../../base/errors.ts'
import { childrenOf } from '../process-list.ts'

/** Of one build; beyond it, it is told as less busy than it is. */
const PROCESSES_MAX = 512
/** The kernel tells times in hundredths of a second to programs, whatever it counts in. */
const TICK_MS = 10
/** Over a shorter time the count of ticks says nothing. */
const WINDOW_MS_MIN = 100

export interface Busy {
  /** Processor time per time, since the last look. */
  readonly cpus: number
  /** Processes that run, or could. */
  readonly runnable: number
}

export class CpuUse {
  readonly #clock: Clock
  readonly #pid: number
  #last: { readonly atMs: number; readonly usedMs: number } | undefined
  #busy: Busy | undefined

  /** Of `pid` and all below it. */
  constructor(clock: Clock, pid: number) {
    this.#clock = clock
    this.#pid = pid
  }

  /** Undefined at the first look. Costs some 30 µs per process. */
  read(): Busy | undefined {
    const atMs = this.#clock.nowMs()
    const last = this.#last
    if (last !== undefined && atMs - last.atMs < WINDOW_MS_MIN) return this.#busy
    const { usedMs, runnable } = lookAt(this.#pid)
    this.#last = { atMs, usedMs }
    if (last !== undefined)
      this.#busy = {
        cpus: Math.max(0, usedMs - last.usedMs) / (atMs - last.atMs),
        runnable,
      }
    return this.#busy
  }
}

function lookAt(first: number): { readonly usedMs: number; readonly runnable: number } {
  let usedMs = 0
  let runnable = 0
  let count = 0
  const pending = [first]
  for (let pid = pending.pop(); pid !== undefined && count < PROCESSES_MAX; pid = pending.pop()) {
    count++
    const stat = statOf(pid)
    if (stat === undefined) continue
    usedMs += stat.usedMs
    if (stat.state === 'R') runnable++
    pending.push(...childrenOf(pid))
  }
  return { usedMs, runnable }
}

/** With the time of children that were waited for; undefined for a process that is gone. */
function statOf(pid: number): { readonly state: string; readonly usedMs: number } | undefined {
  try {
    const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
    // The name in parentheses may hold anything. Fields 14 to 17 of proc_pid_stat(5) are times.
    const fields = text.slice(text.lastIndexOf(')') + 2).split(' ')
    const ticks = fields.slice(11, 15).reduce((sum, field) => sum + Number(field), 0)
    return { state: fields[0] ?? '', usedMs: ticks * TICK_MS }
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ESRCH', 'EACCES')) throw error
    return undefined
  }
}
