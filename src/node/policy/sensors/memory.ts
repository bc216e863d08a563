/** What builds could have of memory, and whether everything waits for it. */
import type { MachineFiles } from './machine-files.ts'

/** Left to others, where the machine has eight times as much (FASTBuild's floor). */
const LEFT_BYTES = 1024 ** 3
const LEFT_SHARE = 1 / 8

/** `ownBytes` is what builds hold now, which is theirs to have. Undefined where it cannot be read. */
export function memoryForBuilds(
  files: MachineFiles,
  ownBytes: number,
  missing: string[],
): number | undefined {
  const text = files.read('proc/meminfo') ?? ''
  const kib = (name: string): number =>
    Number(new RegExp(`^${name}: +(\\d+) kB$`, 'm').exec(text)?.[1])
  const available = kib('MemAvailable') * 1024
  const total = kib('MemTotal') * 1024
  if (Number.isNaN(available) || Number.isNaN(total)) {
    missing.push('free memory: /proc/meminfo cannot be read')
    return undefined
  }
  return Math.min(total, available + ownBytes) - Math.min(LEFT_BYTES, total * LEFT_SHARE)
}

/**
 * Share of the last ten seconds in which all that would run waited for memory. That of processors and of
 * disks is not looked at: builds wait for those by themselves, and would be taken for strangers.
 */
export function memoryStall(files: MachineFiles, missing: string[]): number | undefined {
  const text = files.read('proc/pressure/memory')
  const percent = /^full avg10=(\d+(?:\.\d+)?)/m.exec(text ?? '')?.[1]
  if (percent === undefined) {
    missing.push('waiting for memory: the kernel keeps no /proc/pressure/memory')
    return undefined
  }
  return Number(percent) / 100
}
