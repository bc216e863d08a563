/**
 * Many nodes that want one blob at once, on a simulated network: each has one link with a rate for either
 * direction, frames of all its transfers take turns on it, and everything takes the latency of the way.
 *
 * What the nodes decide is `SwarmCore` itself; the world only carries. One seed is one run.
 */
import assert from 'node:assert/strict'
import { ChunkSet } from '../../src/store/swarm/chunk-set.ts'
import { SwarmCore, type SwarmEffect } from '../../src/store/swarm/swarm-core.ts'
import { Dice } from './dice.ts'

const FRAME_BYTES = 64 * 1024
/** Whom the tracker names to one that comes. */
const TRACKED_MAX = 16

export interface SwarmPlan {
  readonly seed: number
  readonly nodes: number
  readonly chunks?: number
  readonly chunkBytes?: number
  readonly bytesPerMs?: number
  readonly latencyMs?: number
  /** They come one after the other within this time. */
  readonly arrivalMs?: number
  /** What each node has at first, besides the origin, which has all. */
  readonly holds?: (node: number) => Iterable<number>
  /** Called at each millisecond of the run; may kill. */
  readonly onTick?: (world: SwarmWorld, nowMs: number) => void
  /** Nodes that nobody but the origin can reach. */
  readonly isHidden?: (node: number) => boolean
  readonly hasOrigin?: boolean
}

interface Transfer {
  readonly to: number
  readonly ask: number
  readonly chunks: number[]
  sentOfFirst: number
}

class SimNode {
  readonly id: number
  readonly core: SwarmCore
  /** By neighbour, each in the order in which it asked. */
  readonly uploads = new Map<number, Transfer[]>()
  /** Bytes of a chunk that came, by asked neighbour and ask. */
  readonly arrived = new Map<string, { chunk: number; bytes: number; left: number }>()
  isAlive = true
  isUplinkBusy = false
  downlinkFreeAtMs = 0
  sentBytes = 0
  receivedBytes = 0
  doneAtMs: number | undefined
  wakeAtMs = Infinity
  /** Chunks in the order in which they came. */
  readonly order: number[] = []

  constructor(id: number, core: SwarmCore) {
    this.id = id
    this.core = core
  }
}

export class SwarmWorld {
  readonly nodes: SimNode[] = []
  readonly sizeBytes: number
  /** What one link takes for the blob: nobody can be faster. */
  readonly idealMs: number
  readonly dice: Dice
  nowMs = 0
  readonly #plan: SwarmPlan
  readonly #lengths: number[]
  readonly #bytesPerMs: number
  readonly #latencyMs: number
  readonly #events: { atMs: number; seq: number; run: () => void }[] = []
  #seq = 0

  constructor(plan: SwarmPlan) {
    this.#plan = plan
    this.dice = new Dice(plan.seed)
    const { chunks = 256, chunkBytes = 256 * 1024, bytesPerMs = 12_500, latencyMs = 5 } = plan
    // As FastCDC cuts: from a quarter of the usual to four times of it, most near it.
    this.#lengths = Array.from({ length: chunks }, () =>
      Math.round(chunkBytes * (0.4 + 0.6 * (this.dice.fraction() + this.dice.fraction()))),
    )
    this.sizeBytes = this.#lengths.reduce((sum, length) => sum + length, 0)
    this.#bytesPerMs = bytesPerMs
    this.#latencyMs = latencyMs
    this.idealMs = this.sizeBytes / bytesPerMs
    const random = {
      bytes: (count: number) => Uint8Array.from({ length: count }, () => this.dice.between(0, 255)),
    }
    for (let id = 0; id <= plan.nodes; id++) {
      const have = id === 0 ? ChunkSet.full(chunks) : new ChunkSet(chunks)
      if (id > 0) for (const chunk of plan.holds?.(id) ?? []) have.add(chunk)
      this.nodes.push(new SimNode(id, new SwarmCore({ random }, { lengths: this.#lengths, have })))
    }
  }

  get origin(): SimNode {
    return this.#node(0)
  }

  /** The nodes that wanted the blob and live. */
  get wanting(): SimNode[] {
    return this.nodes.filter(({ id, isAlive }) => id > 0 && isAlive)
  }

  /** Runs until all that live are done, or `limitMs` has passed. */
  run(limitMs = 20 * this.idealMs): void {
    const { nodes, arrivalMs = 100, onTick, hasOrigin = true } = this.#plan
    if (!hasOrigin) this.kill(this.origin)
    const arrivals = Array.from({ length: nodes }, (_, at) => ({
      id: at + 1,
      atMs: this.dice.fraction() * arrivalMs,
    })).toSorted((a, b) => a.atMs - b.atMs)
    for (const [rank, { id, atMs }] of arrivals.entries())
      this.#at(atMs, () =>
        this.#arrive(
          id,
          arrivals.slice(0, rank).map((one) => one.id),
        ),
      )
    if (onTick !== undefined) {
      const tick = (): void => {
        onTick(this, this.nowMs)
        this.#at(this.nowMs + 1, tick)
      }
      tick()
    }
    for (;;) {
      const event = this.#pop()
      if (event === undefined || event.atMs > limitMs) return
      this.nowMs = event.atMs
      event.run()
      if (this.wanting.every(({ doneAtMs }) => doneAtMs !== undefined)) return
    }
  }

  kill(node: SimNode): void {
    node.isAlive = false
    node.uploads.clear()
    // A connection that ends is seen by its other end.
    for (const other of this.nodes)
      this.#after(this.#latencyMs, () => {
        other.core.remove(String(node.id), this.nowMs)
        this.#step(other)
      })
  }

  #node(id: number): SimNode {
    const node = this.nodes[id]
    assert(node !== undefined)
    return node
  }

  #arrive(id: number, earlier: readonly number[]): void {
    const node = this.#node(id)
    const others = [...earlier]
    const named = [0]
    while (named.length <= TRACKED_MAX && others.length > 0)
      named.push(...others.splice(this.dice.between(0, others.length - 1), 1))
    for (const other of named) {
      const hidden = [id, other].some((one) => this.#plan.isHidden?.(one) === true)
      if (other === 0 || !hidden) node.core.know(String(other))
    }
    this.#step(node)
  }

  #onJoin(node: SimNode, from: SimNode, bitmap: Uint8Array, toldCount: number): void {
    const size = node.core.have.size
    const has = ChunkSet.fromBytes(size, bitmap)
    const id = String(from.id)
    const isTaken =
      node.isAlive &&
      (node.core.hasMember(id) || node.core.addMember(id, has, undefined, this.nowMs))
    // The first bits are the answer; the one that came takes them for the acceptance.
    this.#after(this.#latencyMs, () => {
      if (!isTaken) from.core.refused(String(node.id), this.nowMs)
      else if (!from.core.addMember(String(node.id), new ChunkSet(size), toldCount, this.nowMs))
        this.#after(this.#latencyMs, () => {
          node.core.remove(id, this.nowMs)
          this.#step(node)
        })
      this.#step(from)
    })
    this.#step(node)
  }

  #step(node: SimNode): void {
    if (!node.isAlive) return
    for (const effect of node.core.step(this.nowMs)) this.#carry(node, effect)
    if (node.core.have.isFull) node.doneAtMs ??= this.nowMs
    const dueAtMs = node.core.nextDeadlineMs(this.nowMs) ?? Infinity
    if (dueAtMs >= node.wakeAtMs && node.wakeAtMs > this.nowMs) return
    node.wakeAtMs = dueAtMs
    if (dueAtMs < Infinity)
      this.#at(Math.max(dueAtMs, this.nowMs + 0.1), () => {
        if (node.wakeAtMs !== dueAtMs) return
        node.wakeAtMs = Infinity
        this.#step(node)
      })
  }

  #carry(node: SimNode, effect: SwarmEffect): void {
    const from = String(node.id)
    switch (effect.type) {
      case 'ask': {
        const { to, ask, first, count } = effect
        const chunks = Array.from({ length: count }, (_, at) => first + at)
        const [chunk = first] = chunks
        node.arrived.set(`${to} ${ask}`, { chunk, bytes: 0, left: count })
        this.#after(this.#latencyMs, () => this.#onAsk(this.#node(Number(to)), node, ask, chunks))
        return
      }
      case 'cancel':
        node.arrived.delete(`${effect.to} ${effect.ask}`)
        this.#after(this.#latencyMs, () => {
          const lane = this.#node(Number(effect.to)).uploads.get(node.id)
          const at = lane?.findIndex(({ ask }) => ask === effect.ask) ?? -1
          if (at !== -1) lane?.splice(at, 1)
        })
        return
      case 'join': {
        const toldCount = node.core.gainedCount
        const bitmap = node.core.have.toBytes()
        this.#after(this.#latencyMs, () =>
          this.#onJoin(this.#node(Number(effect.to)), node, bitmap, toldCount),
        )
        return
      }
      case 'bits':
        this.#after(this.#latencyMs, () => {
          const other = this.#node(Number(effect.to))
          other.core.heard(from, effect.bits, this.nowMs)
          this.#step(other)
        })
        return
      case 'drop':
      case 'leave':
        this.#after(this.#latencyMs, () => {
          const other = this.#node(Number(effect.type === 'leave' ? effect.to : effect.neighbour))
          other.core.remove(from, this.nowMs)
          this.#step(other)
        })
    }
  }

  #onAsk(node: SimNode, from: SimNode, ask: number, chunks: number[]): void {
    if (!node.isAlive || !from.isAlive) return
    for (const chunk of chunks) node.core.asked(String(from.id), chunk)
    const isGiven = chunks.every((chunk) => node.core.mayGive(String(from.id), chunk))
    if (isGiven) {
      const lane = node.uploads.get(from.id) ?? []
      lane.push({ to: from.id, ask, chunks, sentOfFirst: 0 })
      node.uploads.set(from.id, lane)
      this.#upload(node)
    } else
      this.#after(this.#latencyMs, () => {
        from.arrived.delete(`${node.id} ${ask}`)
        from.core.ended(String(node.id), ask, 'refused', this.nowMs)
        this.#step(from)
      })
  }

  /** Sends the next frame when the link is free: each transfer in turn. */
  #upload(node: SimNode): void {
    if (node.isUplinkBusy || !node.isAlive) return
    const [turn] = node.uploads
    if (turn === undefined) return
    const [to, lane] = turn
    node.uploads.delete(to)
    const [transfer] = lane
    if (transfer === undefined) return this.#upload(node)
    node.uploads.set(to, lane)
    const [chunk = 0] = transfer.chunks
    const length = this.#lengths[chunk] ?? 0
    const bytes = Math.min(FRAME_BYTES, length - transfer.sentOfFirst)
    transfer.sentOfFirst += bytes
    if (transfer.sentOfFirst === length) {
      transfer.chunks.shift()
      transfer.sentOfFirst = 0
      node.core.sent(String(transfer.to), chunk, this.nowMs)
    }
    if (transfer.chunks.length === 0) lane.shift()
    node.isUplinkBusy = true
    node.sentBytes += bytes
    this.#after(bytes / this.#bytesPerMs, () => {
      node.isUplinkBusy = false
      this.#after(this.#latencyMs, () => this.#onFrame(node, transfer, bytes))
      this.#upload(node)
    })
  }

  #onFrame(from: SimNode, { to, ask }: Transfer, bytes: number): void {
    const node = this.#node(to)
    const startMs = Math.max(this.nowMs, node.downlinkFreeAtMs)
    node.downlinkFreeAtMs = startMs + bytes / this.#bytesPerMs
    this.#at(node.downlinkFreeAtMs, () => this.#onBytes(node, from, ask, bytes))
  }

  #onBytes(node: SimNode, from: SimNode, ask: number, bytes: number): void {
    if (!node.isAlive) return
    node.receivedBytes += bytes
    const key = `${from.id} ${ask}`
    const arriving = node.arrived.get(key)
    if (arriving === undefined) return // cancelled
    node.core.progress(String(from.id), this.nowMs)
    arriving.bytes += bytes
    if (arriving.bytes < (this.#lengths[arriving.chunk] ?? 0)) return
    if (node.core.got(arriving.chunk, String(from.id))) node.order.push(arriving.chunk)
    arriving.chunk++
    arriving.bytes = 0
    arriving.left--
    if (arriving.left === 0) {
      node.arrived.delete(key)
      node.core.ended(String(from.id), ask, 'done', this.nowMs)
    }
    this.#step(node)
  }

  #after(delayMs: number, run: () => void): void {
    this.#at(this.nowMs + delayMs, run)
  }

  #at(atMs: number, run: () => void): void {
    const events = this.#events
    const event = { atMs, seq: this.#seq++, run }
    let at = events.push(event) - 1
    while (at > 0) {
      const above = (at - 1) >> 1
      const parent = events[above]
      if (parent === undefined || isBefore(parent, event)) break
      events[at] = parent
      at = above
    }
    events[at] = event
  }

  #pop(): { atMs: number; run: () => void } | undefined {
    const events = this.#events
    const [first] = events
    const last = events.pop()
    if (first === undefined || last === undefined || events.length === 0) return first
    let at = 0
    for (;;) {
      const left = 2 * at + 1
      const [a, b] = [events[left], events[left + 1]]
      const child = b !== undefined && a !== undefined && isBefore(b, a) ? left + 1 : left
      const smaller = events[child]
      if (smaller === undefined || isBefore(last, smaller)) break
      events[at] = smaller
      at = child
    }
    events[at] = last
    return first
  }
}

function isBefore(a: { atMs: number; seq: number }, b: { atMs: number; seq: number }): boolean {
  return a.atMs < b.atMs || (a.atMs === b.atMs && a.seq < b.seq)
}
