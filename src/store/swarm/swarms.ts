/**
 * The swarms of this node: those in which it fetches a big blob in parts from many, and those in which it
 * gives what it has to others that exchange a blob. Every CAS link brings its messages here.
 */
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import type { Random } from '../../base/random.ts'
import { encodeChunkList, type ChunkList } from '../../wire/chunk-list.ts'
import { sha256, type BlobRef, type Digest } from '../../wire/digest.ts'
import type { BlobStore } from '../blob-store.ts'
import type { SwarmDoor, SwarmLink, SwarmMessage } from '../cas/swarm-door.ts'
import type { PartialBlobs } from '../partial/partial-blobs.ts'
import { ChunkSet } from './chunk-set.ts'
import { Swarm } from './swarm.ts'
import {
  SwarmFetch,
  type SwarmEnd,
  type SwarmFetchDeps,
  type SwarmFetchOptions,
} from './swarm-fetch.ts'

/** Swarms at a time; peers that come for another blob are turned away, and come again. */
const SWARMS_MAX = 256

export interface SwarmsDeps extends SwarmFetchDeps {
  readonly clock: Clock
  readonly random: Random
  readonly log: Logger
  readonly store: Pick<BlobStore, 'sizeOf'>
  readonly partials: PartialBlobs
  /** Of a blob in the store. */
  readonly listOf: (digest: Digest) => Promise<ChunkList | undefined>
  /** Bytes of a blob that is not in the store yet were read for a peer. */
  readonly onServed: (byteCount: number) => void
}

export interface SwarmFetched {
  readonly end: SwarmEnd
  /** Bytes that were here: in other blobs, or of an earlier try. */
  readonly localBytes: number
}

export class Swarms implements SwarmDoor, Disposable {
  readonly #deps: SwarmsDeps
  readonly #swarms = new Map<Digest, Swarm>()
  /** Swarms that are being entered because somebody came. */
  readonly #entering = new Map<Digest, Promise<Swarm | undefined>>()

  constructor(deps: SwarmsDeps) {
    this.#deps = deps
  }

  get count(): number {
    return this.#swarms.size
  }

  /**
   * Brings the blob into the store, in chunks after `list`; with `done` it is there. What came stays for the
   * next time if it fails. Throws MESH0503 for a full disk.
   */
  async fetch(ref: BlobRef, list: ChunkList, options: SwarmFetchOptions): Promise<SwarmFetched> {
    const { partials, log } = this.#deps
    await using partial = await partials.open(ref, list)
    await partial.fillFromLocal()
    const have = ChunkSet.fromBytes(partial.list.chunks.length, new Uint8Array(partial.bitmap()))
    let localBytes = 0
    for (const chunk of have) localBytes += partial.list.chunks[chunk]?.length ?? 0
    options.signal.throwIfAborted()
    let fetch: SwarmFetch | undefined
    if (!have.isFull) {
      const swarm = this.#enter(partial.list, have)
      fetch = new SwarmFetch(this.#deps, { swarm, partial }, options)
      const end = await fetch.run()
      if (end !== 'done') return { end, localBytes }
    }
    try {
      await partial.finish()
    } catch (error) {
      this.#swarms.get(ref.digest)?.end()
      if (!(error instanceof MeshError) || error.code !== 'MESH0502') throw error
      log.warn({ err: error }, 'chunk list was wrong')
      return { end: 'list is wrong', localBytes }
    }
    fetch?.blame()
    // Meanwhile nothing could be read, and members may have taken it that nothing is here.
    this.#swarms.get(ref.digest)?.tellAll()
    return { end: 'done', localBytes }
  }

  #enter(list: ChunkList, have: ChunkSet): Swarm {
    // One that is left from when the blob was here: it has been evicted since.
    this.#swarms.get(list.digest)?.end()
    const swarm = new Swarm(this.#deps, {
      list,
      listDigest: sha256(encodeChunkList(list)),
      have,
      onIdle: () => {
        if (this.#swarms.get(list.digest) === swarm) this.#swarms.delete(list.digest)
      },
    })
    this.#swarms.set(list.digest, swarm)
    return swarm
  }

  receive(message: SwarmMessage, from: SwarmLink): void {
    const swarm = this.#swarms.get(message.digest)
    if (swarm !== undefined) swarm.receive(message, from)
    else if (message.type === 'join') void this.#welcome(message, from)
    else if (message.type === 'bits') from.tell({ type: 'leave', digest: message.digest })
  }

  /** Somebody wants to exchange a blob that is in the store. */
  async #welcome(message: Extract<SwarmMessage, { type: 'join' }>, from: SwarmLink): Promise<void> {
    const { digest, size } = message
    let entering = this.#entering.get(digest)
    entering ??= this.#enterAsSeed({ digest, size }).finally(() => this.#entering.delete(digest))
    this.#entering.set(digest, entering)
    const swarm = await entering
    try {
      if (swarm === undefined) from.tell({ type: 'leave', digest })
      else swarm.receive(message, from)
    } catch (error) {
      this.#deps.log.warn({ err: error, peer: from.peerId }, 'peer could not be taken into a swarm')
    }
  }

  async #enterAsSeed(ref: BlobRef): Promise<Swarm | undefined> {
    const { store, listOf, log } = this.#deps
    if (this.#swarms.size >= SWARMS_MAX) return undefined
    try {
      if ((await store.sizeOf(ref.digest)) !== ref.size) return undefined
      const list = await listOf(ref.digest)
      // It may be fetched since, or again.
      const swarm = this.#swarms.get(ref.digest)
      if (swarm !== undefined || list === undefined) return swarm
      return this.#enter(list, ChunkSet.full(list.chunks.length))
    } catch (error) {
      log.warn({ err: error, digest: ref.digest }, 'chunk list could not be read for a swarm')
      return undefined
    }
  }

  linkEnded(link: SwarmLink): void {
    for (const swarm of this.#swarms.values()) swarm.linkEnded(link)
  }

  mayGive(peerId: string, digest: Digest, offset: number, length: number): boolean {
    return this.#swarms.get(digest)?.mayGive(peerId, offset, length) ?? true
  }

  asked(peerId: string, digest: Digest, offset: number, length: number): void {
    this.#swarms.get(digest)?.asked(peerId, offset, length)
  }

  async read(digest: Digest, offset: number, length: number): Promise<Uint8Array | undefined> {
    const bytes = await this.#deps.partials.find(digest)?.read(offset, length)
    this.#deps.onServed(bytes?.byteLength ?? 0)
    return bytes
  }

  sent(peerId: string, digest: Digest, offset: number, length: number): void {
    this.#swarms.get(digest)?.sent(peerId, offset, length)
  }

  [Symbol.dispose](): void {
    for (const swarm of this.#swarms.values()) swarm.end()
  }
}
