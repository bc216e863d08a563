/**
 * The one shape of a connection under the protocols of mesh: whole frames in both directions, with
 * backpressure. node/ makes them out of libp2p streams, tests out of memory.
 */

/** The largest frame of each protocol; a peer that announces more is cut off. */
export const WORK_FRAME_BYTES_MAX = 16 * 1024 * 1024
export const CAS_FRAME_BYTES_MAX = 1024 * 1024
export const LOG_FRAME_BYTES_MAX = 256 * 1024

export interface FrameChannel {
  /** The authenticated peer at the other end. */
  readonly remotePeer: string
  /**
   * Sends one frame. Resolves when more may be sent (the bytes left the buffer to below its high-water
   * mark), rejects when the channel is closed. Callers await it before the next large frame.
   */
  send(frame: Uint8Array): Promise<void>
  /**
   * The next frame, or undefined once the channel has ended for whatever reason. A peer that was killed
   * looks like one that ended: what must be complete carries its own length. One reader at a time.
   */
  receive(): Promise<Uint8Array | undefined>
  /** Ends both directions at once; pending sends reject, pending receives give undefined. Idempotent. */
  close(): void
  /** Settles when the channel has ended. Never rejects. */
  readonly closed: Promise<void>
}
