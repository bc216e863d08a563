/**
 * Nodes of one kind by their free room: a tree of maxima over places in an array, so that the best node for
 * a need is found, and a node's change entered, without looking at all of them.
 *
 * Places that became free are taken over by newcomers. The best of equal nodes is the one with the lowest
 * place, so the answer hangs on nothing but what happened before.
 */

/** What a job needs, and what a node has free or has at all. */
export interface Room {
  readonly cpus: number
  readonly memoryBytes: number
  readonly diskBytes: number
}

/** Columns of the numbers kept per place: free room, free and taken share of the processors, capacity. */
const FREE = 0
const SHARE = 3
const TAKEN = 4
const CAPACITY = 5
const MEMORY = 1
const COLUMNS = 8
const CLOSED: Room = { cpus: -1, memoryBytes: -1, diskBytes: -1 }

export class RoomIndex<T> {
  /** Inner nodes and leaves; the leaf of place `p` is `#leafCount + p`. Column-wise maxima of what is below. */
  #values = new Float64Array(2 * COLUMNS).fill(-1)
  #leafCount = 1
  readonly #members: (T | undefined)[] = []
  readonly #freePlaces: number[] = []
  /** Places and inner nodes looked at by `best` and `some`, for those who count the cost. */
  visitCount = 0

  get size(): number {
    return this.#members.length - this.#freePlaces.length
  }

  /** The most processors that one of them has at all; -1 for none. */
  get largestCpus(): number {
    return this.#value(1, CAPACITY)
  }

  add(member: T): number {
    const place = this.#freePlaces.pop() ?? this.#members.length
    this.#members[place] = member
    if (place >= this.#leafCount) this.#grow()
    return place
  }

  remove(place: number): void {
    this.set(place, undefined, CLOSED)
    this.#members[place] = undefined
    this.#freePlaces.push(place)
  }

  /** `free` is undefined while the node takes nothing. */
  set(place: number, free: Room | undefined, capacity: Room): void {
    const room = free ?? CLOSED
    const share = free === undefined ? undefined : shareOf(free, capacity)
    const row = [
      room.cpus,
      room.memoryBytes,
      room.diskBytes,
      share ?? -1,
      // Never below that of a place that is closed.
      share === undefined ? -1 : Math.max(0, 1 - share),
      capacity.cpus,
      capacity.memoryBytes,
      capacity.diskBytes,
    ]
    let at = this.#leafCount + place
    this.#values.set(row, at * COLUMNS)
    for (at >>= 1; at >= 1; at >>= 1) if (!this.#sum(at)) return
  }

  /**
   * The one with the largest free share of those that have room for `need` and that `accepts` takes; the
   * `tightest` is the one with the smallest. `share` is what it was chosen by.
   */
  best(
    need: Room,
    accepts?: (member: T) => boolean,
    which: 'roomiest' | 'tightest' = 'roomiest',
  ): { readonly member: T; readonly place: number; readonly share: number } | undefined {
    const column = which === 'roomiest' ? SHARE : TAKEN
    let best: { member: T; place: number; share: number } | undefined
    const visit = (at: number, firstPlace: number, count: number): void => {
      this.visitCount += 1
      if (!this.#fits(at, need, FREE)) return
      const share = this.#value(at, column)
      if (
        best !== undefined &&
        (share < best.share || (share === best.share && firstPlace > best.place))
      )
        return
      if (count === 1) {
        const member = this.#members[firstPlace]
        if (member !== undefined && accepts?.(member) !== false)
          best = { member, place: firstPlace, share }
        return
      }
      const half = count >> 1
      const left = 2 * at
      // The better half first, so that the other one is mostly not looked at.
      if (this.#value(left + 1, column) > this.#value(left, column)) {
        visit(left + 1, firstPlace + half, half)
        visit(left, firstPlace, half)
      } else {
        visit(left, firstPlace, half)
        visit(left + 1, firstPlace + half, half)
      }
    }
    visit(1, 0, this.#leafCount)
    return best
  }

  /** The first few whose capacity, free or not, is enough for `need`. */
  some(need: Room, count: number, accepts?: (member: T) => boolean): T[] {
    const found: T[] = []
    const visit = (at: number, firstPlace: number, width: number): void => {
      this.visitCount += 1
      if (found.length >= count || !this.#fits(at, need, CAPACITY)) return
      if (width === 1) {
        const member = this.#members[firstPlace]
        if (member !== undefined && accepts?.(member) !== false) found.push(member)
        return
      }
      const half = width >> 1
      visit(2 * at, firstPlace, half)
      visit(2 * at + 1, firstPlace + half, half)
    }
    visit(1, 0, this.#leafCount)
    return found
  }

  /** The most memory that one of them has at all which has the processors and the disk. */
  largestMemory(need: Omit<Room, 'memoryBytes'>): number {
    let most = 0
    const visit = (at: number, width: number): void => {
      const memory = this.#value(at, CAPACITY + MEMORY)
      if (memory <= most || !this.#fits(at, { ...need, memoryBytes: 0 }, CAPACITY)) return
      if (width === 1) {
        most = memory
        return
      }
      visit(2 * at, width >> 1)
      visit(2 * at + 1, width >> 1)
    }
    visit(1, this.#leafCount)
    return most
  }

  #value(at: number, column: number): number {
    return this.#values[at * COLUMNS + column] ?? -1
  }

  #fits(at: number, need: Room, first: typeof FREE | typeof CAPACITY): boolean {
    const row = at * COLUMNS + first
    return (
      (this.#values[row] ?? -1) >= need.cpus &&
      (this.#values[row + 1] ?? -1) >= need.memoryBytes &&
      (this.#values[row + 2] ?? -1) >= need.diskBytes
    )
  }

  /** Takes the maxima of what is below; false when nothing changed. */
  #sum(at: number): boolean {
    let isChanged = false
    for (let column = 0; column < COLUMNS; column += 1) {
      const left = this.#values[2 * at * COLUMNS + column] ?? -1
      const right = this.#values[(2 * at + 1) * COLUMNS + column] ?? -1
      const most = left > right ? left : right
      const own = at * COLUMNS + column
      if (this.#values[own] === most) continue
      this.#values[own] = most
      isChanged = true
    }
    return isChanged
  }

  #grow(): void {
    const before = this.#values
    const count = this.#leafCount
    this.#leafCount = 2 * count
    this.#values = new Float64Array(4 * count * COLUMNS).fill(-1)
    this.#values.set(before.subarray(count * COLUMNS), this.#leafCount * COLUMNS)
    for (let at = this.#leafCount - 1; at >= 1; at -= 1) this.#sum(at)
  }
}

/** Of a node's processors the part that is free. */
export function shareOf(free: Room, capacity: Room): number {
  return free.cpus / Math.max(1, capacity.cpus)
}
