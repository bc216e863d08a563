/**
 * A libp2p stream as a frame channel: u32 big-endian length, then the body.
 *
 * libp2p streams have no backpressure of their own in either direction (`onDrain()` resolves once for ever,
 * `for await` buffers without limit), so writing here waits for the `drain` event and reading pauses the
 * stream. libp2p-host.ts makes these; nothing else touches a stream after that.
 */
import assert from 'node:assert/strict'
import type { Stream, StreamMessageEvent } from '@libp2p/interface'
import type { Logger } from 'pino'
import { messageOf } from '../../base/errors.ts'
import type { FrameChannel } from '../../wire/frame-channel.ts'

const HEAD_BYTES = 4
/**
 * The most that is handed to the stream at a time. Measured in 256 KiB frames over noise: 8.2 CPU s/GB,
 * against 9.7 with 64 KiB; the connection carries other streams, so not more.
 */
const SEND_BYTES_MAX = 256 * 1024
/** Frames up to this size leave together, in one copy; larger ones as they are (a copy costs 1.5 s/GB). */
const COPY_BYTES_MAX = 64 * 1024
/** Reading pauses when this much waits for the reader; the window of the stream (libp2p-host.ts) may still come. */
const READ_HIGH_WATER_BYTES = 1024 * 1024
/** A frame that waits counts as this much more than its body, so that empty ones are bounded as well. */
const FRAME_OVERHEAD_BYTES = 64
/** The first allocation for a body, whatever length is announced. */
const BODY_FIRST_BYTES = 256 * 1024
/** Unsent frames of senders that do not wait: this many times the largest frame, then the channel is closed. */
const UNSENT_FRAMES_MAX = 16

interface UnsentFrame {
  readonly frame: Uint8Array
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

/**
 * Owns the stream from now on. Frames that arrive wait, up to the limits above, until somebody reads.
 * A frame that is sent may be read later: its bytes must not change after that.
 */
export function frameStream(
  deps: { readonly stream: Stream; readonly log: Logger },
  options: { readonly remotePeer: string; readonly frameBytesMax: number },
): FrameChannel {
  return new FrameStream(deps, options)
}

class FrameStream implements FrameChannel {
  readonly remotePeer: string
  readonly closed: Promise<void>
  readonly #settleClosed: () => void
  readonly #stream: Stream
  readonly #log: Logger
  readonly #frameBytesMax: number

  #isOpen = true

  #unsent: UnsentFrame[] = []
  #unsentBytes = 0
  #isSending = false

  /** The head of the frame that is arriving, then its body. */
  readonly #head = Buffer.alloc(HEAD_BYTES)
  #headBytes = 0
  #body: Buffer | undefined
  #bodyBytes = 0
  #bodyLength = 0

  /** Whole frames in order of arrival, then those before them in reverse: a long array is slow to shift(). */
  #frames: Uint8Array[] = []
  #framesReversed: Uint8Array[] = []
  #framesBytes = 0
  #reader: ((frame: Uint8Array | undefined) => void) | undefined
  #isResuming = false

  constructor(
    { stream, log }: { readonly stream: Stream; readonly log: Logger },
    options: { readonly remotePeer: string; readonly frameBytesMax: number },
  ) {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.closed = promise
    this.#settleClosed = resolve
    this.remotePeer = options.remotePeer
    this.#frameBytesMax = options.frameBytesMax
    this.#stream = stream
    this.#log = log.child({
      component: 'frames',
      peer: options.remotePeer,
      protocol: stream.protocol,
    })
    stream.addEventListener('message', this.#onMessage)
    // The end of the remote's writing, and the unconditional end. No half-open channel: either ends both ways.
    stream.addEventListener('remoteCloseWrite', this.#onEnd)
    stream.addEventListener('close', this.#onEnd)
    if (stream.status !== 'open' || stream.remoteWriteStatus === 'closed') this.#onEnd()
  }

  send(frame: Uint8Array): Promise<void> {
    if (!this.#isOpen) return Promise.reject(this.#closedError())
    if (frame.byteLength > this.#frameBytesMax)
      return Promise.reject(
        new Error(
          `a frame of ${frame.byteLength} bytes for ${this.#stream.protocol}, the limit is ${this.#frameBytesMax}`,
        ),
      )
    return new Promise((resolve, reject) => {
      this.#unsent.push({ frame, resolve, reject })
      this.#unsentBytes += HEAD_BYTES + frame.byteLength
      if (this.#unsentBytes > UNSENT_FRAMES_MAX * (HEAD_BYTES + this.#frameBytesMax)) {
        this.#fail('closed a channel whose peer reads too slowly', {
          unsentBytes: this.#unsentBytes,
        })
      } else if (!this.#isSending) {
        this.#isSending = true
        // At the end of this tick, so that many small frames become one send.
        setImmediate(() => void this.#sendAll())
      }
    })
  }

  receive(): Promise<Uint8Array | undefined> {
    assert(this.#reader === undefined, 'one reader at a time')
    return new Promise((resolve) => {
      this.#reader = resolve
      this.#deliver()
    })
  }

  close(): void {
    this.#frames = []
    this.#framesReversed = []
    this.#body = undefined
    this.#end()
    this.#release()
  }

  readonly #onMessage = ({ data }: StreamMessageEvent): void => {
    for (const chunk of data instanceof Uint8Array ? [data] : data) if (!this.#parse(chunk)) return
    // resume() grants the peer a window after this listener returns, even if it paused in between.
    if (this.#framesBytes >= READ_HIGH_WATER_BYTES && !this.#isResuming) this.#pause()
    this.#deliver()
  }

  /** False once the peer broke the protocol. */
  #parse(chunk: Uint8Array): boolean {
    for (let at = 0; at < chunk.byteLength;) {
      if (this.#headBytes < HEAD_BYTES) {
        const part = chunk.subarray(at, at + HEAD_BYTES - this.#headBytes)
        this.#head.set(part, this.#headBytes)
        this.#headBytes += part.byteLength
        at += part.byteLength
        if (this.#headBytes < HEAD_BYTES) return true
        this.#bodyLength = this.#head.readUInt32BE(0)
        if (this.#bodyLength > this.#frameBytesMax) {
          this.#fail('closed a channel whose peer announced too long a frame', {
            frameBytes: this.#bodyLength,
            frameBytesMax: this.#frameBytesMax,
          })
          return false
        }
        this.#bodyBytes = 0
        this.#body = Buffer.allocUnsafe(Math.min(this.#bodyLength, BODY_FIRST_BYTES))
      }
      const part = chunk.subarray(at, at + this.#bodyLength - this.#bodyBytes)
      this.#append(part)
      at += part.byteLength
      if (this.#bodyBytes === this.#bodyLength) this.#completeFrame()
    }
    return true
  }

  /** Grows with what came, not with what was announced. */
  #append(part: Uint8Array): void {
    let body = this.#body
    assert(body !== undefined)
    const needed = this.#bodyBytes + part.byteLength
    if (needed > body.byteLength) {
      const grown = Buffer.allocUnsafe(
        Math.min(this.#bodyLength, Math.max(needed, body.byteLength * 2)),
      )
      grown.set(body.subarray(0, this.#bodyBytes))
      this.#body = body = grown
    }
    body.set(part, this.#bodyBytes)
    this.#bodyBytes = needed
  }

  #completeFrame(): void {
    assert(this.#body !== undefined)
    this.#frames.push(this.#body)
    this.#framesBytes += this.#bodyLength + FRAME_OVERHEAD_BYTES
    this.#body = undefined
    this.#headBytes = 0
  }

  #deliver(): void {
    const reader = this.#reader
    if (reader === undefined) return
    if (this.#framesReversed.length === 0) {
      if (this.#frames.length === 0) this.#resume()
      // What resume() brought may have been delivered by now.
      if (this.#reader === undefined) return
      this.#framesReversed = this.#frames.toReversed()
      this.#frames = []
    }
    const frame = this.#framesReversed.pop()
    if (frame === undefined && this.#isOpen) return
    this.#reader = undefined
    if (frame === undefined) this.#release()
    else this.#framesBytes -= frame.byteLength + FRAME_OVERHEAD_BYTES
    reader(frame)
  }

  // pause() and resume() throw once the stream is closing.
  #pause(): void {
    if (this.#stream.readStatus === 'readable') this.#stream.pause()
  }

  /** Takes what waits in the stream, also after it was closed. */
  #resume(): void {
    if (this.#stream.readStatus !== 'paused') return
    this.#isResuming = true
    this.#stream.resume()
    this.#isResuming = false
    if (this.#framesBytes >= READ_HIGH_WATER_BYTES) this.#pause()
  }

  async #sendAll(): Promise<void> {
    try {
      while (this.#isOpen && this.#unsent.length > 0) {
        const batch = this.#takeBatch()
        try {
          for (const piece of pieces(batch.map(({ frame }) => frame))) {
            this.#stream.send(piece)
            if (this.#stream.writableNeedsDrain) await this.#drained()
          }
        } catch (error) {
          for (const { reject } of batch) reject(this.#closedError(error))
          throw error
        }
        for (const { resolve } of batch) resolve()
      }
    } catch (error) {
      this.#log.debug({ err: error }, 'sending ended')
      this.#onEnd()
    } finally {
      this.#isSending = false
    }
  }

  /** The next frame, and those after it that fit into the same send. */
  #takeBatch(): UnsentFrame[] {
    let count = 0
    let bytes = 0
    for (const { frame } of this.#unsent) {
      bytes += HEAD_BYTES + frame.byteLength
      if (count > 0 && bytes > COPY_BYTES_MAX) break
      count += 1
    }
    const batch = this.#unsent.splice(0, count)
    for (const { frame } of batch) this.#unsentBytes -= HEAD_BYTES + frame.byteLength
    return batch
  }

  /** Resolves when the muxer takes more; rejects when the stream has closed. */
  #drained(): Promise<void> {
    const stream = this.#stream
    return new Promise((resolve, reject) => {
      const check = (): void => {
        const isClosed = stream.writeStatus !== 'writable'
        if (!isClosed && stream.writableNeedsDrain) return
        stream.removeEventListener('drain', later)
        stream.removeEventListener('close', check)
        if (isClosed) reject(this.#closedError())
        else resolve()
      }
      // The stream sends what it holds in a microtask after `drain`, and may be full again then.
      const later = (): void => queueMicrotask(check)
      stream.addEventListener('drain', later)
      stream.addEventListener('close', check)
      check()
    })
  }

  /** In a microtask: a last chunk may come in the same step as the end. */
  readonly #onEnd = (): void => queueMicrotask(() => this.#end())

  /** What has arrived stays readable. */
  #end(): void {
    if (!this.#isOpen) return
    this.#isOpen = false
    for (const { reject } of this.#unsent.splice(0)) reject(this.#closedError())
    if (this.#stream.readBufferLength === 0) this.#release()
    this.#deliver()
    this.#settleClosed()
  }

  #fail(message: string, observed: Record<string, number>): void {
    this.#log.warn(observed, message)
    this.close()
  }

  /**
   * Resets the stream. Not its `close()`: a half-closed stream lives until the peer agrees. All that was
   * sent is with the muxer by then.
   */
  #release(): void {
    this.#stream.abort(new Error('the channel has ended'))
  }

  #closedError(cause?: unknown): Error {
    const why = cause === undefined ? '' : `: ${messageOf(cause)}`
    return new Error(`the channel to ${this.remotePeer} is closed${why}`)
  }
}

/** The frames with their heads, in pieces of at most SEND_BYTES_MAX. */
function* pieces(frames: readonly Uint8Array[]): Generator<Uint8Array> {
  const parts = frames.flatMap((frame) => [head(frame.byteLength), frame])
  const bytes = parts.reduce((sum, { byteLength }) => sum + byteLength, 0)
  if (bytes <= COPY_BYTES_MAX) {
    yield Buffer.concat(parts, bytes)
    return
  }
  for (const part of parts)
    for (let at = 0; at < part.byteLength; at += SEND_BYTES_MAX)
      yield part.subarray(at, at + SEND_BYTES_MAX)
}

function head(length: number): Buffer {
  const bytes = Buffer.allocUnsafe(HEAD_BYTES)
  bytes.writeUInt32BE(length)
  return bytes
}
