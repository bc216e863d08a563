/**
 * The format of a build's log: records of what was read from stdout or stderr, each with its stream and
 * time, so that the exact bytes of either stream and the time of each line survive.
 *
 * Record = u8 stream (1 stdout, 2 stderr, 3 a message of mesh) | u32 milliseconds since the start |
 * u32 length | bytes; big-endian. A reader resumes at any record boundary.
 *
 * What is sent of a part of a log (log-view.ts) has records of a fourth kind in between, which no log has:
 * a position, u64, where reading the whole log goes on after all that came before it.
 */
export type LogStream = 'stdout' | 'stderr' | 'mesh'
export interface LogRecord {
  readonly stream: LogStream
  readonly atMs: number
  readonly bytes: Uint8Array
}

export const LOG_RECORD_HEAD_BYTES = 9
export const LOG_RECORD_BYTES_MAX = 64 * 1024
const STREAMS: readonly LogStream[] = ['stdout', 'stderr', 'mesh']

const POSITION = 4

/** A position in the whole log. */
export function encodeLogPosition(positionBytes: number): Uint8Array<ArrayBuffer> {
  const out = Buffer.alloc(LOG_RECORD_HEAD_BYTES + 8)
  out.writeUInt8(POSITION, 0)
  out.writeUInt32BE(8, 5)
  out.writeBigUInt64BE(BigInt(positionBytes), LOG_RECORD_HEAD_BYTES)
  return out
}

/** One record; `bytes` has at most LOG_RECORD_BYTES_MAX bytes. */
export function encodeLogRecord(record: LogRecord): Uint8Array<ArrayBuffer> {
  const out = Buffer.alloc(LOG_RECORD_HEAD_BYTES + record.bytes.byteLength)
  out.writeUInt8(STREAMS.indexOf(record.stream) + 1, 0)
  out.writeUInt32BE(Math.min(record.atMs, 0xffffffff), 1)
  out.writeUInt32BE(record.bytes.byteLength, 5)
  out.set(record.bytes, LOG_RECORD_HEAD_BYTES)
  return out
}

/** What the head at `at` says; `stream` is undefined for what is not in a log. */
export function logRecordHead(
  buffer: Buffer,
  at: number,
): { readonly stream: LogStream | undefined; readonly lengthBytes: number } {
  return { stream: STREAMS[buffer.readUInt8(at) - 1], lengthBytes: buffer.readUInt32BE(at + 5) }
}

/** Bytes of the whole records that `bytes` begins with; undefined where it does not begin with one. */
export function wholeRecordBytes(bytes: Uint8Array): number | undefined {
  const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  let at = 0
  while (at + LOG_RECORD_HEAD_BYTES <= buffer.byteLength) {
    const { stream, lengthBytes } = logRecordHead(buffer, at)
    if (stream === undefined || lengthBytes > LOG_RECORD_BYTES_MAX) return at === 0 ? undefined : at
    const end = at + LOG_RECORD_HEAD_BYTES + lengthBytes
    if (end > buffer.byteLength) break
    at = end
  }
  return at
}

/** Reads records out of pieces of any length. Throws RangeError at a malformed head. */
export class LogDecoder {
  #rest: Buffer = Buffer.alloc(0)
  #position: number | undefined
  #since = 0

  /** The last position that came; a log as it is has none. */
  get position(): number | undefined {
    return this.#position
  }
  /** Records that came after it. */
  get since(): number {
    return this.#since
  }

  /** The records that `bytes` completes. */
  push(bytes: Uint8Array): LogRecord[] {
    const records: LogRecord[] = []
    let buffer =
      this.#rest.byteLength === 0 ? Buffer.from(bytes) : Buffer.concat([this.#rest, bytes])
    while (buffer.byteLength >= LOG_RECORD_HEAD_BYTES) {
      const { stream, lengthBytes: length } = logRecordHead(buffer, 0)
      if (buffer.readUInt8(0) === POSITION && length === 8) {
        if (buffer.byteLength < LOG_RECORD_HEAD_BYTES + length) break
        this.#position = Number(buffer.readBigUInt64BE(LOG_RECORD_HEAD_BYTES))
        this.#since = 0
        buffer = buffer.subarray(LOG_RECORD_HEAD_BYTES + length)
        continue
      }
      if (stream === undefined || length > LOG_RECORD_BYTES_MAX)
        throw new RangeError(`malformed log record: stream ${buffer.readUInt8(0)}, ${length} bytes`)
      if (buffer.byteLength < LOG_RECORD_HEAD_BYTES + length) break
      const end = LOG_RECORD_HEAD_BYTES + length
      records.push({
        stream,
        atMs: buffer.readUInt32BE(1),
        bytes: buffer.subarray(LOG_RECORD_HEAD_BYTES, end),
      })
      this.#since += 1
      buffer = buffer.subarray(end)
    }
    this.#rest = buffer
    return records
  }

  /** Bytes of an unfinished record: 0 at a clean end. */
  get pendingBytes(): number {
    return this.#rest.byteLength
  }
}
