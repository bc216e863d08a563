/**
 * What memory a build takes, all of its processes together, and whether the kernel ended one for want of it.
 *
 * Its control group tells both. What counts is what cannot be dropped: the file cache is left out, which
 * the kernel's own peak is full of. Elsewhere the memory is summed up over the build's processes, and a
 * build that failed is taken to have run out of memory when the machine's count of such ends went up
 * meanwhile. Either is looked at now and then: a short peak may be missed, and of a plain process or a
 * weaker sandbox what it took in its first moments.
 */
import { readFileSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import type { Clock, Timer } from '../../base/clock.ts'
import { descendantsOf } from '../process-list.ts'
import type { BuildGroup } from './build-group.ts'

/** What a build had of memory. */
export interface MemoryUse {
  /** The most that it was seen to have at once; 0 where it was over before anybody looked. */
  readonly peakBytes: number
  readonly from: 'cgroup' | 'sampled'
  /** The kernel ended a process of it for want of memory. */
  readonly isOut: boolean
}

/** From one look at a build to the next: soon at first, for short builds, and then every half second. */
const SAMPLE_FIRST_MS = 20
const SAMPLE_MS = 500

/** Looks again and again, soon at first and then less often, and keeps the largest of what it saw. */
export class MemoryMeter {
  readonly #clock: Clock
  readonly #group: BuildGroup
  readonly #killsBefore: number
  readonly #isGroup: boolean
  #pid: number | undefined
  #peakBytes = 0
  #delayMs = SAMPLE_FIRST_MS
  #timer: Timer | undefined
  #isOver = false

  constructor(clock: Clock, group: BuildGroup) {
    this.#clock = clock
    this.#group = group
    this.#isGroup = group.has('memory')
    this.#killsBefore = this.#isGroup ? 0 : countKills()
  }

  /** The first process of the build has begun. */
  start(pid: number): void {
    this.#pid = pid
    this.#arm()
  }

  /** Once no process of the build is alive, before its group is removed. */
  end(): MemoryUse {
    this.#isOver = true
    this.#timer?.cancel()
    return {
      peakBytes: this.#peakBytes,
      from: this.#isGroup ? 'cgroup' : 'sampled',
      isOut: this.#isGroup
        ? this.#group.oomKills > 0
        : this.#pid !== undefined && countKills() > this.#killsBefore,
    }
  }

  #arm(): void {
    this.#timer = this.#clock.setTimer(this.#delayMs, () => {
      this.#delayMs = Math.min(SAMPLE_MS, 2 * this.#delayMs)
      void this.#take()
    })
  }

  async #take(): Promise<void> {
    const bytes = this.#isGroup
      ? this.#group.memoryHeldBytes
      : await residentBytesOf(this.#pid === undefined ? [] : [this.#pid])
    this.#peakBytes = Math.max(this.#peakBytes, bytes)
    if (!this.#isOver) this.#arm()
  }
}

async function residentBytesOf(roots: readonly number[]): Promise<number> {
  let bytes = 0
  for (const root of roots)
    for (const pid of [root, ...descendantsOf(root)]) bytes += await residentBytes(pid)
  return bytes
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
  try {
    return Number(/^oom_kill (\d+)$/m.exec(readFileSync('/proc/vmstat', 'utf8'))?.[1] ?? 0)
  } catch {
    return 0
  }
}
