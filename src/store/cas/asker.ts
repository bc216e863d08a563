/**
 * The asking half of `/mesh/cas/1`: a peer at the other end of a frame channel as a blob source.
 *
 * It never has more bytes under way or waiting to be read than its window: big blobs are asked for in
 * slices, small ones in batches, a few of them ahead. Each request fails on its own.
 */
import { BoundedQueue } from '../../base/bounded-queue.ts'
import type { Clock } from '../../base/clock.ts'
import {
  GET_ITEMS_MAX,
  HAVE_ITEMS_MAX,
  type CasMessage,
  type DataPiece,
} from '../../wire/cas-messages.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import { SMALL_BLOB_BYTES_MAX, SourceError, STALL_MS, type BlobSource } from '../blob-source.ts'
import { ByteWindow } from '../byte-window.ts'
import { within } from '../stall-limit.ts'

/** Bytes asked for and not yet taken by their reader, over all requests. */
const ASKED_BYTES_MAX = 8 * 1024 * 1024
const SLICE_BYTES = 1024 * 1024
const BATCH_BYTES = 2 * 1024 * 1024
/** Requests of one blob or one list that are under way at a time. */
const AHEAD_MAX = 4
/** Open requests of all kinds; below what the answering half accepts. */
const REQUESTS_MAX = 48
/** Pieces of one request that wait for their reader. Honest peers cut an item at most in two. */
const PIECES_MAX = 2 * GET_ITEMS_MAX + 2
/** A peer that is busy with our other requests may let one wait this long. */
const TURN_MS = 60_000

interface Range extends BlobRef {
  readonly offset: number
  readonly length: number
}
type ItemEvent =
  | {
      readonly kind: 'bytes'
      readonly item: number
      readonly bytes: Uint8Array
      readonly isLast: boolean
    }
  | {
      readonly kind: 'no'
      readonly item: number
      readonly why: 'absent' | 'denied' | 'busy' | 'failed'
    }

interface Sender {
  /** Queues a frame of ours. */
  send(message: CasMessage): void
}

export class CasAsker implements BlobSource {
  readonly name: string
  readonly kind = 'peer'
  readonly #clock: Clock
  readonly #sender: Sender
  readonly #window = new ByteWindow({ bytesMax: ASKED_BYTES_MAX })
  readonly #slots = new ByteWindow({ bytesMax: REQUESTS_MAX })
  readonly #gets = new Map<number, Get>()
  readonly #haves = new Map<
    number,
    { resolve: (bits: Uint8Array) => void; reject: (error: Error) => void }
  >()
  #lastId = 0
  #lastDataAtMs = 0
  #ended: SourceError | undefined

  constructor(
    deps: { readonly clock: Clock; readonly sender: Sender },
    options: { readonly name: string },
  ) {
    this.name = options.name
    this.#clock = deps.clock
    this.#sender = deps.sender
  }

  async fetch(
    ref: BlobRef,
    { offsetBytes, signal }: { readonly offsetBytes: number; readonly signal: AbortSignal },
  ): Promise<AsyncIterable<Uint8Array> | undefined> {
    const bytes = this.#slices(ref, offsetBytes, signal)
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
  async *#slices(
    ref: BlobRef,
    offsetBytes: number,
    signal: AbortSignal,
  ): AsyncGenerator<Uint8Array> {
    const ranges = sliced(ref, offsetBytes)
    let isFirst = true
    for await (const { event } of this.#inOrder(ranges, (range) => [range], signal)) {
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
    await this.#slots.acquire(1, signal)
    const id = this.#newId()
    const onAbort = (): void => this.#haves.get(id)?.reject(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    try {
      const answer = new Promise<Uint8Array>((resolve, reject) => {
        this.#haves.set(id, { resolve, reject })
      })
      if (this.#ended !== undefined) throw this.#ended
      this.#sender.send({ type: 'have', id, digests })
      return await this.#wait(answer)
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.#haves.delete(id)
      this.#slots.release(1)
    }
  }

  /** Waits for an answer: 5 s of silence on the channel, or a minute without our turn, is a stall. */
  async #wait<T>(promise: Promise<T>): Promise<T> {
    const startedAtMs = this.#clock.nowMs()
    let stalled: SourceError | undefined
    const late = (): SourceError =>
      (stalled = new SourceError('stalled', `sent nothing for ${STALL_MS / 1000} s`))
    for (;;) {
      try {
        return await within(this.#clock, promise, STALL_MS, late)
      } catch (error) {
        const nowMs = this.#clock.nowMs()
        const isServingOthers =
          nowMs - this.#lastDataAtMs < STALL_MS && nowMs - startedAtMs < TURN_MS
        if (error !== stalled || !isServingOthers) throw error
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
    this.#haves.get(message.id)?.resolve(message.bits)
  }

  /** The channel is over: everything open and everything later fails with `reason`. */
  end(reason: SourceError): void {
    this.#ended ??= reason
    for (const get of this.#gets.values()) get.fail(reason)
    for (const { reject } of this.#haves.values()) reject(reason)
  }
}

interface GetHooks {
  readonly signal: AbortSignal
  wait<T>(promise: Promise<T>): Promise<T>
  /** The reader took bytes, or will never take them. */
  taken(byteCount: number): void
  closed(isComplete: boolean): void
}

/** One GET: checks what arrives against what was asked, and holds it until it is read. */
class Get {
  readonly #items: { readonly range: Range; receivedBytes: number; isDone: boolean }[]
  readonly #events = new BoundedQueue<ItemEvent>({ lengthMax: PIECES_MAX })
  readonly #hooks: GetHooks
  readonly #onAbort: () => void
  /** Items whose end was not read yet. */
  #unreadItems: number
  #untakenBytes: number
  #error: unknown
  #isClosed = false

  constructor(ranges: readonly Range[], hooks: GetHooks) {
    this.#items = ranges.map((range) => ({ range, receivedBytes: 0, isDone: false }))
    this.#unreadItems = ranges.length
    this.#untakenBytes = ranges.reduce((sum, { length }) => sum + length, 0)
    this.#hooks = hooks
    this.#onAbort = () => this.fail(hooks.signal.reason)
    hooks.signal.addEventListener('abort', this.#onAbort, { once: true })
  }

  onPiece({ item, offset, isLast, bytes }: DataPiece): void {
    const state = this.#items[item]
    const isExpected =
      state !== undefined &&
      !state.isDone &&
      offset === state.range.offset + state.receivedBytes &&
      state.receivedBytes + bytes.byteLength <= state.range.length &&
      isLast === (state.receivedBytes + bytes.byteLength === state.range.length) &&
      (isLast || bytes.byteLength > 0)
    if (!isExpected) {
      this.fail(
        new SourceError(
          'wrong',
          `sent ${bytes.byteLength} bytes at ${offset} that were not asked for`,
        ),
      )
      return
    }
    state.receivedBytes += bytes.byteLength
    state.isDone = isLast
    this.#push({ kind: 'bytes', item, bytes, isLast })
  }

  onNo(item: number, why: 'absent' | 'denied' | 'busy' | 'failed'): void {
    const state = this.#items[item]
    if (state === undefined || state.isDone) {
      this.fail(new SourceError('wrong', `refused item ${item}, which is not open`))
      return
    }
    state.isDone = true
    this.#push({ kind: 'no', item, why })
  }

  #push(event: ItemEvent): void {
    if (!this.#events.push(event)) this.fail(new SourceError('wrong', 'sent too many small pieces'))
  }

  /** The next event, or undefined when every item has ended. */
  async next(): Promise<ItemEvent | undefined> {
    if (this.#unreadItems === 0) return undefined
    let event: ItemEvent | undefined
    try {
      if (this.#error === undefined) event = await this.#hooks.wait(this.#events.shift())
    } catch (error) {
      this.fail(error)
    }
    if (event === undefined || this.#error !== undefined) throw this.#error
    const byteCount = event.kind === 'bytes' ? event.bytes.byteLength : 0
    this.#untakenBytes -= byteCount
    this.#hooks.taken(byteCount)
    if (event.kind === 'no' || event.isLast) this.#unreadItems--
    return event
  }

  fail(error: unknown): void {
    this.#error ??= error
    this.close()
  }

  /** Gives back what it held; tells the peer unless all was received. Idempotent. */
  close(): void {
    if (this.#isClosed) return
    this.#isClosed = true
    this.#hooks.signal.removeEventListener('abort', this.#onAbort)
    this.#events.close()
    this.#hooks.taken(this.#untakenBytes)
    this.#untakenBytes = 0
    this.#hooks.closed(this.#items.every(({ isDone }) => isDone))
  }
}

/** At least one range, so that presence is asked for also when no byte is. */
function* sliced(ref: BlobRef, offsetBytes: number): Generator<Range> {
  for (let offset = offsetBytes; offset < ref.size || offset === offsetBytes; offset += SLICE_BYTES)
    yield { ...ref, offset, length: Math.min(SLICE_BYTES, ref.size - offset) }
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
