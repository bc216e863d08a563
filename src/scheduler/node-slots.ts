/**
 * How many processors people want nodes to give builds: more or fewer than a node gives by itself.
 *
 * Durable here, passed down the tree as drains are, and told to each node by the scheduler beside its worker;
 * the node then says that it has so many. Nothing that runs is ended for it: with fewer than are in use nothing
 * new begins, and jobs that can do with fewer give up what they have beyond their least.
 */
import { derivedId } from '../base/random.ts'
import type { SlotsOrder } from '../wire/slots.ts'
import type { DesiredMessage, SlotOrderWire } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import type { NodeEntry } from './model.ts'
import { isSelected, readSelector, type Selector } from './selector.ts'

/** Whose word it is that one is over. */
const BY_TIME = 'its time'

/** A word that holds now, of this owner or of one above. */
export interface ActiveSlots {
  readonly id: string
  readonly selector: string
  readonly cpus: number
  readonly reason: string
  readonly by: string
  readonly atWall: number
  /** Monotonic; infinity for ever. */
  readonly endMs: number
}

interface Applied extends ActiveSlots {
  readonly terms: Selector | undefined
  /** 0 for one of a node above: that one has it durably. */
  readonly factSeq: number
}

export class NodeSlots {
  readonly #core: Core
  #own: readonly Applied[] = []
  #inherited: readonly Applied[] = []
  /** When the first of them is over; infinity for never. */
  nextDeadlineMs = Number.POSITIVE_INFINITY

  constructor(core: Core) {
    this.#core = core
  }

  /** Those of this owner, the oldest first, then those that its parent named. */
  active(): readonly ActiveSlots[] {
    return [...this.#own, ...this.#inherited]
  }

  /** After the replay: what was to end meanwhile ends with the next tick. */
  recover(): void {
    this.#rebuild()
  }

  /** The order was checked. */
  order({ selector, cpus, forMs, reason }: SlotsOrder, by: string): void {
    const { wallMs } = this.#core.moment
    const before = this.#own.find((order) => order.selector === selector)
    if (cpus === null) {
      if (before === undefined) return
      this.#core.fact({ type: 'unslotted', selector, by, atWall: wallMs })
    } else {
      const isSame = before?.cpus === cpus && before.reason === reason && before.by === by
      if (isSame && forMs === null && before.endMs === Number.POSITIVE_INFINITY) return
      this.#core.fact({
        type: 'slotted',
        id: derivedId('s', `${selector}/${cpus}/${wallMs}`),
        selector,
        cpus,
        reason,
        by,
        atWall: wallMs,
        untilWall: forMs === null ? null : wallMs + forMs,
      })
    }
    this.#rebuild()
    this.#tell()
  }

  /** What the parent says is set now; all that it said before is over. */
  setInherited(orders: readonly SlotOrderWire[]): void {
    const { nowMs } = this.#core.moment
    const before = new Map(this.#inherited.map((order) => [order.id, order]))
    const isSame =
      orders.length === before.size &&
      orders.every(({ id, leftMs }) => {
        const known = before.get(id)
        return known !== undefined && (leftMs === null) === !Number.isFinite(known.endMs)
      })
    if (isSame) return
    this.#inherited = orders.map(({ leftMs, ...order }) => ({
      ...order,
      endMs: leftMs === null ? Number.POSITIVE_INFINITY : nowMs + leftMs,
      terms: readSelector(order.selector),
      factSeq: 0,
    }))
    this.#schedule()
    this.#tell()
  }

  /** What holds for the machine: of several words the last one. Undefined for a node that speaks for a subtree. */
  of(node: NodeEntry): ActiveSlots | undefined {
    return node.bundle === undefined ? this.#meant(node) : undefined
  }

  #meant(node: NodeEntry): Applied | undefined {
    const { nowMs } = this.#core.moment
    let last: Applied | undefined
    for (const order of [...this.#inherited, ...this.#own]) {
      if (order.endMs <= nowMs || order.terms === undefined) continue
      if (last !== undefined && order.atWall < last.atWall) continue
      if (isSelected(order.terms, node)) last = order
    }
    return last
  }

  /** What the node is told, as far as it is durable: its own, or all of them where others may be below it. */
  toldTo(node: NodeEntry, syncedSeq: number): Pick<DesiredMessage, 'slots' | 'slotOrders'> {
    if (this.#own.length + this.#inherited.length === 0) return {}
    const { nowMs } = this.#core.moment
    const leftOf = ({ endMs }: Applied): number | null =>
      Number.isFinite(endMs) ? Math.max(0, Math.round(endMs - nowMs)) : null
    const isDurable = ({ factSeq }: Applied): boolean => factSeq <= syncedSeq
    const meant = this.#meant(node)
    // A worker hears of its own machine alone, from the scheduler beside it.
    if (node.peerId === this.#core.selfId)
      return meant === undefined || !isDurable(meant)
        ? {}
        : { slots: { cpus: meant.cpus, leftMs: leftOf(meant) } }
    const told = [...this.#own, ...this.#inherited].filter(
      (order) =>
        isDurable(order) && order.endMs > nowMs && (node.bundle !== undefined || order === meant),
    )
    return {
      slotOrders: told.map(({ id, selector, cpus, reason, by, atWall, ...order }) => ({
        id,
        selector,
        cpus,
        reason,
        by,
        atWall,
        leftMs: leftOf({ id, selector, cpus, reason, by, atWall, ...order }),
      })),
    }
  }

  tick(): void {
    const { nowMs, wallMs } = this.#core.moment
    if (nowMs < this.nextDeadlineMs) return
    for (const { selector, endMs } of this.#own)
      if (endMs <= nowMs)
        this.#core.fact({ type: 'unslotted', selector, by: BY_TIME, atWall: wallMs })
    this.#inherited = this.#inherited.filter(({ endMs }) => endMs > nowMs)
    this.#rebuild()
    this.#tell()
  }

  #rebuild(): void {
    const { nowMs, wallMs } = this.#core.moment
    const before = new Map(this.#own.map((order) => [order.id, order]))
    this.#own = [...this.#core.state.nodeFacts.slots.values()].map(
      (order) =>
        before.get(order.id) ?? {
          ...order,
          endMs:
            order.untilWall === null
              ? Number.POSITIVE_INFINITY
              : nowMs + Math.max(0, order.untilWall - wallMs),
          terms: readSelector(order.selector),
        },
    )
    this.#schedule()
  }

  #schedule(): void {
    this.nextDeadlineMs = Math.min(
      Number.POSITIVE_INFINITY,
      ...this.active().map(({ endMs }) => endMs),
    )
  }

  #tell(): void {
    for (const node of this.#core.nodes.values())
      this.#core.effects.push({ type: 'desired', peerId: node.peerId })
  }
}
