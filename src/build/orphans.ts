/**
 * Ends what builds left running when the executor that ran them was killed.
 *
 * A process is known to be of a build by its control group; by descent from the build's first process, or
 * by its session or process group, where that process is still the one that was written down: same
 * number, same start time, same boot of the machine; and, for plain builds, by a variable of its
 * environment. Whatever else there is may be a stranger with a number that was given again, and stays.
 */
import { readdir } from 'node:fs/promises'
import { sleep, type Clock } from '../base/clock.ts'
import { readBuildRecords, removeBuildRecord, type BuildRecord } from './build-records.ts'
import { BuildGroup } from './groups/build-group.ts'
import { kernelControlFiles } from './groups/control-files.ts'
import {
  bootId,
  findProcess,
  killLeftovers,
  killProcess,
  type ProcessFacts,
} from './process-list.ts'

/** Rounds of killing, 10 ms apart. */
const ROUNDS_MAX = 200

/** Of all attempts of a data directory, before an executor of it begins. Returns how many processes are left after all. */
export async function endAllOrphans(clock: Clock, dataDirectory: string): Promise<number> {
  let left = 0
  for (const record of readBuildRecords(dataDirectory))
    left += await endRecorded(clock, dataDirectory, record)
  return left + (await killLeftovers(clock, dataDirectory, 'below'))
}

/** Of one attempt. Returns how many processes are left after all. */
export async function endOrphans(
  clock: Clock,
  dataDirectory: string,
  { attempt, directory }: { readonly attempt: string; readonly directory: string },
): Promise<number> {
  let left = 0
  for (const record of readBuildRecords(dataDirectory))
    if (record.attempt === attempt) left += await endRecorded(clock, dataDirectory, record)
  return left + (await killLeftovers(clock, directory, 'attempt'))
}

async function endRecorded(
  clock: Clock,
  dataDirectory: string,
  record: BuildRecord,
): Promise<number> {
  let left = 0
  if (record.boot === bootId()) {
    const group = new BuildGroup(kernelControlFiles, record.groups)
    left = (await group.kill(clock)) + (await killTree(clock, record))
    await group.remove(clock)
  }
  if (left === 0) removeBuildRecord(dataDirectory, record.attempt)
  return left
}

/** All that hangs on the first process, as long as that is the one that was written down. */
async function killTree(clock: Clock, record: BuildRecord): Promise<number> {
  const first = findProcess(record.pid)
  if (first === undefined || first.startTicks !== record.startTicks) return 0
  // The first one dies last: its number is what the others are known by.
  for (let round = 0; ; round += 1) {
    const found = (await belonging(record.pid)).filter((pid) => pid !== record.pid)
    if (found.length === 0 || round === ROUNDS_MAX) {
      killProcess(record.pid)
      return found.length
    }
    found.forEach(killProcess)
    await sleep(clock, 10)
  }
}

async function belonging(first: number): Promise<number[]> {
  const all = new Map<number, ProcessFacts>()
  for (const name of await readdir('/proc')) {
    const pid = Number(name)
    if (!Number.isInteger(pid) || pid === process.pid) continue
    const facts = findProcess(pid)
    if (facts !== undefined) all.set(pid, facts)
  }
  const found = new Set<number>()
  for (const [pid, { session, group }] of all)
    if (session === first || group === first) found.add(pid)
  // Children come to be found after their parents, whatever their numbers.
  for (let before = -1; before !== found.size;) {
    before = found.size
    for (const [pid, { parent }] of all) if (parent === first || found.has(parent)) found.add(pid)
  }
  return [...found]
}
