/**
 * What the journal says of nodes, apart from what they run: which are drained, which are in quarantine, and
 * which jobs nodes died of. Changed by facts alone, as all durable state.
 */
import type { Digest } from '../wire/digest.ts'
import type { Fact, NodeRef } from '../wire/facts.ts'
import { DRAINS_MAX, SLOT_ORDERS_MAX } from '../wire/work-messages.ts'
import type { NodeOrder } from './standing-orders.ts'

/** Nodes whose quarantine is remembered; of more the one that was quarantined first goes. */
const QUARANTINES_MAX = 10_000
/** Jobs that nodes died of; of more the first goes. */
const KILLERS_MAX = 10_000
/** Deaths that are remembered of one job; later ones are not. */
const DEATHS_MAX = 8

/** Nodes that match take nothing new. */
export interface Drain extends NodeOrder {
  readonly deadlineWall: number | null
  /** The journal's sequence number of the fact; nobody is told before that is synced. */
  readonly factSeq: number
}

/** Nodes that match give builds so many processors. */
export interface SlotOrder extends NodeOrder {
  readonly cpus: number
  readonly untilWall: number | null
  /** The journal's sequence number of the fact; nobody is told before that is synced. */
  readonly factSeq: number
}

export interface Quarantined {
  readonly node: NodeRef
  readonly reason: string
  /** How often in a row; the time doubles with each. */
  readonly times: number
  readonly forMs: number
  readonly atWall: number
}

export interface Death {
  readonly attempt: string
  readonly node: NodeRef
  readonly atWall: number
}

type NodeFact = Extract<
  Fact,
  {
    type: 'drained' | 'undrained' | 'slotted' | 'unslotted' | 'quarantined' | 'pardoned' | 'killed'
  }
>

export class NodeFacts {
  /** By id, the oldest first. */
  readonly drains = new Map<string, Drain>()
  /** By selector, the oldest first. */
  readonly slots = new Map<string, SlotOrder>()
  /** By peer id. */
  readonly quarantines = new Map<string, Quarantined>()
  /** By key of the job. */
  readonly deaths = new Map<Digest, readonly Death[]>()

  evolve(fact: NodeFact, factSeq: number): void {
    switch (fact.type) {
      case 'drained':
        for (const { id, selector } of [...this.drains.values()])
          if (selector === fact.selector) this.drains.delete(id)
        if (this.drains.size < DRAINS_MAX) this.drains.set(fact.id, { ...fact, factSeq })
        return
      case 'undrained':
        for (const { id, selector } of [...this.drains.values()])
          if (selector === fact.selector) this.drains.delete(id)
        return
      case 'slotted':
        this.slots.delete(fact.selector)
        if (this.slots.size < SLOT_ORDERS_MAX) this.slots.set(fact.selector, { ...fact, factSeq })
        return
      case 'unslotted':
        this.slots.delete(fact.selector)
        return
      case 'quarantined':
        this.quarantines.delete(fact.node.peerId)
        this.quarantines.set(fact.node.peerId, fact)
        dropFirst(this.quarantines, QUARANTINES_MAX)
        return
      case 'pardoned':
        this.quarantines.delete(fact.node)
        return
      case 'killed': {
        const { key, attempt, node, atWall } = fact
        const before = this.deaths.get(key) ?? []
        if (before.length >= DEATHS_MAX) return
        this.deaths.set(key, [...before, { attempt, node, atWall }])
        dropFirst(this.deaths, KILLERS_MAX)
        return
      }
    }
  }

  /** The job has been built, or a person wants it tried all the same. */
  forgive(key: Digest): void {
    this.deaths.delete(key)
  }

  /** The node was not dead: it runs the attempt still. */
  survived(key: Digest, attempt: string): void {
    const left = (this.deaths.get(key) ?? []).filter((death) => death.attempt !== attempt)
    if (left.length === 0) this.deaths.delete(key)
    else this.deaths.set(key, left)
  }

  /** Whether replaying without the fact would leave something out. */
  needs(fact: NodeFact): boolean {
    switch (fact.type) {
      case 'drained': {
        const now = this.drains.get(fact.id)
        return now?.deadlineWall === fact.deadlineWall && now.reason === fact.reason
      }
      case 'slotted':
        return this.slots.get(fact.selector)?.id === fact.id
      case 'quarantined':
        return this.quarantines.get(fact.node.peerId)?.atWall === fact.atWall
      case 'killed':
        return this.deaths.get(fact.key)?.some(({ attempt }) => attempt === fact.attempt) === true
      case 'undrained':
      case 'unslotted':
      case 'pardoned':
        return false
    }
  }
}

function dropFirst<K>(map: Map<K, unknown>, max: number): void {
  const [first] = map.keys()
  if (map.size > max && first !== undefined) map.delete(first)
}
