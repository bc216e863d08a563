/**
 * Declining a free node on purpose: for a busy one that is so much faster that the job ends there sooner all
 * the same, or, for a moment, for one that has its inputs. Both are bounded by what they can gain.
 */
import type { Aside, Item } from './classes.ts'
import type { Core } from './core.ts'
import { fits } from './forecast.ts'
import { isOpen, roomOf, type Kind, type Seat } from './kinds.ts'
import type { NodeEntry } from './model.ts'
import { offerFor, speedOfOffer } from './offers.ts'
import { NO_INPUTS, transferMs } from './transfer.ts'

/** A busy node has to be so much better than a free one to be waited for. */
const HOLD_FACTOR = 0.98
/** A job is held at most for as long as it would take on the node that it declines, and for so long. */
export const HOLD_MS_MAX = 600_000
/** One that is held is judged anew after this at the soonest. */
const HOLD_STEP_MS = 250
/** Busy nodes of a kind that are looked at, those with room soonest. */
const BUSY_LOOKED_AT = 16
/** A node that has the inputs is waited for so long, and for this part of what the transfer takes. */
export const NEAR_MS_MAX = 2_000
const NEAR_PART = 0.2
const NEAR_MS_MIN = 50
/** What is declined. */
interface Free {
  readonly speed: number
  readonly transferMs: number
  /** Until the job would end there. */
  readonly forMs: number
}

export class Holding {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  /** What is better than the free node; undefined where nothing is, or where it was waited for long enough. */
  decline(item: Item, free: Free, barred: ReadonlySet<string>): Aside | undefined {
    // On a guess nothing is declined: another job would have the node, and this one a worse one.
    if (item.estimate.sampleCount === 0) return undefined
    return this.#hold(item, free, barred) ?? this.#waitForInputs(item, free, barred)
  }

  /** The busy node that is worth waiting for; undefined where none is, or where it was waited for long enough. */
  #hold(item: Item, free: Free, barred: ReadonlySet<string>): Aside | undefined {
    const { estimate, home } = item
    const { nowMs } = this.#core.moment
    const sinceMs = item.heldSinceMs ?? nowMs
    const untilMs = sinceMs + Math.min(free.forMs, HOLD_MS_MAX)
    if (nowMs >= untilMs) return undefined
    let best: { node: NodeEntry; readyMs: number; finishMs: number } | undefined
    const consider = (node: NodeEntry, readyMs: number, speed: number): void => {
      if (readyMs > untilMs) return
      const forMs = transferMs(item.inputs ?? NO_INPUTS, node.peerId) + estimate.durationMs / speed
      const finishMs = readyMs + forMs
      if (finishMs - nowMs >= free.forMs * HOLD_FACTOR) return
      if (best === undefined || finishMs < best.finishMs) best = { node, readyMs, finishMs }
    }
    for (const kind of this.#core.profiles.kindsFor(home.requirement))
      for (const seat of this.#busyOf(kind, item, free, barred))
        consider(
          seat.node,
          this.#core.forecast.readyMs(seat.node, roomOf(home.requirement), { item }),
          this.#speedOn(kind, item),
        )
    for (const seat of this.#core.profiles.bundles) {
      const { node } = seat
      if (barred.has(node.peerId) || !isOpen(node)) continue
      const offer = offerFor(home.requirement, seat, 'busy')
      if (offer === undefined || offer.freeInMs <= 0) continue
      const speed = speedOfOffer(offer, item.emulationSpeed)
      if (speed <= free.speed) continue
      // Each promise takes about as long as the first room takes to come.
      const turns = 1 + this.#core.forecast.promisedCount(node)
      consider(node, nowMs + offer.freeInMs * turns, speed)
    }
    if (best === undefined) return undefined
    item.heldSinceMs = sinceMs
    this.#core.forecast.promise(best.node, item, roomOf(home.requirement), best.finishMs)
    return {
      kind: 'held-for',
      node: best.node,
      untilMs: Math.min(untilMs, Math.max(best.readyMs, nowMs + HOLD_STEP_MS)),
      atMs: best.readyMs,
      finishAtMs: best.finishMs,
    }
  }

  /** Busy nodes of a faster kind that may have room soon. */
  #busyOf(kind: Kind, item: Item, free: Free, barred: ReadonlySet<string>): Seat[] {
    const { estimate, home } = item
    const speed = this.#speedOn(kind, item)
    if (speed <= free.speed) return []
    if (estimate.durationMs / speed >= free.forMs * HOLD_FACTOR) return []
    const need = roomOf(home.requirement)
    return kind.ends
      .some(BUSY_LOOKED_AT)
      .filter(
        (seat) =>
          seat.free !== undefined && !barred.has(seat.node.peerId) && fits(seat.capacity, need),
      )
  }

  #speedOn(kind: Kind, { home, emulationSpeed }: Item): number {
    return this.#core.profiles.speedOf(home.requirement, kind, emulationSpeed)
  }

  /** The busy node that has the inputs, for as long as that is worth it. */
  #waitForInputs(item: Item, free: Free, barred: ReadonlySet<string>): Aside | undefined {
    const { inputs, home, estimate } = item
    if (inputs === undefined || free.transferMs === 0) return undefined
    const { nowMs } = this.#core.moment
    const need = roomOf(home.requirement)
    let best: { seat: Seat; transferMs: number } | undefined
    for (const peerId of inputs.holders) {
      const seat = this.#core.profiles.seatOfPeer(peerId)
      if (seat?.free === undefined || barred.has(peerId) || !fits(seat.capacity, need)) continue
      if (!this.#core.profiles.fitOf(home.requirement, seat).isNow) continue
      const away = transferMs(inputs, peerId)
      if (away >= (best?.transferMs ?? free.transferMs)) continue
      if (away + estimate.durationMs / this.#speedOn(seat.kind, item) < free.forMs)
        best = { seat, transferMs: away }
    }
    if (best === undefined) return undefined
    const forMs = Math.min(NEAR_MS_MAX, NEAR_PART * (free.transferMs - best.transferMs))
    const sinceMs = item.farSinceMs ?? nowMs
    const untilMs = sinceMs + forMs
    const { node } = best.seat
    const atMs = this.#core.forecast.readyMs(node, need, { item })
    if (forMs < NEAR_MS_MIN || nowMs >= untilMs) return undefined
    if (Number.isFinite(atMs) && atMs > untilMs) return undefined
    item.farSinceMs = sinceMs
    return { kind: 'near-inputs', node, untilMs, atMs, finishAtMs: Number.POSITIVE_INFINITY }
  }
}
