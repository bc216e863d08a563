/**
 * What an attempt leaves at its node: its log as a blob, closed by the line that says why it ended, and of a
 * failure its directory where that is wanted. What is kept is noted, for as long as it is to be kept.
 */
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import { hasCode, MeshError, messageOf } from '../../base/errors.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import { decodeAction } from '../../wire/action.ts'
import type { BlobRef } from '../../wire/digest.ts'
import { AttemptId } from '../../wire/names.ts'
import type { AttemptOutcome } from '../../wire/work-messages.ts'
import { closeLog, tailOf } from '../attempt-log.ts'
import type { AttemptRecord, AttemptRecords } from '../attempt-records.ts'
import { NotKept, prepareKept } from '../kept-directory.ts'
import { lastLine } from '../last-line.ts'
import type { Attempt } from './attempt.ts'

/** What a failure sends along of its log. */
const LOG_TAIL_BYTES = 8 * 1024
const LOST = 'lost: its node was killed or restarted while it ran (MESH0505)'

export interface RemainsDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly store: BlobStore
  /** Where it is noted which logs and directories are kept. */
  readonly records?: AttemptRecords
}

export class Remains {
  readonly #deps: RemainsDeps

  constructor(deps: RemainsDeps) {
    this.#deps = deps
  }

  /** Keeps the log of an attempt that was cut short with its node; `directory` has those of attempts. */
  async salvage(directory: string, attempt: string): Promise<void> {
    const { records, store, log, clock } = this.#deps
    const path = join(directory, attempt, 'log')
    if (records === undefined || !AttemptId.safeParse(attempt).success || !existsSync(path)) return
    try {
      await closeLog(path, LOST, { atMs: 0, isWhole: false })
      const ref = await store.putFile(path, { move: true })
      const endedAtWall = clock.wallMs()
      const known = { job: '' as const, name: '', system: '', isolation: '' }
      const what = { end: 'lost', lastLine: LOST, log: ref, kept: null }
      records.add({ v: 1, attempt, ...known, endedAtWall, ...what })
    } catch (error) {
      log.warn({ err: error, attempt }, 'log of a lost attempt was not kept')
    }
  }

  /** The log of an attempt that gave a result. */
  async keepBuilt(attempt: Attempt): Promise<BlobRef> {
    const log = await this.#keepLog(attempt)
    this.#note(attempt, { end: 'built', lastLine: null, log, kept: null })
    return log
  }

  /** The outcome with what is kept of an attempt that gave none. Never throws. */
  async conclude(attempt: Attempt, ended: AttemptOutcome): Promise<AttemptOutcome> {
    try {
      if (ended.kind === 'built') return ended
      const kept =
        ended.kind === 'failed' && attempt.limits.keepFailed === true
          ? await this.#keepDirectory(attempt)
          : null
      const outcome: AttemptOutcome =
        ended.kind === 'failed' && kept !== null
          ? { ...ended, kept: { kind: 'dir', digest: kept.digest, size: kept.size } }
          : ended
      const line = lastLine(outcome, messageOf(attempt.signal.reason)) ?? null
      if (line === null || outcome.kind === 'returned' || outcome.kind === 'refused') return outcome
      const isWhole = outcome.kind === 'failed'
      attempt.logGrew(await closeLog(attempt.logPath, line, { atMs: attempt.builtForMs, isWhole }))
      const logTail = isWhole ? await tailOf(attempt.logPath, LOG_TAIL_BYTES) : ''
      const log = await this.#keepLog(attempt)
      this.#note(attempt, { end: outcome.kind, lastLine: line, log, kept })
      if (outcome.kind === 'failed') return { ...outcome, log, logTail }
      return outcome.kind === 'missing' ? outcome : { ...outcome, log }
    } catch (error) {
      this.#deps.log.warn({ err: error, attempt: attempt.id }, 'log of an attempt was not kept')
      return ended
    }
  }

  /** An empty blob where there is no log. */
  async #keepLog({ logPath }: Attempt): Promise<BlobRef> {
    try {
      return await this.#deps.store.putFile(logPath, { move: true })
    } catch (error) {
      if (!(error instanceof MeshError) && !hasCode(error, 'ENOENT')) throw error
      if (error instanceof MeshError && error.code !== 'MESH0207') throw error
      return this.#deps.store.put(new Uint8Array())
    }
  }

  #note({ lease }: Attempt, what: Pick<AttemptRecord, 'end' | 'lastLine' | 'log' | 'kept'>): void {
    const { attempt, job, name, isolation, host: system = '' } = lease
    const endedAtWall = this.#deps.clock.wallMs()
    this.#deps.records?.add({ v: 1, attempt, job, name, system, isolation, endedAtWall, ...what })
  }

  /** Null where it cannot be kept: the build has failed for its own reason, which is told all the same. */
  async #keepDirectory({ id, directory, lease, logPath }: Attempt): Promise<AttemptRecord['kept']> {
    const { records, store, log } = this.#deps
    if (records === undefined) return null
    const { job, name } = lease
    try {
      const action = decodeAction(lease.action)
      const { path, sizeBytes } = await prepareKept(directory, { id, job, name }, action, {
        sizeBytesMax: records.treeBytesMax,
      })
      const entry = await store.putTree(path)
      if (entry.kind !== 'dir') return null
      return { digest: entry.digest, size: entry.size, treeBytes: sizeBytes }
    } catch (error) {
      const line = `its directory is not kept: ${messageOf(error)}`
      if (!(error instanceof NotKept))
        log.warn({ err: error, attempt: id }, 'directory of a failed attempt was not kept')
      await closeLog(logPath, line, { atMs: 0, isWhole: true })
      return null
    }
  }
}
