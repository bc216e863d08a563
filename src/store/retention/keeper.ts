/**
 * Keeps room in the store: admits what is to be written, has garbage collected when the quota or the disk
 * asks for it, and says when that did not help.
 *
 * Room is a state that is looked at again and again, never a series of events: a check every half minute, a
 * put that crosses the high water, one that does not fit and one that hit a full disk all ask for the same
 * thing, and one answer serves all.
 */
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'
import type { GcReport, GcRequest } from './collector.ts'
import type { Reservation, Space, SpaceMeter } from './space.ts'

const CHECK_MS = 30_000
/** Puts have it looked at no more often than this. */
const CHECK_AGAIN_MS = 1_000
/** When removing did not free enough, the next try: nothing becomes old or unneeded much sooner. */
const AGAIN_MS = 60_000
/** For so long after the start holders of leases are waited for: only what must go now goes. */
const GRACE_MS = 10 * 60_000

export interface KeeperDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly meter: SpaceMeter
  readonly collect: (request: GcRequest, signal: AbortSignal) => Promise<GcReport>
  /** Resolves when the disk has the room of all that was removed. */
  readonly emptyTrash: () => Promise<void>
  /** Looks at what others write into the store's directory. */
  readonly measure: () => Promise<void>
}

export class Keeper implements AsyncDisposable {
  readonly #deps: KeeperDeps
  readonly #options: { readonly where: string }
  readonly #lifetime = new AbortController()
  #timer: Timer | undefined
  #relieving: Promise<void> | undefined
  #collecting: Promise<unknown> = Promise.resolve()
  readonly #openedAtMs: number
  #checkedAtMs = -Infinity
  #notBeforeMs = -Infinity

  constructor(deps: KeeperDeps, options: { readonly where: string }) {
    this.#deps = deps
    this.#options = options
    this.#openedAtMs = deps.clock.nowMs()
  }

  start(): void {
    this.#check()
    this.#timer = this.#deps.clock.setTimer(CHECK_MS, () => this.start())
  }

  space(): Space {
    return this.#deps.meter.space()
  }

  /**
   * Counts bytes that are about to be written as used until it is disposed of. Removes others where they do
   * not fit; MESH0503 when that is not enough.
   */
  async reserve(sizeBytes: number): Promise<Reservation> {
    const reservation = this.#deps.meter.reserve(sizeBytes)
    try {
      await this.#admit()
      return reservation
    } catch (error) {
      reservation[Symbol.dispose]()
      throw error
    }
  }

  /** The same for bytes whose number is not known before they come: a reservation that grows with them. */
  async *reserveEach(
    source: AsyncIterable<Uint8Array>,
    reservation: Reservation,
  ): AsyncGenerator<Uint8Array> {
    for await (const bytes of source) {
      reservation.grow(bytes.byteLength)
      await this.#admit()
      yield bytes
    }
  }

  async #admit(): Promise<void> {
    const { meter } = this.#deps
    // Twice: the first may join what began before these bytes were reserved.
    for (let tries = 0; meter.isOver(); tries++) {
      if (tries === 2) throw meter.error(this.#options.where)
      await this.#relieve(0)
    }
  }

  /** So much was stored. */
  wrote(bytes: number): void {
    const { clock, meter } = this.#deps
    meter.wrote(bytes)
    if (clock.nowMs() - this.#checkedAtMs < CHECK_AGAIN_MS) return
    const { quotaBytes, floorBytes } = meter.pressure()
    if (quotaBytes > 0 || floorBytes > 0) this.#check()
  }

  /** The disk was full, whatever the numbers said. */
  async makeRoom(bytes: number): Promise<void> {
    await Promise.allSettled([this.#relieving])
    await this.#relieve(bytes)
  }

  /** What somebody asked for; after what is under way. */
  async collect(request: GcRequest): Promise<GcReport> {
    const report = await this.#collect(request)
    if (request.isDryRun !== true) await this.#deps.meter.decide()
    return report
  }

  async #collect(request: GcRequest): Promise<GcReport> {
    const { meter, collect, emptyTrash } = this.#deps
    const collecting = this.#collecting.then(async () => {
      const report = await collect(request, this.#lifetime.signal)
      meter.freeableBytes = Math.max(0, report.classes.idle.bytes - report.evicted.bytes)
      if (report.evicted.count > 0) {
        await emptyTrash()
        await meter.refresh()
      }
      return report
    })
    this.#collecting = Promise.allSettled([collecting])
    return collecting
  }

  #check(): void {
    if (this.#lifetime.signal.aborted) return
    this.#checkedAtMs = this.#deps.clock.nowMs()
    this.#relieve(0).catch((error: unknown) => {
      if (!this.#lifetime.signal.aborted) this.#deps.log.error({ err: error }, 'no room was made')
    })
  }

  /** Joins one that is under way. */
  #relieve(neededBytes: number): Promise<void> {
    this.#relieving ??= this.#relieveOnce(neededBytes).finally(() => {
      this.#relieving = undefined
    })
    return this.#relieving
  }

  async #relieveOnce(neededBytes: number): Promise<void> {
    const { clock, meter, measure } = this.#deps
    await measure()
    await meter.refresh()
    const isUrgent = neededBytes > 0 || meter.isOver() || meter.pressure().floorBytes > 0
    if (!isUrgent && clock.nowMs() - this.#openedAtMs < GRACE_MS) {
      // Nothing is removed yet, but room that was made by others is seen.
      if (meter.space().state === 'full') await meter.decide()
      return
    }
    if (clock.nowMs() >= this.#notBeforeMs) {
      const isShort = await this.#collectFor(neededBytes)
      if (isShort) this.#notBeforeMs = clock.nowMs() + AGAIN_MS
    }
    await meter.decide()
  }

  /** What was used in the last hour goes only for the disk's sake, and only when the rest was not enough. */
  async #collectFor(neededBytes: number): Promise<boolean> {
    const { meter } = this.#deps
    const { quotaBytes, floorBytes } = meter.pressure()
    const freeBytes = Math.max(quotaBytes, floorBytes, neededBytes)
    if (freeBytes === 0) return false
    const report = await this.#collect({ freeBytes, takesRecent: false })
    const neededStill = Math.min(report.shortBytes, neededBytes)
    const forDisk = Math.max(meter.pressure().floorBytes, neededStill)
    if (forDisk === 0) return report.shortBytes > 0
    const { shortBytes } = await this.#collect({ freeBytes: forDisk, takesRecent: true })
    return shortBytes > 0
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#lifetime.abort(new Error('the store is closing'))
    this.#timer?.cancel()
    await Promise.allSettled([this.#relieving, this.#collecting])
  }
}
