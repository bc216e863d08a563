/**
 * The answering half of `/mesh/cas/1`: reads the store and makes frames, one request after the other, a
 * part of each at a time, so that a small blob never waits behind a big one.
 *
 * Holds no file open between two parts: a peer that reads slowly, or not at all, costs nothing.
 */
import type { Logger } from 'pino'
import { collectBytes } from '../../files/collect-bytes.ts'
import {
  DATA_BYTES_MAX,
  encodeCasMessage,
  encodeData,
  type CasMessage,
  type DataPiece,
} from '../../wire/cas-messages.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
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
        ? { kind: 'get', message, nextItem: 0, sentBytes: 0 }
        : { kind: 'have', message },
    )
    return true
  }

  cancel(id: number): void {
    this.#open.delete(id)
  }

  end(): void {
    this.#open.clear()
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
      const bytes = await this.#read(item, offset, want)
      if (typeof bytes === 'string') {
        refused.set(bytes, [...(refused.get(bytes) ?? []), at])
        request.nextItem++
        request.sentBytes = 0
        continue
      }
      request.sentBytes += bytes.byteLength
      frameBytes += bytes.byteLength
      const isLast = request.sentBytes === item.length
      pieces.push({ id, item: at, offset, isLast, bytes })
      if (isLast) {
        request.nextItem++
        request.sentBytes = 0
      }
    }
    const frames = [...refused].map(([why, list]) =>
      encodeCasMessage({ type: 'no', id, items: list, why }),
    )
    return pieces.length === 0 ? frames : [...frames, encodeData(pieces)]
  }

  /** Exactly these bytes, or why not. */
  async #read(
    { digest, size }: BlobRef,
    offsetBytes: number,
    lengthBytes: number,
  ): Promise<Uint8Array | Why> {
    if (!this.#mayRead(digest)) return 'denied'
    try {
      if ((await this.#store.sizeOf(digest)) !== size) return 'absent'
      if (size <= SMALL_BLOB_BYTES_MAX && lengthBytes === size)
        return (await this.#store.read(digest, size)) ?? 'absent'
      const reader = await this.#store.open(digest, { offsetBytes, lengthBytes })
      if (reader === undefined) return 'absent'
      const bytes = await collectBytes(reader, lengthBytes)
      return bytes.byteLength === lengthBytes ? bytes : 'absent'
    } catch (error) {
      this.#log.warn({ err: error, digest }, 'blob could not be read for a peer')
      return 'failed'
    }
  }
}
