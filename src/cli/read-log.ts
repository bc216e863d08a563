/** The log of a job as records, resumed where a connection was lost. */
import { sleep } from '../base/clock.ts'
import { hasCode, MeshError } from '../base/errors.ts'
import { LOG_RECORD_HEAD_BYTES, LogDecoder, type LogRecord } from '../wire/log-record.ts'
import type { Client } from './client.ts'
import type { Context } from './context.ts'

const RETRY_MS = 250
/** Lost connections in a row, without a byte in between, after which reading gives up. */
const RETRIES_MAX = 20

export interface LogRequest {
  readonly job: string
  /** Without one, that of the latest attempt. */
  readonly attempt?: number
  readonly follow: boolean
  readonly signal: AbortSignal
}

export async function* readLog(
  client: Client,
  context: Context,
  { job, attempt, follow, signal }: LogRequest,
): AsyncIterable<LogRecord> {
  let offset = 0
  for (let failures = 0; ;) {
    const decoder = new LogDecoder()
    const query = new URLSearchParams({
      offset: String(offset),
      ...(follow ? { follow: '1' } : {}),
      ...(attempt === undefined ? {} : { attempt: String(attempt) }),
    })
    try {
      for await (const piece of client.stream(
        `/api/jobs/${encodeURIComponent(job)}/log?${query.toString()}`,
        signal,
      )) {
        failures = 0
        for (const record of decoder.push(piece)) {
          offset += LOG_RECORD_HEAD_BYTES + record.bytes.byteLength
          yield record
        }
      }
      if (decoder.pendingBytes === 0) return
    } catch (error) {
      if (signal.aborted) return
      if (!hasCode(error, 'ECONNRESET', 'EPIPE')) throw error
    }
    if (++failures > RETRIES_MAX)
      throw new MeshError('MESH0501', `the log of ${job} breaks off at byte ${offset}`)
    await sleep(context.clock, RETRY_MS, signal)
  }
}
