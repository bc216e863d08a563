/**
 * One blob that this node exchanges with others: carries out what the core decides, over the links of its
 * members. A node that has all of the blob is in the swarm as long as somebody in it lacks something.
 */
import type { Clock, Timer } from '../../base/clock.ts'
import type { Random } from '../../base/random.ts'
import type { Chunk, ChunkList } from '../../wire/chunk-list.ts'
import type { Digest } from '../../wire/digest.ts'
import type { SwarmLink, SwarmMessage } from '../cas/swarm-door.ts'
import { ChunkSet } from './chunk-set.ts'
import { SwarmCore, type Bits, type SwarmEffect } from './swarm-core.ts'

/** A peer that does not answer a join for this long is in no mood for it. */
const JOIN_MS = 5_000

type Seeking = Extract<SwarmEffect, { type: 'ask' | 'cancel' | 'drop' | 'join' }>

/** What only a node that lacks something does (swarm-fetch.ts). */
export interface Seeker {
  carry(effect: Seeking): void
  /** After each step: something may have changed. */
  look(): void
}

interface Joining {
  readonly link: SwarmLink
  /** What the join told. */
  readonly toldCount: number
  readonly timer: Timer
}

export class Swarm {
  readonly core: SwarmCore
  readonly list: ChunkList
  readonly #listDigest: Digest
  readonly #clock: Clock
  readonly #onIdle: (swarm: Swarm) => void
  /** By peer. */
  readonly #links = new Map<string, SwarmLink>()
  readonly #joining = new Map<string, Joining>()
  #seeker: Seeker | undefined
  #timer: Timer | undefined
  #isStepping = false
  #isEnded = false

  /** `onIdle` is called when the node has everything, and nobody it knows lacks anything. */
  constructor(
    deps: { readonly clock: Clock; readonly random: Random },
    options: {
      readonly list: ChunkList
      readonly listDigest: Digest
      readonly have: ChunkSet
      readonly onIdle: (swarm: Swarm) => void
    },
  ) {
    const { list, listDigest, have, onIdle } = options
    const lengths = list.chunks.map(({ length }) => length)
    this.core = new SwarmCore(deps, { lengths, have })
    this.list = list
    this.#listDigest = listDigest
    this.#clock = deps.clock
    this.#onIdle = onIdle
  }

  get isJoining(): boolean {
    return this.#joining.size > 0
  }

  linkOf(peerId: string): SwarmLink | undefined {
    return this.#links.get(peerId)
  }

  /** With a seeker the swarm is kept until it is released; then, if it lacks something, it is over. */
  seek(seeker: Seeker): Disposable {
    this.#seeker = seeker
    return {
      [Symbol.dispose]: () => {
        this.#seeker = undefined
        if (this.core.have.isFull) this.step()
        else this.end()
      },
    }
  }

  join(link: SwarmLink): void {
    // It may have come to us while the link was opened.
    if (this.core.hasMember(link.peerId)) return
    const { digest, size } = this.list
    const timer = this.#clock.setTimer(JOIN_MS, () => this.#refused(link.peerId))
    this.#joining.set(link.peerId, { link, toldCount: this.core.gainedCount, timer })
    const bitmap = this.core.have.toBytes()
    link.tell({ type: 'join', digest, size, list: this.#listDigest, bitmap })
  }

  receive(message: SwarmMessage, from: SwarmLink): void {
    switch (message.type) {
      case 'join':
        this.#onJoin(message, from)
        break
      case 'bits': {
        const { bitmap, added = [] } = message
        this.#onBits(bitmap === undefined ? { added } : { bitmap: new Uint8Array(bitmap) }, from)
        break
      }
      case 'leave':
        if (this.#joining.has(from.peerId)) this.#refused(from.peerId)
        this.#forget(from.peerId)
    }
    this.step()
  }

  #onJoin(message: Extract<SwarmMessage, { type: 'join' }>, from: SwarmLink): void {
    const { peerId } = from
    const { digest, size } = this.list
    // Of another size, or cut at other places, it is nothing that could be exchanged.
    const isSame = message.list === this.#listDigest && message.size === size
    const has = isSame ? ChunkSet.fromBytes(this.core.have.size, message.bitmap) : undefined
    // Whoever comes again has forgotten what it was told.
    this.#forget(peerId)
    const toldCount = this.#joined(peerId)?.toldCount
    const isTaken =
      has !== undefined && this.core.addMember(peerId, has, toldCount, this.#clock.nowMs())
    if (isTaken) this.#links.set(peerId, from)
    else from.tell({ type: 'leave', digest })
  }

  #onBits(bits: Bits, from: SwarmLink): void {
    const { peerId } = from
    const nowMs = this.#clock.nowMs()
    const joining = this.#joined(peerId)
    if (joining !== undefined) {
      const shown = new ChunkSet(this.core.have.size)
      if (this.core.addMember(peerId, shown, joining.toldCount, nowMs))
        this.#links.set(peerId, joining.link)
    }
    if (this.core.hasMember(peerId)) this.core.heard(peerId, bits, nowMs)
    else from.tell({ type: 'leave', digest: this.list.digest })
  }

  /** The join was answered. */
  #joined(peerId: string): Joining | undefined {
    const joining = this.#joining.get(peerId)
    joining?.timer.cancel()
    this.#joining.delete(peerId)
    return joining
  }

  #refused(peerId: string): void {
    this.#joined(peerId)
    this.core.refused(peerId, this.#clock.nowMs())
    this.step()
  }

  linkEnded(link: SwarmLink): void {
    if (this.#joining.get(link.peerId)?.link === link) this.#refused(link.peerId)
    if (this.#links.get(link.peerId) !== link) return
    this.#forget(link.peerId)
    this.step()
  }

  #forget(peerId: string): void {
    this.core.remove(peerId, this.#clock.nowMs())
    this.#links.delete(peerId)
  }

  /** Ends the exchange with one that lied. */
  ban(peerId: string): void {
    this.core.ban(peerId, this.#clock.nowMs())
    this.#links.get(peerId)?.tell({ type: 'leave', digest: this.list.digest })
    this.#links.delete(peerId)
  }

  mayGive(peerId: string, offset: number, length: number): boolean {
    const { chunks } = this.list
    for (let at = chunkAt(chunks, offset); (chunks[at]?.offset ?? Infinity) < offset + length; at++)
      if (!this.core.mayGive(peerId, at)) return false
    return true
  }

  /** The range is of whole chunks, as members ask. */
  asked(peerId: string, offset: number, length: number): void {
    if (!this.core.hasMember(peerId)) return
    for (const chunk of this.#endingIn(offset, length)) this.core.asked(peerId, chunk)
  }

  /** A chunk counts as sent with its last byte. */
  sent(peerId: string, offset: number, length: number): void {
    if (!this.core.hasMember(peerId)) return
    for (const chunk of this.#endingIn(offset, length))
      this.core.sent(peerId, chunk, this.#clock.nowMs())
    this.step()
  }

  *#endingIn(offset: number, length: number): Generator<number> {
    const { chunks } = this.list
    for (let at = chunkAt(chunks, offset); ; at++) {
      const chunk = chunks[at]
      if (chunk === undefined || chunk.offset + chunk.length > offset + length) return
      yield at
    }
  }

  /** Tells every member once more what is here. */
  tellAll(): void {
    this.core.tellAll()
    this.step()
  }

  /** Does what is due. */
  step(): void {
    if (this.#isStepping || this.#isEnded) return
    this.#isStepping = true
    for (const effect of this.core.step(this.#clock.nowMs())) this.#carry(effect)
    this.#isStepping = false
    this.#seeker?.look()
    this.#timer?.cancel()
    if (this.#seeker === undefined && this.core.have.isFull && this.core.memberCount === 0) {
      this.end()
      return
    }
    const nowMs = this.#clock.nowMs()
    const dueAtMs = this.core.nextDeadlineMs(nowMs)
    this.#timer =
      dueAtMs === undefined
        ? undefined
        : this.#clock.setTimer(Math.max(1, dueAtMs - nowMs), () => this.step())
  }

  #carry(effect: SwarmEffect): void {
    const { digest } = this.list
    switch (effect.type) {
      case 'bits':
        this.#links.get(effect.to)?.tell({ type: 'bits', digest, ...wireBits(effect.bits) })
        return
      case 'leave':
        this.#links.get(effect.to)?.tell({ type: 'leave', digest })
        this.#links.delete(effect.to)
        return
      case 'drop':
        this.#links.get(effect.neighbour)?.tell({ type: 'leave', digest })
        this.#links.delete(effect.neighbour)
        this.#seeker?.carry(effect)
        return
      case 'ask':
      case 'cancel':
      case 'join':
        this.#seeker?.carry(effect)
    }
  }

  /** Tells everybody. Idempotent. */
  end(): void {
    if (this.#isEnded) return
    this.#isEnded = true
    this.#timer?.cancel()
    for (const { timer } of this.#joining.values()) timer.cancel()
    for (const link of this.#links.values()) link.tell({ type: 'leave', digest: this.list.digest })
    this.#onIdle(this)
  }
}

function wireBits(bits: Bits): { added: number[] } | { bitmap: Uint8Array<ArrayBuffer> } {
  return 'added' in bits ? { added: [...bits.added] } : { bitmap: bits.bitmap }
}

/** The chunk that the byte is in. */
function chunkAt(chunks: readonly Chunk[], offset: number): number {
  let [low, high] = [0, chunks.length - 1]
  while (low < high) {
    const middle = (low + high + 1) >> 1
    if ((chunks[middle]?.offset ?? Infinity) <= offset) low = middle
    else high = middle - 1
  }
  return low
}
