/**
 * The answering half of `/mesh/cas/1`: reads the store and makes frames, one request after the other, a
 * part of each at a time, so that a small blob never waits behind a big one.
 *
 * A big blob stays open between two parts, one per request at the most.
 */
import type { Logger } from 'pino'
import {
  DATA_BYTES_MAX,
  encodeCasMessage,
  encodeData,
  type CasMessage,
  type DataPiece,
} from '../../wire/cas-messages.ts'
import type { Digest } from '../../wire/digest.ts'
import { SMALL_BLOB_BYTES_MAX } from '../blob-source.ts'
import type { BlobStore } from '../blob-store.ts'

/** Open requests of one peer; one that asks more is cut off. */
const REQUESTS_OPEN_MAX = 64
/** Small items are put together up to this, or a little over. */
const FRAME_FILL_BYTES = 128 * 1024

type GetMessage = Extract<CasMessage, { type: 'get' }>
type HaveMessage = Extract<CasMessage, { type: 'have' }>
type Why = Extract<CasMessage, { type: 'no' }>['why']
interface OpenGet {
  readonly kind: 'get'
  readonly message: GetMessage
  nextItem: number
  /** Of that item. */
  sentBytes: number
  /** Of that item, when it takes several frames. */
  reading: Reading | undefined
}
interface Reading {
  readonly pieces: AsyncIterator<Uint8Array>
  /** Read and not yet sent. */
  rest: Uint8Array
}
type Open = OpenGet | { readonly kind: 'have'; readonly message: HaveMessage }

export class CasAnswerer {
  readonly #store: BlobStore
  readonly #mayRead: (digest: Digest) => boolean
  readonly #log: Logger
  /** The next one to be served is first. */
  readonly #open = new Map<number, Open>()

  constructor(
    deps: { readonly store: BlobStore; readonly log: Logger },
    options: { readonly mayRead?: (digest: Digest) => boolean },
  ) {
    this.#store = deps.store
    this.#log = deps.log
    this.#mayRead = options.mayRead ?? (() => true)
  }

  get isIdle(): boolean {
    return this.#open.size === 0
  }

  /** False when the peer breaks the rules. */
  add(message: GetMessage | HaveMessage): boolean {
    if (this.#open.size >= REQUESTS_OPEN_MAX || this.#open.has(message.id)) return false
    this.#open.set(
      message.id,
      message.type === 'get'
        ? { kind: 'get', message, nextItem: 0, sentBytes: 0, reading: undefined }
        : { kind: 'have', message },
    )
    return true
  }

  cancel(id: number): void {
    const request = this.#open.get(id)
    this.#open.delete(id)
    if (request?.kind === 'get') this.#stopReading(request)
  }

  end(): void {
    for (const id of this.#open.keys()) this.cancel(id)
  }

  #stopReading(request: OpenGet): void {
    const { reading } = request
    request.reading = undefined
    reading?.pieces
      .return?.()
      .then(undefined, (error: unknown) =>
        this.#log.warn({ err: error }, 'blob could not be closed'),
      )
  }

  /** What to send next; an empty list when nothing is open. */
  async nextFrames(): Promise<Uint8Array[]> {
    const [request] = this.#open.values()
    if (request === undefined) return []
    const { id } = request.message
    // To the end of the line, before anything is awaited.
    this.#open.delete(id)
    this.#open.set(id, request)
    if (request.kind === 'have') {
      this.#open.delete(id)
      return [await this.#answerHave(request.message)]
    }
    const frames = await this.#serve(request)
    const isCancelled = this.#open.get(id) !== request
    if (isCancelled) this.#stopReading(request)
    if (request.nextItem === request.message.items.length && !isCancelled) this.#open.delete(id)
    return isCancelled ? [] : frames
  }

  async #answerHave({ id, digests }: HaveMessage): Promise<Uint8Array> {
    const bits = new Uint8Array(Math.ceil(digests.length / 8))
    for (const [at, digest] of digests.entries())
      if (this.#mayRead(digest) && (await this.#store.has(digest)))
        bits[at >> 3] = (bits[at >> 3] ?? 0) | (1 << (at & 7))
    return encodeCasMessage({ type: 'haveReply', id, bits })
  }

  /** Up to one DATA frame of the request, and a NO for each reason that came up. */
  async #serve(request: OpenGet): Promise<Uint8Array[]> {
    const { id, items } = request.message
    const pieces: DataPiece[] = []
    const refused = new Map<Why, number[]>()
    let frameBytes = 0
    for (
      let at = request.nextItem;
      at < items.length && frameBytes < FRAME_FILL_BYTES;
      at = request.nextItem
    ) {
      const item = items[at]
      if (item === undefined) break
      const offset = item.offset + request.sentBytes
      const want = Math.min(item.length - request.sentBytes, DATA_BYTES_MAX - frameBytes)
      const bytes = await this.#read(request, item, offset, want)
      if (typeof bytes === 'string') {
        refused.set(bytes, [...(refused.get(bytes) ?? []), at])
        this.#stopReading(request)
        request.nextItem++
        request.sentBytes = 0
        continue
      }
      request.sentBytes += bytes.byteLength
      frameBytes += bytes.byteLength
      const isLast = request.sentBytes === item.length
      pieces.push({ id, item: at, offset, isLast, bytes })
      if (isLast) {
        this.#stopReading(request)
        request.nextItem++
        request.sentBytes = 0
      }
    }
    const frames = [...refused].map(([why, list]) =>
      encodeCasMessage({ type: 'no', id, items: list, why }),
    )
    return pieces.length === 0 ? frames : [...frames, encodeData(pieces)]
  }

  /** The next of these bytes, at least one of them, or why not. */
  async #read(
    request: OpenGet,
    { digest, size, length }: GetMessage['items'][number],
    offsetBytes: number,
    bytesMax: number,
  ): Promise<Uint8Array | Why> {
    if (!this.#mayRead(digest)) return 'denied'
    try {
      if (request.reading === undefined) {
        if ((await this.#store.sizeOf(digest)) !== size) return 'absent'
        if (size <= SMALL_BLOB_BYTES_MAX && length === size && bytesMax === size)
          return (await this.#store.read(digest, size)) ?? 'absent'
        const lengthBytes = length - request.sentBytes
        if (lengthBytes === 0) return new Uint8Array()
        const reader = await this.#store.open(digest, { offsetBytes, lengthBytes })
        if (reader === undefined) return 'absent'
        request.reading = { pieces: reader[Symbol.asyncIterator](), rest: new Uint8Array() }
      }
      const { reading } = request
      if (reading.rest.byteLength === 0) {
        const next = await reading.pieces.next()
        if (next.done === true) return 'absent'
        reading.rest = next.value
      }
      const bytes = reading.rest.subarray(0, bytesMax)
      reading.rest = reading.rest.subarray(bytes.byteLength)
      return bytes
    } catch (error) {
      this.#log.warn({ err: error, digest }, 'blob could not be read for a peer')
      return 'failed'
    }
  }
}
