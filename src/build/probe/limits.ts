/** How many processors and how much memory this process may use: the machine's, or less under its control groups. */
import { readFile } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { join } from 'node:path'
import { hasCode } from '../../base/errors.ts'
import { probed, type Known } from './known.ts'

/** The affinity mask, and the quotas of the control group and of those above it, rounded up. `root` is another root directory, for tests. */
export async function cpusOf(root = '/'): Promise<Known<number>> {
  let cpus = probed(availableParallelism(), 'processors that this process may run on')
  for (const directory of await groupDirectories(root, 'cpu')) {
    const both = await readLimit(directory, 'cpu.max')
    const [quota, period] = both ?? [
      (await readLimit(directory, 'cpu.cfs_quota_us'))?.[0],
      (await readLimit(directory, 'cpu.cfs_period_us'))?.[0],
    ]
    if (quota === undefined || period === undefined || quota <= 0 || period <= 0) continue
    const share = Math.max(1, Math.ceil(quota / period))
    if (share < cpus.value)
      cpus = probed(
        share,
        shown(root, directory, both === undefined ? 'cpu.cfs_quota_us' : 'cpu.max'),
      )
  }
  return cpus
}

export async function memoryBytesOf(root = '/'): Promise<Known<number>> {
  let bytes = probed(totalmem(), 'memory of the machine')
  for (const directory of await groupDirectories(root, 'memory')) {
    const files = ['memory.max', 'memory.limit_in_bytes']
    for (const file of files) {
      const [limit] = (await readLimit(directory, file)) ?? []
      if (limit !== undefined && limit < bytes.value)
        bytes = probed(limit, shown(root, directory, file))
    }
  }
  return bytes
}

/** Memory that may be moved to a disk. */
export async function swapBytesOf(root = '/'): Promise<Known<number>> {
  const text = await readFile(join(root, 'proc/meminfo'), 'utf8').catch(ignoreAbsent)
  const kib = /^SwapTotal: +(\d+) kB$/m.exec(text ?? '')?.[1]
  return probed(
    1024 * Number(kib ?? 0),
    kib === undefined ? '/proc/meminfo does not tell' : '/proc/meminfo',
  )
}

/** As it is called inside of `root`. */
function shown(root: string, directory: string, file: string): string {
  const path = join(directory, file)
  return root === '/' ? path : path.slice(join(root, '.').length)
}

/** This process's control group and all above it, in the hierarchy of one controller; v2 and v1. */
async function groupDirectories(root: string, controller: string): Promise<string[]> {
  const directories: string[] = []
  const text = await readFile(join(root, 'proc/self/cgroup'), 'utf8').catch(ignoreAbsent)
  for (const line of (text ?? '').split('\n')) {
    const [, id, controllers = '', path = ''] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? []
    if (id === undefined || (controllers !== '' && !controllers.split(',').includes(controller)))
      continue
    // A container may see its own group as the root of the mount, so the mount itself is always looked at.
    const mounts =
      controllers === ''
        ? ['sys/fs/cgroup', 'sys/fs/cgroup/unified']
        : [`sys/fs/cgroup/${controllers}`, `sys/fs/cgroup/${controller}`]
    for (const mount of mounts)
      for (let group = path; ; group = group.slice(0, group.lastIndexOf('/'))) {
        directories.push(join(root, mount, group))
        if (group === '' || group === '/') break
      }
  }
  return directories
}

/** Numbers of a limit file; undefined when there is none. `max` and values over 2^53 are no limit. */
async function readLimit(
  directory: string,
  file: string,
): Promise<(number | undefined)[] | undefined> {
  const text = await readFile(join(directory, file), 'utf8').catch(ignoreAbsent)
  return text
    ?.trim()
    .split(' ')
    .map((word) =>
      /^\d+$/.test(word) && Number.isSafeInteger(Number(word)) ? Number(word) : undefined,
    )
}

function ignoreAbsent(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES')) throw error
}
