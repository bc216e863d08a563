/**
 * When a waiting job is expected to start, from what was measured: when the attempts that run will have
 * ended, how long those take that go before it, and how many of its kind the nodes hold at once.
 *
 * A guess is never passed off as knowledge: with too few measured durations the answer is undefined.
 */

interface Room {
  readonly cpus: number
  readonly memoryBytes: number
  readonly diskBytes: number
}

export interface EtaNode {
  /** Relative to the reference machine. */
  readonly speed: number
  readonly free: Room
  readonly capacity: Room
  /** What runs there and frees its part; `endsInMs` is undefined where nothing was learnt. */
  readonly running: readonly (Room & { readonly endsInMs: number | undefined })[]
}

/** A job that goes before the one that is asked about, on one of the same nodes. */
export interface EtaJob {
  /** On a machine of speed 1; undefined where nothing was learnt. */
  readonly durationMs: number | undefined
  /** The share of it that falls to these nodes, where it may run on others as well. */
  readonly share: number
}

export interface EtaQuestion {
  readonly need: Room
  readonly nodes: readonly EtaNode[]
  readonly ahead: readonly EtaJob[]
}

/** Jobs ahead that are placed one by one; the work of those beyond is spread evenly. */
const PLACED_MAX = 10_000
/** The share of the durations that must have been measured. */
const KNOWN_RATIO_MIN = 0.5

/** Milliseconds from now; undefined where that is not known. O((places + jobs ahead) log places). */
export function expectedStart({ need, nodes, ahead }: EtaQuestion): number | undefined {
  const durations = [
    ...ahead.map(({ durationMs }) => durationMs),
    ...nodes.flatMap(({ running }) => running.map(({ endsInMs }) => endsInMs)),
  ]
  const known = durations.filter((duration) => duration !== undefined)
  if (known.length < durations.length * KNOWN_RATIO_MIN) return undefined
  const usualMs = medianOf(known)
  const places = new Places()
  for (const node of nodes)
    for (const freeInMs of placesOf(need, node, usualMs))
      places.put({ freeInMs, speed: node.speed })
  if (places.size === 0) return undefined
  for (const { durationMs = usualMs, share } of ahead.slice(0, PLACED_MAX)) {
    const place = places.take()
    places.put({ ...place, freeInMs: place.freeInMs + (durationMs * share) / place.speed })
  }
  let beyondMs = 0
  for (const { durationMs = usualMs, share } of ahead.slice(PLACED_MAX))
    beyondMs += durationMs * share
  return Math.round(places.take().freeInMs + beyondMs / places.speed)
}

/** When each place for one such job on the node is free, the first one first. */
function placesOf(need: Room, node: EtaNode, usualMs: number): number[] {
  const inAll = countIn(node.capacity, need)
  const free = { ...node.free }
  const times: number[] = Array.from({ length: Math.min(inAll, countIn(free, need)) }, () => 0)
  const ends = node.running
    .map((attempt) => ({ ...attempt, endsInMs: attempt.endsInMs ?? usualMs / node.speed }))
    .toSorted((a, b) => a.endsInMs - b.endsInMs)
  for (const { endsInMs, cpus, memoryBytes, diskBytes } of ends) {
    free.cpus += cpus
    free.memoryBytes += memoryBytes
    free.diskBytes += diskBytes
    while (times.length < Math.min(inAll, countIn(free, need))) times.push(endsInMs)
  }
  return times
}

/** How many such jobs the room holds. */
function countIn(room: Room, need: Room): number {
  const counts = [Math.floor(room.cpus / Math.max(1, need.cpus))]
  if (need.memoryBytes > 0) counts.push(Math.floor(room.memoryBytes / need.memoryBytes))
  if (need.diskBytes > 0) counts.push(Math.floor(room.diskBytes / need.diskBytes))
  return Math.max(0, Math.min(...counts))
}

function medianOf(values: readonly number[]): number {
  return values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
}

interface Place {
  readonly freeInMs: number
  readonly speed: number
}

/** Places by when they are free: a binary heap. */
class Places {
  readonly #heap: Place[] = []
  #speed = 0

  get size(): number {
    return this.#heap.length
  }
  /** Of all places together. */
  get speed(): number {
    return Math.max(0.01, this.#speed)
  }

  put(place: Place): void {
    const heap = this.#heap
    this.#speed += place.speed
    let at = heap.push(place) - 1
    while (at > 0) {
      const parent = (at - 1) >> 1
      if (this.#at(parent) <= place.freeInMs) break
      this.#move(parent, at)
      at = parent
    }
    heap[at] = place
  }

  /** The one that is free first; there is one. */
  take(): Place {
    const heap = this.#heap
    const [first] = heap
    const last = heap.pop()
    if (first === undefined || last === undefined) throw new Error('no place is left')
    this.#speed -= first.speed
    if (heap.length === 0) return first
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= heap.length) break
      if (child + 1 < heap.length && this.#at(child + 1) < this.#at(child)) child += 1
      if (this.#at(child) >= last.freeInMs) break
      this.#move(child, at)
      at = child
    }
    heap[at] = last
    return first
  }

  #at(at: number): number {
    return this.#heap[at]?.freeInMs ?? Number.POSITIVE_INFINITY
  }
  #move(from: number, to: number): void {
    const place = this.#heap[from]
    if (place !== undefined) this.#heap[to] = place
  }
}
