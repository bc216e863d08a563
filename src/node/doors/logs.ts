/**
 * Logs of builds, live or finished, from whichever node has them.
 *
 * A reader's node asks the owner where the log is. A finished one is a blob; a live one comes over
 * `/mesh/log/1` from the attempt's node, by way of the owner when the two are not connected. Frames wait
 * for their reader at every hop.
 */
import { open } from 'node:fs/promises'
import type { Logger } from 'pino'
import { z } from 'zod'
import { sleep, type Clock } from '../../base/clock.ts'
import { isErrorCode, MeshError } from '../../base/errors.ts'
import type { LiveLog, Worker } from '../../build/worker.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import { Problem } from '../../wire/api.ts'
import { decodeObject, encodeObject, parseWith } from '../../wire/cbor.ts'
import { BlobRefJson } from '../../wire/digest.ts'
import { LOG_FRAME_BYTES_MAX, type FrameChannel } from '../../wire/frame-channel.ts'
import { AttemptId, PeerId } from '../../wire/names.ts'
import { LOG_PROTOCOL } from '../../wire/work-messages.ts'
import type { Blobs } from '../blobs/blobs.ts'
import type { Authority } from '../authority.ts'
import type { Host } from '../links/libp2p-host.ts'

const READ_BYTES = 64 * 1024
/** A reader asks again this often, this many times, when the log it was sent to is no longer there. */
const RETRY_MS = 150
const RETRIES_MAX = 40

/** First frame of a channel: which log. */
const LogRequest = z.object({
  v: z.literal(1),
  attempt: AttemptId,
  peerId: PeerId,
  offsetBytes: z.int().min(0),
  follow: z.boolean(),
})
type LogRequest = z.infer<typeof LogRequest>

/** Where the owner says that a log is. */
export const LogTarget = z.object({
  attempt: z.string(),
  peerId: z.string(),
  /** Known once the attempt has ended and its log is a blob. */
  blob: BlobRefJson.optional(),
  isLive: z.boolean(),
})
export type LogTarget = z.infer<typeof LogTarget>

/** Frames of an answer: bytes of the log, one after the other, then one of these. */
const END_COMPLETE = 1
const END_ABSENT = 2
const DATA = 0

export interface LogsDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly store: BlobStore
  readonly blobs: Blobs
  readonly host: Host
  readonly worker: Worker | undefined
  readonly selfId: string
  readonly authority: Authority
  readonly user: string
}

export interface LogOptions {
  /** 0 for the last one. */
  readonly attempt: number
  readonly offsetBytes: number
  /** Go on until the attempt has ended, and wait for it to begin. */
  readonly follow: boolean
  readonly signal: AbortSignal
}

export class Logs {
  readonly #deps: LogsDeps

  constructor(deps: LogsDeps) {
    this.#deps = deps
  }

  /** The bytes of the log from the offset on. */
  async *read(job: string, options: LogOptions): AsyncIterable<Uint8Array> {
    const { clock } = this.#deps
    const { signal } = options
    let offsetBytes = options.offsetBytes
    let misses = 0
    while (!signal.aborted) {
      let target: LogTarget
      try {
        target = await this.#locate(job, options.attempt)
      } catch (error) {
        if (
          !options.follow ||
          !(error instanceof MeshError) ||
          error.code !== 'MESH0601' ||
          !error.message.includes('attempt')
        )
          throw error
        await sleep(clock, RETRY_MS * 2, signal)
        continue
      }
      if (target.blob !== undefined) {
        await this.#deps.blobs.obtainBlob(target.blob.digest, target.blob, signal)
        const reader = await this.#deps.store.open(target.blob.digest, { offsetBytes })
        if (reader === undefined)
          throw new MeshError('MESH0501', `the log of ${job} is not available`)
        yield* reader
        return
      }
      if (!target.isLive && misses >= RETRIES_MAX)
        throw new MeshError(
          'MESH0501',
          `attempt ${target.attempt} ended without leaving a log: its node was lost`,
        )
      let isComplete = false
      for await (const piece of this.#live(target, { ...options, offsetBytes })) {
        if (piece === END_COMPLETE) isComplete = true
        else if (piece !== END_ABSENT) {
          offsetBytes += piece.byteLength
          misses = 0
          yield piece
        }
      }
      if (isComplete) return
      misses += 1
      if (misses > RETRIES_MAX)
        throw new MeshError('MESH0505', `the log of ${job} broke off at byte ${offsetBytes}`)
      await sleep(clock, RETRY_MS, signal)
    }
  }

  /** Asks the owner. Throws MESH0601 while the job has no attempt. */
  async #locate(job: string, attempt: number): Promise<LogTarget> {
    const { authority, user } = this.#deps
    const path = `/api/jobs/${encodeURIComponent(job)}/log-target?attempt=${attempt}`
    const { status, body } = await authority.answer({ verb: 'GET', path, body: '', user, hops: 0 })
    const value: unknown = JSON.parse(body)
    if (status === 200) return parseWith(LogTarget, value, 'place of a log')
    const { code, detail, hints } = parseWith(Problem, value, 'problem')
    throw new MeshError(isErrorCode(code) ? code : 'MESH0505', detail, { hints })
  }

  async *#live(
    target: LogTarget,
    options: LogOptions,
  ): AsyncIterable<Uint8Array | typeof END_COMPLETE | typeof END_ABSENT> {
    const { selfId, worker } = this.#deps
    if (target.peerId === selfId) {
      const log = worker?.liveLog(target.attempt)
      if (log === undefined) {
        yield END_ABSENT
        return
      }
      yield* readLive(log, options.offsetBytes, options.follow, options.signal)
      if (!options.signal.aborted) yield END_COMPLETE
      return
    }
    const channel = await this.#open(target.peerId, options.signal)
    const onAbort = (): void => channel.close()
    options.signal.addEventListener('abort', onAbort, { once: true })
    try {
      await channel.send(
        encodeObject(LogRequest, {
          v: 1,
          attempt: target.attempt,
          peerId: target.peerId,
          offsetBytes: options.offsetBytes,
          follow: options.follow,
        }),
      )
      for (
        let frame = await channel.receive();
        frame !== undefined;
        frame = await channel.receive()
      ) {
        if (frame[0] === DATA) yield frame.subarray(1)
        else {
          yield frame[0] === END_COMPLETE ? END_COMPLETE : END_ABSENT
          return
        }
      }
    } finally {
      options.signal.removeEventListener('abort', onAbort)
      channel.close()
    }
  }

  /** A channel to the node, or to the next one on the way there, which passes it on. */
  async #open(peerId: string, signal: AbortSignal): Promise<FrameChannel> {
    const { host, authority } = this.#deps
    const hop = host.isConnected(peerId) ? peerId : authority.hopTo(peerId)
    if (hop === undefined) throw new MeshError('MESH0505', 'the node that runs it is not connected')
    return host.open({ peerId: hop, addresses: [] }, LOG_PROTOCOL, {
      frameBytesMax: LOG_FRAME_BYTES_MAX,
      signal,
    })
  }

  /** Whether this node has it, or leads to who has it. Nothing goes back to where it came from. */
  #hasWay(peerId: string, from: string): boolean {
    const { selfId, host, authority } = this.#deps
    if (peerId === selfId || host.isConnected(peerId)) return true
    const hop = authority.hopTo(peerId)
    return hop !== undefined && hop !== from
  }

  /** Answers one channel: from the worker here, or by passing it on. */
  async serve(channel: FrameChannel, signal: AbortSignal): Promise<void> {
    const local = new AbortController()
    void channel.closed.then(() => local.abort(new Error('the reader left')))
    const both = AbortSignal.any([signal, local.signal])
    try {
      const first = await channel.receive()
      if (first === undefined) return
      const request: LogRequest = decodeObject(LogRequest, first, 'log request')
      const target: LogTarget = { attempt: request.attempt, peerId: request.peerId, isLive: true }
      if (!this.#hasWay(request.peerId, channel.remotePeer)) {
        await channel.send(Uint8Array.of(END_ABSENT))
        return
      }
      for await (const piece of this.#live(target, {
        attempt: 0,
        offsetBytes: request.offsetBytes,
        follow: request.follow,
        signal: both,
      })) {
        if (typeof piece === 'number') await channel.send(Uint8Array.of(piece))
        else await channel.send(Buffer.concat([Uint8Array.of(DATA), piece]))
      }
    } catch (error) {
      if (!both.aborted)
        this.#deps.log.debug({ err: error, peer: channel.remotePeer }, 'log channel failed')
    } finally {
      channel.close()
    }
  }
}

/** Reads the spool file as it grows; its handle stays good when the file is moved into the store. */
async function* readLive(
  log: LiveLog,
  offsetBytes: number,
  follow: boolean,
  signal: AbortSignal,
): AsyncIterable<Uint8Array> {
  let position = offsetBytes
  let wake: (() => void) | undefined
  using changes = log.onChange(() => wake?.())
  void changes
  const onAbort = (): void => wake?.()
  signal.addEventListener('abort', onAbort, { once: true })
  /** Resolves at the next change; at once when `hasChanged` is true already. */
  const change = (hasChanged: () => boolean): Promise<void> =>
    new Promise((resolve) => {
      wake = resolve
      if (hasChanged() || !log.isOpen() || signal.aborted) resolve()
    })
  try {
    // Nothing is written before the inputs are there.
    if (follow)
      while (log.isOpen() && log.sizeBytes() === 0 && !signal.aborted)
        await change(() => log.sizeBytes() > 0)
    if (log.sizeBytes() === 0) return
    await using file = await open(log.path, 'r')
    while (!signal.aborted) {
      const isOpen = log.isOpen()
      const buffer = Buffer.allocUnsafe(READ_BYTES)
      const { bytesRead } = await file.read(buffer, 0, READ_BYTES, position)
      if (bytesRead > 0) {
        position += bytesRead
        yield buffer.subarray(0, bytesRead)
        continue
      }
      if (!isOpen || !follow) return
      // It may have grown or ended between the read and now.
      await change(() => log.sizeBytes() > position)
    }
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}
