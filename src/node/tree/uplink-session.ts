/**
 * One link to a parent, as a pure state machine: what is said to the parent, what its words mean here, and
 * whether the link closes a ring. `Uplink` carries it out over the network; the simulator does so in virtual time.
 */
import { FactsTeller } from '../facts-teller.ts'
import type { Event } from '../../scheduler/events.ts'
import type { Below } from '../../scheduler/members.ts'
import type { Scheduler } from '../../scheduler/scheduler.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import {
  BELOW_ITEMS_MAX,
  LEASE_MS,
  type DesiredMessage,
  type SyncMessage,
} from '../../wire/work-messages.ts'

/** A subtree says what it could take at most this often. */
export const BUNDLE_PACE_MS = 20
/** How long changes of the nodes below gather before the parent is told. */
export const BELOW_PACE_MS = 250
/** Without a parent for so long the node answers for what is submitted at and below it. */
export const CUT_OFF_MS = 15_000
/** Syncs whose sending times are remembered; an answer to an older one counts as one to the oldest. */
const SENT_MAX = 256

/** What a message of the parent means. */
export type Heard =
  | { readonly kind: 'orders'; readonly event: Event; readonly isOtherWay: boolean }
  /** This node lets go. */
  | { readonly kind: 'loop'; readonly reason: string }

type Told = { readonly record: PeerRecord; readonly parent: string }

const LOOP = 'a loop: '

/** Whether the link was closed for being part of a ring. */
export function isLoop(reason: string | null): boolean {
  return reason?.startsWith(LOOP) === true
}

/** Why the node must not have this parent; undefined when it may. Of two that would be below each other the smaller id is above. */
export function objection(
  scheduler: Scheduler,
  selfId: string,
  parent: { readonly peerId: string; readonly name: string },
): string | undefined {
  if (parent.peerId === selfId) return `${LOOP}this node is its own parent`
  const isBelow =
    scheduler.members.of(parent.peerId) !== undefined ||
    scheduler.nodes.get(parent.peerId)?.connected === true
  return isBelow && selfId < parent.peerId
    ? `${LOOP}${parent.name} is itself below this node`
    : undefined
}

/** All of a message but its numbers, outcomes, and what is told only now and then. */
function wordsOf({
  seq: _seq,
  ackSeq: _ackSeq,
  finished: _finished,
  facts: _facts,
  ...words
}: SyncMessage): string {
  return JSON.stringify(words)
}

export class UplinkSession {
  readonly parentId: string
  readonly #scheduler: Scheduler
  readonly #selfId: string
  #seq = 0
  /** When each sync was sent, by its number. */
  readonly #sentAtMs = new Map<number, number>()
  /** Nodes below that the parent was told of. */
  readonly #told = new Map<string, Told>()
  #hasToldWhole = false
  readonly #facts = new FactsTeller()
  /** Those above, as last said. */
  #way = ''
  /** What the parent was told last; empty when it is to be told in any case. */
  #said = ''
  /** This node spoke for a subtree when it spoke last. */
  isSubtree = false

  constructor(scheduler: Scheduler, selfId: string, parentId: string) {
    this.#scheduler = scheduler
    this.#selfId = selfId
    this.parentId = parentId
  }

  /** The parent is to hear what is, whether it has changed or not. */
  beat(): void {
    this.#said = ''
  }

  /** The next message to the parent, which is sent now; undefined when it would tell nothing new. */
  sync(nowMs: number): SyncMessage | undefined {
    const message = this.#scheduler.syncUp(this.#seq + 1)
    if (message === undefined) return undefined
    this.isSubtree = message.bundle !== undefined
    const said = wordsOf(message)
    // Outcomes are repeated until they are acknowledged.
    if (said === this.#said && message.finished.length === 0) return undefined
    this.#said = said
    this.#seq += 1
    this.#sentAtMs.set(this.#seq, nowMs)
    const [oldest] = this.#sentAtMs.keys()
    if (this.#sentAtMs.size > SENT_MAX && oldest !== undefined) this.#sentAtMs.delete(oldest)
    const { facts, ...words } = message
    const told = this.#facts.next(facts, this.#seq)
    return told === undefined ? words : { ...words, facts: told }
  }

  take(message: DesiredMessage, nowMs: number): Heard {
    this.#facts.heard(message.ackSeq)
    const told = message.ancestors ?? []
    const at = told.findIndex(({ peerId }) => peerId === this.#selfId)
    const ancestors = at === -1 ? told : told.slice(0, at)
    if (at !== -1 && ancestors.every(({ peerId }) => this.#selfId < peerId)) {
      const names = ancestors.map(({ name }) => name).join(' -> ')
      return { kind: 'loop', reason: `${LOOP}this node -> ${names} -> this node` }
    }
    const way = ancestors.map(({ peerId }) => peerId).join()
    const isOtherWay = way !== this.#way
    this.#way = way
    // Somebody else lets go of the ring that this node is in, who must hear of it: those above are passed on.
    const orders =
      at === -1 ? message : { ...message, ancestors, grants: [], drains: [], slotOrders: [] }
    const sentAtMs = this.#sentAt(message.ackSeq, nowMs)
    return {
      kind: 'orders',
      event: { type: 'orders', peerId: this.parentId, message: orders, sentAtMs },
      isOtherWay,
    }
  }

  /** When the sync that the parent had taken in was sent; one that is not known any more is an old one. */
  #sentAt(seq: number, nowMs: number): number {
    return this.#sentAtMs.get(seq) ?? nowMs - LEASE_MS
  }

  /** What the parent does not know yet of the nodes below; undefined when that is nothing. */
  below(): Below | undefined {
    const now = this.#below()
    const added = [...now].filter(([peerId, { record, parent }]) => {
      const told = this.#told.get(peerId)
      return told?.record !== record || told.parent !== parent
    })
    const gone = [...this.#told.keys()].filter((peerId) => !now.has(peerId))
    if (this.#hasToldWhole && added.length === 0 && gone.length === 0) return undefined
    return {
      isWhole: !this.#hasToldWhole,
      added: added.slice(0, BELOW_ITEMS_MAX).map(([, node]) => node),
      gone: gone.slice(0, BELOW_ITEMS_MAX),
    }
  }

  /** The parent has taken that in. */
  toldBelow({ added, gone }: Below): void {
    this.#hasToldWhole = true
    for (const node of added) this.#told.set(node.record.peerId, node)
    for (const peerId of gone) this.#told.delete(peerId)
  }

  #below(): Map<string, Told> {
    const below = new Map<string, Told>()
    for (const { peerId, connected, record } of this.#scheduler.nodes.values())
      if (connected && peerId !== this.#selfId) below.set(peerId, { record, parent: this.#selfId })
    for (const { record, parent } of this.#scheduler.members.all)
      if (!below.has(record.peerId)) below.set(record.peerId, { record, parent })
    return below
  }
}
