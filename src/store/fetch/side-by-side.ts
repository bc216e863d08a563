/**
 * The bytes of one blob in order, from one source after the other: one that dies is continued by the next
 * at the same byte, one that is slow gets a second beside it until one of the two is clearly ahead.
 */
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'
import type { BlobRef } from '../../wire/digest.ts'
import { SourceError, type BlobSource } from '../blob-source.ts'
import { orAborted } from '../../base/or-aborted.ts'
import { firstToBegin, type Begun } from './hedge.ts'
import { Pace } from './pace.ts'
import type { SourceHealth } from './source-health.ts'
import { asSourceError, type Trail } from './trail.ts'

/** Of two that give the same bytes, the one that is this much behind is left. */
const LEAD_BYTES = 128 * 1024

/** The one source that gave a beginning does not give the rest, and no other may. */
export class BrokenOff extends Error {}

interface Options {
  /** False: whoever begins has to give the whole, so that wrong bytes show who sent them. */
  readonly mayMix: boolean
  readonly signal: AbortSignal
  /** For each piece received; `usedBytes` of it are passed on, 0 for what another had given already. */
  readonly onPiece: (source: BlobSource, byteCount: number, usedBytes: number) => void
}

interface Deps {
  readonly clock: Clock
  readonly health: SourceHealth
  readonly log: Logger
}

/** Throws MESH0501 with the answers of all sources when none is left, BrokenOff when no other may go on. */
export async function* bytesFromAny(
  deps: Deps,
  trail: Trail,
  ref: BlobRef,
  options: Options,
): AsyncGenerator<Uint8Array> {
  const race = new Race(deps, trail, ref, options)
  try {
    for (;;) {
      const bytes = await race.next()
      if (bytes === undefined) return
      if (bytes.byteLength > 0) yield bytes
    }
  } finally {
    race.close()
  }
}

/** One source that gives. Its position is never beyond that of the race, so what it gives joins on. */
interface Lane {
  readonly begun: Begun<Uint8Array>
  readonly iterator: AsyncIterator<Uint8Array>
  readonly beganAtBytes: number
  atBytes: number
  next: Promise<Outcome>
}

type Outcome =
  | {
      readonly kind: 'begun'
      readonly begun: Begun<Uint8Array> | undefined
      readonly atBytes: number
    }
  | { readonly kind: 'piece'; readonly lane: Lane; readonly bytes: Uint8Array }
  | { readonly kind: 'ended'; readonly lane: Lane; readonly error: SourceError }
  | { readonly kind: 'paused' }

class Race {
  readonly #deps: Deps
  readonly #clock: Clock
  readonly #health: SourceHealth
  readonly #trail: Trail
  readonly #ref: BlobRef
  readonly #options: Options
  readonly #ending = new AbortController()
  readonly #signal: AbortSignal
  #lanes: Lane[] = []
  #opening: Promise<Outcome> | undefined
  /** Nobody else is left. */
  #isAlone = false
  #pace = new Pace()
  #atBytes = 0

  constructor(deps: Deps, trail: Trail, ref: BlobRef, options: Options) {
    this.#deps = deps
    this.#clock = deps.clock
    this.#health = deps.health
    this.#trail = trail
    this.#ref = ref
    this.#options = options
    this.#signal = AbortSignal.any([options.signal, this.#ending.signal])
  }

  close(): void {
    this.#ending.abort(new Error('no longer read'))
    for (const lane of this.#lanes) this.#leave(lane)
    // One that began in this very moment has nobody to end it.
    void this.#opening?.then(
      (outcome) => (outcome.kind === 'begun' ? outcome.begun?.close() : undefined),
      () => undefined,
    )
  }

  /** What comes next, perhaps nothing of it new; undefined at the end. */
  async next(): Promise<Uint8Array | undefined> {
    if (this.#lanes.length === 0) this.#opening ??= this.#open(this.#trail)
    const outcome = await this.#wait()
    this.#options.signal.throwIfAborted()
    switch (outcome.kind) {
      case 'paused':
        return EMPTY
      case 'begun':
        this.#opening = undefined
        if (outcome.begun !== undefined) this.#enter(outcome.begun, outcome.atBytes)
        else if (this.#lanes.length === 0) throw this.#trail.notAvailable(this.#ref)
        else this.#isAlone = true
        return EMPTY
      case 'piece':
        return this.#advance(outcome.lane, outcome.bytes)
      case 'ended':
        return this.#end(outcome.lane, outcome.error)
    }
  }

  #open(trail: Pick<Trail, 'next' | 'note'>): Promise<Outcome> {
    const atBytes = this.#atBytes
    const opening = firstToBegin(
      this.#deps,
      trail,
      (source, signal) => source.fetch(this.#ref, { offsetBytes: atBytes, signal }),
      this.#signal,
    ).then((begun): Outcome => ({ kind: 'begun', begun, atBytes }))
    opening.catch(() => undefined) // it fails when the reader left: nobody may be waiting then
    return opening
  }

  #enter(begun: Begun<Uint8Array>, atBytes: number): void {
    const iterator = begun.items[Symbol.asyncIterator]()
    const lane: Lane = {
      begun,
      iterator,
      beganAtBytes: atBytes,
      atBytes,
      next: Promise.resolve({ kind: 'paused' }),
    }
    lane.next = this.#read(lane)
    this.#lanes.push(lane)
    this.#pace = new Pace()
  }

  #read(lane: Lane): Promise<Outcome> {
    return lane.iterator.next().then(
      ({ done, value }): Outcome =>
        done === true
          ? {
              kind: 'ended',
              lane,
              error: new SourceError(
                'failed',
                `ended after ${lane.atBytes} of ${this.#ref.size} bytes`,
              ),
            }
          : { kind: 'piece', lane, bytes: value },
      (error: unknown): Outcome => ({ kind: 'ended', lane, error: asSourceError(error) }),
    )
  }

  /** What happens next. Alone in its lane a source is timed; a slow one gets company. */
  async #wait(): Promise<Outcome> {
    const waits = this.#lanes.map((lane) => lane.next)
    if (this.#opening !== undefined) waits.push(this.#opening)
    const [only] = this.#lanes
    const isTimed =
      only !== undefined && this.#opening === undefined && this.#lanes.length === 1 && this.#mayRace
    if (!isTimed) return orAborted(Promise.race(waits), this.#signal)
    const startedAtMs = this.#clock.nowMs()
    let timer: Timer | undefined
    waits.push(
      new Promise((resolve) => {
        timer = this.#clock.setTimer(this.#pace.restMs, () => resolve({ kind: 'paused' }))
      }),
    )
    try {
      const outcome = await orAborted(Promise.race(waits), this.#signal)
      const isSlow = this.#pace.isSlow({
        byteCount: outcome.kind === 'piece' ? outcome.bytes.byteLength : 0,
        waitedMs: this.#clock.nowMs() - startedAtMs,
        remainingBytes: this.#ref.size - this.#atBytes,
        bestBytesPerS: this.#trail.bestBytesPerS,
      })
      if (isSlow && outcome.kind !== 'ended') this.#opening = this.#open(this.#company)
      return outcome
    } finally {
      timer?.cancel()
    }
  }

  /** Slow is better than a liar. */
  get #company(): Pick<Trail, 'next' | 'note'> {
    const trail = this.#trail
    return {
      next: (nowMs, isWanted) => trail.nextTrusted(nowMs, isWanted),
      note: (source, result, madeProgress) => trail.note(source, result, madeProgress),
    }
  }

  get #mayRace(): boolean {
    return this.#options.mayMix && !this.#isAlone
  }

  #advance(lane: Lane, bytes: Uint8Array): Uint8Array {
    const usedBytes = Math.max(0, lane.atBytes + bytes.byteLength - this.#atBytes)
    lane.atBytes += bytes.byteLength
    this.#atBytes += usedBytes
    lane.next = this.#read(lane)
    this.#options.onPiece(lane.begun.source, bytes.byteLength, usedBytes)
    for (const other of this.#lanes)
      if (lane.atBytes - other.atBytes >= LEAD_BYTES || this.#isWhole) this.#outrun(other, lane)
    return bytes.subarray(bytes.byteLength - usedBytes)
  }

  get #isWhole(): boolean {
    return this.#atBytes >= this.#ref.size
  }

  #outrun(other: Lane, leader: Lane): void {
    if (other === leader) return
    this.#leave(other)
    const { source } = other.begun
    this.#trail.note(source, 'was slower than another', true)
    this.#health.note(source, 'slow', this.#clock.nowMs())
  }

  #leave(lane: Lane): void {
    this.#lanes = this.#lanes.filter((other) => other !== lane)
    lane.begun.close()
    void lane.iterator.return?.().catch(() => undefined) // its error would be about being left
  }

  /** A source has no more: at the end of the blob that is right, anywhere else another goes on. */
  #end(lane: Lane, error: SourceError): Uint8Array | undefined {
    const { source } = lane.begun
    if (this.#isWhole) {
      this.#leave(lane)
      this.#health.noteGood(source)
      return undefined
    }
    this.#leave(lane)
    const { mayMix } = this.#options
    const isProgress = lane.atBytes > lane.beganAtBytes
    this.#trail.note(source, error.message, error.reason !== 'wrong' && mayMix && isProgress)
    this.#health.note(source, error.reason, this.#clock.nowMs(), error.message)
    this.#deps.log.debug(
      { source: source.name, digest: this.#ref.digest, offsetBytes: this.#atBytes, err: error },
      'source broke off',
    )
    if (!mayMix && this.#atBytes > 0) throw new BrokenOff()
    return EMPTY
  }
}

const EMPTY = new Uint8Array()
