/**
 * Makes a view of a log out of its bytes: streams, time, expression and last lines, in one pass that holds
 * no more than a batch of lines and those that may be the last.
 *
 * What comes out are records again, and between them positions of the whole log: who lost the connection
 * begins anew at the last one, and leaves out as many records as came after it.
 */
import {
  encodeLogPosition,
  encodeLogRecord,
  LOG_RECORD_HEAD_BYTES,
  LogDecoder,
  type LogRecord,
} from '../../wire/log-record.ts'
import type { LogView } from '../../wire/log-view.ts'
import { LineCutter, type LogLine } from './log-lines.ts'
import type { LineSearch, LineSearches } from './line-search.ts'

/** Lines and bytes that one search gives; then it says where to go on. */
const FOUND_LINES_MAX = 100_000
const FOUND_BYTES_MAX = 16 * 1024 * 1024
/** Of the last lines that are held. */
const TAIL_BYTES_MAX = 16 * 1024 * 1024
/** For all batches of one search together. */
const SEARCH_MS_MAX = 20_000
const PIECE_BYTES_MAX = 128 * 1024

export interface ViewDeps {
  readonly searches: Pick<LineSearches, 'open'>
  readonly nowMs: () => number
}

/** True where a view shows all of a log as it is. */
export function showsAll(view: LogView): boolean {
  const { streams, sinceMs = 0, grep, tail } = view
  return streams === undefined && sinceMs === 0 && grep === undefined && tail === undefined
}

/**
 * `source` are the bytes of the log from `offsetBytes` on; `sizeBytes` is where its last lines are counted
 * back from. Pieces are at most 128 KiB.
 */
export async function* viewedLog(
  { searches, nowMs }: ViewDeps,
  source: AsyncIterable<Uint8Array>,
  {
    view,
    offsetBytes,
    sizeBytes,
  }: { readonly view: LogView; readonly offsetBytes: number; readonly sizeBytes: number },
): AsyncIterable<Uint8Array> {
  const { grep, ignoreCase, tail } = view
  await using search =
    grep === undefined
      ? undefined
      : await searches.open({ source: grep, flags: ignoreCase === true ? 'i' : '' })
  const found = search === undefined ? undefined : new Found(search, nowMs)
  const decoder = new LogDecoder()
  const cutter = new LineCutter()
  // Whoever wants lines gets whole ones; else records stay what they are.
  let last = tail === undefined || offsetBytes >= sizeBytes ? undefined : new LastLines(tail)
  let isCut = false
  let position = offsetBytes
  const flush = (lines: readonly LogLine[]): Uint8Array[] => {
    const shown = last === undefined ? lines : last.end(lines)
    last = undefined
    const records = shown.map(encodeLogRecord)
    return cutter.isClean ? [...records, encodeLogPosition(position)] : records
  }
  for await (const bytes of source) {
    const lines: LogLine[] = []
    const before = position
    for (const record of decoder.push(bytes)) {
      position += LOG_RECORD_HEAD_BYTES + record.bytes.byteLength
      if (isShown(record, view)) {
        if (found === undefined && last === undefined) lines.push(record)
        else lines.push(...cutter.push(record))
      }
      // From here on all is shown that comes: also the rest of what has no end yet.
      if (last !== undefined && !isCut && position >= sizeBytes) {
        isCut = true
        lines.push(...cutter.rest())
        if (found !== undefined) continue
        yield* inPieces(flush(lines))
        lines.length = 0
      }
    }
    const matching = found === undefined ? lines : await found.of(lines)
    if (matching === undefined) {
      const goOnBytes = found?.isStuck === true ? position : before
      const note = `the search stopped, ${found?.whyStopped}: go on with --offset ${goOnBytes}`
      yield* inPieces(flush([noteLine(note)]))
      return
    }
    if (last === undefined || position >= sizeBytes) yield* inPieces(flush(matching))
    else last.add(matching)
  }
  const rest = cutter.rest()
  const matching = found === undefined ? rest : ((await found.of(rest)) ?? [])
  yield* inPieces(flush(matching))
}

function isShown({ stream, atMs }: LogRecord, { streams, sinceMs = 0 }: LogView): boolean {
  return atMs >= sinceMs && (streams === undefined || streams.includes(stream))
}

const noteLine = (text: string): LogLine => ({
  stream: 'mesh',
  atMs: 0,
  bytes: Buffer.from(`${text}\n`),
})

/** What a search gives, up to its limits. */
class Found {
  readonly #search: LineSearch
  readonly #nowMs: () => number
  #lines = 0
  #bytes = 0
  #searchedMs = 0
  whyStopped = ''
  /** The lines that it stopped at would stop it again. */
  isStuck = false

  constructor(search: LineSearch, nowMs: () => number) {
    this.#search = search
    this.#nowMs = nowMs
  }

  /** Undefined when it is over. */
  async of(lines: readonly LogLine[]): Promise<readonly LogLine[] | undefined> {
    if (this.whyStopped !== '') return undefined
    if (lines.length === 0) return []
    const startedMs = this.#nowMs()
    const hits = await this.#search.match(lines.map(({ bytes }) => bytes))
    this.#searchedMs += this.#nowMs() - startedMs
    if (hits === undefined) {
      this.isStuck = true
      this.whyStopped = 'for the expression takes too long on some line'
      return undefined
    }
    const matching = lines.filter((_, at) => hits[at] === true)
    this.#lines += matching.length
    for (const { bytes } of matching) this.#bytes += bytes.byteLength
    if (this.#lines > FOUND_LINES_MAX || this.#bytes > FOUND_BYTES_MAX)
      this.whyStopped = `after ${this.#lines} lines with ${this.#bytes} bytes`
    else if (this.#searchedMs > SEARCH_MS_MAX) this.whyStopped = `after ${SEARCH_MS_MAX / 1000} s`
    return matching
  }
}

/** The last of the lines that come, at most so many and so many bytes of them. */
class LastLines {
  readonly #countMax: number
  #lines: LogLine[] = []
  #first = 0
  #bytes = 0

  constructor(countMax: number) {
    this.#countMax = countMax
  }

  add(lines: readonly LogLine[]): void {
    for (const line of lines) {
      // It must not keep the whole piece in memory that it was cut from.
      this.#lines.push({ ...line, bytes: Buffer.from(line.bytes) })
      this.#bytes += line.bytes.byteLength
      while (
        this.#lines.length - this.#first > this.#countMax ||
        (this.#bytes > TAIL_BYTES_MAX && this.#lines.length - this.#first > 1)
      ) {
        this.#bytes -= this.#lines[this.#first]?.bytes.byteLength ?? 0
        this.#first += 1
      }
      if (this.#first > this.#countMax) {
        this.#lines = this.#lines.slice(this.#first)
        this.#first = 0
      }
    }
  }

  end(lines: readonly LogLine[]): readonly LogLine[] {
    this.add(lines)
    return this.#lines.slice(this.#first)
  }
}

function* inPieces(records: readonly Uint8Array[]): Generator<Uint8Array> {
  let piece: Uint8Array[] = []
  let sizeBytes = 0
  for (const record of records) {
    if (sizeBytes + record.byteLength > PIECE_BYTES_MAX && sizeBytes > 0) {
      yield Buffer.concat(piece)
      piece = []
      sizeBytes = 0
    }
    piece.push(record)
    sizeBytes += record.byteLength
  }
  if (sizeBytes > 0) yield Buffer.concat(piece)
}
