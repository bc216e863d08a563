/**
 * A binary heap whose members know their place, so that any of them can be taken out or moved in O(log n):
 * the queues of waiting jobs and everything that waits for a time.
 */

/** What stands in a heap; it stands in one heap only. */
export interface HeapMember {
  /** Its place in the heap, kept by the heap; -1 outside. */
  heapAt: number
}

export class IndexedHeap<T extends HeapMember> {
  readonly #members: T[] = []
  readonly #compare: (a: T, b: T) => number

  /** `compare` is negative when `a` goes before `b`; it must be a total order for the heap to be deterministic. */
  constructor(compare: (a: T, b: T) => number) {
    this.#compare = compare
  }

  get size(): number {
    return this.#members.length
  }
  get first(): T | undefined {
    return this.#members[0]
  }
  /** In no useful order. */
  get members(): readonly T[] {
    return this.#members
  }

  add(member: T): void {
    member.heapAt = this.#members.length
    this.#members.push(member)
    this.#rise(member)
  }

  remove(member: T): void {
    const at = member.heapAt
    if (at < 0 || this.#members[at] !== member) return
    member.heapAt = -1
    const last = this.#members.pop()
    if (last === undefined || last === member) return
    last.heapAt = at
    this.#members[at] = last
    this.moved(last)
  }

  /** The member's order may have changed. */
  moved(member: T): void {
    this.#rise(member)
    this.#sink(member)
  }

  /** The first few in order, without taking any out: O(count²) at worst, for small counts. */
  some(count: number): T[] {
    const found: T[] = []
    const open: T[] = this.#members.slice(0, 1)
    while (found.length < count) {
      let next: T | undefined
      for (const member of open)
        if (next === undefined || this.#compare(member, next) < 0) next = member
      if (next === undefined) break
      open.splice(open.indexOf(next), 1)
      found.push(next)
      for (const at of [2 * next.heapAt + 1, 2 * next.heapAt + 2]) {
        const below = this.#members[at]
        if (below !== undefined) open.push(below)
      }
    }
    return found
  }

  #rise(member: T): void {
    let at = member.heapAt
    while (at > 0) {
      const above = (at - 1) >>> 1
      const parent = this.#members[above]
      if (parent === undefined || this.#compare(parent, member) <= 0) break
      this.#members[at] = parent
      parent.heapAt = at
      at = above
    }
    this.#members[at] = member
    member.heapAt = at
  }

  #sink(member: T): void {
    let at = member.heapAt
    for (;;) {
      let below = 2 * at + 1
      let child = this.#members[below]
      if (child === undefined) break
      const other = this.#members[below + 1]
      if (other !== undefined && this.#compare(other, child) < 0) {
        below += 1
        child = other
      }
      if (this.#compare(member, child) <= 0) break
      this.#members[at] = child
      child.heapAt = at
      at = below
    }
    this.#members[at] = member
    member.heapAt = at
  }
}

interface Deadline<K> extends HeapMember {
  readonly key: K
  readonly seq: number
  atMs: number
}

/** Keys with the time that each waits for. Those of one time come in the order in which they were set. */
export class Deadlines<K> {
  readonly #heap = new IndexedHeap<Deadline<K>>((a, b) => a.atMs - b.atMs || a.seq - b.seq)
  readonly #byKey = new Map<K, Deadline<K>>()
  #seq = 0

  get size(): number {
    return this.#heap.size
  }
  /** Infinity when there is none. */
  get nextMs(): number {
    return this.#heap.first?.atMs ?? Number.POSITIVE_INFINITY
  }

  has(key: K): boolean {
    return this.#byKey.has(key)
  }

  /** Sets or moves the time that the key waits for. */
  set(key: K, atMs: number): void {
    const known = this.#byKey.get(key)
    if (known !== undefined) {
      known.atMs = atMs
      this.#heap.moved(known)
      return
    }
    const deadline = { key, atMs, seq: (this.#seq += 1), heapAt: -1 }
    this.#byKey.set(key, deadline)
    this.#heap.add(deadline)
  }

  delete(key: K): void {
    const known = this.#byKey.get(key)
    if (known === undefined) return
    this.#byKey.delete(key)
    this.#heap.remove(known)
  }

  /** Takes out those whose time has come, the earliest first. */
  takeDue(nowMs: number): K[] {
    const due: K[] = []
    for (let first = this.#heap.first; first !== undefined; first = this.#heap.first) {
      if (first.atMs > nowMs) break
      this.delete(first.key)
      due.push(first.key)
    }
    return due
  }
}
