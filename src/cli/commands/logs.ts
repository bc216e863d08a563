/** `mesh logs`: what a job printed, exactly, in the order in which it printed it. */
import { MeshError } from '../../base/errors.ts'
import type { JobView } from '../../wire/api.ts'
import type { LogRecord } from '../../wire/log-record.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, type Context } from '../context.ts'
import { readLog } from '../read-log.ts'
import { resolveJob } from '../resolve-job.ts'

export async function logs(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const job = await resolveJob(client, args.operand(0))
  const attempt = args.parsed('attempt', wholeNumber, 'a number')
  const startedAt = startOf(job, attempt)
  const write = args.flag('json')
    ? (record: LogRecord): Promise<void> =>
        printJson(context.stdout, {
          at: startedAt === undefined ? null : isoAt(startedAt, record),
          atMs: record.atMs,
          stream: record.stream,
          text: Buffer.from(record.bytes).toString('utf8'),
        })
    : args.flag('timestamps')
      ? timestamped(context, startedAt)
      : (record: LogRecord): Promise<void> =>
          context.stdout.write(record.stream === 'mesh' ? meshLine(record) : record.bytes)
  const controller = new AbortController()
  for await (const record of readLog(client, context, {
    job: job.id,
    ...(attempt === undefined ? {} : { attempt }),
    follow: args.flag('follow'),
    signal: controller.signal,
  }))
    await write(record)
  return 0
}

function wholeNumber(text: string): number | undefined {
  return /^\d{1,9}$/.test(text) ? Number(text) : undefined
}

/** When the attempt began, by the wall clock. */
function startOf(job: JobView, n: number | undefined): number | undefined {
  const attempt = n === undefined ? job.attempts.at(-1) : job.attempts.find((one) => one.n === n)
  if (n !== undefined && attempt === undefined)
    throw new MeshError('MESH0601', `${job.name} (${job.id}) has no attempt ${n}`)
  return attempt === undefined ? undefined : Date.parse(attempt.startedAt)
}

const isoAt = (startedAt: number, { atMs }: LogRecord): string =>
  new Date(startedAt + atMs).toISOString()

const meshLine = ({ bytes }: LogRecord): string =>
  `mesh: ${Buffer.from(bytes).toString('utf8').trimEnd()}\n`

/** Begins each line with its time and stream; a line that comes in pieces keeps its first time. */
function timestamped(
  context: Context,
  startedAt: number | undefined,
): (record: LogRecord) => Promise<void> {
  let isLineStart = true
  let before: LogRecord['stream'] | undefined
  return async (record) => {
    const head = `${startedAt === undefined ? `+${(record.atMs / 1000).toFixed(3)}s` : isoAt(startedAt, record)} ${record.stream.padEnd(6)} `
    const pieces: Buffer[] = []
    if (!isLineStart && record.stream !== before) {
      pieces.push(Buffer.from('\n'))
      isLineStart = true
    }
    before = record.stream
    const bytes = Buffer.from(record.bytes)
    for (let at = 0; at < bytes.byteLength;) {
      if (isLineStart) pieces.push(Buffer.from(head))
      const newline = bytes.indexOf(10, at)
      const end = newline === -1 ? bytes.byteLength : newline + 1
      pieces.push(bytes.subarray(at, end))
      isLineStart = newline !== -1
      at = end
    }
    await context.stdout.write(Buffer.concat(pieces))
  }
}
