/**
 * Drains: nodes that an operator has told to take nothing new.
 *
 * They are durable here and go down the tree, where each level applies them to its own nodes; so a node that
 * comes later is drained as well. What a node has not begun is taken back at once, what it runs may end, but
 * not after the deadline. What is taken back runs elsewhere and counts as nobody's failure.
 */
import { derivedId } from '../base/random.ts'
import type { DrainOrder } from '../wire/api.ts'
import type { DrainWire } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { isLive, type NodeEntry } from './model.ts'
import { isSelected } from './selector.ts'
import {
  leftMsOf,
  StandingOrders,
  type ActiveOrder,
  type NodeOrder,
  type StandingOrder,
} from './standing-orders.ts'

/** A drain that is in force; at its end what still runs is taken back. */
export type ActiveDrain = ActiveOrder

export class Drains {
  readonly #core: Core
  readonly #orders = new StandingOrders<NodeOrder>()
  /** What each node matches, until the drains or what is known of it change. */
  #found = new WeakMap<
    NodeEntry,
    { readonly of: readonly unknown[]; readonly drain?: StandingOrder }
  >()
  /** The first deadline that is still to come; infinity for none. */
  nextDeadlineMs = Number.POSITIVE_INFINITY

  constructor(core: Core) {
    this.#core = core
  }

  /** Those of this owner, the oldest first, then those that its parent named. */
  active(): readonly ActiveDrain[] {
    return this.#orders.all()
  }

  /** After the replay: a deadline is met when the wall clock says so, which may have been while nobody ran. */
  recover(): void {
    this.#rebuild()
  }

  /** The order was checked. */
  drain({ selector, reason, deadlineMs }: DrainOrder, by: string): void {
    const { wallMs } = this.#core.moment
    const before = this.#orders.own.find((drain) => drain.selector === selector)
    const isSame = before?.reason === reason && before.by === by
    if (isSame && deadlineMs === null && before.endMs === Number.POSITIVE_INFINITY) return
    this.#core.fact({
      type: 'drained',
      id: derivedId('d', `${selector}/${wallMs}`),
      selector,
      reason,
      by,
      atWall: before?.atWall ?? wallMs,
      deadlineWall: deadlineMs === null ? null : wallMs + deadlineMs,
    })
    this.#rebuild()
    this.#apply()
  }

  undrain(selector: string): void {
    if (!this.#orders.own.some((drain) => drain.selector === selector)) return
    this.#core.fact({ type: 'undrained', selector })
    this.#rebuild()
    this.#apply()
  }

  /** What the parent says is to be drained now; all that it said before is over. */
  setInherited(drains: readonly DrainWire[]): void {
    const told = drains.map(({ leftMs, ...order }) => ({ order, leftMs }))
    if (!this.#orders.setInherited(told, this.#core.moment.nowMs)) return
    this.#changed()
    this.#apply()
  }

  /** The drain that the node matches, of several the one that ends first. */
  of(node: NodeEntry): ActiveDrain | undefined {
    // A subtree is drained by the node at its head, one node after the other.
    if (node.bundle !== undefined) return undefined
    const { own, inherited } = this.#orders
    if (own.length === 0 && inherited.length === 0) return undefined
    const of = [own, inherited, node.record, node.environments]
    const found = this.#found.get(node)
    if (found !== undefined && found.of.every((part, at) => part === of[at])) return found.drain
    const drain = [...own, ...inherited]
      .filter(({ terms }) => terms !== undefined && isSelected(terms, node))
      .reduce<StandingOrder | undefined>(
        (first, other) => (first !== undefined && first.endMs <= other.endMs ? first : other),
        undefined,
      )
    this.#found.set(node, { of, ...(drain === undefined ? {} : { drain }) })
    return drain
  }

  /** Whether a drain of this owner holds for the node, of which nobody above knows. */
  isOwn(node: NodeEntry): boolean {
    return this.#orders.own.some(({ terms }) => terms !== undefined && isSelected(terms, node))
  }

  /** What the node is told, as far as it is durable: its own drain, or all of them where others are below it. */
  toldTo(node: NodeEntry, syncedSeq: number): DrainWire[] {
    const orders = this.#orders.all()
    if (orders.length === 0) return []
    const { nowMs } = this.#core.moment
    const meant = this.of(node)
    return orders
      .filter(
        (drain) => drain.factSeq <= syncedSeq && (node.bundle !== undefined || drain === meant),
      )
      .map((drain) => {
        const { id, selector, reason, by, atWall } = drain
        return { id, selector, reason, by, atWall, leftMs: leftMsOf(drain, nowMs) }
      })
  }

  /** The node has come to match: what it has not begun is taken back, and all of it when the deadline is over. */
  empty(node: NodeEntry, drain: ActiveDrain): void {
    const isOver = drain.endMs <= this.#core.moment.nowMs
    const why = drain.reason === '' ? `by ${drain.by}` : `by ${drain.by}: ${drain.reason}`
    const { name } = node.record
    const when = isOver ? ' and its time for that is over' : ' before it began'
    const message = `taken back from ${name}${when}: it is drained ${why}`
    for (const attempt of [...node.attempts])
      if (isLive(attempt) && (isOver || attempt.state === 'leased'))
        this.#core.outcomes.endAttempt(attempt, 'lost', message, undefined, 'drained')
    this.#core.relays.takeBack(node, isOver, message)
  }

  tick(): void {
    if (this.#core.moment.nowMs < this.nextDeadlineMs) return
    this.#schedule()
    for (const node of this.#core.nodes.values()) {
      const drain = this.of(node)
      if (drain !== undefined && node.connected) this.empty(node, drain)
    }
  }

  #rebuild(): void {
    const { moment, state } = this.#core
    this.#orders.setOwn(state.nodeFacts.drains.values(), (drain) => drain.deadlineWall, moment)
    this.#changed()
  }

  #changed(): void {
    this.#found = new WeakMap()
    this.#schedule()
  }

  #schedule(): void {
    const { nowMs } = this.#core.moment
    this.nextDeadlineMs = Math.min(
      Number.POSITIVE_INFINITY,
      ...this.active().flatMap(({ endMs }) => (endMs > nowMs ? [endMs] : [])),
    )
  }

  /** All nodes are judged anew, and hear of it. */
  #apply(): void {
    for (const node of this.#core.nodes.values()) {
      this.#core.standing.refresh(node)
      const drain = this.of(node)
      if (drain !== undefined && node.connected) this.empty(node, drain)
      this.#core.effects.push({ type: 'desired', peerId: node.peerId })
    }
  }
}

/** What people read of a node that is drained. */
export function drainNote({ by, reason }: Pick<ActiveDrain, 'by' | 'reason'>): string {
  return reason === '' ? `drained by ${by}` : `${reason} (drained by ${by})`
}
