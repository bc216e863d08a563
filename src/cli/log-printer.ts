/** How `mesh logs` shows records: as they were printed, with times, or as JSON. */
import type { AttemptView, JobView } from '../wire/api.ts'
import type { LogStream } from '../wire/log-record.ts'
import { printJson, type Context } from './context.ts'
import type { ReadRecord } from './read-log.ts'
import { EscapeFilter, type EscapePolicy } from './text/escape-filter.ts'

export interface LogPrinter {
  print(record: ReadRecord): Promise<void>
  /** The end of the log. */
  end(): Promise<void>
}

/** Of whom the log is; the attempt is unknown for a result that was in the cache. */
export interface LogSubject {
  readonly job: JobView
  readonly attempt: AttemptView | undefined
}

export interface PrinterOptions {
  readonly isJson: boolean
  readonly hasTimes: boolean
  /** Bytes as they are, whatever they do. */
  readonly isRaw: boolean
}

export function logPrinter(
  context: Context,
  subject: LogSubject,
  { isJson, hasTimes, isRaw }: PrinterOptions,
): LogPrinter {
  if (isJson) return new JsonPrinter(context, subject)
  const { isTty, style } = context.stdout
  const policy = isRaw ? undefined : { colour: style.colour, isTerminal: isTty }
  return new TextPrinter(context, policy, hasTimes ? buildStartMs(subject.attempt) : 'none')
}

/** When its build began, by the wall clock of its owner: times in a log count from there. */
export function buildStartMs(attempt: AttemptView | undefined): number | undefined {
  if (attempt === undefined) return undefined
  return Date.parse(attempt.startedAt) + (attempt.phases.fetch ?? 0)
}

/** Every line says whose it is: of two nodes of one name, or two jobs, none is taken for the other. */
class JsonPrinter implements LogPrinter {
  readonly #context: Context
  readonly #head: Readonly<Record<string, unknown>>
  readonly #startMs: number | undefined

  constructor(context: Context, { job, attempt }: LogSubject) {
    this.#context = context
    this.#startMs = buildStartMs(attempt)
    this.#head = {
      request: job.request,
      job: job.id,
      name: job.name,
      attempt: attempt?.id ?? null,
      n: attempt?.n ?? null,
      node: attempt?.node ?? null,
      peerId: attempt?.peerId ?? null,
      host: attempt?.host ?? null,
      arch: attempt?.arch ?? null,
      platform: attempt?.platform ?? null,
      environment: attempt?.environment ?? null,
    }
  }

  async print({ atMs, stream, bytes, endBytes }: ReadRecord): Promise<void> {
    await printJson(this.#context.stdout, {
      ...this.#head,
      at: this.#startMs === undefined ? null : new Date(this.#startMs + atMs).toISOString(),
      atMs,
      stream,
      offset: endBytes,
      text: Buffer.from(bytes).toString('utf8'),
    })
  }

  async end(): Promise<void> {
    // Each line is whole.
  }
}

class TextPrinter implements LogPrinter {
  readonly #context: Context
  readonly #policy: EscapePolicy | undefined
  readonly #startMs: number | undefined | 'none'
  readonly #filters = new Map<LogStream, EscapeFilter>()
  #isLineStart = true
  #before: LogStream | undefined

  /** Without a policy nothing is filtered; 'none': no times. */
  constructor(
    context: Context,
    policy: EscapePolicy | undefined,
    startMs: number | undefined | 'none',
  ) {
    this.#context = context
    this.#policy = policy
    this.#startMs = startMs
  }

  async print(record: ReadRecord): Promise<void> {
    const { stream } = record
    const bytes =
      stream === 'mesh'
        ? Buffer.from(`mesh: ${Buffer.from(record.bytes).toString('utf8').trimEnd()}\n`)
        : Buffer.from(record.bytes)
    const clean =
      this.#policy === undefined ? bytes : this.#filter(stream, this.#policy).push(bytes)
    if (clean.byteLength === 0) return
    const pieces: Uint8Array[] = []
    // What mesh says, and where times stand before it, is a line of its own.
    const isBroken = stream === 'mesh' || (this.#startMs !== 'none' && stream !== this.#before)
    if (!this.#isLineStart && isBroken) {
      pieces.push(Buffer.from('\n'))
      this.#isLineStart = true
    }
    this.#before = stream
    if (this.#startMs === 'none') {
      pieces.push(clean)
      this.#isLineStart = clean.at(-1) === 10
    } else this.#addTimed(pieces, record, Buffer.from(clean), this.#startMs)
    await this.#context.stdout.write(Buffer.concat(pieces))
  }

  /** A line that comes in pieces keeps its first time. */
  #addTimed(
    pieces: Uint8Array[],
    { atMs, stream }: ReadRecord,
    bytes: Buffer,
    startMs: number | undefined,
  ): void {
    const time =
      startMs === undefined
        ? `+${(atMs / 1000).toFixed(3)}s`
        : new Date(startMs + atMs).toISOString()
    for (let at = 0; at < bytes.byteLength;) {
      if (this.#isLineStart) pieces.push(Buffer.from(`${time} ${stream.padEnd(6)} `))
      const newline = bytes.indexOf(10, at)
      const end = newline === -1 ? bytes.byteLength : newline + 1
      pieces.push(bytes.subarray(at, end))
      this.#isLineStart = newline !== -1
      at = end
    }
  }

  #filter(stream: LogStream, policy: EscapePolicy): EscapeFilter {
    const known = this.#filters.get(stream)
    if (known !== undefined) return known
    const filter = new EscapeFilter(policy)
    this.#filters.set(stream, filter)
    return filter
  }

  async end(): Promise<void> {
    // A colour that the log leaves on must not run into what follows.
    if (this.#policy?.colour === true && this.#policy.isTerminal)
      await this.#context.stdout.write('\x1b[0m')
  }
}
