/**
 * What a node does in a swarm as long as it lacks chunks: joins peers, takes ordinary sources in as far as
 * they are needed, carries out what is asked of whom, and checks every chunk before it counts.
 *
 * Who sent a wrong chunk is out at once, but is not blamed before the whole is right: had the chunk list
 * been forged, all others would seem to lie.
 */
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { FEATURE_SWARM } from '../../wire/cas-messages.ts'
import { CHUNK_BYTES_MAX } from '../../wire/chunk-list.ts'
import type { BlobRef } from '../../wire/digest.ts'
import { SourceError, STALL_MS, type BlobSource } from '../blob-source.ts'
import type { CasLink } from '../cas-link.ts'
import type { SourceHealth } from '../fetch/source-health.ts'
import { asSourceError } from '../fetch/trail.ts'
import type { PartialBlob } from '../partial/partial-blobs.ts'
import { ByteWindow } from '../byte-window.ts'
import { within } from '../stall-limit.ts'
import type { AskOutcome } from './picker.ts'
import type { Seeker, Swarm } from './swarm.ts'
import type { SwarmEffect } from './swarm-core.ts'

/** Sources without swarms that are asked side by side. */
const SOURCES_MAX = 4
/** The next sources are taken in when nothing came for this long; later, where members are. */
const HEDGE_MS = 250
const SLOW_BYTES_PER_S = 64 * 1024
const SLOW_AFTER_MS = 2_000
const LOOK_MS = 250
/** Without any byte for this long, and nobody else to ask, the swarm has failed. */
const STUCK_MS = 10_000
/** Chunks that are being checked and written at a time. */
const WRITES_MAX = 8
/** Peers are asked for again this soon at first, then this often: it also tells that we are still here. */
const PEERS_FIRST_MS = 2_000
const PEERS_MS = 30_000
/** When so many sent wrong chunks it is the list that is wrong. */
const LIARS_MAX = 3

/** Somebody who may take part. */
export interface SwarmPeer {
  readonly peerId: string
  /** False for one that is fetching the blob itself. */
  readonly hasAll: boolean
  /** Ways to get from it what it has, the cheapest first. */
  readonly sources: readonly BlobSource[]
  /** Throws SourceError. */
  link(signal: AbortSignal): Promise<CasLink>
}

export interface SwarmFetchDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly health: SourceHealth
  /** The peer behind a source. */
  readonly peerOf: (source: BlobSource) => SwarmPeer | undefined
  /** Whoever has the blob or is fetching it. */
  readonly findPeers: (
    ref: BlobRef,
    options: { readonly signal: AbortSignal },
  ) => Promise<readonly SwarmPeer[]>
}

export interface SwarmFetchOptions {
  /** Asked for in order, each when what the former gave does not suffice. */
  readonly stages: readonly (() => Promise<readonly BlobSource[]>)[]
  readonly signal: AbortSignal
  readonly onBytes: (source: BlobSource, byteCount: number) => void
}

/** `done`: every chunk is here. Otherwise why not. */
export type SwarmEnd = 'done' | 'no sources' | 'list is wrong'

export class SwarmFetch implements Seeker {
  readonly #deps: SwarmFetchDeps
  readonly #swarm: Swarm
  readonly #partial: PartialBlob
  readonly #options: SwarmFetchOptions
  readonly #leaving = new AbortController()
  readonly #signal: AbortSignal
  readonly #ended = Promise.withResolvers<SwarmEnd>()
  readonly #peers = new Map<string, SwarmPeer>()
  /** Taken in, by name. */
  readonly #sources = new Map<string, BlobSource>()
  readonly #liars = new Map<string, readonly BlobSource[]>()
  readonly #asks = new Map<number, AbortController>()
  readonly #writeRoom = new ByteWindow({ bytesMax: WRITES_MAX })
  /** Used again: with a new one for each chunk, memory takes more time than hashing. */
  readonly #buffers: Buffer[] = []
  /** By chunk: whose bytes are being written. */
  readonly #writing = new Map<number, string>()
  #stages: SwarmFetchOptions['stages']
  /** Known, and not yet needed. */
  #reserve: BlobSource[] = []
  /** Of peers with which no chunks can be exchanged: what they have is had as from anybody else. */
  readonly #ordinary = new Set<BlobSource>()
  /** Joins, look-ups of peers and stages under way: who may bring something. */
  #pendingCount = 0
  #isOpening = false
  #progressAtMs: number
  #openedAtMs: number
  #paceAtMs: number
  #paceBytes = 0
  #timer: Timer | undefined
  #peersTimer: Timer | undefined

  constructor(
    deps: SwarmFetchDeps,
    parts: { readonly swarm: Swarm; readonly partial: PartialBlob },
    options: SwarmFetchOptions,
  ) {
    this.#deps = deps
    this.#swarm = parts.swarm
    this.#partial = parts.partial
    this.#options = options
    this.#stages = options.stages
    this.#signal = AbortSignal.any([options.signal, this.#leaving.signal])
    this.#progressAtMs = this.#openedAtMs = this.#paceAtMs = deps.clock.nowMs()
  }

  /** Throws the reason of the signal, MESH0503 for a full disk. */
  async run(): Promise<SwarmEnd> {
    const { signal } = this.#options
    const onAbort = (): void => this.#ended.reject(signal.reason)
    signal.addEventListener('abort', onAbort, { once: true })
    using stack = new DisposableStack()
    // Chunks with the same bytes come together.
    const onChunk = (chunk: number): unknown =>
      this.#swarm.core.got(chunk, this.#writing.get(chunk) ?? '')
    stack.use(this.#partial.onChunk(onChunk))
    stack.use(this.#swarm.seek(this))
    try {
      if (signal.aborted) onAbort()
      this.#watch()
      void this.#findPeers(PEERS_FIRST_MS)
      void this.#open()
      return await this.#ended.promise
    } finally {
      signal.removeEventListener('abort', onAbort)
      this.#timer?.cancel()
      this.#peersTimer?.cancel()
      this.#leaving.abort(new Error('the swarm is done'))
    }
  }

  /** To be called when the whole is right: so was the list, and who sent other chunks lied. */
  blame(): void {
    const { health, clock, log } = this.#deps
    for (const [neighbour, sources] of this.#liars) {
      for (const source of sources)
        health.note(source, 'wrong', clock.nowMs(), 'sent a wrong chunk')
      log.warn({ source: neighbour }, 'source sent wrong bytes and was banned')
    }
  }

  carry(effect: Parameters<Seeker['carry']>[0]): void {
    switch (effect.type) {
      case 'ask':
        void this.#ask(effect)
        return
      case 'cancel':
        this.#asks.get(effect.ask)?.abort(new Error('another one was faster'))
        return
      case 'drop':
        this.#sources.delete(effect.neighbour)
        this.#deps.log.debug({ source: effect.neighbour, why: effect.why }, 'neighbour was left')
        return
      case 'join':
        void this.#pending(this.#join(effect.to))
    }
  }

  look(): void {
    const { core } = this.#swarm
    if (core.have.isFull) this.#ended.resolve('done')
    else if (this.#liars.size >= LIARS_MAX) this.#ended.resolve('list is wrong')
    else if (this.#asks.size === 0 && core.supplierCount === 0 && this.#pendingCount === 0)
      void this.#open()
  }

  /** Counts what may still bring somebody to ask. */
  async #pending(work: Promise<unknown>): Promise<void> {
    this.#pendingCount++
    await work.finally(() => this.#pendingCount--)
    this.#swarm.step()
  }

  /** From time to time: is it enough what comes? */
  #watch(): void {
    this.#timer = this.#deps.clock.setTimer(LOOK_MS, () => {
      const nowMs = this.#deps.clock.nowMs()
      const idleMs = nowMs - Math.max(this.#progressAtMs, this.#openedAtMs)
      const patienceMs = this.#swarm.core.memberCount > 0 ? STALL_MS : HEDGE_MS
      let isSlow = false
      if (nowMs - this.#paceAtMs >= SLOW_AFTER_MS) {
        isSlow = this.#paceBytes * 1000 < SLOW_BYTES_PER_S * (nowMs - this.#paceAtMs)
        this.#paceAtMs = nowMs
        this.#paceBytes = 0
      }
      if (idleMs >= patienceMs || isSlow) void this.#open()
      if (nowMs - this.#progressAtMs >= STUCK_MS && this.#isExhausted)
        this.#ended.resolve('no sources')
      this.#watch()
    })
  }

  get #isExhausted(): boolean {
    return this.#reserve.length === 0 && this.#stages.length === 0 && !this.#isOpening
  }

  /** Takes the next sources in. At the end of all of them with nobody left, the swarm has failed. */
  async #open(): Promise<void> {
    if (this.#isOpening) return
    if (this.#isExhausted) {
      const { core, isJoining } = this.#swarm
      const isAlone = this.#asks.size === 0 && core.supplierCount === 0
      if (isAlone && !isJoining && this.#pendingCount === 0) this.#ended.resolve('no sources')
      return
    }
    this.#isOpening = true
    this.#openedAtMs = this.#deps.clock.nowMs()
    try {
      let taken = this.#takeIn()
      for (; taken === 0 && this.#stages.length > 0; taken = this.#takeIn()) {
        const [stage, ...rest] = this.#stages
        this.#stages = rest
        this.#reserve = this.#ordered((await stage?.()) ?? [])
      }
    } catch (error) {
      this.#ended.reject(error)
    } finally {
      this.#isOpening = false
    }
    this.#swarm.step()
  }

  #ordered(sources: readonly BlobSource[]): BlobSource[] {
    const { health, clock } = this.#deps
    const nowMs = clock.nowMs()
    const { first, last } = health.inOrder(sources, nowMs)
    return [...first, ...last].filter((source) => !health.isBanned(source, nowMs))
  }

  /** As many of the reserve as there is room for; gives how many. */
  #takeIn(): number {
    let taken = 0
    while (this.#sources.size < SOURCES_MAX) {
      const source = this.#reserve.shift()
      if (source === undefined) break
      const peer = this.#ordinary.has(source) ? undefined : this.#deps.peerOf(source)
      if (peer === undefined ? this.#takeSource(source) : this.#know(peer)) taken++
    }
    return taken
  }

  #takeSource(source: BlobSource): boolean {
    if (this.#sources.has(source.name) || this.#liars.has(source.name)) return false
    this.#sources.set(source.name, source)
    this.#swarm.core.addSource(source.name, this.#deps.clock.nowMs())
    return true
  }

  #know(peer: SwarmPeer): boolean {
    if (this.#peers.has(peer.peerId)) return false
    this.#peers.set(peer.peerId, peer)
    this.#swarm.core.know(peer.peerId)
    return true
  }

  async #findPeers(againAfterMs: number): Promise<void> {
    const { clock, findPeers, log } = this.#deps
    const find = async (): Promise<void> => {
      try {
        for (const peer of await findPeers(this.#partial.ref, { signal: this.#signal }))
          this.#know(peer)
      } catch (error) {
        if (!this.#signal.aborted) log.debug({ err: error }, 'peers could not be located')
      }
    }
    await this.#pending(find())
    if (this.#signal.aborted) return
    this.#peersTimer = clock.setTimer(againAfterMs, () => void this.#findPeers(PEERS_MS))
  }

  async #join(peerId: string): Promise<void> {
    const peer = this.#peers.get(peerId)
    const { core } = this.#swarm
    const { clock, log } = this.#deps
    try {
      const link = await peer?.link(this.#signal)
      const late = (): Error => new SourceError('stalled', `said nothing for ${STALL_MS / 1000} s`)
      const takesPart =
        link !== undefined && (await within(clock, link.supports(FEATURE_SWARM), STALL_MS, late))
      if (this.#signal.aborted) return
      if (takesPart) return this.#swarm.join(link)
      core.ban(peerId, clock.nowMs())
    } catch (error) {
      if (this.#signal.aborted) return
      log.debug({ err: error, peer: peerId }, 'peer could not be joined')
      core.refused(peerId, clock.nowMs())
    }
    // It speaks no swarm, or nothing but HTTP with us, or is slow today. Then it is needed only when the
    // others do not give enough: as an ordinary source it would send everything.
    const [source] = peer?.hasAll === true ? peer.sources : []
    if (source === undefined || this.#ordinary.has(source)) return
    this.#ordinary.add(source)
    this.#reserve.unshift(source)
    if (core.memberCount === 0) void this.#open()
  }

  async #ask({ to, ask, first, count }: Extract<SwarmEffect, { type: 'ask' }>): Promise<void> {
    const controller = new AbortController()
    this.#asks.set(ask, controller)
    const signal = AbortSignal.any([this.#signal, controller.signal])
    try {
      const outcome = await this.#fetchRun(to, { first, count }, signal)
      if (!signal.aborted) this.#swarm.core.ended(to, ask, outcome, this.#deps.clock.nowMs())
    } catch (error) {
      if (!signal.aborted) this.#ended.reject(error)
    } finally {
      this.#asks.delete(ask)
    }
    this.#swarm.step()
  }

  /** From the first of the neighbour's ways that works. Throws only what ends the whole fetch. */
  async #fetchRun(to: string, run: Run, signal: AbortSignal): Promise<AskOutcome> {
    const { health, clock, log } = this.#deps
    let outcome: AskOutcome = 'refused'
    for (const source of this.#waysTo(to)) {
      try {
        outcome = await this.#fetchFrom(source, to, run, signal)
        if (outcome === 'done') health.noteGood(source)
        return outcome
      } catch (error) {
        if (signal.aborted) return 'failed'
        if (error instanceof MeshError) throw error
        const { reason, message } = asSourceError(error)
        outcome = 'failed'
        if (error instanceof WrongChunk || reason === 'wrong') {
          this.#liars.set(to, [source, ...(this.#peers.get(to)?.sources ?? [])])
          this.#sources.delete(to)
          this.#swarm.ban(to)
          log.info({ source: source.name, err: error }, 'neighbour sent wrong bytes and was left')
          return outcome
        }
        health.note(source, reason, clock.nowMs(), message)
        log.debug({ source: source.name, err: error }, 'neighbour broke off')
      }
    }
    return outcome
  }

  #waysTo(id: string): BlobSource[] {
    const source = this.#sources.get(id)
    if (source !== undefined) return [source]
    const link = this.#swarm.linkOf(id)
    const sources = this.#swarm.core.showsAll(id) ? (this.#peers.get(id)?.sources ?? []) : []
    return link === undefined ? [...sources] : [...sources.slice(0, -1), link.source]
  }

  /** Takes chunk after chunk; what is checked and written meanwhile holds nothing up. */
  async #fetchFrom(
    source: BlobSource,
    to: string,
    run: Run,
    signal: AbortSignal,
  ): Promise<AskOutcome> {
    const { chunks } = this.#partial.list
    const last = chunks[run.first + run.count - 1]
    let chunk = run.first
    while (chunk < run.first + run.count - 1 && this.#partial.has(chunk)) chunk++
    const offsetBytes = chunks[chunk]?.offset
    if (last === undefined || offsetBytes === undefined) return 'done'
    const lengthBytes = last.offset + last.length - offsetBytes
    const bytes = await source.fetch(this.#partial.ref, { offsetBytes, lengthBytes, signal })
    if (bytes === undefined) return 'refused'
    const writes: Promise<void>[] = []
    try {
      for await (const [number, content] of this.#cut(bytes, chunk, { source, to })) {
        await this.#writeRoom.acquire(1, signal)
        const write = this.#write(number, content, to, signal)
        write.catch(() => undefined) // met below
        writes.push(write)
        chunk = number + 1
      }
    } catch (error) {
      // A wrong chunk says more than how the transfer ended.
      await Promise.allSettled(writes)
      await Promise.all(writes)
      throw error
    }
    await Promise.all(writes)
    if (chunk < run.first + run.count) throw new SourceError('failed', `ended in chunk ${chunk}`)
    return 'done'
  }

  /** The chunks that the bytes are, from the first on. Each is in a buffer that goes to whoever takes it. */
  async *#cut(
    bytes: AsyncIterable<Uint8Array>,
    first: number,
    { source, to }: { readonly source: BlobSource; readonly to: string },
  ): AsyncGenerator<[number, Buffer]> {
    const { chunks } = this.#partial.list
    let chunk = first
    let buffer = this.#newBuffer()
    let filledBytes = 0
    let sinceMs = this.#deps.clock.nowMs()
    try {
      for await (const piece of bytes) {
        const waitedMs = this.#deps.clock.nowMs() - sinceMs
        this.#deps.health.noteBytes(source, piece.byteLength, waitedMs)
        this.#noteBytes(source, to, piece.byteLength)
        for (let at = 0; at < piece.byteLength;) {
          const chunkBytes = chunks[chunk]?.length
          if (chunkBytes === undefined) throw new SourceError('wrong', 'sent more than asked for')
          const part = piece.subarray(at, at + chunkBytes - filledBytes)
          buffer.set(part, filledBytes)
          filledBytes += part.byteLength
          at += part.byteLength
          if (filledBytes < chunkBytes) continue
          const full = buffer.subarray(0, chunkBytes)
          buffer = this.#newBuffer()
          filledBytes = 0
          yield [chunk, full]
          chunk++
        }
        sinceMs = this.#deps.clock.nowMs()
      }
    } finally {
      this.#buffers.push(buffer)
    }
  }

  #newBuffer(): Buffer {
    return this.#buffers.pop() ?? Buffer.allocUnsafeSlow(CHUNK_BYTES_MAX)
  }

  #noteBytes(source: BlobSource, from: string, byteCount: number): void {
    const nowMs = this.#deps.clock.nowMs()
    this.#progressAtMs = nowMs
    this.#paceBytes += byteCount
    this.#swarm.core.progress(from, nowMs)
    this.#options.onBytes(source, byteCount)
  }

  /** Gives the room and the buffer back. */
  async #write(chunk: number, bytes: Buffer, from: string, signal: AbortSignal): Promise<void> {
    try {
      if (this.#partial.has(chunk)) return
      this.#writing.set(chunk, from)
      const isRight = await this.#partial.write(chunk, bytes)
      signal.throwIfAborted()
      if (!isRight) throw new WrongChunk(`chunk ${chunk} has other bytes than its name says`)
    } finally {
      this.#writing.delete(chunk)
      this.#writeRoom.release(1)
      this.#buffers.push(Buffer.from(bytes.buffer))
    }
    this.#swarm.core.got(chunk, from)
    this.#swarm.step()
  }
}

interface Run {
  readonly first: number
  readonly count: number
}

class WrongChunk extends Error {}
