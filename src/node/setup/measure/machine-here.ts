/** This machine as the set-up's proposals look at it, put together from the probes. Nothing is changed. */
import { realpath, stat, statfs } from 'node:fs/promises'
import { cpus as processorsOf } from 'node:os'
import { dirname, resolve } from 'node:path'
import { hasCode, MeshError, messageOf } from '../../../base/errors.ts'
import type { SandboxChoice } from '../../../build/executor.ts'
import { cpusOf, memoryBytesOf } from '../../../build/probe/limits.ts'
import { probeSystems } from '../../../build/probe/systems.ts'
import type { Disk, Machine } from '../machine.ts'
import { findOwnerSigns } from './owner-signs.ts'

/** `directory` is the data directory, which need not exist. */
export async function lookAtMachine(
  directory: string,
  options: {
    readonly sandbox: SandboxChoice
    readonly home: string
    /** Where the machine is looked at; `/` but in a container. */
    readonly machineRoot: string
  },
): Promise<Machine> {
  const [cpus, memory, { signs, hasBattery }, systems, disk] = await Promise.all([
    cpusOf(),
    memoryBytesOf(),
    findOwnerSigns(options.machineRoot),
    probeSystems(),
    lookAtDisk(directory, options),
  ])
  const total = processorsOf().length
  const isLimited = (how: string): boolean => how.startsWith('/')
  return {
    cpus: cpus.value,
    ...(cpus.value < total
      ? { cpuLimit: `of ${total}, ${isLimited(cpus.how) ? `as ${cpus.how} says` : cpus.how}` }
      : {}),
    memoryBytes: memory.value,
    ...(isLimited(memory.how) ? { memoryLimit: `as ${memory.how} says` } : {}),
    disk,
    walls: { method: options.sandbox.method, reasons: options.sandbox.reasons },
    ownerSigns: signs,
    hasBattery,
    systems: systems.map(({ system }) => system),
  }
}

export async function lookAtDisk(
  directory: string,
  { home }: { readonly home: string },
): Promise<Disk> {
  const place = await nearestDirectory(directory)
  const { blocks, bavail, bsize } = await statfs(place)
  const { dev } = await stat(place)
  const others = await Promise.all(['/', home, '/tmp', '/usr', '/var'].map(deviceOf))
  return {
    directory,
    totalBytes: blocks * bsize,
    freeBytes: bavail * bsize,
    isOwn: !others.includes(dev),
  }
}

/** The directory, or the nearest one above it that exists already. Throws MESH0104 where something else is in the way. */
export async function nearestDirectory(directory: string): Promise<string> {
  let path = resolve(directory)
  for (;;) {
    try {
      const real = await realpath(path)
      if ((await stat(real)).isDirectory()) return real
      throw new MeshError('MESH0104', `${path} is no directory`, { where: directory })
    } catch (error) {
      if (error instanceof MeshError) throw error
      if (!hasCode(error, 'ENOENT', 'ENOTDIR'))
        throw new MeshError('MESH0104', `nothing can be made there: ${messageOf(error)}`, {
          where: directory,
          cause: error,
        })
    }
    path = dirname(path)
  }
}

async function deviceOf(path: string): Promise<number | undefined> {
  try {
    return (await stat(path)).dev
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES')) return undefined
    throw error
  }
}
