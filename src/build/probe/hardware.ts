/** What the machine is made of, for people and for choosing among nodes: processor and disk. */
import { readFile, statfs } from 'node:fs/promises'
import { cpus } from 'node:os'
import { dirname, join } from 'node:path'
import { hasCode } from '../../base/errors.ts'
import { oneLine, probed, type Known } from './known.ts'

const MODEL_CHARS_MAX = 128
/** A processor of today tells about 150. */
const FLAGS_MAX = 512

export interface Processor {
  readonly model: Known<string>
  readonly flags: Known<readonly string[]>
}

/** `root` is another root directory, for tests. */
export async function readProcessor(root = '/'): Promise<Processor> {
  const text = await readFile(join(root, 'proc/cpuinfo'), 'utf8').catch(ignoreAbsent)
  const wordsOf = (key: string): string | undefined =>
    new RegExp(`^(?:${key})\\s*:\\s*(.*)$`, 'm').exec(text ?? '')?.[1]
  const model = wordsOf('model name|cpu model|Processor') ?? (root === '/' ? cpus()[0]?.model : '')
  const flags = wordsOf('flags|Features|isa') ?? ''
  return {
    model: probed(oneLine(model ?? '', MODEL_CHARS_MAX), '/proc/cpuinfo'),
    flags: probed(
      flags
        .split(/\s+/)
        .filter((flag) => flag !== '')
        .slice(0, FLAGS_MAX),
      '/proc/cpuinfo',
    ),
  }
}

export interface DiskRoom {
  readonly totalBytes: number
  readonly freeBytes: number
}

/** Of the file system of a directory, which need not be there yet. */
export async function readDisk(directory: string): Promise<Known<DiskRoom>> {
  for (let path = directory; ; path = dirname(path)) {
    try {
      const { blocks, bavail, bsize } = await statfs(path)
      return probed({ totalBytes: blocks * bsize, freeBytes: bavail * bsize }, `statfs ${path}`)
    } catch (error) {
      if (!hasCode(error, 'ENOENT') || path === dirname(path)) throw error
    }
  }
}

function ignoreAbsent(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'EACCES')) throw error
}
