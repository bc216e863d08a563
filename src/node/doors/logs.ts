/**
 * Logs of builds, live or finished, from whichever node has them.
 *
 * A reader's node asks the owner where the log is, and holds on to that attempt. The bytes come from the
 * attempt's node over `/mesh/log/1`, by way of the owner when the two are not connected; when that node
 * is away, from whoever has the blob. The spool file is the buffer of every reader, and frames wait
 * for their reader at every hop: a slow one costs a window per hop, and misses nothing.
 */
import type { Logger } from 'pino'
import { z } from 'zod'
import { sleep, type Clock } from '../../base/clock.ts'
import { MeshError, messageOf } from '../../base/errors.ts'
import type { Worker } from '../../build/worker.ts'
import type { BlobStore } from '../../store/blob-store.ts'
import { decodeObject, encodeObject, parseWith } from '../../wire/cbor.ts'
import { BlobRefJson } from '../../wire/digest.ts'
import { LOG_FRAME_BYTES_MAX, type FrameChannel } from '../../wire/frame-channel.ts'
import {
  encodeLogPosition,
  encodeLogRecord,
  LogDecoder,
  wholeRecordBytes,
} from '../../wire/log-record.ts'
import { LogView } from '../../wire/log-view.ts'
import { AttemptId, PeerId } from '../../wire/names.ts'
import { LOG_PROTOCOL } from '../../wire/work-messages.ts'
import type { Blobs } from '../blobs/blobs.ts'
import type { Authority } from '../authority.ts'
import type { Host } from '../links/libp2p-host.ts'
import { LineSearches } from '../logs/line-search.ts'
import { LocalLogs } from '../logs/local-logs.ts'
import { showsAll } from '../logs/viewed-log.ts'
import { askOwner } from './ask-owner.ts'

/** How often a log is asked for again that should be there. */
const RETRY_MS = 150
/** For so long, without a byte in between, while the owner says that the attempt runs. */
const PATIENCE_MS = 90_000
/** After its end, for its outcome and its log to have arrived where they are looked for. */
const PATIENCE_ENDED_MS = 2_000
/** A try that took longer had reached the log. */
const FRESH_MS = 5_000
const FRAME_BYTES = 128 * 1024
const REASON_CHARS_MAX = 1_024

/** First frame of a channel: which log. */
const LogRequest = z.object({
  v: z.literal(1),
  attempt: AttemptId,
  peerId: PeerId,
  offsetBytes: z.int().min(0),
  follow: z.boolean(),
  /** Of what is left out, all is wanted. */
  view: LogView.optional(),
})
type LogRequest = z.infer<typeof LogRequest>

/** Where the owner says that a log is. */
export const LogTarget = z.object({
  attempt: z.string(),
  peerId: z.string(),
  /** Known once the attempt has ended and its log is a blob. */
  blob: BlobRefJson.optional(),
  isLive: z.boolean(),
  /** How it ended, in the owner's words. */
  ended: z.string().optional(),
})
export type LogTarget = z.infer<typeof LogTarget>

/** Frames of an answer: bytes of the log, one after the other, then one of the ends. */
const DATA = 0
const END_COMPLETE = 1
/** With the reason as text. */
const END_ABSENT = 2

type Answer = { readonly bytes: Uint8Array } | { readonly end: 'complete' | 'absent'; why: string }

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
  /** Number or id of the attempt; "0" for the last one. */
  readonly attempt: string
  readonly offsetBytes: number
  /** Go on until the attempt has ended, and wait for it to begin. */
  readonly follow: boolean
  readonly view?: LogView
  readonly signal: AbortSignal
}

interface Reading extends LogOptions {
  readonly view: LogView
}

export class Logs {
  readonly #deps: LogsDeps
  readonly #local: LocalLogs

  constructor(deps: LogsDeps) {
    this.#deps = deps
    const { clock, store, worker } = deps
    this.#local = new LocalLogs({
      store,
      worker,
      searches: new LineSearches({ clock }),
      nowMs: () => clock.nowMs(),
    })
  }

  /** The bytes of the log from the offset on, or the records of the view. */
  async *read(job: string, options: LogOptions): AsyncIterable<Uint8Array> {
    const { clock } = this.#deps
    const { signal } = options
    let reading: Reading = { ...options, view: options.view ?? {} }
    const progress = new Progress(reading)
    let missedSinceMs: number | undefined
    while (!signal.aborted) {
      const target = await this.#awaitTarget(job, reading)
      if (target === undefined) return
      // From now on this attempt, whatever else is tried for the job.
      if (target.attempt !== '') reading = { ...reading, attempt: target.attempt }
      let why = 'it is not known which node ran it'
      const askedAtMs = clock.nowMs()
      try {
        for await (const answer of this.#answers(target, progress.next(reading))) {
          if ('bytes' in answer) {
            missedSinceMs = undefined
            const fresh = progress.take(answer.bytes)
            if (fresh !== undefined) yield fresh
          } else if (answer.end === 'complete') return
          else why = answer.why
        }
      } catch (error) {
        if (signal.aborted) return
        if (error instanceof MeshError && error.code === 'MESH0211') throw error
        why = messageOf(error)
      }
      const patienceMs = target.isLive && options.follow ? PATIENCE_MS : PATIENCE_ENDED_MS
      const nowMs = clock.nowMs()
      // A build may have been silent for long before the connection was lost.
      if (nowMs - askedAtMs > FRESH_MS) missedSinceMs = nowMs
      missedSinceMs ??= nowMs
      if (nowMs - missedSinceMs > patienceMs) {
        yield noteRecord(goneText(target, why, progress.offsetBytes))
        return
      }
      await sleep(clock, RETRY_MS, signal).catch(() => undefined)
    }
  }

  /** Waits for the job to have an attempt where the reader follows; undefined when he has left. */
  async #awaitTarget(job: string, reading: Reading): Promise<LogTarget | undefined> {
    for (;;) {
      try {
        return await this.#locate(job, reading.attempt)
      } catch (error) {
        const isWaiting =
          reading.follow &&
          error instanceof MeshError &&
          ((error.code === 'MESH0601' && error.message.includes('attempt')) ||
            error.code === 'MESH0120')
        if (!isWaiting) throw error
        await sleep(this.#deps.clock, 2 * RETRY_MS, reading.signal).catch(() => undefined)
        if (reading.signal.aborted) return undefined
      }
    }
  }

  /** Asks the owner. Throws MESH0601 while the job has no attempt. */
  async #locate(job: string, attempt: string): Promise<LogTarget> {
    const path = `/api/jobs/${encodeURIComponent(job)}/log-target?attempt=${attempt}`
    return parseWith(LogTarget, await askOwner(this.#deps, path), 'place of a log')
  }

  /** From this store, from its node, from whoever has the blob: the first that has it. */
  async *#answers(target: LogTarget, reading: Reading): AsyncIterable<Answer> {
    const { blob, peerId } = target
    const stored = blob === undefined ? undefined : await this.#local.stored(blob, reading)
    if (stored !== undefined) {
      yield* toEnd(stored, reading.signal)
      return
    }
    let why = 'it is not known which node ran it'
    if (peerId !== '') {
      try {
        let isThere = false
        for await (const answer of this.#fromNode(target, reading)) {
          if ('end' in answer && answer.end === 'absent') why = answer.why
          else {
            isThere = true
            yield answer
          }
        }
        if (isThere) return
      } catch (error) {
        if (reading.signal.aborted || blob === undefined) throw error
        why = messageOf(error)
      }
    }
    if (blob === undefined) {
      yield { end: 'absent', why }
      return
    }
    try {
      await this.#deps.blobs.obtainBlob(blob.digest, blob, reading.signal)
    } catch (error) {
      reading.signal.throwIfAborted()
      yield { end: 'absent', why: `${why}; ${messageOf(error)}` }
      return
    }
    const fetched = await this.#local.stored(blob, reading)
    if (fetched === undefined) yield { end: 'absent', why }
    else yield* toEnd(fetched, reading.signal)
  }

  async *#fromNode(
    { peerId, attempt }: LogTarget,
    { offsetBytes, follow, view, signal }: Reading,
  ): AsyncIterable<Answer> {
    if (peerId === this.#deps.selfId) {
      const found = await this.#local.read(attempt, { offsetBytes, follow, view, signal })
      if ('absent' in found) yield { end: 'absent', why: found.absent }
      else yield* toEnd(found, signal)
      return
    }
    const channel = await this.#open(peerId, signal)
    const onAbort = (): void => channel.close()
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      const request: LogRequest = {
        v: 1,
        attempt,
        peerId,
        offsetBytes,
        follow,
        ...(showsAll(view) ? {} : { view }),
      }
      await channel.send(encodeObject(LogRequest, request))
      for (
        let frame = await channel.receive();
        frame !== undefined;
        frame = await channel.receive()
      ) {
        if (frame[0] === DATA) yield { bytes: frame.subarray(1) }
        else {
          const why = Buffer.from(frame.subarray(1)).toString('utf8') || 'its node does not have it'
          yield { end: frame[0] === END_COMPLETE ? 'complete' : 'absent', why }
          return
        }
      }
    } finally {
      signal.removeEventListener('abort', onAbort)
      channel.close()
    }
  }

  /** A channel to the node, or to the next one on the way there, which passes it on. */
  async #open(peerId: string, signal: AbortSignal): Promise<FrameChannel> {
    const { host, authority } = this.#deps
    const hop = host.isConnected(peerId) ? peerId : authority.hopTo(peerId)
    if (hop === undefined) throw new MeshError('MESH0505', 'the node that ran it is not connected')
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

  /** Answers one channel: from what is here, or by passing it on. */
  async serve(channel: FrameChannel, signal: AbortSignal): Promise<void> {
    const local = new AbortController()
    void channel.closed.then(() => local.abort(new Error('the reader left')))
    const both = AbortSignal.any([signal, local.signal])
    try {
      const first = await channel.receive()
      if (first === undefined) return
      const request: LogRequest = decodeObject(LogRequest, first, 'log request')
      const { attempt, peerId, view = {} } = request
      if (!this.#hasWay(peerId, channel.remotePeer)) {
        await channel.send(endFrame('absent', 'no node on the way there knows the one that ran it'))
        return
      }
      const answers = this.#fromNode(
        { attempt, peerId, isLive: true },
        { ...request, view, signal: both },
      )
      for await (const answer of answers)
        for (const frame of framesOf(answer)) await channel.send(frame)
    } catch (error) {
      if (!both.aborted)
        this.#deps.log.debug({ err: error, peer: channel.remotePeer }, 'log channel failed')
    } finally {
      channel.close()
    }
  }
}

async function* toEnd(
  pieces: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): AsyncIterable<Answer> {
  for await (const bytes of pieces) yield { bytes }
  if (!signal.aborted) yield { end: 'complete', why: '' }
}

function* framesOf(answer: Answer): Generator<Uint8Array> {
  if ('end' in answer) yield endFrame(answer.end, answer.why)
  else
    for (let at = 0; at < answer.bytes.byteLength; at += FRAME_BYTES)
      yield Buffer.concat([Uint8Array.of(DATA), answer.bytes.subarray(at, at + FRAME_BYTES)])
}

function endFrame(end: 'complete' | 'absent', why: string): Uint8Array {
  const code = end === 'complete' ? END_COMPLETE : END_ABSENT
  return Buffer.concat([Uint8Array.of(code), Buffer.from(why.slice(0, REASON_CHARS_MAX))])
}

function noteRecord(text: string): Uint8Array {
  return encodeLogRecord({ stream: 'mesh', atMs: 0, bytes: Buffer.from(`${text}\n`) })
}

/** What stands where a log should go on and does not. */
function goneText({ ended, isLive }: LogTarget, why: string, offsetBytes: number): string {
  const what = offsetBytes === 0 ? 'there is no log' : `the log breaks off at byte ${offsetBytes}`
  const end = isLive ? 'the attempt runs, as far as is known' : (ended ?? 'the attempt has ended')
  return `${what}: ${why}; ${end}`
}

/** How far a reader has come, so that he goes on there when the connection is lost. */
class Progress {
  readonly #isWhole: boolean
  /** Where the whole log is read on. */
  offsetBytes: number
  #view: LogView
  /** Of a whole log: the beginning of a record. Nothing is given before it has come. */
  #held: Uint8Array = new Uint8Array()
  #decoder = new LogDecoder()
  /** Records that were given before and come again. */
  #skip = 0

  constructor({ offsetBytes, view }: Reading) {
    this.#isWhole = showsAll(view)
    this.offsetBytes = offsetBytes
    this.#view = view
  }

  next(reading: Reading): Reading {
    this.#skip = Math.max(this.#skip, this.#decoder.since)
    this.#decoder = new LogDecoder()
    this.#held = new Uint8Array()
    return { ...reading, offsetBytes: this.offsetBytes, view: this.#view }
  }

  /** What of it is new. */
  take(bytes: Uint8Array): Uint8Array | undefined {
    const fresh = this.#isWhole ? this.#takeWhole(bytes) : this.#takeView(bytes)
    return fresh.byteLength === 0 ? undefined : fresh
  }

  #takeWhole(bytes: Uint8Array): Uint8Array {
    const all = this.#held.byteLength === 0 ? bytes : Buffer.concat([this.#held, bytes])
    // Who began in the middle of a record gets the bytes that he asked for.
    const whole = wholeRecordBytes(all) ?? all.byteLength
    this.#held = all.subarray(whole)
    this.offsetBytes += whole
    return all.subarray(0, whole)
  }

  #takeView(bytes: Uint8Array): Uint8Array {
    const before = this.#decoder.position
    const beforeSince = this.#decoder.since
    const records = this.#decoder.push(bytes)
    const pieces = records.slice(Math.max(0, this.#skip - beforeSince)).map(encodeLogRecord)
    const { position } = this.#decoder
    if (position !== undefined && position !== before) {
      this.offsetBytes = position
      const { tail: _tail, ...rest } = this.#view
      this.#view = rest
      this.#skip = 0
      if (this.#decoder.since === 0) pieces.push(encodeLogPosition(position))
    }
    return Buffer.concat(pieces)
  }
}
