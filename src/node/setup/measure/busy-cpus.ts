/** How many processors everything but this process uses, over a short time. */
import { readFile } from 'node:fs/promises'
import { sleep, type Clock } from '../../../base/clock.ts'

const WINDOW_MS = 500

/** `cpus` is how many this process may use; where it is a part of the machine, so is the answer. */
export async function measureBusyCpus(
  { clock }: { readonly clock: Clock },
  { cpus, signal }: { readonly cpus: number; readonly signal: AbortSignal },
): Promise<number> {
  const before = await readTimes()
  const ownBefore = process.cpuUsage()
  const startMs = clock.nowMs()
  await sleep(clock, WINDOW_MS, signal)
  const own = process.cpuUsage(ownBefore)
  const ownCpus = (own.user + own.system) / 1000 / Math.max(1, clock.nowMs() - startMs)
  const after = await readTimes()
  const total = after.total - before.total
  const share = total > 0 ? (after.busy - before.busy) / total : 0
  return Math.max(0, share * cpus - ownCpus)
}

/** Of all processors together since the start of the machine, in ticks: proc(5). */
async function readTimes(): Promise<{ readonly busy: number; readonly total: number }> {
  const text = await readFile('/proc/stat', 'utf8')
  const [user = 0, nice = 0, system = 0, idle = 0, iowait = 0, irq = 0, softirq = 0, steal = 0] = (
    /^cpu +(.*)$/m.exec(text)?.[1] ?? ''
  )
    .split(' ')
    .map(Number)
  const busy = user + nice + system + irq + softirq + steal
  return { busy, total: busy + idle + iowait }
}
