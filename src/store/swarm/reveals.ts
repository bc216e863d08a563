/**
 * Super-seeding: whoever had all of a blob before the swarm began shows each chunk to one neighbour, and to
 * nobody else before all were shown, so that it sends little more than the blob once however many want it
 * (simulated in test/sim/swarm.test.ts). Pure: the caller brings the time.
 *
 * One neighbour alone sees everything at once. A chunk whose holders left is shown again. A neighbour that
 * gets nothing from the others, as behind a NAT, is shown whatever it lacks.
 */
import { randomFraction, type Random } from '../../base/random.ts'
import { ChunkSet } from './chunk-set.ts'
import { unitBytesOf } from './picker.ts'

/**
 * Shown to one neighbour and not yet taken by it: at first, and at the most. Else twice what it took since the
 * last time; what was used up is doubled.
 */
const AHEAD_UNITS_MIN = 1
const AHEAD_BYTES_MAX = 32 * 1024 * 1024
/** A neighbour that got nothing from others for this long, while they had something, depends on us. */
const ISOLATED_MS = 5_000
/** What was shown to one that does not take it for this long is shown to others as well. */
const UNTAKEN_MS = 5_000

interface Viewer {
  /** What it has, and what it was shown besides. */
  readonly has: ChunkSet
  readonly shown: ChunkSet
  /** Sent to it by us: what it gains otherwise comes from others. */
  readonly sent: ChunkSet
  aheadBytes: number
  aheadBytesMax: number
  takenBytes: number
  seesAll: boolean
  /** When it last gained anything, and anything that we did not send. */
  grewAtMs: number
  grewElsewhereAtMs: number
  /** When it first gained anything here. */
  firstGrewAtMs: number | undefined
}

export type Shown = { readonly added: number[] } | { readonly set: ChunkSet }

export class Reveals {
  readonly #random: Random
  readonly #lengths: readonly number[]
  readonly #unitBytes: number
  readonly #viewers = new Map<string, Viewer>()
  /** By chunk: neighbours that have it or were shown it. */
  readonly #out: Uint16Array
  #unseenBytes: number
  /** Somebody took everything and may be reached by the others: nothing is lost when it leaves. */
  #wasTakenWhole = false

  constructor(deps: { readonly random: Random }, options: { readonly lengths: readonly number[] }) {
    this.#random = deps.random
    this.#lengths = options.lengths
    this.#unseenBytes = options.lengths.reduce((sum, length) => sum + length, 0)
    this.#unitBytes = unitBytesOf(this.#unseenBytes)
    this.#out = new Uint16Array(options.lengths.length)
  }

  add(id: string, has: ChunkSet, nowMs: number): void {
    const size = this.#lengths.length
    const viewer: Viewer = {
      has: new ChunkSet(size),
      shown: new ChunkSet(size),
      sent: new ChunkSet(size),
      aheadBytes: 0,
      aheadBytesMax: AHEAD_UNITS_MIN * this.#unitBytes,
      takenBytes: 0,
      seesAll: false,
      grewAtMs: nowMs,
      grewElsewhereAtMs: nowMs,
      firstGrewAtMs: undefined,
    }
    this.#viewers.set(id, viewer)
    for (const chunk of has) {
      viewer.has.add(chunk)
      this.#count(chunk, 1)
    }
  }

  remove(id: string): void {
    const viewer = this.#viewers.get(id)
    if (viewer === undefined) return
    this.#viewers.delete(id)
    if (viewer.has.isFull) this.#wasTakenWhole = true
    for (let chunk = 0; chunk < this.#lengths.length; chunk++)
      if (viewer.has.has(chunk) || viewer.shown.has(chunk)) this.#count(chunk, -1)
  }

  /** The neighbour says that it has the chunk. */
  has(id: string, chunk: number, nowMs: number): void {
    const viewer = this.#viewers.get(id)
    if (viewer === undefined || !viewer.has.add(chunk)) return
    viewer.grewAtMs = nowMs
    viewer.firstGrewAtMs ??= nowMs
    if (!viewer.sent.has(chunk)) viewer.grewElsewhereAtMs = nowMs
    if (!viewer.shown.delete(chunk)) this.#count(chunk, 1)
    else if (!viewer.sent.has(chunk)) this.#take(viewer, chunk)
  }

  #take(viewer: Viewer, chunk: number): void {
    viewer.aheadBytes -= this.#lengths[chunk] ?? 0
    viewer.takenBytes += this.#lengths[chunk] ?? 0
  }

  /** The neighbour, which sees everything, asked for the chunk: the others need not be shown it. */
  asked(id: string, chunk: number): void {
    const viewer = this.#viewers.get(id)
    if (viewer?.seesAll !== true || !this.#lacks(viewer, chunk)) return
    viewer.shown.add(chunk)
    viewer.aheadBytes += this.#lengths[chunk] ?? 0
    this.#count(chunk, 1)
  }

  /** The chunk was sent to the neighbour, which may be a while before it says so. */
  sent(id: string, chunk: number, nowMs: number): void {
    const viewer = this.#viewers.get(id)
    if (viewer === undefined || !viewer.sent.add(chunk)) return
    viewer.grewAtMs = nowMs
    if (viewer.shown.has(chunk)) this.#take(viewer, chunk)
  }

  mayGive(id: string, chunk: number): boolean {
    const viewer = this.#viewers.get(id)
    return (
      viewer === undefined || viewer.seesAll || viewer.shown.has(chunk) || viewer.has.has(chunk)
    )
  }

  /** Whether it was sent all that it was shown, and there is more that nobody was. */
  isUsedUp(id: string): boolean {
    return (this.#viewers.get(id)?.aheadBytes ?? 1) <= 0 && this.#unseenBytes > 0
  }

  /** What the neighbour is to be shown now; undefined for nothing new. */
  next(id: string, nowMs: number): Shown | undefined {
    const viewer = this.#viewers.get(id)
    if (viewer === undefined || viewer.has.isFull) return undefined
    if (this.#isAlone()) {
      if (viewer.seesAll) return undefined
      viewer.seesAll = true
      return { set: ChunkSet.full(this.#lengths.length) }
    }
    const added = this.#show(viewer, nowMs)
    if (viewer.seesAll) {
      // The others came later: from now on it sees no more than they do.
      viewer.seesAll = false
      const set = new ChunkSet(this.#lengths.length)
      for (const chunk of [...viewer.has, ...viewer.shown]) set.add(chunk)
      return { set }
    }
    return added.length === 0 ? undefined : { added }
  }

  /** When `next` may have more although nothing was heard. */
  nextDeadlineMs(nowMs: number): number | undefined {
    const waits = [...this.#viewers.values()].filter(({ has }) => !has.isFull)
    if (waits.length < 2) return undefined
    return nowMs + Math.min(UNTAKEN_MS, ISOLATED_MS) / 4
  }

  #isAlone(): boolean {
    let incomplete = 0
    for (const { has } of this.#viewers.values()) if (!has.isFull) incomplete++
    return incomplete === 1
  }

  #show(viewer: Viewer, nowMs: number): number[] {
    if (viewer.aheadBytes > 0 && nowMs - viewer.grewAtMs >= UNTAKEN_MS) this.#giveUp(viewer)
    if (viewer.aheadBytes > viewer.aheadBytesMax / 2) return []
    const isIsolated = this.#isIsolated(viewer, nowMs)
    if (viewer.takenBytes > 0) {
      const base = viewer.aheadBytes <= 0 ? viewer.aheadBytesMax : 0
      viewer.aheadBytesMax = Math.min(AHEAD_BYTES_MAX, 2 * Math.max(base, viewer.takenBytes))
      viewer.takenBytes = 0
    }
    const share = isIsolated ? Infinity : this.#unseenBytes / this.#viewers.size
    const aheadBytesMax = Math.max(this.#unitBytes, Math.min(viewer.aheadBytesMax, share))
    const added: number[] = []
    while (viewer.aheadBytes < aheadBytesMax) {
      const run = this.#nextRun(viewer, isIsolated)
      if (run.length === 0) break
      for (const chunk of run) {
        viewer.shown.add(chunk)
        viewer.aheadBytes += this.#lengths[chunk] ?? 0
        this.#count(chunk, 1)
        added.push(chunk)
      }
    }
    return added
  }

  #isIsolated(viewer: Viewer, nowMs: number): boolean {
    if (nowMs - viewer.grewElsewhereAtMs < ISOLATED_MS) return false
    for (const { has, firstGrewAtMs } of this.#viewers.values())
      if (nowMs - (firstGrewAtMs ?? nowMs) >= ISOLATED_MS)
        for (const chunk of has) if (!viewer.has.has(chunk)) return true
    return false
  }

  /** Up to a unit of adjacent chunks that nobody was shown; for one that depends on us, the rarest. */
  #nextRun(viewer: Viewer, isIsolated: boolean): number[] {
    const salt = Math.floor(randomFraction(this.#random) * this.#lengths.length)
    let best: number | undefined
    let bestOut = isIsolated ? Infinity : 1
    for (let step = 0; step < this.#lengths.length && bestOut > 0; step++) {
      const chunk = (step + salt) % this.#lengths.length
      if (this.#outOf(chunk) >= bestOut || !this.#lacks(viewer, chunk)) continue
      best = chunk
      bestOut = this.#outOf(chunk)
    }
    if (best === undefined) return []
    const run: number[] = []
    let bytes = 0
    for (let chunk = best; chunk < this.#lengths.length; chunk++) {
      bytes += this.#lengths[chunk] ?? 0
      const isAlike = this.#outOf(chunk) <= bestOut && this.#lacks(viewer, chunk)
      if (run.length > 0 && (bytes > this.#unitBytes || !isAlike)) break
      run.push(chunk)
    }
    return run
  }

  #lacks(viewer: Viewer, chunk: number): boolean {
    return !viewer.has.has(chunk) && !viewer.shown.has(chunk)
  }

  #outOf(chunk: number): number {
    return (this.#out[chunk] ?? 0) + (this.#wasTakenWhole ? 1 : 0)
  }

  /** What it did not take is for others, or for it at another time. */
  #giveUp(viewer: Viewer): void {
    for (const chunk of [...viewer.shown]) {
      if (viewer.sent.has(chunk)) continue
      viewer.shown.delete(chunk)
      this.#count(chunk, -1)
    }
    viewer.aheadBytes = 0
    viewer.aheadBytesMax = AHEAD_UNITS_MIN * this.#unitBytes
  }

  #count(chunk: number, by: number): void {
    const before = this.#out[chunk] ?? 0
    const after = before + by
    this.#out[chunk] = after
    if (before === 0) this.#unseenBytes -= this.#lengths[chunk] ?? 0
    if (after === 0) this.#unseenBytes += this.#lengths[chunk] ?? 0
  }
}
