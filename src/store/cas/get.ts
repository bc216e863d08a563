/** One GET of the asking half: what was asked, and what came of it until its reader takes it. */
import { BoundedQueue } from '../../base/bounded-queue.ts'
import { GET_ITEMS_MAX, type CasMessage, type DataPiece } from '../../wire/cas-messages.ts'
import type { BlobRef } from '../../wire/digest.ts'
import { SourceError } from '../blob-source.ts'

/** Pieces of one request that wait for their reader. Honest peers cut an item at most in two. */
const PIECES_MAX = 2 * GET_ITEMS_MAX + 2

type Why = Extract<CasMessage, { type: 'no' }>['why']
/** What is asked for: part of a blob. */
export interface Range extends BlobRef {
  readonly offset: number
  readonly length: number
}
/** `item` is an index into the ranges. */
export type ItemEvent =
  | {
      readonly kind: 'bytes'
      readonly item: number
      readonly bytes: Uint8Array
      readonly isLast: boolean
    }
  | {
      readonly kind: 'no'
      readonly item: number
      readonly why: Why
    }

interface GetHooks {
  readonly signal: AbortSignal
  wait<T>(promise: Promise<T>): Promise<T>
  /** The reader took bytes, or will never take them. */
  taken(byteCount: number): void
  closed(isComplete: boolean): void
}

/** Checks what arrives against what was asked, and holds it until it is read. */
export class Get {
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

  onNo(item: number, why: Why): void {
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
