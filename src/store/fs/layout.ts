/**
 * Where the file store keeps what, and the two small files that describe it.
 *
 * `blob/<ab>/<64 hex>` is the truth, in the layout of any static HTTP mirror, and so is `pins/`; `exec/` has
 * executable copies of some blobs, `part/` what was fetched in part, `index/` is a cache. `tmp/` holds what
 * is being written, `trash/` what is being removed: both are emptied at start.
 */
import { chmodSync, mkdirSync, readFileSync, renameSync } from 'node:fs'
import { readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import { hasCode, MeshError } from '../../base/errors.ts'
import type { Digest } from '../../wire/digest.ts'
import { replaceFile, replaceFileLater } from '../disk.ts'

const STORE_FORMAT = 1

export class FsLayout {
  readonly directory: string
  #temporaries = 0

  constructor(directory: string) {
    this.directory = directory
  }

  get index(): string {
    return join(this.directory, 'index')
  }
  get temporary(): string {
    return join(this.directory, 'tmp')
  }
  get trash(): string {
    return join(this.directory, 'trash')
  }
  get pins(): string {
    return join(this.directory, 'pins')
  }
  get executables(): string {
    return join(this.directory, 'exec')
  }
  get partials(): string {
    return join(this.directory, 'part')
  }
  get blobs(): string {
    return join(this.directory, 'blob')
  }
  prefix(firstByte: number): string {
    return join(this.directory, 'blob', firstByte.toString(16).padStart(2, '0'))
  }
  blob(digest: Digest): string {
    return `${this.directory}/blob/${digest.slice(0, 2)}/${digest}`
  }
  executable(digest: Digest): string {
    return `${this.directory}/exec/${digest.slice(0, 2)}/${digest}`
  }
  /** A path for one file in the making. */
  newTemporary(): string {
    return `${this.directory}/tmp/${++this.#temporaries}`
  }

  /** Gives a finished file its final name; the directories for it are made when they are first needed. */
  moveIn(temporary: string, path: string): void {
    try {
      renameSync(temporary, path)
    } catch (error) {
      if (!hasCode(error, 'ENOENT')) throw error
      mkdirSync(dirname(path), { recursive: true })
      chmodSync(dirname(path), 0o755) // builds and web servers of other users read here
      renameSync(temporary, path)
    }
  }
}

/** Throws MESH0106 when the directory has a format that this version does not know. */
export function checkFormat(directory: string): void {
  const text = readIfThere(join(directory, 'format'))
  if (text === undefined || text.trim() === String(STORE_FORMAT)) return
  throw new MeshError(
    'MESH0106',
    `the store in ${directory} has format ${JSON.stringify(text.trim().slice(0, 40))}, this version knows ${STORE_FORMAT}`,
    { where: directory },
  )
}

export function writeFormat(directory: string): void {
  if (readIfThere(join(directory, 'format')) === undefined)
    replaceFile(join(directory, 'format'), `${STORE_FORMAT}\n`)
}

/**
 * What was certainly on the disk: every blob committed up to `atWallMs`. `clean` while no process has the
 * store open: index and files agree then, and there are as many executable copies as it says.
 */
const Checkpoint = z.object({
  atWallMs: z.number(),
  clean: z.boolean(),
  executables: z.object({ count: z.int().min(0), bytes: z.int().min(0) }).optional(),
})
export type Checkpoint = z.infer<typeof Checkpoint>

export function readCheckpoint(directory: string): Checkpoint {
  const text = readIfThere(join(directory, 'checkpoint.json'))
  const parsed = Checkpoint.safeParse(text === undefined ? undefined : parseJson(text))
  return parsed.success ? parsed.data : { atWallMs: 0, clean: false }
}

export function writeCheckpoint(directory: string, checkpoint: Checkpoint): Promise<void> {
  return replaceFileLater(join(directory, 'checkpoint.json'), `${JSON.stringify(checkpoint)}\n`)
}

/** The names in a directory, none when it does not exist. */
export async function namesIn(directory: string): Promise<string[]> {
  try {
    return await readdir(directory)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return []
    throw error
  }
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return undefined
    throw error
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // as good as absent: everything is verified then
  }
}
