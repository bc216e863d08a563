/**
 * Asks store nodes which of many blobs they have: one `have` of up to HAVE_ITEMS_MAX digests to each, all
 * stores at the same time. One that does not answer is named as a guess, and not asked again for a while.
 */
import type { Logger } from 'pino'
import { deadline, type Clock } from '../base/clock.ts'
import { MeshError } from '../base/errors.ts'
import { HAVE_ITEMS_MAX } from '../wire/cas-messages.ts'
import type { Digest } from '../wire/digest.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import { orAborted } from '../base/or-aborted.ts'

/** Store nodes that are asked in one search; more are named unasked. */
const STORES_ASKED_MAX = 8
const HAVE_MS = 1_000
/** How long a store node that did not answer is left alone. */
const SILENT_MS = 30_000
/** Silent ones that are remembered; beyond it the first is asked again. */
const SILENT_MAX = 256

interface StoreAskerDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly has: (
    store: PeerRecord,
    digests: readonly Digest[],
    signal: AbortSignal,
  ) => Promise<readonly boolean[]>
}

export class StoreAsker {
  readonly #deps: StoreAskerDeps
  readonly #lifetime: AbortSignal
  readonly #silentUntilMs = new Map<string, number>()
  /** Messages sent since the start. */
  haves = 0

  constructor(deps: StoreAskerDeps, lifetime: AbortSignal) {
    this.#deps = deps
    this.#lifetime = lifetime
  }

  /** For each digest those of its stores that have it, and those that did not say. Never rejects. */
  async ask(
    wanted: ReadonlyMap<Digest, { readonly stores: readonly PeerRecord[] }>,
  ): Promise<Map<Digest, { readonly have: PeerRecord[]; readonly perhaps: PeerRecord[] }>> {
    const answers = new Map(
      [...wanted.keys()].map((digest): [Digest, { have: PeerRecord[]; perhaps: PeerRecord[] }] => [
        digest,
        { have: [], perhaps: [] },
      ]),
    )
    const digestsOf = new Map<string, { readonly store: PeerRecord; readonly digests: Digest[] }>()
    for (const [digest, { stores }] of wanted)
      for (const store of stores) {
        const asked = digestsOf.get(store.peerId) ?? { store, digests: [] }
        digestsOf.set(store.peerId, asked)
        asked.digests.push(digest)
      }
    const asking = [...digestsOf.values()].map(async ({ store, digests }, at) => {
      for (let from = 0; from < digests.length; from += HAVE_ITEMS_MAX) {
        const some = digests.slice(from, from + HAVE_ITEMS_MAX)
        const has = at < STORES_ASKED_MAX ? await this.#askOne(store, some) : undefined
        for (const [index, digest] of some.entries()) {
          const answer = answers.get(digest)
          if (has === undefined) answer?.perhaps.push(store)
          else if (has[index] === true) answer?.have.push(store)
        }
      }
    })
    await Promise.all(asking)
    return answers
  }

  async #askOne(
    store: PeerRecord,
    digests: readonly Digest[],
  ): Promise<readonly boolean[] | undefined> {
    const { clock, log, has } = this.#deps
    if ((this.#silentUntilMs.get(store.peerId) ?? 0) > clock.nowMs()) return undefined
    const limit = deadline(
      clock,
      HAVE_MS,
      () => new MeshError('MESH0120', `no answer within ${HAVE_MS} ms`),
      this.#lifetime,
    )
    this.haves += 1
    try {
      return await orAborted(has(store, digests, limit.signal), limit.signal)
    } catch (error) {
      log.debug({ err: error, peer: store.peerId }, 'store did not say what it has')
      this.#silentUntilMs.delete(store.peerId)
      this.#silentUntilMs.set(store.peerId, clock.nowMs() + SILENT_MS)
      const [first] = this.#silentUntilMs.size > SILENT_MAX ? this.#silentUntilMs.keys() : []
      if (first !== undefined) this.#silentUntilMs.delete(first)
      return undefined
    } finally {
      limit.cancel()
    }
  }
}
