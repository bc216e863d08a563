/** Lines out of the records of a log: each stream is cut into lines of its own, whatever pieces it came in. */
import type { LogRecord, LogStream } from '../../wire/log-record.ts'

/** A longer line is cut into pieces of this length, each of which counts as one. */
const LINE_BYTES_MAX = 32 * 1024

export interface LogLine {
  readonly stream: LogStream
  /** Of its first byte. */
  readonly atMs: number
  /** With the line feed, where it has one. */
  readonly bytes: Uint8Array
}

interface Open {
  atMs: number
  pieces: Uint8Array[]
  sizeBytes: number
}

export class LineCutter {
  readonly #open = new Map<LogStream, Open>()

  /** The lines that end in this record. */
  push({ stream, atMs, bytes }: LogRecord): LogLine[] {
    // What mesh says stands behind all that was printed before.
    const lines: LogLine[] = stream === 'mesh' ? this.rest() : []
    for (let at = 0; at < bytes.byteLength;) {
      const open = this.#open.get(stream) ?? { atMs, pieces: [], sizeBytes: 0 }
      const roomEnd = Math.min(bytes.byteLength, at + LINE_BYTES_MAX - open.sizeBytes)
      const newline = bytes.indexOf(10, at)
      const end = newline !== -1 && newline < roomEnd ? newline + 1 : roomEnd
      open.pieces.push(bytes.subarray(at, end))
      open.sizeBytes += end - at
      if (bytes[end - 1] === 10 || open.sizeBytes >= LINE_BYTES_MAX) {
        lines.push({ stream, atMs: open.atMs, bytes: joined(open.pieces) })
        this.#open.delete(stream)
      } else this.#open.set(stream, open)
      at = end
    }
    return lines
  }

  /** What has no end yet, oldest first; afterwards it is forgotten. */
  rest(): LogLine[] {
    const open = [...this.#open].toSorted(([, a], [, b]) => a.atMs - b.atMs)
    this.#open.clear()
    return open.map(([stream, { atMs, pieces }]) => ({ stream, atMs, bytes: joined(pieces) }))
  }

  /** Whether all that came has its end: nothing is lost when reading begins here. */
  get isClean(): boolean {
    return this.#open.size === 0
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const [first] = pieces
  return pieces.length === 1 && first !== undefined ? first : Buffer.concat(pieces)
}
