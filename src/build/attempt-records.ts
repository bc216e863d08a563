/**
 * What this node keeps of attempts that it ran: the log of each and, where somebody asked for it, the build
 * directory of one that failed. A record is one line of a file; the bytes are blobs of the store, which are
 * held there for as long as the record lives.
 *
 * Records go when their time is over, and the oldest first when all of them together have too many bytes or
 * are too many; of the last ones that went it is still known why. The file is not synced: a power cut may
 * cost the newest records, never a blob.
 */
import { appendFile, readFile, rename, writeFile } from 'node:fs/promises'
import type { Logger } from 'pino'
import { z } from 'zod'
import type { Clock } from '../base/clock.ts'
import { hasCode } from '../base/errors.ts'
import { diskSpace } from '../store/disk.ts'
import { formatDuration, formatSize } from '../base/units.ts'
import { BlobRefJson, type Digest } from '../wire/digest.ts'
import { AttemptId, JobId } from '../wire/names.ts'

/** Records that are kept, whatever their size; about 500 bytes of memory each. */
const RECORDS_MAX = 100_000
/** Of those that went, how many are remembered with the reason. */
const GONE_MAX = 10_000
/** Lines of the file per record that lives, beyond which it is written anew. */
const LINES_PER_RECORD = 2
const LINES_SPARE = 1_000
/** How long the store is asked to hold a blob: until it is told otherwise. */
const HOLD_MS = 100 * 365 * 24 * 3600 * 1000
const KEEP_BYTES_MAX = 10 * 1024 ** 3
const HOLDER = 'attempt records'

const AttemptRecord = z.object({
  v: z.literal(1),
  attempt: AttemptId,
  /** Empty for one whose log was found after the node was killed. */
  job: z.union([JobId, z.literal('')]),
  /** Name of the derivation. */
  name: z.string(),
  system: z.string(),
  isolation: z.string(),
  endedAtWall: z.int(),
  /** How it ended: the kind of its outcome. */
  end: z.string(),
  /** The last line of its log; null where it succeeded. */
  lastLine: z.string().nullable(),
  log: BlobRefJson,
  /** The root of the tree, and the bytes of the files in it. */
  kept: BlobRefJson.extend({ treeBytes: z.int() }).nullable(),
})
export type AttemptRecord = z.infer<typeof AttemptRecord>

interface Held {
  readonly digest: Digest
  readonly size: number
  readonly kind: 'file' | 'dir'
}

/** The store, as far as it is needed here. */
export interface Holder {
  change(
    holder: string,
    change: { readonly add: readonly Held[]; readonly remove: readonly Digest[] },
    ttlMs: number,
  ): boolean
}

export interface RecordsDeps {
  readonly clock: Clock
  readonly log: Pick<Logger, 'warn'>
  readonly leases: Holder
  /** Of an attempt that has just ended. */
  readonly onAdded?: (record: AttemptRecord) => void
}

export interface RecordsOptions {
  readonly path: string
  readonly keepMs: number
  readonly keepBytes: number
}

export class AttemptRecords {
  readonly #deps: RecordsDeps
  readonly #options: RecordsOptions
  /** By attempt, the oldest first. */
  readonly #records = new Map<string, AttemptRecord>()
  /** Why those that went did. */
  readonly #gone = new Map<string, string>()
  /** How many records need a blob. */
  readonly #users = new Map<Digest, number>()
  #bytes = 0
  #lines = 0
  #writing: Promise<void> = Promise.resolve()

  private constructor(deps: RecordsDeps, options: RecordsOptions) {
    this.#deps = deps
    this.#options = options
  }

  /** Reads what an earlier process kept. Lines that cannot be read are passed over. */
  static async open(deps: RecordsDeps, options: RecordsOptions): Promise<AttemptRecords> {
    const records = new AttemptRecords(deps, options)
    await records.#read()
    return records
  }

  /** The most that one kept directory may have: it must not push everything else out. */
  get treeBytesMax(): number {
    return Math.floor(this.#options.keepBytes / 4)
  }

  /** How long records live. */
  get keepMs(): number {
    return this.#options.keepMs
  }

  stats(): { readonly count: number; readonly bytes: number } {
    return { count: this.#records.size, bytes: this.#bytes }
  }

  find(attempt: string): AttemptRecord | undefined {
    this.sweep()
    return this.#records.get(attempt)
  }

  /** Why the record of an attempt is not here any more; undefined where it never was, as far as is known. */
  whyGone(attempt: string): string | undefined {
    return this.#gone.get(attempt)
  }

  /** From now on the blobs of the record are held. */
  add(record: AttemptRecord): void {
    this.#take(record)
    this.#deps.onAdded?.(record)
    this.sweep()
    this.#lines += 1
    this.#write(() => appendFile(this.#options.path, lineOf(record), { mode: 0o600 }))
  }

  /** Roots of the directories that are kept. */
  *kept(): Generator<{ readonly digest: Digest; readonly size: number }> {
    for (const { kept } of this.#records.values()) if (kept !== null) yield kept
  }

  /** Lets go of the older half, for a disk that is full. */
  giveWay(): void {
    const leftBytes = this.#bytes / 2
    for (const record of this.#records.values()) {
      if (this.#bytes <= leftBytes) break
      this.#drop(record, 'the disk of its node was full')
    }
  }

  /** Lets go of what is too old or too much. */
  sweep(): void {
    const { keepMs, keepBytes } = this.#options
    const nowWall = this.#deps.clock.wallMs()
    for (const record of this.#records.values()) {
      const why =
        nowWall - record.endedAtWall >= keepMs
          ? `it was kept for ${formatDuration(keepMs)} (store.keep-logs)`
          : this.#bytes > keepBytes
            ? `logs may have ${formatSize(keepBytes)} together, and newer ones needed the room (store.keep-logs-size)`
            : this.#records.size > RECORDS_MAX
              ? `${RECORDS_MAX} newer attempts ran there`
              : undefined
      if (why === undefined) break
      this.#drop(record, why)
    }
    if (this.#lines > LINES_PER_RECORD * this.#records.size + LINES_SPARE) this.#rewrite()
  }

  /** Resolves when all that was added is written. */
  async flush(): Promise<void> {
    await this.#writing
  }

  async #read(): Promise<void> {
    let text: string
    try {
      text = await readFile(this.#options.path, 'utf8')
    } catch (error) {
      if (hasCode(error, 'ENOENT')) return
      throw error
    }
    let damaged = 0
    for (const line of text.split('\n')) {
      if (line === '') continue
      this.#lines += 1
      const record = parseLine(line)
      if (record === undefined) damaged += 1
      else this.#take(record)
    }
    if (damaged > 0)
      this.#deps.log.warn(
        { path: this.#options.path, damaged },
        'records of attempts could not be read',
      )
    this.sweep()
    // What was torn at the end must not run into the next line.
    if (damaged > 0 || !text.endsWith('\n')) this.#rewrite()
  }

  #take(record: AttemptRecord): void {
    const before = this.#records.get(record.attempt)
    if (before !== undefined) this.#drop(before, '')
    this.#gone.delete(record.attempt)
    this.#records.set(record.attempt, record)
    this.#bytes += bytesOf(record)
    const add = heldBy(record).filter(({ digest }) => {
      const users = this.#users.get(digest) ?? 0
      this.#users.set(digest, users + 1)
      return users === 0
    })
    if (add.length > 0) this.#deps.leases.change(HOLDER, { add, remove: [] }, HOLD_MS)
  }

  #drop(record: AttemptRecord, why: string): void {
    this.#records.delete(record.attempt)
    this.#bytes -= bytesOf(record)
    const remove = heldBy(record).flatMap(({ digest }) => {
      const users = (this.#users.get(digest) ?? 1) - 1
      if (users > 0) {
        this.#users.set(digest, users)
        return []
      }
      this.#users.delete(digest)
      return [digest]
    })
    if (remove.length > 0) this.#deps.leases.change(HOLDER, { add: [], remove }, HOLD_MS)
    this.#gone.set(record.attempt, why)
    for (const oldest of this.#gone.keys()) {
      if (this.#gone.size <= GONE_MAX) break
      this.#gone.delete(oldest)
    }
  }

  #rewrite(): void {
    this.#lines = this.#records.size
    this.#write(async () => {
      const { path } = this.#options
      await writeFile(`${path}.new`, [...this.#records.values()].map(lineOf), { mode: 0o600 })
      await rename(`${path}.new`, path)
    })
  }

  /** One after the other. What cannot be written is held all the same, until the process ends. */
  #write(work: () => Promise<void>): void {
    this.#writing = this.#writing.then(work).catch((error: unknown) => {
      this.#deps.log.warn({ err: error }, 'record of an attempt could not be written')
    })
  }
}

/** What logs may have where nothing else is said: little beside the disk, and beside the quota. */
export async function defaultKeepBytes(
  directory: string,
  quotaBytes: number | undefined,
): Promise<number> {
  const { totalBytes } = await diskSpace(directory)
  const shares = [KEEP_BYTES_MAX, totalBytes / 20, (quotaBytes ?? Infinity) / 10]
  return Math.floor(Math.min(...shares))
}

const lineOf = (record: AttemptRecord): string => `${JSON.stringify(record)}\n`

function parseLine(line: string): AttemptRecord | undefined {
  try {
    return AttemptRecord.safeParse(JSON.parse(line)).data
  } catch {
    return undefined // torn by a crash; the caller counts it
  }
}

const bytesOf = ({ log, kept }: AttemptRecord): number => log.size + (kept?.treeBytes ?? 0)

function heldBy({ log, kept }: AttemptRecord): Held[] {
  const held: Held[] = [{ ...log, kind: 'file' }]
  if (kept !== null) held.push({ digest: kept.digest, size: kept.size, kind: 'dir' })
  return held
}
