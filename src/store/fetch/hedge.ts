/**
 * Asking one source after the other without waiting long for any: the first that begins to deliver wins.
 * After "The Tail at Scale" (Dean, Barroso 2013): a second request costs little, a slow first one a lot.
 */
import type { Clock, Timer } from '../../base/clock.ts'
import type { BlobSource, SourceError } from '../blob-source.ts'
import { asSourceError, type Trail } from './trail.ts'
import type { SourceHealth } from './source-health.ts'
import { orAborted } from '../../base/or-aborted.ts'

/** A source that has begun. `items` is left or read to the end, then `close` is called, always. */
export interface Begun<T> {
  readonly source: BlobSource
  readonly items: AsyncIterable<T>
  close(): void
}

type Outcome<T> =
  | { readonly kind: 'begun'; readonly begun: Begun<T> }
  | {
      readonly kind: 'refused'
      readonly source: BlobSource
      readonly error: SourceError | undefined
    }
  | { readonly kind: 'candidate'; readonly source: BlobSource | undefined }
  | { readonly kind: 'hedge' }

interface Running<T> {
  readonly outcome: Promise<Outcome<T>>
  readonly controller: AbortController
  readonly askedAtMs: number
}

/**
 * Undefined when the trail has ended and nobody delivers. `open` gives undefined for "does not have it".
 * Losers are aborted, and stand back for a while when they were silent for long. What sources do is noted
 * in `health`. Throws only the reason of `signal`.
 */
export async function firstToBegin<T>(
  deps: { readonly clock: Clock; readonly health: SourceHealth },
  trail: Pick<Trail, 'next' | 'note'>,
  open: (source: BlobSource, signal: AbortSignal) => Promise<AsyncIterable<T> | undefined>,
  signal: AbortSignal,
): Promise<Begun<T> | undefined> {
  const { clock, health } = deps
  const running = new Map<BlobSource, Running<T>>()
  let candidate: Promise<Outcome<T>> | undefined
  let isAtEnd = false
  let wantsNext = true
  let isOver = false
  /** When the one that was asked last gets company. */
  let hedgeAtMs = Infinity
  try {
    for (;;) {
      signal.throwIfAborted()
      if (wantsNext && !isAtEnd && candidate === undefined) {
        candidate = trail
          .next(
            () => clock.nowMs(),
            () => !isOver,
          )
          .then((source) => ({ kind: 'candidate', source }))
        candidate.catch(() => undefined) // nobody waits for it once another source has begun
      }
      const waits = [...running.values()].map(({ outcome }) => outcome)
      if (candidate !== undefined) waits.push(candidate)
      if (waits.length === 0) return undefined
      const outcome = await orAborted(
        raceWithHedge(clock, waits, candidate === undefined && !isAtEnd ? hedgeAtMs : Infinity),
        signal,
      )
      switch (outcome.kind) {
        case 'hedge':
          wantsNext = true
          break
        case 'candidate':
          candidate = undefined
          wantsNext = false
          if (outcome.source === undefined) isAtEnd = true
          else {
            running.set(outcome.source, begin(deps, outcome.source, open, signal))
            hedgeAtMs = clock.nowMs() + health.hedgeMs(outcome.source)
          }
          break
        case 'refused':
          running.delete(outcome.source)
          wantsNext = true
          signal.throwIfAborted()
          trail.note(outcome.source, outcome.error?.message ?? 'does not have it')
          if (outcome.error !== undefined)
            health.note(outcome.source, outcome.error.reason, clock.nowMs(), outcome.error.message)
          break
        case 'begun':
          running.delete(outcome.begun.source)
          for (const [source, { askedAtMs }] of running) {
            trail.note(source, 'was slower than another', true)
            health.noteOutrun(source, clock.nowMs() - askedAtMs, clock.nowMs())
          }
          return outcome.begun
      }
    }
  } finally {
    isOver = true
    for (const { controller } of running.values())
      controller.abort(new Error('another source was faster'))
  }
}

async function raceWithHedge<T>(
  clock: Clock,
  waits: readonly Promise<Outcome<T>>[],
  hedgeAtMs: number,
): Promise<Outcome<T>> {
  let timer: Timer | undefined
  const hedge = new Promise<Outcome<T>>((resolve) => {
    if (hedgeAtMs === Infinity) return
    timer = clock.setTimer(Math.max(0, hedgeAtMs - clock.nowMs()), () => resolve({ kind: 'hedge' }))
  })
  try {
    return await Promise.race([...waits, hedge])
  } finally {
    timer?.cancel()
  }
}

/** Opens the source and waits for its first item. */
function begin<T>(
  deps: { readonly clock: Clock; readonly health: SourceHealth },
  source: BlobSource,
  open: (source: BlobSource, signal: AbortSignal) => Promise<AsyncIterable<T> | undefined>,
  signal: AbortSignal,
): Running<T> {
  const { clock, health } = deps
  const controller = new AbortController()
  const askedAtMs = clock.nowMs()
  health.noteAsked(source)
  const start = async (): Promise<Outcome<T>> => {
    try {
      const items = await open(source, AbortSignal.any([signal, controller.signal]))
      const iterator = items?.[Symbol.asyncIterator]()
      const first = await iterator?.next()
      health.noteAnswer(source, clock.nowMs() - askedAtMs, first !== undefined)
      if (iterator === undefined || first === undefined)
        return { kind: 'refused', source, error: undefined }
      return {
        kind: 'begun',
        begun: {
          source,
          items: measured(deps, source, first, iterator),
          close: () => controller.abort(),
        },
      }
    } catch (error) {
      return { kind: 'refused', source, error: asSourceError(error) }
    }
  }
  return { outcome: start(), controller, askedAtMs }
}

/** All items; the time that is spent waiting for them goes to the health of the source. */
async function* measured<T>(
  { clock, health }: { readonly clock: Clock; readonly health: SourceHealth },
  source: BlobSource,
  first: IteratorResult<T>,
  rest: AsyncIterator<T>,
): AsyncGenerator<T> {
  let waitedMs: number | undefined
  try {
    for (let next = first; next.done !== true;) {
      health.noteBytes(source, byteCountOf(next.value), waitedMs)
      yield next.value
      const askedAtMs = clock.nowMs()
      next = await rest.next()
      waitedMs = clock.nowMs() - askedAtMs
    }
  } finally {
    await rest.return?.()
  }
}

/** Of a piece of a blob, or of one blob of a batch. */
function byteCountOf(item: unknown): number {
  if (item instanceof Uint8Array) return item.byteLength
  return typeof item === 'object' && item !== null && 'bytes' in item ? byteCountOf(item.bytes) : 0
}
