/**
 * Lease sets: what the owner wants kept, one set per node that has some of it. Inputs of running and ready
 * jobs come first, then what unfinished requests have made, then what done ones asked for until it is
 * replicated, then builds that were found to differ, for those who compare them.
 *
 * A set is sent as changes to what the node last took, and renewed by its digest; a node that has another
 * set, since it was restarted, gets all of it anew. Leases save work: what goes all the same is built again.
 */
import type { Logger } from 'pino'
import { deadline, type Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { mapLimited } from '../../files/map-limited.ts'
import type { State } from '../../scheduler/state.ts'
import { entriesOf } from '../../wire/derivation.ts'
import { SetDigest } from '../../wire/set-digest.ts'
import type { Digest } from '../../wire/digest.ts'
import { blobOf, type Entry } from '../../wire/tree.ts'
import { KEEP_CHANGES_MAX, type Call, type Done } from '../../wire/work-messages.ts'

/** How often the sets are made anew: what was used in the last hour is kept anyway. */
const REFRESH_MS = 20_000
/** How often a set that does not change is renewed; it lasts two hours. */
const RENEW_MS = 600_000
/** A node that hears nothing lets go of its set by itself after this. */
const LET_GO_MS = 2 * 3_600_000
/** Entries of all sets together; beyond it what comes last in the order above is left to chance. */
const ENTRIES_MAX = 65_536
/** Nodes that are asked to keep one entry. */
const KEEPERS_MAX = 2
const NODES_AT_ONCE = 16
const KEEP_ANSWER_MS = 15_000
/** Look-ups of providers in one turn of the event loop. */
const LOOKUPS_PER_TURN = 2_048

type Keep = Extract<Call, { method: 'keep' }>
type Kept = Keep['add'][number]

export interface LeaseSetsDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly state: State
  /** Who has it, those that are away left out. */
  readonly providersOf: (digest: Digest) => readonly string[]
  readonly call: (peerId: string, keep: Keep, signal: AbortSignal) => Promise<Done>
}

/** What a node took last. */
interface Sent {
  readonly kept: Map<Digest, Kept>
  readonly set: SetDigest
  renewedAtMs: number
  /** What it has is not known any more: it is given all of it anew, or nothing. */
  isLost?: boolean
}

export class LeaseSets {
  readonly #deps: LeaseSetsDeps
  readonly #sent = new Map<string, Sent>()
  #refreshing: Promise<void> | undefined
  #refreshedAtMs = Number.NEGATIVE_INFINITY

  constructor(deps: LeaseSetsDeps) {
    this.#deps = deps
  }

  /** Called often; does something when it is due. Never throws. */
  beat(signal: AbortSignal): void {
    if (this.#refreshing !== undefined) return
    if (this.#deps.clock.nowMs() - this.#refreshedAtMs < REFRESH_MS) return
    this.#refreshing = this.refresh(signal)
      .catch((error: unknown) => {
        if (!signal.aborted) this.#deps.log.warn({ err: error }, 'lease sets were not sent')
      })
      .finally(() => {
        this.#refreshing = undefined
      })
  }

  /** Sends each node what has changed. */
  async refresh(signal: AbortSignal): Promise<void> {
    this.#refreshedAtMs = this.#deps.clock.nowMs()
    const wanted = await this.#wanted()
    for (const peerId of this.#sent.keys())
      if (!wanted.has(peerId)) wanted.set(peerId, new Map<Digest, Kept>())
    await mapLimited([...wanted], NODES_AT_ONCE, async ([peerId, kept]) => {
      const before = this.#sent.get(peerId)
      try {
        await this.#send(peerId, kept, signal)
      } catch (error) {
        signal.throwIfAborted()
        // What it has is not known: it gets all of it next time, or is told that there is nothing.
        if (before === undefined || this.#hasLetGo(before)) this.#sent.delete(peerId)
        else this.#sent.set(peerId, { ...before, isLost: true })
        this.#deps.log.debug({ err: error, peer: peerId }, 'lease set was not sent')
      }
    })
  }

  #hasLetGo({ renewedAtMs }: Sent): boolean {
    return this.#deps.clock.nowMs() - renewedAtMs >= LET_GO_MS
  }

  async #wanted(): Promise<Map<string, Map<Digest, Kept>>> {
    const { state, providersOf } = this.#deps
    const wanted = new Map<string, Map<Digest, Kept>>()
    let entryCount = 0
    let lookupCount = 0
    for (const entry of neededEntries(state)) {
      const blob = blobOf(entry)
      if (blob === undefined || entry.kind === 'symlink') continue
      lookupCount += 1
      if (lookupCount % LOOKUPS_PER_TURN === 0) await nextTurn()
      for (const peerId of providersOf(blob.digest).slice(0, KEEPERS_MAX)) {
        const kept = wanted.get(peerId) ?? new Map<Digest, Kept>()
        wanted.set(peerId, kept)
        const isDir = entry.kind === 'dir' || kept.get(blob.digest)?.kind === 'dir'
        if (!kept.has(blob.digest)) entryCount += 1
        kept.set(blob.digest, { ...blob, kind: isDir ? 'dir' : 'file' })
      }
      if (entryCount >= ENTRIES_MAX || lookupCount >= ENTRIES_MAX) break
    }
    return wanted
  }

  async #send(
    peerId: string,
    wanted: ReadonlyMap<Digest, Kept>,
    signal: AbortSignal,
  ): Promise<void> {
    const { clock } = this.#deps
    const sent = this.#sent.get(peerId)
    if (sent !== undefined && sent.isLost !== true) {
      const { add, remove } = changeOf(sent.kept, wanted)
      const isDue = clock.nowMs() - sent.renewedAtMs >= RENEW_MS
      if (add.length === 0 && remove.length === 0 && !isDue) return
      if (await this.#change(peerId, sent, { add, remove }, signal)) {
        if (wanted.size === 0) this.#sent.delete(peerId)
        return
      }
    }
    const anew = { kept: new Map<Digest, Kept>(), set: new SetDigest(), renewedAtMs: clock.nowMs() }
    this.#sent.set(peerId, anew)
    const isTaken =
      (await this.#call(peerId, { method: 'keep', base: null, add: [], remove: [] }, signal)) &&
      (await this.#change(peerId, anew, { add: [...wanted.values()], remove: [] }, signal))
    if (!isTaken) this.#sent.delete(peerId)
  }

  /** In as many messages as it takes; false when the node has another set. Without changes it is renewed. */
  async #change(
    peerId: string,
    sent: Sent,
    { add, remove }: { readonly add: readonly Kept[]; readonly remove: readonly Digest[] },
    signal: AbortSignal,
  ): Promise<boolean> {
    const count = Math.max(1, Math.ceil(Math.max(add.length, remove.length) / KEEP_CHANGES_MAX))
    for (let at = 0; at < count * KEEP_CHANGES_MAX; at += KEEP_CHANGES_MAX) {
      const keep: Keep = {
        method: 'keep',
        base: sent.set.value.digest,
        add: add.slice(at, at + KEEP_CHANGES_MAX),
        remove: remove.slice(at, at + KEEP_CHANGES_MAX),
      }
      if (!(await this.#call(peerId, keep, signal))) return false
      for (const digest of keep.remove) if (sent.kept.delete(digest)) sent.set.exclude(digest)
      for (const kept of keep.add) {
        if (!sent.kept.has(kept.digest)) sent.set.include(kept.digest)
        sent.kept.set(kept.digest, kept)
      }
    }
    sent.renewedAtMs = this.#deps.clock.nowMs()
    return true
  }

  async #call(peerId: string, keep: Keep, signal: AbortSignal): Promise<boolean> {
    const limit = deadline(
      this.#deps.clock,
      KEEP_ANSWER_MS,
      () => new MeshError('MESH0505', 'the node did not say whether it keeps what is needed'),
      signal,
    )
    try {
      return (await this.#deps.call(peerId, keep, limit.signal)).ok
    } finally {
      limit.cancel()
    }
  }
}

function changeOf(
  before: ReadonlyMap<Digest, Kept>,
  after: ReadonlyMap<Digest, Kept>,
): { readonly add: Kept[]; readonly remove: Digest[] } {
  return {
    add: [...after.values()].filter(({ digest, kind }) => before.get(digest)?.kind !== kind),
    remove: [...before.keys()].filter((digest) => !after.has(digest)),
  }
}

/** What must not go, what is needed soonest first; one entry may come several times. */
export function* neededEntries(state: State): Generator<Entry> {
  for (const isRunning of [true, false])
    for (const jobs of state.openJobs.values())
      for (const { phase, resolved } of jobs)
        if ((phase === 'leased') === isRunning) yield* entriesOf(resolved)
  for (const { state: requestState, steps } of state.requests.values())
    if (requestState === 'active')
      for (const { outputs } of steps.values()) yield* Object.values(outputs ?? {})
  for (const { digest, size } of state.images.list()) yield { kind: 'dir', digest, size }
  for (const { state: requestState, steps } of [...state.finished].toReversed())
    if (requestState === 'done')
      for (const { isWanted, outputs, stores } of steps.values())
        if (isWanted && stores.size < 2) yield* Object.values(outputs ?? {})
  for (const { votes } of [...state.comparisons.divergences.values()].toReversed())
    for (const { outputs } of votes) yield* Object.values(outputs ?? {})
}

function nextTurn(): Promise<void> {
  return new Promise((resolve) => {
    setImmediate(resolve)
  })
}
