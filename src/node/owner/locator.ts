/**
 * The owner's knowledge of who has what: answers `locate`, sends hints along with grants, brings peers
 * that cannot reach each other together through a store node, and makes requests detachable.
 */
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import { ProviderTable } from '../../gossip/provider-table.ts'
import type { Request } from '../../scheduler/model.ts'
import type { Scheduler } from '../../scheduler/scheduler.ts'
import type { Action } from '../../wire/action.ts'
import type { Digest } from '../../wire/digest.ts'
import type { ActionResult } from '../../wire/result.ts'
import { blobOf, type Entry } from '../../wire/tree.ts'
import type { Call, Done, Located, PeerRecord } from '../../wire/work-messages.ts'
import type { LocateQuery } from '../blobs/blobs.ts'

/** Store nodes that are named for a blob nobody is known to have. */
const GUESSES_MAX = 8
const PEERS_PER_LEASE_MAX = 256
/** How long one store node may take to get what two others need, before the next is tried. */
export const RELAY_MS = 60_000

export interface LocatorDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly scheduler: Scheduler
  readonly self: () => PeerRecord
  /** Calls a connected child, or this node itself. */
  readonly callDown: (
    peerId: string,
    call: Extract<Call, { method: 'pull' | 'push' }>,
    signal: AbortSignal,
  ) => Promise<Done>
}

export interface Hints {
  readonly hints: [Digest, number[]][]
  readonly peers: PeerRecord[]
}

export class Locator {
  readonly #deps: LocatorDeps
  readonly #table = new ProviderTable()

  constructor(deps: LocatorDeps) {
    this.#deps = deps
  }

  add(entry: Entry, peerId: string): void {
    const blob = blobOf(entry)
    if (blob !== undefined) this.#table.add(blob.digest, peerId, this.#deps.clock.nowMs())
  }

  addResult(result: ActionResult, peerId: string): void {
    for (const entry of Object.values(result.outputs)) this.add(entry, peerId)
    this.#table.add(result.log.digest, peerId, this.#deps.clock.nowMs())
  }

  /** The sources of a request are at the node that was asked. */
  addSources(request: Request): void {
    for (const entry of sourcesOf(request)) this.add(entry, request.wire.entry.peerId)
  }

  /** What an action's worker should ask first. */
  hintsFor(action: Action): Hints {
    const peers: PeerRecord[] = []
    const indexes = new Map<string, number>()
    const hints: [Digest, number[]][] = []
    for (const [, entry] of action.inputs) {
      const blob = blobOf(entry)
      if (blob === undefined) continue
      const own = this.#indexesOf(blob.digest, peers, indexes)
      if (own.length > 0) hints.push([blob.digest, own])
    }
    return { hints, peers }
  }

  #indexesOf(digest: Digest, peers: PeerRecord[], indexes: Map<string, number>): number[] {
    const found: number[] = []
    for (const { peerId } of this.#table.of(digest)) {
      const record = this.#recordOf(peerId)
      if (record === undefined) continue
      let index = indexes.get(peerId)
      if (index === undefined) {
        if (peers.length >= PEERS_PER_LEASE_MAX) continue
        index = peers.push(record) - 1
        indexes.set(peerId, index)
      }
      found.push(index)
    }
    return found
  }

  #recordOf(peerId: string): PeerRecord | undefined {
    if (peerId === this.#deps.self().peerId) return this.#deps.self()
    const node = this.#deps.scheduler.nodes.get(peerId)
    return node?.connected === true ? node.record : undefined
  }

  #stores(except: ReadonlySet<string>): PeerRecord[] {
    const stores: PeerRecord[] = []
    for (const node of this.#deps.scheduler.nodes.values())
      if (node.connected && node.record.roles.includes('store') && !except.has(node.peerId))
        stores.push(node.record)
    return stores
  }

  /** Answers `asker`. With `entries` the providers could not be used: a store node gets them first. */
  async locate(query: LocateQuery, asker: string, signal: AbortSignal): Promise<Located> {
    const peers: PeerRecord[] = []
    const indexes = new Map<string, number>()
    const providers: [Digest, number[]][] = []
    if (query.entries.length > 0) {
      const store = await this.#relay(query, asker, signal)
      return { peers: store === undefined ? [] : [store], providers: [] }
    }
    for (const { digest } of query.refs) {
      const found = this.#indexesOf(digest, peers, indexes)
      if (found.length > 0) {
        providers.push([digest, found])
        continue
      }
      // A blob inside a tree is in no table; a store node may have it all the same.
      const guesses: number[] = []
      for (const store of this.#stores(new Set([asker])).slice(0, GUESSES_MAX)) {
        let index = indexes.get(store.peerId)
        if (index === undefined) {
          index = peers.push(store) - 1
          indexes.set(store.peerId, index)
        }
        guesses.push(index)
      }
      if (guesses.length > 0) providers.push([digest, guesses])
    }
    return { peers, providers }
  }

  /** Gets the entries to a store node that the asker can use; undefined when no way is found. */
  async #relay(
    query: LocateQuery,
    asker: string,
    signal: AbortSignal,
  ): Promise<PeerRecord | undefined> {
    const providers = new Map<string, PeerRecord>()
    for (const entry of query.entries) {
      const blob = blobOf(entry)
      if (blob === undefined) continue
      for (const { peerId } of this.#table.of(blob.digest)) {
        const record = this.#recordOf(peerId)
        if (record !== undefined && peerId !== asker) providers.set(peerId, record)
      }
    }
    const { log } = this.#deps
    const entries = [...query.entries]
    for (const store of this.#stores(new Set([asker, ...query.failed]))) {
      const from = [...providers.values()].filter((record) => record.peerId !== store.peerId)
      // The store may reach a provider; else a provider may reach the store.
      const tries: [string, Extract<Call, { method: 'pull' | 'push' }>][] = [
        [store.peerId, { method: 'pull', entries, from }],
        ...from.map((record): [string, Extract<Call, { method: 'push' }>] => [
          record.peerId,
          { method: 'push', entries, to: store },
        ]),
      ]
      for (const [peerId, call] of tries) {
        try {
          const done = await this.#deps.callDown(peerId, call, signal)
          if (done.ok) {
            for (const entry of entries) this.add(entry, store.peerId)
            return store
          }
          log.debug(
            { peer: peerId, method: call.method, store: store.name, message: done.message },
            'relay was not possible',
          )
        } catch (error) {
          signal.throwIfAborted()
          log.debug({ err: error, peer: peerId }, 'relay failed')
        }
      }
    }
    return undefined
  }

  /**
   * Gets the sources of a request to a store node, so that its submitter may go. True once that is so,
   * false when no store node could get them now.
   */
  async makeDetachable(request: Request, signal: AbortSignal): Promise<boolean> {
    const sources = sourcesOf(request)
    const entry = request.wire.entry.peerId
    if (sources.length === 0 || this.#recordOf(entry)?.roles.includes('store') === true) return true
    const from = this.#recordOf(entry)
    if (from === undefined) return false
    const problems: string[] = []
    for (const store of this.#stores(new Set([entry]))) {
      const tries: [string, Extract<Call, { method: 'pull' | 'push' }>][] = [
        [store.peerId, { method: 'pull', entries: sources, from: [from] }],
        [entry, { method: 'push', entries: sources, to: store }],
      ]
      for (const [peerId, call] of tries) {
        try {
          const done = await this.#deps.callDown(peerId, call, signal)
          if (done.ok) {
            for (const source of sources) this.add(source, store.peerId)
            return true
          }
          problems.push(done.message)
        } catch (error) {
          signal.throwIfAborted()
          problems.push(messageOf(error))
        }
      }
    }
    this.#deps.log.debug({ request: request.wire.id, problems }, 'sources are at no store node yet')
    return false
  }
}

/** What the submitter alone has at first: the entries that the graph names, without duplicates. */
function sourcesOf(request: Request): Entry[] {
  const sources = new Map<Digest, Entry>()
  for (const { derivation } of request.steps.values())
    for (const inputs of [
      derivation.inputs,
      ...derivation.variants.map((variant) => variant.inputs),
    ])
      for (const input of Object.values(inputs)) {
        if (input.kind !== 'entry') continue
        const blob = blobOf(input.entry)
        if (blob !== undefined) sources.set(blob.digest, input.entry)
      }
  return [...sources.values()]
}
