/**
 * The answering half of `/mesh/cas/1`: reads the store and makes frames, a part of each request at a time, so
 * that a small blob never waits behind a big one. Requests for one big blob are answered in their order: two
 * halves of it serve nobody.
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
import type { SwarmDoor } from './swarm-door.ts'

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
  readonly #swarms: SwarmDoor | undefined
  readonly #peerId: string
  readonly #log: Logger
  readonly #open = new Map<number, Open>()
  /** What takes turns; the next one is first. Each holds the requests for one big blob, or one request. */
  readonly #lanes = new Map<string, Open[]>()

  constructor(
    deps: {
      readonly store: BlobStore
      readonly log: Logger
      readonly swarms?: SwarmDoor | undefined
    },
    options: {
      readonly peerId: string
      readonly mayRead?: ((digest: Digest) => boolean) | undefined
    },
  ) {
    this.#store = deps.store
    this.#swarms = deps.swarms
    this.#peerId = options.peerId
    this.#log = deps.log
    this.#mayRead = options.mayRead ?? (() => true)
  }

  get isIdle(): boolean {
    return this.#open.size === 0
  }

  /** False when the peer breaks the rules. */
  add(message: GetMessage | HaveMessage): boolean {
    if (this.#open.size >= REQUESTS_OPEN_MAX || this.#open.has(message.id)) return false
    const request: Open =
      message.type === 'get'
        ? { kind: 'get', message, nextItem: 0, sentBytes: 0, reading: undefined }
        : { kind: 'have', message }
    this.#open.set(message.id, request)
    if (message.type === 'get')
      for (const { digest, offset, length } of message.items)
        this.#swarms?.asked(this.#peerId, digest, offset, length)
    const lane = this.#lanes.get(laneOf(request))
    if (lane === undefined) this.#lanes.set(laneOf(request), [request])
    else lane.push(request)
    return true
  }

  cancel(id: number): void {
    const request = this.#open.get(id)
    if (request === undefined) return
    this.#remove(request)
    if (request.kind === 'get') this.#stopReading(request)
  }

  #remove(request: Open): void {
    this.#open.delete(request.message.id)
    const key = laneOf(request)
    const rest = this.#lanes.get(key)?.filter((other) => other !== request) ?? []
    if (rest.length === 0) this.#lanes.delete(key)
    else this.#lanes.set(key, rest)
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
    const [turn] = this.#lanes
    const request = turn?.[1][0]
    if (turn === undefined || request === undefined) return []
    // To the end of the line, before anything is awaited.
    const [key, lane] = turn
    this.#lanes.delete(key)
    this.#lanes.set(key, lane)
    if (request.kind === 'have') {
      this.#remove(request)
      return [await this.#answerHave(request.message)]
    }
    const frames = await this.#serve(request)
    const isCancelled = this.#open.get(request.message.id) !== request
    if (isCancelled) this.#stopReading(request)
    else if (request.nextItem === request.message.items.length) this.#remove(request)
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
      this.#swarms?.sent(this.#peerId, item.digest, offset, bytes.byteLength)
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
    const isFirst = request.sentBytes === 0
    if (isFirst && this.#swarms?.mayGive(this.#peerId, digest, offsetBytes, length) === false)
      return 'later'
    try {
      if (request.reading === undefined) {
        const storedBytes = await this.#store.sizeOf(digest)
        if (storedBytes === undefined)
          return (await this.#swarms?.read(digest, offsetBytes, bytesMax)) ?? 'absent'
        if (storedBytes !== size) return 'absent'
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

function laneOf({ message }: Open): string {
  const [item, ...others] = message.type === 'get' ? message.items : []
  const isBig = item !== undefined && others.length === 0 && item.size > SMALL_BLOB_BYTES_MAX
  return isBig ? item.digest : String(message.id)
}
