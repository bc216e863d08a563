/**
 * Nodes below this node's children: who they are, and by way of which child they are reached. Volatile:
 * every child tells its own anew when it connects.
 */
import type { PeerRecord } from '../wire/peer-record.ts'

/** Nodes that are remembered below all children together; of more nobody hears. */
const MEMBERS_MAX = 100_000
/** Other children that told of one node before; of more the oldest word is forgotten. */
const EARLIER_MAX = 8

export interface Member {
  readonly record: PeerRecord
  /** Peer id of its own parent. */
  readonly parent: string
  /** The child of this node that leads to it. */
  readonly via: string
}

/** What a child says of the nodes below it. */
export interface Below {
  /** It begins anew: what it said before is over. */
  readonly isWhole: boolean
  readonly added: readonly { readonly record: PeerRecord; readonly parent: string }[]
  readonly gone: readonly string[]
}

export class Members {
  readonly #members = new Map<string, Member>()
  /**
   * What other children said before and have not taken back, the oldest word first. Word of a move comes by two
   * ways and in any order: when the last one is taken back, the one before it is right.
   */
  readonly #earlier = new Map<string, Member[]>()
  readonly #stores = new Set<Member>()

  of(peerId: string): Member | undefined {
    return this.#members.get(peerId)
  }

  get all(): IterableIterator<Member> {
    return this.#members.values()
  }

  /** Those with the role store. */
  get stores(): ReadonlySet<Member> {
    return this.#stores
  }

  take(child: string, { isWhole, added, gone }: Below): void {
    if (isWhole) this.forget(child)
    for (const peerId of gone) this.#takeBack(peerId, child)
    for (const { record, parent } of added) {
      this.#takeBack(record.peerId, child)
      // Whoever told of it last is right: it has moved.
      const before = this.#members.get(record.peerId)
      if (before !== undefined) {
        this.#remove(before)
        const earlier = [...(this.#earlier.get(record.peerId) ?? []), before]
        this.#earlier.set(record.peerId, earlier.slice(-EARLIER_MAX))
      }
      if (this.#members.size < MEMBERS_MAX) this.#add({ record, parent, via: child })
    }
  }

  /** The child is gone, and with it the way to those below it: to those that it gives back there is none left. */
  forget(child: string): Member[] {
    const gone: Member[] = []
    for (const [peerId, member] of [...this.#members]) {
      if (member.via !== child && !this.#earlier.has(peerId)) continue
      this.#takeBack(peerId, child)
      if (!this.#members.has(peerId)) gone.push(member)
    }
    return gone
  }

  #takeBack(peerId: string, child: string): void {
    const earlier = this.#earlier.get(peerId)?.filter(({ via }) => via !== child) ?? []
    const current = this.#members.get(peerId)
    if (current?.via === child) {
      this.#remove(current)
      const last = earlier.pop()
      if (last !== undefined) this.#add(last)
    }
    if (earlier.length === 0) this.#earlier.delete(peerId)
    else this.#earlier.set(peerId, earlier)
  }

  #add(member: Member): void {
    this.#members.set(member.record.peerId, member)
    if (member.record.roles.includes('store')) this.#stores.add(member)
  }

  #remove(member: Member): void {
    this.#members.delete(member.record.peerId)
    this.#stores.delete(member)
  }
}
