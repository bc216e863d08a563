/**
 * Results of actions, by action, by the job that they answer and by their outputs.
 *
 * Only successes that builder and owner signed go in, and both signatures are checked again at every
 * look-up: the disk is not trusted more than a peer. Its loss costs rebuilding, so it is a Level of its
 * own and no cache of anything else. A result does not outlive its outputs: whoever removes blobs says so.
 */
import type { Logger } from 'pino'
import { MeshError, messageOf } from '../base/errors.ts'
import { digestBytes, digestFromBytes, type Digest } from '../wire/digest.ts'
import {
  decodeSignedResult,
  encodeSignedResult,
  openResult,
  type ActionResult,
  type SignedResult,
} from '../wire/result.ts'
import { blobOf } from '../wire/tree.ts'
import { openLevel } from './blob-index.ts'
import { diskError } from './disk.ts'
import { LevelHealer } from './level-healer.ts'

/** Results kept; beyond it the one that was first stored longest ago goes. About 1 KiB each. */
const CACHED_RESULTS_MAX = 1_000_000
/** Actions remembered per job: one per variant and host fingerprint that built it lately. */
const ACTIONS_PER_JOB_MAX = 8

interface CachedResult {
  readonly signed: SignedResult
  readonly result: ActionResult
}

export interface ActionCache extends AsyncDisposable {
  /** Undefined also for an entry that does not verify, which is removed. */
  find(action: Digest): Promise<CachedResult | undefined>
  /** Actions that gave a result for the job, newest first, at most 8. Their results may be gone. */
  actionsOf(jobKey: Digest): Promise<Digest[]>
  /**
   * Stores a countersigned result in place of an earlier one of the same action. Throws MESH0210 for one
   * without both signatures, and for a failure: those are never cached.
   */
  put(signed: SignedResult): Promise<ActionResult>
  /** The same for a result whose signatures the caller has just checked or made itself. */
  keep(cached: CachedResult): Promise<void>
  /** Removes every result that has one of these files or trees as an output; gives how many. */
  forgetOutputs(digests: readonly Digest[]): Promise<number>
  readonly count: number
}

/** Throws MESH0105 when another process has it open. */
export async function openActionCache(
  deps: { readonly log: Logger },
  options: { readonly directory: string; readonly countMax?: number },
): Promise<ActionCache> {
  const db = await openLevel(options.directory)
  try {
    const results = new StoredResults(db, deps.log, options.countMax ?? CACHED_RESULTS_MAX)
    await results.open()
    return results
  } catch (error) {
    await db.close()
    throw error
  }
}

type Database = Awaited<ReturnType<typeof openLevel>>
type Batch = ReturnType<Database['batch']>

class StoredResults implements ActionCache {
  readonly #db: Database
  readonly #healer: LevelHealer
  readonly #log: Logger
  readonly #countMax: number
  #count = 0
  /** No result has an earlier one; numbers of removed results are missing between. */
  #firstSequence = 0
  #nextSequence = 0
  #last: Promise<unknown> = Promise.resolve()

  constructor(db: Database, log: Logger, countMax: number) {
    this.#db = db
    this.#healer = new LevelHealer(db)
    this.#log = log
    this.#countMax = countMax
  }

  async open(): Promise<void> {
    this.#firstSequence = (await this.#sequenceFrom(0)) ?? 0
    const [last] = await this.#db.keys({ ...ORDER_RANGE, limit: 1, reverse: true }).all()
    this.#nextSequence = last === undefined ? 0 : sequenceOf(last) + 1
    const meta = this.#db.getSync(META_KEY)
    if (meta === undefined) await this.#migrate()
    else this.#count = Number(Buffer.from(meta).readBigUInt64BE())
  }

  get count(): number {
    return this.#count
  }

  async find(action: Digest): Promise<CachedResult | undefined> {
    this.#healer.check()
    const bytes = this.#db.getSync(actionKey(action))
    if (bytes === undefined) return undefined
    try {
      return open(action, bytes)
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      this.#log.warn(
        { action, reason: messageOf(error) },
        'stored result does not verify and was removed',
      )
      await this.#queue(() => this.#remove([action]))
      return undefined
    }
  }

  async actionsOf(jobKey: Digest): Promise<Digest[]> {
    this.#healer.check()
    return readDigests(this.#db.getSync(jobKeyOf(jobKey))).filter(
      (action) => this.#db.getSync(actionKey(action)) !== undefined,
    )
  }

  async put(signed: SignedResult): Promise<ActionResult> {
    const result = openResult(signed, { countersigned: true })
    await this.keep({ signed, result })
    return result
  }

  keep(cached: CachedResult): Promise<void> {
    return this.#queue(() => this.#write(cached))
  }

  forgetOutputs(digests: readonly Digest[]): Promise<number> {
    return this.#queue(async () => {
      let forgottenCount = 0
      for (const digest of digests) {
        const prefix = outputKey(digest)
        const range = { gte: prefix, lte: Buffer.concat([prefix, LAST_DIGEST]) }
        const keys = await this.#db.keys(range).all()
        const actions = keys.map((key) => digestFromBytes(key.subarray(33)))
        await this.#remove(actions)
        forgottenCount += actions.length
      }
      return forgottenCount
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#last
    await this.#db.close()
  }

  /** One after the other, since each reads what the one before wrote. */
  #queue<T>(change: () => Promise<T>): Promise<T> {
    const done = this.#last.then(change)
    this.#last = done.catch(() => undefined) // told to whoever asked for it
    return done.catch((error: unknown) => {
      throw diskError(error, this.#db.location)
    })
  }

  async #write({ signed, result }: CachedResult): Promise<void> {
    if (result.exitCode !== 0)
      throw new MeshError('MESH0210', `a result with exit code ${result.exitCode} is not cached`)
    const { action, jobKey } = result
    const before = readMention(this.#db.getSync(mentionKey(action)))
    const sequence = before?.sequence ?? this.#nextSequence
    await this.#commit(before === undefined ? 1 : 0, (batch) => {
      for (const digest of before?.outputs ?? []) batch.del(outputKey(digest, action))
      batch.put(actionKey(action), encodeSignedResult(signed))
      batch.put(orderKey(sequence), digestBytes(action))
      putMention(batch, action, { sequence, jobKey, outputs: outputsOf(result) })
      const actions = [action, ...readDigests(this.#db.getSync(jobKeyOf(jobKey)))]
      const kept = [...new Set(actions)].slice(0, ACTIONS_PER_JOB_MAX)
      batch.put(jobKeyOf(jobKey), Buffer.concat(kept.map(digestBytes)))
    })
    if (before === undefined) this.#nextSequence++
    if (this.#count > this.#countMax) await this.#removeOldest()
  }

  async #removeOldest(): Promise<void> {
    const sequence = await this.#sequenceFrom(this.#firstSequence)
    const bytes = sequence === undefined ? undefined : this.#db.getSync(orderKey(sequence))
    if (sequence === undefined || bytes === undefined) return
    await this.#remove([digestFromBytes(bytes)])
    this.#firstSequence = sequence + 1
  }

  /** With every mention of them. */
  async #remove(actions: readonly Digest[]): Promise<void> {
    // A batch for each: two may be in the list of one job.
    for (const action of actions) {
      const mention = readMention(this.#db.getSync(mentionKey(action)))
      await this.#commit(mention === undefined ? 0 : -1, (batch) => {
        batch.del(actionKey(action))
        if (mention === undefined) return
        const { sequence, jobKey, outputs } = mention
        batch.del(mentionKey(action)).del(orderKey(sequence))
        for (const digest of outputs) batch.del(outputKey(digest, action))
        const rest = readDigests(this.#db.getSync(jobKeyOf(jobKey))).filter((one) => one !== action)
        if (rest.length === 0) batch.del(jobKeyOf(jobKey))
        else batch.put(jobKeyOf(jobKey), Buffer.concat(rest.map(digestBytes)))
      })
    }
  }

  /** Writes changes that make so many results more. */
  async #commit(more: number, change: (batch: Batch) => void): Promise<void> {
    await this.#healer.write(async () => {
      const batch = this.#db.batch()
      change(batch)
      await batch.put(META_KEY, u64(this.#count + more)).write()
    })
    this.#count += more
  }

  /** The first number in use that is not less. */
  async #sequenceFrom(sequence: number): Promise<number | undefined> {
    const [key] = await this.#db.keys({ ...ORDER_RANGE, gte: orderKey(sequence), limit: 1 }).all()
    return key === undefined ? undefined : sequenceOf(key)
  }

  /** Mentions what a version wrote that knew no mentions. Begins anew when it is cut off. */
  async #migrate(): Promise<void> {
    let count = 0
    for await (const [key, value] of this.#db.iterator(ORDER_RANGE)) {
      const action = digestFromBytes(value)
      const batch = this.#db.batch()
      try {
        const bytes = this.#db.getSync(actionKey(action))
        if (bytes === undefined) throw new MeshError('MESH0210', 'the result is not there')
        const { result } = open(action, bytes)
        putMention(batch, action, {
          sequence: sequenceOf(key),
          jobKey: result.jobKey,
          outputs: outputsOf(result),
        })
        count++
      } catch (error) {
        if (!(error instanceof MeshError)) throw error
        batch.del(key).del(actionKey(action))
      }
      await batch.write()
    }
    await this.#commit(count, () => undefined)
    if (count > 0) this.#log.info({ count }, 'stored results are found by their outputs')
  }
}

/** Throws MESH0210 for one that does not verify. */
function open(action: Digest, bytes: Uint8Array): CachedResult {
  const signed = decodeSignedResult(bytes)
  const result = openResult(signed, { countersigned: true })
  if (result.action === action) return { signed, result }
  throw new MeshError('MESH0210', `the result is of action ${result.action}`)
}

const outputsOf = (result: ActionResult): Digest[] => [
  ...new Set(Object.values(result.outputs).flatMap((entry) => blobOf(entry)?.digest ?? [])),
]

/** Where a result is mentioned, so that all of it can go without the result being read. */
interface Mention {
  readonly sequence: number
  readonly jobKey: Digest
  readonly outputs: readonly Digest[]
}

/**
 * `a` + action → signed result; `j` + job key → actions; `o` + sequence → action, in order of arrival;
 * `d` + output + action → nothing; `s` + action → sequence, job key, outputs; `m` → number of results.
 */
const actionKey = (action: Digest): Buffer => keyOf('a', digestBytes(action))
const jobKeyOf = (jobKey: Digest): Buffer => keyOf('j', digestBytes(jobKey))
const mentionKey = (action: Digest): Buffer => keyOf('s', digestBytes(action))
const orderKey = (sequence: number): Buffer => keyOf('o', u64(sequence))
const outputKey = (output: Digest, action?: Digest): Buffer =>
  keyOf('d', digestBytes(output), action === undefined ? NOTHING : digestBytes(action))
const ORDER_RANGE = { gte: Buffer.from('o'), lt: Buffer.from('p') }
const META_KEY = Buffer.from('m')
const LAST_DIGEST = Buffer.alloc(32, 0xff)
const NOTHING = Buffer.alloc(0)

const keyOf = (kind: string, ...parts: Uint8Array[]): Buffer =>
  Buffer.concat([Buffer.from(kind), ...parts])

function u64(value: number): Buffer {
  const bytes = Buffer.alloc(8)
  bytes.writeBigUInt64BE(BigInt(value))
  return bytes
}

const sequenceOf = (key: Uint8Array): number => Number(Buffer.from(key).readBigUInt64BE(1))

function putMention(batch: Batch, action: Digest, { sequence, jobKey, outputs }: Mention): void {
  batch.put(
    mentionKey(action),
    Buffer.concat([u64(sequence), ...[jobKey, ...outputs].map(digestBytes)]),
  )
  for (const digest of outputs) batch.put(outputKey(digest, action), NOTHING)
}

function readMention(bytes: Uint8Array | undefined): Mention | undefined {
  if (bytes === undefined) return undefined
  const [jobKey, ...outputs] = readDigests(bytes.subarray(8))
  if (jobKey === undefined) return undefined
  return { sequence: Number(Buffer.from(bytes).readBigUInt64BE()), jobKey, outputs }
}

function readDigests(bytes: Uint8Array = NOTHING): Digest[] {
  return Array.from({ length: bytes.byteLength / 32 }, (_, at) =>
    digestFromBytes(bytes.subarray(at * 32, at * 32 + 32)),
  )
}
