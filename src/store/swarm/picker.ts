/**
 * The asking half of a swarm: which chunks are asked of whom. Pure: the caller brings the time and sends.
 *
 * As long as somebody lacks chunks, the rarest go first, ties at random (BitTorrent's rule: in order of the
 * blob everybody would want the same chunk of the same peer). When whoever is there has all of it, long runs
 * from the front: as cheap as one stream, and the whole can be hashed as it comes.
 */
import { randomFraction, type Random } from '../../base/random.ts'
import type { ChunkSet } from './chunk-set.ts'

/** A neighbour is asked for the next run while one is on its way. */
const ASKS_PER_NEIGHBOUR_MAX = 2
/** Bytes of one ask among many; smaller for small blobs, so that their parts spread as well. */
const UNIT_BYTES_MAX = 1024 * 1024
const UNIT_BYTES_MIN = 128 * 1024
const UNITS_PER_BLOB = 256
/**
 * Bytes of one ask when the others have everything: at first and, doubling, at the most. A crowd mostly comes
 * at once, and what the first has under way then is sent twice. Two of the longest are what a CAS link takes.
 */
const RUN_BYTES_MIN = 1024 * 1024
const RUN_BYTES_MAX = 4 * 1024 * 1024
/** From here on chunks under way are asked of a second neighbour, and the slower one is cancelled. */
const ENDGAME_CHUNKS = 8
/** Before that only of one that nothing else can be asked of, and when they have been on their way for this long. */
const SLOW_MS = 2_000
const ASKS_PER_CHUNK_MAX = 2
/** A neighbour that gives nothing for this long is left alone for a while. */
const STALL_MS = 5_000
const QUIET_MS_MAX = 30_000
/** Stalls or failures with nothing given between them, after which a neighbour is out. */
const FAILURES_MAX = 3

/** `member`: tells what it has. `source`: is taken to have everything, and is spared where members can give. */
type NeighbourKind = 'member' | 'source'

export type AskEffect =
  | {
      readonly type: 'ask'
      readonly to: string
      readonly ask: number
      readonly first: number
      readonly count: number
    }
  | { readonly type: 'cancel'; readonly to: string; readonly ask: number }
  /** It is of no use: the caller removes it. */
  | { readonly type: 'drop'; readonly neighbour: string; readonly why: string }

export type AskOutcome = 'done' | 'refused' | 'failed'

interface Ask {
  readonly first: number
  readonly count: number
  readonly startedAtMs: number
}
interface Supplier {
  readonly kind: NeighbourKind
  readonly has: ChunkSet
  readonly asks: Map<number, Ask>
  runBytes: number
  progressAtMs: number
  quietUntilMs: number
  failures: number
}

export function unitBytesOf(sizeBytes: number): number {
  return Math.min(UNIT_BYTES_MAX, Math.max(UNIT_BYTES_MIN, sizeBytes / UNITS_PER_BLOB))
}

export class Picker {
  readonly #random: Random
  readonly #lengths: readonly number[]
  readonly #unitBytes: number
  /** Shared with the core, which adds to it before it calls `got`. */
  readonly #have: ChunkSet
  readonly #suppliers = new Map<string, Supplier>()
  /** By chunk: asks that hold it, and members that have it. */
  readonly #asked: Uint8Array
  readonly #holders: Uint16Array
  readonly #effects: AskEffect[] = []
  #lastAsk = 0

  constructor(
    deps: { readonly random: Random },
    options: { readonly lengths: readonly number[]; readonly have: ChunkSet },
  ) {
    this.#random = deps.random
    this.#lengths = options.lengths
    this.#have = options.have
    this.#unitBytes = unitBytesOf(options.lengths.reduce((sum, length) => sum + length, 0))
    this.#asked = new Uint8Array(options.lengths.length)
    this.#holders = new Uint16Array(options.lengths.length)
  }

  /** `has` is changed from here on. */
  add(id: string, kind: NeighbourKind, has: ChunkSet, nowMs: number): void {
    const supplier: Supplier = {
      kind,
      has,
      asks: new Map(),
      runBytes: RUN_BYTES_MIN,
      progressAtMs: nowMs,
      quietUntilMs: nowMs,
      failures: 0,
    }
    this.#suppliers.set(id, supplier)
    if (kind === 'member') for (const chunk of has) bump(this.#holders, chunk, 1)
  }

  get supplierCount(): number {
    return this.#suppliers.size
  }

  remove(id: string): void {
    const supplier = this.#suppliers.get(id)
    if (supplier === undefined) return
    for (const ask of supplier.asks.keys()) this.#cancel(id, supplier, ask)
    if (supplier.kind === 'member') for (const chunk of supplier.has) bump(this.#holders, chunk, -1)
    this.#suppliers.delete(id)
  }

  /** It has this as well. */
  learn(id: string, chunk: number): void {
    const supplier = this.#suppliers.get(id)
    if (supplier?.has.add(chunk) === true) bump(this.#holders, chunk, 1)
  }

  /** It has, or shows, just these. What it was asked before it may still give. */
  replace(id: string, has: ChunkSet): void {
    const supplier = this.#suppliers.get(id)
    if (supplier === undefined) return
    for (let chunk = 0; chunk < has.size; chunk++)
      if (has.has(chunk)) this.learn(id, chunk)
      else this.#unlearn(supplier, chunk)
  }

  #unlearn(supplier: Supplier, chunk: number): void {
    if (supplier.has.delete(chunk) && supplier.kind === 'member') bump(this.#holders, chunk, -1)
  }

  /** Bytes came from it. */
  progress(id: string, nowMs: number): void {
    const supplier = this.#suppliers.get(id)
    if (supplier !== undefined) supplier.progressAtMs = nowMs
  }

  /** The chunk is here. Asks that have nothing else to bring are cancelled. */
  got(chunk: number, from: string): void {
    const giver = this.#suppliers.get(from)
    if (giver !== undefined) giver.failures = 0
    if ((this.#asked[chunk] ?? 0) <= 1) return // only the giver was asked, and ends by itself
    for (const [id, supplier] of this.#suppliers)
      for (const [number, ask] of supplier.asks) {
        const holdsIt = chunk >= ask.first && chunk < ask.first + ask.count
        if (id !== from && holdsIt && this.#missingOf(ask).length === 0)
          this.#cancel(id, supplier, number)
      }
  }

  /** `refused`: it does not give the rest of these now. */
  ended(id: string, number: number, outcome: AskOutcome, nowMs: number): void {
    const supplier = this.#suppliers.get(id)
    const ask = supplier?.asks.get(number)
    if (supplier === undefined || ask === undefined) return
    this.#forget(supplier, number, ask)
    if (outcome === 'done') supplier.runBytes = Math.min(RUN_BYTES_MAX, 2 * supplier.runBytes)
    if (outcome === 'failed') this.#noteFailure(id, supplier, nowMs, 'failed')
    if (outcome !== 'refused') return
    if (supplier.kind === 'source') this.#drop(id, 'does not have it')
    for (const chunk of this.#missingOf(ask)) this.#unlearn(supplier, chunk)
  }

  step(nowMs: number): AskEffect[] {
    for (const [id, supplier] of this.#suppliers) this.#watch(id, supplier, nowMs)
    const usable = [...this.#suppliers].filter(([, { quietUntilMs }]) => quietUntilMs <= nowMs)
    const isEverywhere = usable.every(([, { has }]) => has.isFull)
    const membersCanGive = usable.some(([, { kind, has }]) => kind === 'member' && has.count > 0)
    const start = Math.floor(randomFraction(this.#random) * usable.length)
    const turns = [...usable.slice(start), ...usable.slice(0, start)]
    for (let hasAsked = true; hasAsked;) {
      hasAsked = false
      for (const [id, supplier] of turns) {
        if (supplier.asks.size >= ASKS_PER_NEIGHBOUR_MAX) continue
        const run = isEverywhere
          ? this.#front(supplier)
          : this.#rarest(supplier, supplier.kind === 'source' && membersCanGive)
        const again = run ?? this.#again(supplier, nowMs)
        if (again === undefined) continue
        this.#ask(id, supplier, again, nowMs)
        hasAsked = true
      }
    }
    return this.#effects.splice(0)
  }

  /** When `step` is due although nothing came. */
  nextDeadlineMs(nowMs: number): number | undefined {
    let deadlineMs: number | undefined
    const due = (atMs: number): void => {
      deadlineMs = Math.min(deadlineMs ?? Infinity, atMs)
    }
    for (const { asks, progressAtMs, quietUntilMs } of this.#suppliers.values()) {
      if (quietUntilMs > nowMs) due(quietUntilMs)
      if (asks.size > 0) due(progressAtMs + STALL_MS)
      // Others may take over then.
      for (const { startedAtMs } of asks.values())
        if (startedAtMs + SLOW_MS > nowMs) due(startedAtMs + SLOW_MS)
    }
    return deadlineMs
  }

  #watch(id: string, supplier: Supplier, nowMs: number): void {
    if (supplier.asks.size === 0 || nowMs - supplier.progressAtMs < STALL_MS) return
    for (const number of supplier.asks.keys()) this.#cancel(id, supplier, number)
    this.#noteFailure(id, supplier, nowMs, `sent nothing for ${STALL_MS / 1000} s`)
  }

  #noteFailure(id: string, supplier: Supplier, nowMs: number, why: string): void {
    supplier.failures++
    supplier.quietUntilMs = nowMs + Math.min(QUIET_MS_MAX, 1000 * 2 ** supplier.failures)
    if (supplier.failures >= FAILURES_MAX) this.#drop(id, why)
  }

  #drop(neighbour: string, why: string): void {
    this.remove(neighbour)
    this.#effects.push({ type: 'drop', neighbour, why })
  }

  #ask(to: string, supplier: Supplier, { first, count }: Run, nowMs: number): void {
    const ask = ++this.#lastAsk
    if (supplier.asks.size === 0) supplier.progressAtMs = nowMs
    supplier.asks.set(ask, { first, count, startedAtMs: nowMs })
    for (let chunk = first; chunk < first + count; chunk++) bump(this.#asked, chunk, 1)
    this.#effects.push({ type: 'ask', to, ask, first, count })
  }

  #cancel(to: string, supplier: Supplier, number: number): void {
    const ask = supplier.asks.get(number)
    if (ask === undefined) return
    this.#forget(supplier, number, ask)
    this.#effects.push({ type: 'cancel', to, ask: number })
  }

  #forget(supplier: Supplier, number: number, { first, count }: Ask): void {
    supplier.asks.delete(number)
    for (let chunk = first; chunk < first + count; chunk++) bump(this.#asked, chunk, -1)
  }

  #missingOf({ first, count }: Run): number[] {
    const missing: number[] = []
    for (let chunk = first; chunk < first + count; chunk++)
      if (!this.#have.has(chunk)) missing.push(chunk)
    return missing
  }

  #isWanted(chunk: number): boolean {
    return !this.#have.has(chunk) && this.#asked[chunk] === 0
  }

  #front(supplier: Supplier): Run | undefined {
    for (let first = 0; first < this.#lengths.length; first++)
      if (this.#isWanted(first)) return this.#extend(supplier, first, supplier.runBytes)
    return undefined
  }

  /** Of those it has, one that the fewest members have, and its like after it. */
  #rarest(supplier: Supplier, onlyOrphans: boolean): Run | undefined {
    const salt = Math.floor(randomFraction(this.#random) * 2 ** 24)
    let best: number | undefined
    let bestHolders = onlyOrphans ? 1 : Infinity
    let bestTie = 0
    for (let chunk = 0; chunk < this.#lengths.length; chunk++) {
      const holders = this.#holders[chunk] ?? 0
      if (holders > bestHolders || !supplier.has.has(chunk) || !this.#isWanted(chunk)) continue
      const tie = mixed(chunk ^ salt)
      if (holders === bestHolders && tie <= bestTie) continue
      if (onlyOrphans && holders > 0) continue
      best = chunk
      bestHolders = holders
      bestTie = tie
    }
    return best === undefined ? undefined : this.#extend(supplier, best, this.#unitBytes)
  }

  /** Adjacent wanted chunks that are no more common than the first. */
  #extend(supplier: Supplier, first: number, bytesMax: number): Run {
    let bytes = this.#lengths[first] ?? 0
    let end = first + 1
    while (
      end < this.#lengths.length &&
      bytes + (this.#lengths[end] ?? 0) <= bytesMax &&
      supplier.has.has(end) &&
      this.#isWanted(end) &&
      (this.#holders[end] ?? 0) <= (this.#holders[first] ?? 0)
    ) {
      bytes += this.#lengths[end] ?? 0
      end++
    }
    return { first, count: end - first }
  }

  /** Nothing new can be asked of it: a chunk that another one is slow with, the last of its ask first. */
  #again(supplier: Supplier, nowMs: number): Run | undefined {
    const isEndgame = this.#lengths.length - this.#have.count <= ENDGAME_CHUNKS
    if (!isEndgame && supplier.asks.size > 0) return undefined
    let found: { readonly chunk: number; readonly startedAtMs: number } | undefined
    for (const other of this.#suppliers.values()) {
      if (other === supplier) continue
      for (const ask of other.asks.values()) {
        if (!isEndgame && nowMs - ask.startedAtMs < SLOW_MS) continue
        if (found !== undefined && found.startedAtMs <= ask.startedAtMs) continue
        const chunk = this.#missingOf(ask).findLast(
          (one) => (this.#asked[one] ?? 0) < ASKS_PER_CHUNK_MAX && supplier.has.has(one),
        )
        if (chunk !== undefined) found = { chunk, startedAtMs: ask.startedAtMs }
      }
    }
    return found === undefined ? undefined : { first: found.chunk, count: 1 }
  }
}

/** Adjacent chunks. */
interface Run {
  readonly first: number
  readonly count: number
}

function bump(counts: Uint8Array | Uint16Array, chunk: number, by: number): void {
  counts[chunk] = (counts[chunk] ?? 0) + by
}

/** 32 bits that look random (the finaliser of MurmurHash3). */
function mixed(value: number): number {
  let bits = Math.imul(value ^ (value >>> 16), 0x85ebca6b)
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2ae35)
  return (bits ^ (bits >>> 16)) >>> 0
}
