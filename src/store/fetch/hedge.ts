/**
 * Asking one source after the other without waiting long for any: the first that begins to deliver wins.
 * After "The Tail at Scale" (Dean, Barroso 2013): a second request costs little, a slow first one a lot.
 */
import type { Clock, Timer } from '../../base/clock.ts'
import type { BlobSource, SourceError } from '../blob-source.ts'
import { asSourceError, type Trail } from './trail.ts'
import type { SourceHealth } from './source-health.ts'
import { orAborted } from '../stall-limit.ts'

/** A source that gave nothing for this long gets company. */
const HEDGE_MS = 250

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

/**
 * Undefined when the trail has ended and nobody delivers. `open` gives undefined for "does not have it".
 * Losers are aborted and stand back for a while. Throws only the reason of `signal`.
 */
export async function firstToBegin<T>(
  deps: { readonly clock: Clock; readonly health: SourceHealth },
  trail: Trail,
  open: (source: BlobSource, signal: AbortSignal) => Promise<AsyncIterable<T> | undefined>,
  signal: AbortSignal,
): Promise<Begun<T> | undefined> {
  const { clock, health } = deps
  const running = new Map<
    BlobSource,
    { readonly outcome: Promise<Outcome<T>>; readonly controller: AbortController }
  >()
  let candidate: Promise<Outcome<T>> | undefined
  let isAtEnd = false
  let wantsNext = true
  try {
    for (;;) {
      signal.throwIfAborted()
      if (wantsNext && !isAtEnd && candidate === undefined) {
        candidate = trail
          .next(() => clock.nowMs())
          .then((source) => ({ kind: 'candidate', source }))
        candidate.catch(() => undefined) // nobody waits for it once another source has begun
      }
      const waits = [...running.values()].map(({ outcome }) => outcome)
      if (candidate !== undefined) waits.push(candidate)
      if (waits.length === 0) return undefined
      const outcome = await orAborted(
        raceWithHedge(clock, waits, candidate === undefined && !isAtEnd),
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
          else running.set(outcome.source, begin(outcome.source, open, signal))
          break
        case 'refused':
          running.delete(outcome.source)
          wantsNext = true
          signal.throwIfAborted()
          trail.note(outcome.source, outcome.error?.message ?? 'does not have it')
          if (outcome.error !== undefined)
            health.note(outcome.source, outcome.error.reason, clock.nowMs())
          break
        case 'begun':
          running.delete(outcome.begun.source)
          for (const source of running.keys()) {
            trail.note(source, 'was slower than another', true)
            health.note(source, 'slow', clock.nowMs())
          }
          return outcome.begun
      }
    }
  } finally {
    for (const { controller } of running.values())
      controller.abort(new Error('another source was faster'))
  }
}

async function raceWithHedge<T>(
  clock: Clock,
  waits: readonly Promise<Outcome<T>>[],
  mayHedge: boolean,
): Promise<Outcome<T>> {
  let timer: Timer | undefined
  const hedge = new Promise<Outcome<T>>((resolve) => {
    if (mayHedge) timer = clock.setTimer(HEDGE_MS, () => resolve({ kind: 'hedge' }))
  })
  try {
    return await Promise.race([...waits, hedge])
  } finally {
    timer?.cancel()
  }
}

/** Opens the source and waits for its first item. */
function begin<T>(
  source: BlobSource,
  open: (source: BlobSource, signal: AbortSignal) => Promise<AsyncIterable<T> | undefined>,
  signal: AbortSignal,
): { readonly outcome: Promise<Outcome<T>>; readonly controller: AbortController } {
  const controller = new AbortController()
  const start = async (): Promise<Outcome<T>> => {
    try {
      const items = await open(source, AbortSignal.any([signal, controller.signal]))
      if (items === undefined) return { kind: 'refused', source, error: undefined }
      const iterator = items[Symbol.asyncIterator]()
      const first = await iterator.next()
      return {
        kind: 'begun',
        begun: { source, items: resume(first, iterator), close: () => controller.abort() },
      }
    } catch (error) {
      return { kind: 'refused', source, error: asSourceError(error) }
    }
  }
  return { outcome: start(), controller }
}

async function* resume<T>(first: IteratorResult<T>, rest: AsyncIterator<T>): AsyncGenerator<T> {
  try {
    for (let next = first; next.done !== true; next = await rest.next()) yield next.value
  } finally {
    await rest.return?.()
  }
}
