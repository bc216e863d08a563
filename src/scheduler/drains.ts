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
import { isSelected, readSelector, type Selector } from './selector.ts'

/** A drain that is in force, of this owner or of one above. */
export interface ActiveDrain {
  readonly id: string
  readonly selector: string
  readonly reason: string
  readonly by: string
  readonly atWall: number
  /** Monotonic; infinity for none. */
  readonly deadlineMs: number
}

interface Applied extends ActiveDrain {
  readonly terms: Selector | undefined
  /** 0 for one of a node above: that one has it durably. */
  readonly factSeq: number
}

export class Drains {
  readonly #core: Core
  #own: readonly Applied[] = []
  #inherited: readonly Applied[] = []
  /** What each node matches, until the drains or what is known of it change. */
  #found = new WeakMap<NodeEntry, { readonly of: readonly unknown[]; readonly drain?: Applied }>()
  /** The first deadline that is still to come; infinity for none. */
  nextDeadlineMs = Number.POSITIVE_INFINITY

  constructor(core: Core) {
    this.#core = core
  }

  /** Those of this owner, the oldest first, then those that its parent named. */
  active(): readonly ActiveDrain[] {
    return [...this.#own, ...this.#inherited]
  }

  /** After the replay: a deadline is met when the wall clock says so, which may have been while nobody ran. */
  recover(): void {
    this.#rebuild()
  }

  /** The order was checked. */
  drain({ selector, reason, deadlineMs }: DrainOrder, by: string): void {
    const { wallMs } = this.#core.moment
    const before = this.#own.find((drain) => drain.selector === selector)
    const isSame = before?.reason === reason && before.by === by
    if (isSame && deadlineMs === null && before.deadlineMs === Number.POSITIVE_INFINITY) return
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
    if (!this.#own.some((drain) => drain.selector === selector)) return
    this.#core.fact({ type: 'undrained', selector })
    this.#rebuild()
    this.#apply()
  }

  /** What the parent says is to be drained now; all that it said before is over. */
  setInherited(drains: readonly DrainWire[]): void {
    const { nowMs } = this.#core.moment
    const before = new Map(this.#inherited.map((drain) => [drain.id, drain]))
    const isSame =
      drains.length === before.size &&
      drains.every(({ id, leftMs, reason }) => {
        const known = before.get(id)
        return known?.reason === reason && (leftMs === null) === !Number.isFinite(known.deadlineMs)
      })
    if (isSame) return
    this.#inherited = drains.map(({ leftMs, ...drain }) => ({
      ...drain,
      deadlineMs: leftMs === null ? Number.POSITIVE_INFINITY : nowMs + leftMs,
      terms: readSelector(drain.selector),
      factSeq: 0,
    }))
    this.#changed()
    this.#apply()
  }

  /** The drain that the node matches, of several the one that ends first. */
  of(node: NodeEntry): ActiveDrain | undefined {
    // A subtree is drained by the node at its head, one node after the other.
    if (node.bundle !== undefined) return undefined
    if (this.#own.length === 0 && this.#inherited.length === 0) return undefined
    const of = [this.#own, this.#inherited, node.record, node.environments]
    const found = this.#found.get(node)
    if (found !== undefined && found.of.every((part, at) => part === of[at])) return found.drain
    const drain = [...this.#own, ...this.#inherited]
      .filter(({ terms }) => terms !== undefined && isSelected(terms, node))
      .reduce<Applied | undefined>(
        (first, other) =>
          first !== undefined && first.deadlineMs <= other.deadlineMs ? first : other,
        undefined,
      )
    this.#found.set(node, { of, ...(drain === undefined ? {} : { drain }) })
    return drain
  }

  /** Whether a drain of this owner holds for the node, of which nobody above knows. */
  isOwn(node: NodeEntry): boolean {
    return this.#own.some(({ terms }) => terms !== undefined && isSelected(terms, node))
  }

  /** What the node is told, as far as it is durable: its own drain, or all of them where others are below it. */
  toldTo(node: NodeEntry, syncedSeq: number): DrainWire[] {
    if (this.#own.length === 0 && this.#inherited.length === 0) return []
    const { nowMs } = this.#core.moment
    const meant = this.of(node)
    return [...this.#own, ...this.#inherited]
      .filter(
        (drain) => drain.factSeq <= syncedSeq && (node.bundle !== undefined || drain === meant),
      )
      .map(({ id, selector, reason, by, atWall, deadlineMs }) => ({
        id,
        selector,
        reason,
        by,
        atWall,
        leftMs: Number.isFinite(deadlineMs) ? Math.max(0, Math.round(deadlineMs - nowMs)) : null,
      }))
  }

  /** The node has come to match: what it has not begun is taken back, and all of it when the deadline is over. */
  empty(node: NodeEntry, drain: ActiveDrain): void {
    const isOver = drain.deadlineMs <= this.#core.moment.nowMs
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
    const { nowMs, wallMs } = this.#core.moment
    const before = new Map(this.#own.map((drain) => [drain.id, drain]))
    this.#own = [...this.#core.state.nodeFacts.drains.values()].map(
      (drain) =>
        before.get(drain.id) ?? {
          ...drain,
          deadlineMs:
            drain.deadlineWall === null
              ? Number.POSITIVE_INFINITY
              : nowMs + Math.max(0, drain.deadlineWall - wallMs),
          terms: readSelector(drain.selector),
        },
    )
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
      ...this.active().flatMap(({ deadlineMs }) => (deadlineMs > nowMs ? [deadlineMs] : [])),
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
