/** The log of a job as records, resumed where a connection was lost. */
import { sleep } from '../base/clock.ts'
import { hasCode, MeshError } from '../base/errors.ts'
import { LOG_RECORD_HEAD_BYTES, LogDecoder, type LogRecord } from '../wire/log-record.ts'
import type { LogView } from '../wire/log-view.ts'
import type { Client } from './client.ts'
import type { Context } from './context.ts'

const RETRY_MS = 250
/** Lost connections in a row, without a byte in between, after which reading gives up. */
const RETRIES_MAX = 20

export interface LogRequest {
  readonly job: string
  /** Number or id; without one, that of the latest attempt. */
  readonly attempt?: number | string
  readonly offsetBytes?: number
  /** Without one, all of it. */
  readonly view?: LogView
  readonly follow: boolean
  readonly signal: AbortSignal
}

/** A record, and where the whole log goes on behind it; null for a part of a log. */
export interface ReadRecord extends LogRecord {
  readonly endBytes: number | null
}

export async function* readLog(
  client: Client,
  context: Context,
  { job, attempt, offsetBytes = 0, view, follow, signal }: LogRequest,
): AsyncIterable<ReadRecord> {
  let offset = offsetBytes
  let query = view
  /** Records of a view that came before the connection was lost, and come again. */
  let skip = 0
  for (let failures = 0; ;) {
    const decoder = new LogDecoder()
    const path = logPath(job, { attempt, offset, view: query, follow })
    let left = skip
    try {
      for await (const piece of client.stream(path, signal)) {
        failures = 0
        for (const record of decoder.push(piece)) {
          const isFresh = left <= 0
          left -= 1
          if (view === undefined) offset += LOG_RECORD_HEAD_BYTES + record.bytes.byteLength
          if (isFresh) yield { ...record, endBytes: view === undefined ? offset : null }
        }
      }
      if (decoder.pendingBytes === 0) return
    } catch (error) {
      if (signal.aborted) return
      if (!hasCode(error, 'ECONNRESET', 'EPIPE')) throw error
    }
    if (view !== undefined) {
      if (decoder.position === undefined) skip = Math.max(skip, decoder.since)
      else {
        offset = decoder.position
        skip = decoder.since
        const { tail: _tail, ...rest } = view
        query = rest
      }
    }
    if (++failures > RETRIES_MAX)
      throw new MeshError('MESH0501', `the log of ${job} breaks off at byte ${offset}`)
    await sleep(context.clock, RETRY_MS, signal)
  }
}

function logPath(
  job: string,
  {
    attempt,
    offset,
    view = {},
    follow,
  }: {
    readonly attempt: number | string | undefined
    readonly offset: number
    readonly view: LogView | undefined
    readonly follow: boolean
  },
): string {
  const { streams, sinceMs, grep, ignoreCase, tail } = view
  const query = new URLSearchParams({
    offset: String(offset),
    ...(follow ? { follow: '1' } : {}),
    ...(attempt === undefined ? {} : { attempt: String(attempt) }),
    ...(streams === undefined ? {} : { stream: streams.join(',') }),
    ...(sinceMs === undefined ? {} : { since: String(sinceMs) }),
    ...(grep === undefined ? {} : { grep }),
    ...(ignoreCase === true ? { ignoreCase: '1' } : {}),
    ...(tail === undefined ? {} : { tail: String(tail) }),
  })
  return `/api/jobs/${encodeURIComponent(job)}/log?${query.toString()}`
}
