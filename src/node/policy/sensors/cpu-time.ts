/** Processors that are used by anything but this node: all time that was spent, less our own. */
import type { Reading } from '../reading.ts'
import type { MachineFiles } from './machine-files.ts'
import { TICKS_PER_SECOND } from './own-processes.ts'

/** Between two readings that are compared; a shorter time says little in ticks of 10 ms. */
const APART_MS_MIN = 500

/** What ours have used since they began, by the process that they run below. */
export type OwnTicks = ReadonlyMap<number, number>

export class ForeignCpu {
  readonly #files: MachineFiles
  #before: { readonly busy: number; readonly own: OwnTicks; readonly atMs: number } | undefined
  #cpus: number | 'soon' = 'soon'

  constructor(files: MachineFiles) {
    this.#files = files
  }

  read(own: OwnTicks, nowMs: number, missing: string[]): Pick<Reading, 'cpus' | 'foreignCpus'> {
    const text = this.#files.read('proc/stat')
    const busy = busyTicksOf(text)
    if (text === undefined || busy === undefined) {
      missing.push('use of processors: /proc/stat cannot be read')
      return { cpus: undefined, foreignCpus: undefined }
    }
    const before = this.#before
    if (before === undefined || nowMs - before.atMs >= APART_MS_MIN) {
      this.#before = { busy, own, atMs: nowMs }
      if (before !== undefined) {
        const ticks = Math.max(0, busy - before.busy - usedSince(before.own, own))
        this.#cpus = ticks / TICKS_PER_SECOND / ((nowMs - before.atMs) / 1000)
      }
    }
    return { cpus: text.match(/^cpu\d+ /gm)?.length, foreignCpus: this.#cpus }
  }
}

/** Of those that were there before. A process that was lost sight of has used nothing. */
function usedSince(before: OwnTicks, now: OwnTicks): number {
  let ticks = 0
  for (const [pid, used] of now) ticks += Math.max(0, used - (before.get(pid) ?? used))
  return ticks
}

/** user, nice, system, irq and softirq: what other machines took (steal) is no use of this one. */
function busyTicksOf(text: string | undefined): number | undefined {
  const words = /^cpu +([\d ]+)$/m
    .exec(text ?? '')?.[1]
    ?.split(' ')
    .map(Number)
  if (words === undefined) return undefined
  return [0, 1, 2, 5, 6].reduce((sum, at) => sum + (words[at] ?? 0), 0)
}
