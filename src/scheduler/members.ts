/**
 * Nodes below this node's children: who they are, and by way of which child they are reached. Volatile:
 * every child tells its own anew when it connects.
 */
import type { PeerRecord } from '../wire/peer-record.ts'

/** Nodes that are remembered below all children together; of more nobody hears. */
const MEMBERS_MAX = 100_000

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
    for (const peerId of gone) if (this.#members.get(peerId)?.via === child) this.#remove(peerId)
    for (const { record, parent } of added) {
      // Whoever told of it last is right: it has moved.
      this.#remove(record.peerId)
      if (this.#members.size >= MEMBERS_MAX) continue
      const member = { record, parent, via: child }
      this.#members.set(record.peerId, member)
      if (record.roles.includes('store')) this.#stores.add(member)
    }
  }

  /** The child is gone, and with it the way to those below it. */
  forget(child: string): Member[] {
    const gone = [...this.#members.values()].filter(({ via }) => via === child)
    for (const { record } of gone) this.#remove(record.peerId)
    return gone
  }

  #remove(peerId: string): void {
    const member = this.#members.get(peerId)
    if (member === undefined) return
    this.#members.delete(peerId)
    this.#stores.delete(member)
  }
}
