/**
 * What people order of nodes that a selector names, be it to drain them or how many processors they give: the
 * orders of this owner, which its journal has, and those that its parent passes down.
 *
 * The journal says by the wall clock until when one holds; while the program runs its own clock counts.
 */
import type { Moment } from './events.ts'
import { readSelector, type Selector } from './selector.ts'

export interface NodeOrder {
  readonly id: string
  readonly selector: string
  readonly reason: string
  readonly by: string
  readonly atWall: number
}

/** One that counts now, of this owner or of one above. */
export type ActiveOrder<T extends NodeOrder = NodeOrder> = T & {
  /** Monotonic; infinity for one without an end. */
  readonly endMs: number
}

export type StandingOrder<T extends NodeOrder = NodeOrder> = ActiveOrder<T> & {
  readonly terms: Selector | undefined
  /** 0 for one of a node above: that one has it durably. */
  readonly factSeq: number
}

export class StandingOrders<T extends NodeOrder> {
  #own: readonly StandingOrder<T>[] = []
  #inherited: readonly StandingOrder<T>[] = []

  get own(): readonly StandingOrder<T>[] {
    return this.#own
  }
  get inherited(): readonly StandingOrder<T>[] {
    return this.#inherited
  }
  /** Those of this owner, the oldest first, then those that its parent named. */
  all(): readonly StandingOrder<T>[] {
    return [...this.#own, ...this.#inherited]
  }

  /** What the journal has now; `untilWallOf` is null for one without an end. */
  setOwn<F extends T & { readonly factSeq: number }>(
    facts: Iterable<F>,
    untilWallOf: (fact: F) => number | null,
    { nowMs, wallMs }: Pick<Moment, 'nowMs' | 'wallMs'>,
  ): void {
    const before = new Map(this.#own.map((order) => [order.id, order]))
    this.#own = [...facts].map((fact) => {
      const known = before.get(fact.id)
      if (known !== undefined) return known
      const untilWall = untilWallOf(fact)
      return {
        ...fact,
        endMs: untilWall === null ? Infinity : nowMs + Math.max(0, untilWall - wallMs),
        terms: readSelector(fact.selector),
      }
    })
  }

  /** What the parent says now; all that it said before is over. False where that is nothing new. */
  setInherited(
    told: readonly { readonly order: T; readonly leftMs: number | null }[],
    nowMs: number,
  ): boolean {
    const before = new Map(this.#inherited.map((order) => [order.id, order]))
    const isSame =
      told.length === before.size &&
      told.every(({ order, leftMs }) => {
        const known = before.get(order.id)
        return known?.reason === order.reason && (leftMs === null) === !Number.isFinite(known.endMs)
      })
    if (isSame) return false
    this.#inherited = told.map(({ order, leftMs }) => ({
      ...order,
      endMs: leftMs === null ? Infinity : nowMs + leftMs,
      terms: readSelector(order.selector),
      factSeq: 0,
    }))
    return true
  }

  /** Those of the parent that are over are forgotten; the parent says so too. */
  dropInherited(nowMs: number): void {
    this.#inherited = this.#inherited.filter(({ endMs }) => endMs > nowMs)
  }
}

/** As it travels: how much longer it holds; null for ever. */
export function leftMsOf({ endMs }: ActiveOrder, nowMs: number): number | null {
  return Number.isFinite(endMs) ? Math.max(0, Math.round(endMs - nowMs)) : null
}
