/**
 * Two frame channels joined in memory, with the limits and the backpressure of a real one.
 *
 * A small real implementation, held to the same suite as libp2p streams (test/node/frame-stream.test.ts).
 */
import type { FrameChannel } from '../../src/wire/frame-channel.ts'

/** A send resolves once no more than this waits unread at the other end. */
const HIGH_WATER_BYTES = 64 * 1024

export interface ChannelPairOptions {
  /** What each end sees as the authenticated peer at its other end. */
  readonly remotePeers?: readonly [string, string]
  readonly frameBytesMax?: number
}

/** Frames are delivered in a later microtask, never within `send`. */
export function memoryChannels(options: ChannelPairOptions = {}): [FrameChannel, FrameChannel] {
  const { remotePeers = ['right', 'left'], frameBytesMax = 16 * 1024 * 1024 } = options
  const left = new MemoryEnd(remotePeers[0], frameBytesMax)
  const right = new MemoryEnd(remotePeers[1], frameBytesMax)
  left.join(right)
  return [left, right]
}

interface WaitingSend {
  readonly resolve: () => void
  readonly reject: (error: Error) => void
}

class MemoryEnd implements FrameChannel {
  readonly remotePeer: string
  readonly closed: Promise<void>
  readonly #frameBytesMax: number
  readonly #settleClosed: () => void
  /** Frames for the reader of this end. */
  #frames: Uint8Array[] = []
  #bytes = 0
  #reader: ((frame: Uint8Array | undefined) => void) | undefined
  #ended = false
  /** Sends of the other end that wait for room here. */
  #waiting: WaitingSend[] = []
  #peer: MemoryEnd | undefined

  constructor(remotePeer: string, frameBytesMax: number) {
    const { promise, resolve } = Promise.withResolvers<void>()
    this.remotePeer = remotePeer
    this.closed = promise
    this.#settleClosed = resolve
    this.#frameBytesMax = frameBytesMax
  }

  join(peer: MemoryEnd): void {
    this.#peer = peer
    if (peer.#peer === undefined) peer.join(this)
  }

  async send(frame: Uint8Array): Promise<void> {
    const peer = this.#peer
    if (this.#ended || peer === undefined)
      throw new Error(`the channel to ${this.remotePeer} is closed`)
    if (frame.byteLength > this.#frameBytesMax)
      throw new Error(
        `a frame of ${frame.byteLength} bytes in memory, the limit is ${this.#frameBytesMax}`,
      )
    peer.#frames.push(Buffer.from(frame))
    peer.#bytes += frame.byteLength
    queueMicrotask(() => peer.#deliver())
    if (peer.#bytes <= HIGH_WATER_BYTES) return
    await new Promise<void>((resolve, reject) => peer.#waiting.push({ resolve, reject }))
  }

  receive(): Promise<Uint8Array | undefined> {
    if (this.#reader !== undefined) throw new Error('one reader at a time')
    return new Promise((resolve) => {
      this.#reader = resolve
      this.#deliver()
    })
  }

  close(): void {
    this.#frames = []
    this.#end()
    const peer = this.#peer
    if (peer !== undefined) peer.#end()
  }

  /** Unread frames stay readable after the other end closed. */
  #end(): void {
    if (this.#ended) return
    this.#ended = true
    for (const { reject } of this.#waiting.splice(0)) reject(new Error('the channel was closed'))
    this.#deliver()
    this.#settleClosed()
  }

  #deliver(): void {
    const reader = this.#reader
    if (reader === undefined) return
    const frame = this.#frames.shift()
    if (frame === undefined && !this.#ended) return
    this.#reader = undefined
    this.#bytes -= frame?.byteLength ?? 0
    if (this.#bytes <= HIGH_WATER_BYTES)
      for (const { resolve } of this.#waiting.splice(0)) resolve()
    reader(frame)
  }
}
