/**
 * Results of actions, by action and by the job that they answer.
 *
 * Only successes that builder and owner signed go in, and both signatures are checked again at every
 * look-up: the disk is not trusted more than a peer. Its loss costs rebuilding, so it is a Level of its
 * own and no cache of anything else.
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
import { openLevel } from './blob-index.ts'
import { diskError } from './disk.ts'

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
  readonly count: number
}

/** Throws MESH0105 when another process has it open. */
export async function openActionCache(
  deps: { readonly log: Logger },
  options: { readonly directory: string; readonly countMax?: number },
): Promise<ActionCache> {
  const db = await openLevel(options.directory)
  let [firstSequence, nextSequence] = await sequences(db)
  const countMax = options.countMax ?? CACHED_RESULTS_MAX
  let last: Promise<unknown> = Promise.resolve()

  const find = async (action: Digest): Promise<CachedResult | undefined> => {
    const bytes = db.getSync(actionKey(action))
    if (bytes === undefined) return undefined
    try {
      const signed = decodeSignedResult(bytes)
      const result = openResult(signed, { countersigned: true })
      if (result.action === action) return { signed, result }
      throw new MeshError('MESH0210', `the result is of action ${result.action}`)
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      deps.log.warn(
        { action, reason: messageOf(error) },
        'stored result does not verify and was removed',
      )
      await db.del(actionKey(action))
      return undefined
    }
  }

  /** Removes what has the number, and its mention in the list of its job. */
  const evict = async (batch: ReturnType<typeof db.batch>, sequence: number): Promise<void> => {
    const bytes = db.getSync(orderKey(sequence))
    batch.del(orderKey(sequence))
    if (bytes === undefined) return
    const action = digestFromBytes(bytes)
    const jobKey = (await find(action))?.result.jobKey
    batch.del(actionKey(action))
    if (jobKey === undefined) return
    const rest = readActions(db.getSync(jobKeyOf(jobKey))).filter((other) => other !== action)
    if (rest.length === 0) batch.del(jobKeyOf(jobKey))
    else batch.put(jobKeyOf(jobKey), Buffer.concat(rest.map(digestBytes)))
  }

  const write = async ({ signed, result }: CachedResult): Promise<void> => {
    if (result.exitCode !== 0)
      throw new MeshError('MESH0210', `a result with exit code ${result.exitCode} is not cached`)
    const batch = db.batch()
    if (db.getSync(actionKey(result.action)) === undefined) {
      batch.put(orderKey(nextSequence++), digestBytes(result.action))
      if (nextSequence - firstSequence > countMax) {
        await evict(batch, firstSequence++)
      }
    }
    batch.put(actionKey(result.action), encodeSignedResult(signed))
    const actions = [result.action, ...readActions(db.getSync(jobKeyOf(result.jobKey)))]
    const kept = [...new Set(actions)].slice(0, ACTIONS_PER_JOB_MAX)
    batch.put(jobKeyOf(result.jobKey), Buffer.concat(kept.map(digestBytes)))
    await batch.write()
  }

  const keep = (cached: CachedResult): Promise<void> => {
    // One after the other, since each reads what the one before wrote.
    const done = last.then(() => write(cached))
    last = done.catch(() => undefined)
    return done.catch((error: unknown) => {
      throw diskError(error, options.directory)
    })
  }

  return {
    get count() {
      return nextSequence - firstSequence
    },
    find,
    actionsOf: async (jobKey) =>
      readActions(db.getSync(jobKeyOf(jobKey))).filter(
        (action) => db.getSync(actionKey(action)) !== undefined,
      ),
    async put(signed) {
      const result = openResult(signed, { countersigned: true })
      await keep({ signed, result })
      return result
    },
    keep,
    async [Symbol.asyncDispose]() {
      await last
      await db.close()
    },
  }
}

type Database = Awaited<ReturnType<typeof openLevel>>

/** `a` + action → signed result; `j` + job key → actions; `o` + sequence → action, in order of arrival. */
const actionKey = (action: Digest): Uint8Array =>
  Buffer.concat([Buffer.from('a'), digestBytes(action)])
const jobKeyOf = (jobKey: Digest): Uint8Array =>
  Buffer.concat([Buffer.from('j'), digestBytes(jobKey)])
function orderKey(sequence: number): Buffer {
  const key = Buffer.alloc(9, 'o')
  key.writeBigUInt64BE(BigInt(sequence), 1)
  return key
}

/** The first and the next number of the order. */
async function sequences(db: Database): Promise<[number, number]> {
  const range = { gte: orderKey(0), lt: Buffer.from('p') }
  const [first] = await db.keys({ ...range, limit: 1 }).all()
  const [last] = await db.keys({ ...range, limit: 1, reverse: true }).all()
  if (first === undefined || last === undefined) return [0, 0]
  return [sequenceOf(first), sequenceOf(last) + 1]
}

const sequenceOf = (key: Uint8Array): number => Number(Buffer.from(key).readBigUInt64BE(1))

function readActions(bytes: Uint8Array | undefined): Digest[] {
  const count = (bytes?.byteLength ?? 0) / 32
  return Array.from({ length: count }, (_, at) =>
    digestFromBytes((bytes ?? EMPTY).subarray(at * 32, at * 32 + 32)),
  )
}
const EMPTY = new Uint8Array()
