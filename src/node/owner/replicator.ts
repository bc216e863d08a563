/**
 * Carries out what the scheduler wants done about blobs: brings outputs to a store node, and asks those who
 * should have an input whether they do. Each ends in an event, whatever happens.
 */
import type { Logger } from 'pino'
import { deadline, type Clock } from '../../base/clock.ts'
import { MeshError, messageOf } from '../../base/errors.ts'
import { mapLimited } from '../../files/map-limited.ts'
import type { Ask, Copy, Event } from '../../scheduler/events.ts'
import type { Digest } from '../../wire/digest.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import { blobOf, type Entry } from '../../wire/tree.ts'
import { CHECK_ENTRIES_MAX, type Checked } from '../../wire/work-messages.ts'
import { carry, type CallCarrier } from './carry.ts'

/** A copy that takes longer is given up, and begun anew: what has come is there already. */
const COPY_MS = 600_000
/** Nodes hash what they are asked about. One that takes longer counts as not having it. */
const CHECK_MS = 60_000
const CHECKS_AT_ONCE = 8

export interface ReplicatorDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly apply: (event: Event) => void
  /** The record of a peer that is connected, or of this node. */
  readonly recordOf: (peerId: string) => PeerRecord | undefined
  readonly providersOf: (digest: Digest) => readonly string[]
  /** The peer has the entry now. */
  readonly onCopied: (entry: Entry, peerId: string) => void
  readonly carry: CallCarrier
  readonly check: (
    peerId: string,
    entries: readonly Entry[],
    signal: AbortSignal,
  ) => Promise<Checked>
}

export class Replicator implements Disposable {
  readonly #deps: ReplicatorDeps
  readonly #lifetime = new AbortController()

  constructor(deps: ReplicatorDeps) {
    this.#deps = deps
  }

  copy(copy: Copy): void {
    void this.#copy(copy).then((message) => {
      if (this.#lifetime.signal.aborted) return
      const { id, entries, to } = copy
      if (message === undefined) for (const entry of entries) this.#deps.onCopied(entry, to)
      this.#deps.apply({
        type: 'copied',
        copy: id,
        ok: message === undefined,
        message: (message ?? '').slice(0, 1024),
      })
    })
  }

  /** Why it could not be done; undefined when it is. */
  async #copy({ entries, from, to }: Copy): Promise<string | undefined> {
    const { clock, recordOf, providersOf, log } = this.#deps
    const store = recordOf(to)
    if (store === undefined) return 'it is not connected'
    const peerIds = new Set(from)
    for (const entry of entries) {
      const blob = blobOf(entry)
      for (const peerId of blob === undefined ? [] : providersOf(blob.digest)) peerIds.add(peerId)
    }
    const providers = [...peerIds].flatMap((peerId) => recordOf(peerId) ?? [])
    const limit = deadline(
      clock,
      COPY_MS,
      () => new MeshError('MESH0505', `not copied within ${COPY_MS / 60_000} min`),
      this.#lifetime.signal,
    )
    try {
      const { bytes, problems } = await carry(
        this.#deps.carry,
        { entries, providers, store },
        limit.signal,
      )
      if (bytes !== undefined) return undefined
      log.debug({ store: store.name, problems }, 'outputs were not copied')
      return problems.join('; ')
    } catch (error) {
      return messageOf(error)
    } finally {
      limit.cancel()
    }
  }

  check(attempt: string, asks: readonly Ask[]): void {
    void this.#check(asks).then((held) => {
      if (!this.#lifetime.signal.aborted) this.#deps.apply({ type: 'checked', attempt, held })
    })
  }

  async #check(asks: readonly Ask[]): Promise<ReadonlyMap<Digest, readonly string[]>> {
    const byPeer = new Map<string, Entry[]>()
    for (const { entry, peers } of asks)
      for (const peerId of peers) {
        const entries = byPeer.get(peerId) ?? []
        if (entries.length < CHECK_ENTRIES_MAX) byPeer.set(peerId, [...entries, entry])
      }
    const held = new Map<Digest, string[]>()
    const limit = deadline(
      this.#deps.clock,
      CHECK_MS,
      () => new MeshError('MESH0505', `no answer within ${CHECK_MS / 1000} s`),
      this.#lifetime.signal,
    )
    try {
      await mapLimited([...byPeer], CHECKS_AT_ONCE, async ([peerId, entries]) => {
        try {
          const checked = await this.#deps.check(peerId, entries, limit.signal)
          for (const digest of checked.held) held.set(digest, [...(held.get(digest) ?? []), peerId])
        } catch (error) {
          // Who does not answer does not have it: it is built again, or waited for.
          this.#deps.log.debug({ err: error, peer: peerId }, 'blobs could not be checked')
        }
      })
    } finally {
      limit.cancel()
    }
    return held
  }

  [Symbol.dispose](): void {
    this.#lifetime.abort(new MeshError('MESH0108', 'the node is stopping'))
  }
}
