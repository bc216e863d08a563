/**
 * One node in the swarm of one blob: what it asks of its neighbours, what it tells them, whom it leaves.
 * Pure: messages and the time are brought to it, `step` says what to send. swarm.ts carries that out, and
 * test/sim/swarm.test.ts runs hundreds of these on a simulated network.
 *
 * A node that had everything before the swarm began is its seed and shows chunks sparingly (reveals.ts);
 * every other one tells of each chunk it has. Who is complete stays for those who are not.
 */
import { randomFraction, type Random } from '../../base/random.ts'
import { Acquaintances } from './acquaintances.ts'
import { ChunkSet } from './chunk-set.ts'
import { Picker, type AskEffect, type AskOutcome } from './picker.ts'
import { Reveals } from './reveals.ts'

/** Members that a node exchanges chunks with; more are turned away, and come again. */
const NEIGHBOURS_MAX = 16
/** A neighbour is told of chunks four times a second at the most. */
const TELL_MS = 250

/** Chunks that came since the last time, or all that may be asked for from now on. */
export type Bits =
  | { readonly added: readonly number[] }
  | { readonly bitmap: Uint8Array<ArrayBuffer> }

export type SwarmEffect =
  | AskEffect
  /** Ask to be taken in; ends in addMember, refused or ban. */
  | { readonly type: 'join'; readonly to: string }
  | { readonly type: 'bits'; readonly to: string; readonly bits: Bits }
  /** Neither needs the other any more, or it broke the rules: forgotten here, to be told there. */
  | { readonly type: 'leave'; readonly to: string }

interface Member {
  /** What it told: all it has, or what it shows. */
  readonly has: ChunkSet
  /** How many of the chunks gained here it was told of; undefined before the first time. */
  toldCount: number | undefined
  toldAtMs: number
}

export class SwarmCore {
  readonly have: ChunkSet
  readonly #random: Random
  readonly #picker: Picker
  readonly #reveals: Reveals | undefined
  readonly #acquaintances = new Acquaintances()
  readonly #members = new Map<string, Member>()
  /** To be told at the next step. */
  readonly #left: SwarmEffect[] = []
  /** In the order in which they came. */
  readonly #gained: number[] = []

  /** `have` belongs to the core from now on. */
  constructor(
    deps: { readonly random: Random },
    options: { readonly lengths: readonly number[]; readonly have: ChunkSet },
  ) {
    this.#random = deps.random
    this.have = options.have
    this.#picker = new Picker(deps, options)
    this.#reveals = options.have.isFull ? new Reveals(deps, options) : undefined
  }

  get memberCount(): number {
    return this.#members.size
  }

  /** Chunks gained so far: what a bitmap that is sent now will have told. */
  get gainedCount(): number {
    return this.#gained.length
  }

  hasMember(id: string): boolean {
    return this.#members.has(id)
  }

  /** Somebody who may be in the swarm too. */
  know(id: string): void {
    this.#acquaintances.know(id)
  }

  /** A join came to nothing. */
  refused(id: string, nowMs: number): void {
    this.#acquaintances.refused(id, nowMs)
  }

  /** It lied: it is not a neighbour any more, nor joined again. */
  ban(id: string, nowMs: number): void {
    this.remove(id, nowMs)
    this.#acquaintances.forbid(id)
  }

  /** False when there are enough. `toldCount`: what it was told already, in a join. */
  addMember(id: string, has: ChunkSet, toldCount: number | undefined, nowMs: number): boolean {
    // Both may have come to each other at once.
    this.remove(id, nowMs)
    if (this.#members.size >= NEIGHBOURS_MAX && !this.#makeRoom(nowMs)) {
      this.#acquaintances.refused(id, nowMs)
      return false
    }
    this.#acquaintances.taken(id)
    this.#members.set(id, { has, toldCount, toldAtMs: nowMs - TELL_MS })
    this.#picker.add(id, 'member', has, nowMs)
    this.#reveals?.add(id, has, nowMs)
    return true
  }

  /**
   * One of the members goes for one that comes, by lot: else the first comers would know only each other.
   * Not at a seed, which would have to show again what that one was shown.
   */
  #makeRoom(nowMs: number): boolean {
    const ids = [...this.#members.keys()]
    const id = ids[Math.floor(randomFraction(this.#random) * ids.length)]
    if (id === undefined || this.#reveals !== undefined) return false
    this.remove(id, nowMs)
    this.#left.push({ type: 'leave', to: id })
    return true
  }

  /** Whether all of it may be asked of the member now. */
  showsAll(id: string): boolean {
    return this.#members.get(id)?.has.isFull === true
  }

  /** Somebody who has everything, tells nothing and is told nothing. */
  addSource(id: string, nowMs: number): void {
    this.#picker.add(id, 'source', ChunkSet.full(this.have.size), nowMs)
  }

  /** It left, or its connection ended. */
  remove(id: string, nowMs: number): void {
    this.#picker.remove(id)
    this.#reveals?.remove(id)
    if (this.#members.delete(id)) this.#acquaintances.refused(id, nowMs)
  }

  /** Throws MESH0210 for a bitmap of another blob. */
  heard(id: string, bits: Bits, nowMs: number): void {
    const member = this.#members.get(id)
    if (member === undefined) return
    if ('bitmap' in bits) {
      const has = ChunkSet.fromBytes(this.have.size, bits.bitmap)
      // It may show less than before, and does not know what it gave us already.
      if (has.count < member.has.count) member.toldAtMs = nowMs - TELL_MS
      this.#picker.replace(id, has)
      if (this.#reveals !== undefined) for (const chunk of has) this.#reveals.has(id, chunk, nowMs)
    } else
      for (const chunk of bits.added) {
        this.#picker.learn(id, chunk)
        this.#reveals?.has(id, chunk, nowMs)
      }
  }

  /** Neighbours that are not done for: members, and sources that have not failed too often. */
  get supplierCount(): number {
    return this.#picker.supplierCount
  }

  /** Bytes came from it. */
  progress(id: string, nowMs: number): void {
    this.#picker.progress(id, nowMs)
  }

  /** A chunk came and is right. False when it was here. */
  got(chunk: number, from: string): boolean {
    const isNew = this.have.add(chunk)
    if (isNew) this.#gained.push(chunk)
    this.#picker.got(chunk, from)
    return isNew
  }

  ended(id: string, ask: number, outcome: AskOutcome, nowMs: number): void {
    this.#picker.ended(id, ask, outcome, nowMs)
  }

  /** The neighbour asked for the chunk. */
  asked(id: string, chunk: number): void {
    this.#reveals?.asked(id, chunk)
  }

  /** The chunk was sent to the neighbour. */
  sent(id: string, chunk: number, nowMs: number): void {
    this.#reveals?.sent(id, chunk, nowMs)
  }

  /** Whether the neighbour may be given the chunk; others than neighbours are not refused. */
  mayGive(id: string, chunk: number): boolean {
    return this.have.has(chunk) && (this.#reveals?.mayGive(id, chunk) ?? true)
  }

  /** Members are to be told anew what is here. */
  tellAll(): void {
    for (const member of this.#members.values()) member.toldCount = undefined
  }

  /** What to send now. */
  step(nowMs: number): SwarmEffect[] {
    const effects = this.#left.splice(0)
    if (!this.have.isFull) effects.push(...this.#seek(nowMs))
    for (const [id, member] of this.#members) {
      if (this.have.isFull && member.has.isFull) {
        this.remove(id, nowMs)
        effects.push({ type: 'leave', to: id })
      } else if (this.#mayTell(id, member, nowMs)) {
        const bits = this.#newsFor(id, member, nowMs)
        if (bits === undefined) continue
        member.toldAtMs = nowMs
        member.toldCount = this.#gained.length
        effects.push({ type: 'bits', to: id, bits })
      }
    }
    return effects
  }

  #seek(nowMs: number): SwarmEffect[] {
    const effects: SwarmEffect[] = this.#picker.step(nowMs)
    for (const effect of effects) if (effect.type === 'drop') this.remove(effect.neighbour, nowMs)
    const isMember = (id: string): boolean => this.#members.has(id)
    for (const to of this.#acquaintances.next(isMember, this.#members.size, nowMs))
      effects.push({ type: 'join', to })
    return effects
  }

  /** The first time at once; and one that used up what it was shown does not wait for the next turn. */
  #mayTell(id: string, { toldCount, toldAtMs }: Member, nowMs: number): boolean {
    return (
      toldCount === undefined || nowMs - toldAtMs >= TELL_MS || this.#reveals?.isUsedUp(id) === true
    )
  }

  /** When `step` is due although nothing came. */
  nextDeadlineMs(nowMs: number): number | undefined {
    const deadlines = [
      this.have.isFull ? undefined : this.#picker.nextDeadlineMs(nowMs),
      this.have.isFull ? undefined : this.#acquaintances.nextDeadlineMs(nowMs),
      this.#reveals?.nextDeadlineMs(nowMs),
    ]
    for (const { toldCount, toldAtMs } of this.#members.values())
      if (this.#reveals !== undefined || toldCount !== this.#gained.length)
        if (toldAtMs + TELL_MS > nowMs) deadlines.push(toldAtMs + TELL_MS)
    const due = deadlines.filter((atMs) => atMs !== undefined)
    return due.length === 0 ? undefined : Math.min(...due)
  }

  #newsFor(id: string, { toldCount }: Member, nowMs: number): Bits | undefined {
    if (this.#reveals !== undefined) {
      const shown = this.#reveals.next(id, nowMs)
      if (shown !== undefined && 'set' in shown) return { bitmap: shown.set.toBytes() }
      // The first answer to a join is never left out.
      return shown ?? (toldCount === undefined ? { added: [] } : undefined)
    }
    if (toldCount === this.#gained.length) return undefined
    const added = toldCount === undefined ? undefined : this.#gained.slice(toldCount)
    // A number takes up to five bytes, a bitmap an eighth of a byte per chunk.
    return added === undefined || added.length > this.have.size / 32
      ? { bitmap: this.have.toBytes() }
      : { added }
  }
}
