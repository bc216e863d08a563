/**
 * Keeps the named images of an owner on store nodes: two of them for each image, chosen by rendezvous
 * hashing so that they stay the same, each of which pins the tree and fetches it from whoever has it.
 *
 * Level-triggered: each round compares what should be with what is known to be, and a node is always told
 * the whole set. So a restart of the owner, of a store node, or a lost answer need no case of their own.
 */
import type { Logger } from 'pino'
import { deadline, type Clock } from '../../base/clock.ts'
import { MeshError, messageOf } from '../../base/errors.ts'
import { mapLimited } from '../../files/map-limited.ts'
import type { Images } from '../../scheduler/images.ts'
import { sha256, type Digest } from '../../wire/digest.ts'
import type { NamedImage } from '../../wire/images.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import type { Entry } from '../../wire/tree.ts'
import type { Call, Done } from '../../wire/work-messages.ts'
import { carry, type CallCarrier } from '../owner/carry.ts'

/** Store nodes that keep each image. */
const KEEPERS_MAX = 2
/** How often it is looked whether all is where it should be. */
const ROUND_MS = 60_000
/** After a failure, the next try. */
const AGAIN_MS = 10_000
/** A copy that takes longer is given up, and begun anew: what has come is there already. */
const COPY_MS = 1_800_000
/** Each so many rounds all are told again what they were told, in case somebody took a pin away. */
const TELL_ROUNDS = 10
const HOLD_MS = 15_000
const COPIES_AT_ONCE = 2

type Hold = Extract<Call, { method: 'images' }>

export interface ImageKeeperDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly images: Pick<Images, 'list'>
  /** Peer id of this node. */
  readonly selfId: string
  /** Store nodes that are there. */
  readonly stores: () => readonly PeerRecord[]
  readonly recordOf: (peerId: string) => PeerRecord | undefined
  readonly providersOf: (digest: Digest) => readonly string[]
  /** The peer has the image now. */
  readonly onKept: (entry: Entry, peerId: string) => void
  readonly carry: CallCarrier
  readonly hold: (peerId: string, hold: Hold, signal: AbortSignal) => Promise<Done>
}

export class ImageKeeper {
  readonly #deps: ImageKeeperDeps
  /** By digest: peer ids of those that have it whole and pinned. */
  readonly #kept = new Map<Digest, Set<string>>()
  readonly #problems = new Map<Digest, string>()
  /** By peer id: what it was told last, and took. */
  readonly #told = new Map<string, string>()
  #roundCount = 0
  #round: Promise<void> | undefined
  #dueAtMs = Number.NEGATIVE_INFINITY
  /** Something changed since the round began. */
  #isStale = false

  constructor(deps: ImageKeeperDeps) {
    this.#deps = deps
  }

  /** Names of the nodes that keep it, and what is in the way where there is none. */
  of(digest: Digest): { readonly stores: readonly string[]; readonly problem: string | undefined } {
    const stores = [...(this.#kept.get(digest) ?? [])].flatMap(
      (peerId) => this.#deps.recordOf(peerId)?.name ?? [],
    )
    const problem = this.#problems.get(digest)
    if (stores.length > 0) return { stores, problem: undefined }
    if (this.#deps.stores().length === 0)
      return { stores, problem: 'no node with the role "store" is connected' }
    return { stores, problem }
  }

  /** The names have changed. */
  changed(signal: AbortSignal): void {
    this.#isStale = true
    this.#dueAtMs = Number.NEGATIVE_INFINITY
    this.beat(signal)
  }

  /** Called often; does something when it is due. Never throws. */
  beat(signal: AbortSignal): void {
    const { clock, log } = this.#deps
    if (this.#round !== undefined || clock.nowMs() < this.#dueAtMs || signal.aborted) return
    this.#dueAtMs = clock.nowMs() + ROUND_MS
    this.#isStale = false
    this.#round = this.round(signal)
      .catch((error: unknown) => {
        this.#dueAtMs = clock.nowMs() + AGAIN_MS
        if (!signal.aborted) log.warn({ err: error }, 'images were not looked after')
      })
      .finally(() => {
        this.#round = undefined
        if (this.#isStale) this.beat(signal)
      })
  }

  /** One comparison of what should be with what is. */
  async round(signal: AbortSignal): Promise<void> {
    const images = this.#deps.images.list()
    const stores = this.#deps.stores()
    if (this.#roundCount++ % TELL_ROUNDS === 0) this.#told.clear()
    this.#forget(images, stores)
    const assigned = new Map<string, NamedImage[]>(stores.map(({ peerId }) => [peerId, []]))
    for (const image of images)
      for (const { peerId } of keepersOf(image.digest, stores)) assigned.get(peerId)?.push(image)
    await mapLimited(stores, COPIES_AT_ONCE, (store) =>
      this.#supply(store, assigned.get(store.peerId) ?? [], signal),
    )
  }

  #forget(images: readonly NamedImage[], stores: readonly PeerRecord[]): void {
    const digests = new Set(images.map(({ digest }) => digest))
    const here = new Set(stores.map(({ peerId }) => peerId))
    for (const [digest, peers] of this.#kept) {
      if (!digests.has(digest)) this.#kept.delete(digest)
      // Who comes back is asked again: its store may have been replaced.
      for (const peerId of peers) if (!here.has(peerId)) peers.delete(peerId)
    }
    for (const peerId of this.#told.keys()) if (!here.has(peerId)) this.#told.delete(peerId)
    for (const digest of this.#problems.keys())
      if (!digests.has(digest)) this.#problems.delete(digest)
  }

  async #supply(
    store: PeerRecord,
    images: readonly NamedImage[],
    signal: AbortSignal,
  ): Promise<void> {
    const { log, selfId } = this.#deps
    const hold: Hold = {
      method: 'images',
      owner: selfId,
      images: images.map(({ name, digest, size }) => ({ name, digest, size })),
    }
    const told = images.map(({ name, digest }) => `${name} ${digest}`).join()
    try {
      if (this.#told.get(store.peerId) !== told) await this.#tell(store, hold, signal)
      this.#told.set(store.peerId, told)
    } catch (error) {
      signal.throwIfAborted()
      this.#failed(images, `${store.name} does not keep it: ${messageOf(error)}`)
      return
    }
    for (const image of images) {
      if (this.#kept.get(image.digest)?.has(store.peerId) === true) continue
      try {
        await this.#within(COPY_MS, signal, (limit) => this.#copy(image, store, limit))
      } catch (error) {
        signal.throwIfAborted()
        this.#failed([image], messageOf(error))
        continue
      }
      const peers = this.#kept.get(image.digest) ?? new Set()
      this.#kept.set(image.digest, peers.add(store.peerId))
      this.#problems.delete(image.digest)
      this.#deps.onKept(entryOf(image), store.peerId)
      log.info({ image: image.name, peer: store.peerId, node: store.name }, 'image is kept')
    }
  }

  async #tell(store: PeerRecord, hold: Hold, signal: AbortSignal): Promise<void> {
    const { ok, message } = await this.#within(HOLD_MS, signal, (limit) =>
      this.#deps.hold(store.peerId, hold, limit),
    )
    if (!ok) throw new MeshError('MESH0505', message)
  }

  async #copy(image: NamedImage, store: PeerRecord, signal: AbortSignal): Promise<void> {
    const { recordOf, providersOf } = this.#deps
    const peerIds = new Set([image.from.peerId, ...providersOf(image.digest)])
    const providers = [...peerIds].flatMap((peerId) => recordOf(peerId) ?? [])
    const entries = [entryOf(image)]
    const { bytes, problems } = await carry(this.#deps.carry, { entries, providers, store }, signal)
    if (bytes === undefined)
      throw new MeshError('MESH0501', `not copied to ${store.name}: ${problems.join('; ')}`)
  }

  #failed(images: readonly NamedImage[], problem: string): void {
    this.#dueAtMs = Math.min(this.#dueAtMs, this.#deps.clock.nowMs() + AGAIN_MS)
    for (const { name, digest } of images) {
      this.#problems.set(digest, problem.slice(0, 1024))
      this.#deps.log.debug({ image: name, problem }, 'image is not kept yet')
    }
  }

  async #within<T>(
    ms: number,
    signal: AbortSignal,
    work: (limit: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const limit = deadline(
      this.#deps.clock,
      ms,
      () => new MeshError('MESH0505', `no answer within ${ms / 1000} s`),
      signal,
    )
    try {
      return await work(limit.signal)
    } finally {
      limit.cancel()
    }
  }
}

const entryOf = ({ digest, size }: NamedImage): Entry => ({ kind: 'dir', digest, size })

/** Those with the highest hash of peer and digest: a node that comes or goes moves only what it gets or had. */
function keepersOf(digest: Digest, stores: readonly PeerRecord[]): PeerRecord[] {
  return stores
    .map((store) => ({ store, rank: sha256(Buffer.from(`${store.peerId}/${digest}`)) }))
    .toSorted((a, b) => (a.rank < b.rank ? 1 : -1))
    .slice(0, KEEPERS_MAX)
    .map(({ store }) => store)
}
