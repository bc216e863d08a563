/**
 * The asking half of `/mesh/cas/1`: a peer at the other end of a frame channel as a blob source.
 *
 * It never has more bytes under way or waiting to be read than its window: big blobs are asked for in
 * slices, small ones in batches, a few of them ahead. Each request fails on its own.
 */
import type { Clock } from '../../base/clock.ts'
import {
  FEATURE_CHUNKS,
  GET_ITEMS_MAX,
  HAVE_ITEMS_MAX,
  type CasMessage,
  type DataPiece,
} from '../../wire/cas-messages.ts'
import type { ChunkList } from '../../wire/chunk-list.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import {
  LIST_MS,
  SMALL_BLOB_BYTES_MAX,
  SourceError,
  STALL_MS,
  type BlobSource,
  type FetchRange,
} from '../blob-source.ts'
import { ByteWindow } from '../byte-window.ts'
import { orAborted } from '../../base/or-aborted.ts'
import { within } from '../stall-limit.ts'
import { Get, type ItemEvent, type Range } from './get.ts'
import { receivedChunkList } from './received-chunk-list.ts'
import { Replies } from './replies.ts'

/** Bytes asked for and not yet taken by their reader, over all requests. */
const ASKED_BYTES_MAX = 8 * 1024 * 1024
const SLICE_BYTES = 1024 * 1024
const BATCH_BYTES = 2 * 1024 * 1024
/** Requests of one blob or one list that are under way at a time. */
const AHEAD_MAX = 4
/** Open requests of all kinds; below what the answering half accepts. */
const REQUESTS_MAX = 48
/** A peer that is busy with our other requests may let one wait this long. */
const TURN_MS = 60_000

type ChunksReply = Extract<CasMessage, { type: 'chunksReply' }>

interface Sender {
  /** Queues a frame of ours. */
  send(message: CasMessage): void
}

export class CasAsker implements BlobSource {
  readonly name: string
  readonly kind = 'peer'
  readonly #clock: Clock
  readonly #sender: Sender
  readonly #supports: (feature: string) => Promise<boolean>
  readonly #window = new ByteWindow({ bytesMax: ASKED_BYTES_MAX })
  readonly #slots = new ByteWindow({ bytesMax: REQUESTS_MAX })
  readonly #gets = new Map<number, Get>()
  readonly #haves = new Replies<Uint8Array>()
  readonly #lists = new Replies<ChunksReply>()
  #lastId = 0
  #lastDataAtMs = 0
  #ended: SourceError | undefined

  constructor(
    deps: { readonly clock: Clock; readonly sender: Sender },
    options: {
      readonly name: string
      /** Whether the peer announced a feature; settles with its hello, or the end of the channel. */
      readonly supports: (feature: string) => Promise<boolean>
    },
  ) {
    this.name = options.name
    this.#supports = options.supports
    this.#clock = deps.clock
    this.#sender = deps.sender
  }

  async fetch(ref: BlobRef, range: FetchRange): Promise<AsyncIterable<Uint8Array> | undefined> {
    const bytes = this.#slices(ref, range)
    const first = await bytes.next()
    if (first.done === true) {
      // An empty rest comes as one empty piece; no piece at all is a blob that is not there.
      return undefined
    }
    return (async function* () {
      try {
        yield first.value
        yield* bytes
      } finally {
        await bytes.return(undefined)
      }
    })()
  }

  /** The bytes in order; nothing at all when the peer does not have the blob. */
  async *#slices(ref: BlobRef, range: FetchRange): AsyncGenerator<Uint8Array> {
    const slices = sliced(ref, range)
    let isFirst = true
    for await (const { event } of this.#inOrder(slices, (slice) => [slice], range.signal)) {
      if (event.kind === 'no') {
        if (isFirst && event.why !== 'failed') return
        throw new SourceError('failed', `stopped with "${event.why}" in the middle`)
      }
      isFirst = false
      yield event.bytes
    }
  }

  async *fetchMany(
    refs: readonly BlobRef[],
    { signal }: { readonly signal: AbortSignal },
  ): AsyncGenerator<{ readonly ref: BlobRef; readonly bytes: Uint8Array }> {
    const begun: Uint8Array[] = []
    for await (const { batch, event } of this.#inOrder(batches(refs), wholes, signal)) {
      if (event.kind === 'no') continue
      begun.push(event.bytes)
      if (!event.isLast) continue
      const ref = batch[event.item]
      const bytes = new Uint8Array(Buffer.concat(begun.splice(0)))
      if (ref !== undefined) yield { ref, bytes }
    }
  }

  /** Asks for one list of ranges after the other, some ahead, and gives their events in order. */
  async *#inOrder<T>(
    lists: Iterable<T>,
    rangesOf: (list: T) => readonly Range[],
    signal: AbortSignal,
  ): AsyncGenerator<{ batch: T; event: ItemEvent }> {
    const rest = Iterator.from(lists)
    const open: { get: Get; batch: T }[] = []
    let next = rest.next()
    try {
      for (;;) {
        while (next.done !== true && open.length < AHEAD_MAX) {
          const get = await this.#start(rangesOf(next.value), signal, open.length === 0)
          if (get === undefined) break // no room: what is open makes some
          open.push({ get, batch: next.value })
          next = rest.next()
        }
        const first = open[0]
        if (first === undefined) return
        for (
          let event = await first.get.next();
          event !== undefined;
          event = await first.get.next()
        )
          yield { batch: first.batch, event }
        first.get.close()
        open.shift()
      }
    } finally {
      for (const { get } of open) get.close()
    }
  }

  /** Sends a GET once there is room; without `mayWait`, undefined when there is none now. */
  async #start(
    ranges: readonly Range[],
    signal: AbortSignal,
    mayWait: boolean,
  ): Promise<Get | undefined> {
    const byteCount = ranges.reduce((sum, { length }) => sum + length, 0)
    signal.throwIfAborted()
    if (mayWait) {
      await this.#slots.acquire(1, signal)
      try {
        await this.#window.acquire(byteCount, signal)
      } catch (error) {
        this.#slots.release(1)
        throw error
      }
    } else {
      if (!this.#slots.tryAcquire(1)) return undefined
      if (!this.#window.tryAcquire(byteCount)) {
        this.#slots.release(1)
        return undefined
      }
    }
    const id = this.#newId()
    const get = new Get(ranges, {
      signal,
      wait: (promise) => this.#wait(promise),
      taken: (count) => this.#window.release(count),
      closed: (isComplete) => {
        this.#slots.release(1)
        this.#gets.delete(id)
        if (!isComplete && this.#ended === undefined) this.#sender.send({ type: 'cancel', id })
      },
    })
    if (this.#ended !== undefined) get.fail(this.#ended)
    else {
      this.#gets.set(id, get)
      this.#sender.send({ type: 'get', id, items: [...ranges] })
    }
    return get
  }

  async has(
    digests: readonly Digest[],
    { signal }: { readonly signal: AbortSignal },
  ): Promise<boolean[]> {
    const present: boolean[] = []
    for (let at = 0; at < digests.length; at += HAVE_ITEMS_MAX) {
      const asked = digests.slice(at, at + HAVE_ITEMS_MAX)
      const bits = await this.#askHave(asked, signal)
      for (const index of asked.keys())
        present.push((((bits[index >> 3] ?? 0) >> (index & 7)) & 1) === 1)
    }
    return present
  }

  async #askHave(digests: Digest[], signal: AbortSignal): Promise<Uint8Array> {
    return this.#ask(
      this.#haves,
      (id) => ({ type: 'have', id, digests }),
      signal,
      (answer) => this.#wait(answer),
    )
  }

  async chunkList(
    digest: Digest,
    { signal }: { readonly signal: AbortSignal },
  ): Promise<ChunkList | undefined> {
    if (!(await orAborted(this.#supports(FEATURE_CHUNKS), signal))) return undefined
    const parts: Uint8Array[] = []
    let offset = 0
    for (let sizeBytes = 1; offset < sizeBytes;) {
      const from = offset
      const reply = await this.#ask(
        this.#lists,
        (id) => ({ type: 'chunks', id, digest, offset: from }),
        signal,
        // It may have to be made first.
        (answer) => within(this.#clock, answer, LIST_MS, () => stalled(LIST_MS)),
      )
      if (reply.size === 0) return undefined
      sizeBytes = reply.size
      offset += reply.bytes.byteLength
      if (reply.bytes.byteLength === 0 || offset > sizeBytes)
        throw new SourceError('wrong', `sent a chunk list of ${offset} of ${sizeBytes} bytes`)
      parts.push(reply.bytes)
    }
    return receivedChunkList(digest, new Uint8Array(Buffer.concat(parts)))
  }

  async #ask<T>(
    replies: Replies<T>,
    question: (id: number) => CasMessage,
    signal: AbortSignal,
    wait: (answer: Promise<T>) => Promise<T>,
  ): Promise<T> {
    await this.#slots.acquire(1, signal)
    const id = this.#newId()
    try {
      const answer = replies.expect(id, signal)
      if (this.#ended !== undefined) throw this.#ended
      this.#sender.send(question(id))
      return await wait(answer)
    } finally {
      replies.forget(id)
      this.#slots.release(1)
    }
  }

  /** Waits for an answer: 5 s of silence on the channel, or a minute without our turn, is a stall. */
  async #wait<T>(promise: Promise<T>): Promise<T> {
    const startedAtMs = this.#clock.nowMs()
    let silence: SourceError | undefined
    const late = (): SourceError => (silence = stalled(STALL_MS))
    for (;;) {
      try {
        return await within(this.#clock, promise, STALL_MS, late)
      } catch (error) {
        const nowMs = this.#clock.nowMs()
        const isServingOthers =
          nowMs - this.#lastDataAtMs < STALL_MS && nowMs - startedAtMs < TURN_MS
        if (error !== silence || !isServingOthers) throw error
      }
    }
  }

  #newId(): number {
    this.#lastId = (this.#lastId + 1) % 0x1_0000_0000
    return this.#lastId
  }

  onData(pieces: readonly DataPiece[]): void {
    this.#lastDataAtMs = this.#clock.nowMs()
    for (const piece of pieces) this.#gets.get(piece.id)?.onPiece(piece)
  }

  onNo(message: Extract<CasMessage, { type: 'no' }>): void {
    for (const item of message.items) this.#gets.get(message.id)?.onNo(item, message.why)
  }

  onHaveReply(message: Extract<CasMessage, { type: 'haveReply' }>): void {
    this.#haves.settle(message.id, message.bits)
  }

  onChunksReply(message: ChunksReply): void {
    this.#lists.settle(message.id, message)
  }

  /** The channel is over: everything open and everything later fails with `reason`. */
  end(reason: SourceError): void {
    this.#ended ??= reason
    for (const get of this.#gets.values()) get.fail(reason)
    this.#haves.fail(reason)
    this.#lists.fail(reason)
  }
}

function stalled(limitMs: number): SourceError {
  return new SourceError('stalled', `sent nothing for ${limitMs / 1000} s`)
}

/** At least one range, so that presence is asked for also when no byte is. */
function* sliced(
  { digest, size }: BlobRef,
  { offsetBytes, lengthBytes = size - offsetBytes }: FetchRange,
): Generator<Range> {
  const endBytes = offsetBytes + lengthBytes
  for (let offset = offsetBytes; offset < endBytes || offset === offsetBytes; offset += SLICE_BYTES)
    yield { digest, size, offset, length: Math.min(SLICE_BYTES, endBytes - offset) }
}

function wholes(batch: readonly BlobRef[]): Range[] {
  return batch.map(({ digest, size }) => ({ digest, size, offset: 0, length: size }))
}

function* batches(refs: readonly BlobRef[]): Generator<BlobRef[]> {
  let batch: BlobRef[] = []
  let byteCount = 0
  for (const ref of refs) {
    if (ref.size > SMALL_BLOB_BYTES_MAX)
      throw new RangeError(`a blob of ${ref.size} bytes is not small`)
    if (
      batch.length === GET_ITEMS_MAX ||
      (batch.length > 0 && byteCount + ref.size > BATCH_BYTES)
    ) {
      yield batch
      batch = []
      byteCount = 0
    }
    batch.push(ref)
    byteCount += ref.size
  }
  if (batch.length > 0) yield batch
}
