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
import { isSelected } from './selector.ts'
import {
  leftMsOf,
  StandingOrders,
  type ActiveOrder,
  type NodeOrder,
  type StandingOrder,
} from './standing-orders.ts'

/** Whose word it is that one is over. */
const BY_TIME = 'its time'

type Cpus = NodeOrder & { readonly cpus: number }
export type ActiveSlots = ActiveOrder<Cpus>

export class NodeSlots {
  readonly #core: Core
  readonly #orders = new StandingOrders<Cpus>()
  /** When the first of them is over; infinity for never. */
  nextDeadlineMs = Number.POSITIVE_INFINITY

  constructor(core: Core) {
    this.#core = core
  }

  /** Those of this owner, the oldest first, then those that its parent named. */
  active(): readonly ActiveSlots[] {
    return this.#orders.all()
  }

  /** After the replay: what was to end meanwhile ends with the next tick. */
  recover(): void {
    this.#rebuild()
  }

  /** The order was checked. */
  order({ selector, cpus, forMs, reason }: SlotsOrder, by: string): void {
    const { wallMs } = this.#core.moment
    const before = this.#orders.own.find((order) => order.selector === selector)
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
    const told = orders.map(({ leftMs, ...order }) => ({ order, leftMs }))
    if (!this.#orders.setInherited(told, this.#core.moment.nowMs)) return
    this.#schedule()
    this.#tell()
  }

  /** What holds for the machine: of several words the last one. Undefined for a node that speaks for a subtree. */
  of(node: NodeEntry): ActiveSlots | undefined {
    return node.bundle === undefined ? this.#meant(node) : undefined
  }

  #meant(node: NodeEntry): StandingOrder<Cpus> | undefined {
    const { nowMs } = this.#core.moment
    let last: StandingOrder<Cpus> | undefined
    for (const order of [...this.#orders.inherited, ...this.#orders.own]) {
      if (order.endMs <= nowMs || order.terms === undefined) continue
      if (last !== undefined && order.atWall < last.atWall) continue
      if (isSelected(order.terms, node)) last = order
    }
    return last
  }

  /** What the node is told, as far as it is durable: its own, or all of them where others may be below it. */
  toldTo(node: NodeEntry, syncedSeq: number): Pick<DesiredMessage, 'slots' | 'slotOrders'> {
    const orders = this.#orders.all()
    if (orders.length === 0) return {}
    const { nowMs } = this.#core.moment
    const isDurable = ({ factSeq }: StandingOrder): boolean => factSeq <= syncedSeq
    const meant = this.#meant(node)
    // A worker hears of its own machine alone, from the scheduler beside it.
    if (node.peerId === this.#core.selfId)
      return meant === undefined || !isDurable(meant)
        ? {}
        : { slots: { cpus: meant.cpus, leftMs: leftMsOf(meant, nowMs) } }
    const told = orders.filter(
      (order) =>
        isDurable(order) && order.endMs > nowMs && (node.bundle !== undefined || order === meant),
    )
    return {
      slotOrders: told.map((order) => {
        const { id, selector, cpus, reason, by, atWall } = order
        return { id, selector, cpus, reason, by, atWall, leftMs: leftMsOf(order, nowMs) }
      }),
    }
  }

  tick(): void {
    const { nowMs, wallMs } = this.#core.moment
    if (nowMs < this.nextDeadlineMs) return
    for (const { selector, endMs } of this.#orders.own)
      if (endMs <= nowMs)
        this.#core.fact({ type: 'unslotted', selector, by: BY_TIME, atWall: wallMs })
    this.#orders.dropInherited(nowMs)
    this.#rebuild()
    this.#tell()
  }

  #rebuild(): void {
    const { moment, state } = this.#core
    this.#orders.setOwn(state.nodeFacts.slots.values(), ({ untilWall }) => untilWall, moment)
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
