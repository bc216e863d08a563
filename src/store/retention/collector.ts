/**
 * Garbage collection: two passes over the index, one to plan and one to remove.
 *
 * What is pinned or leased is marked first, directories with all that is in them; what is added to either
 * meanwhile is marked before the next batch goes. A blob is looked at once more in the turn in which it
 * goes. Other work gets its turn between batches of a thousand.
 */
import type { Logger } from 'pino'
import type { Digest } from '../../wire/digest.ts'
import type { BlobIndex } from '../blob-index.ts'
import type { BlobRecord } from '../blob-record.ts'
import {
  bucketOf,
  classOf,
  mayGo,
  planGc,
  Tally,
  type Amount,
  type BlobClass,
  type GcPlan,
  type GcRules,
} from './gc-plan.ts'
import type { KeptEntry } from './kept.ts'
import type { Leases } from './leases.ts'
import { Marker, type ReadBlob } from './marks.ts'
import type { Pins } from './pins.ts'

/** One look-up, rename and listener call each: few enough that readers do not notice. */
const EVICT_BATCH = 256

export interface GcRequest {
  readonly freeBytes: number
  readonly takesRecent: boolean
  readonly isDryRun?: boolean
}

export interface GcReport extends GcPlan {
  readonly evicted: Amount
}

interface Marking {
  readonly pinned: Marker
  readonly leased: Marker
}

export interface CollectorDeps {
  readonly log: Logger
  readonly index: BlobIndex
  readonly pins: Pins
  readonly leases: Leases
  readonly useTimeMs: () => number
  readonly read: ReadBlob
  /** Takes them out of the index at once, in the turn of the call. */
  readonly remove: (digests: readonly Digest[]) => Promise<void>
}

export class Collector {
  readonly #deps: CollectorDeps
  readonly #recentMs: number
  #marking: Marking | undefined
  /** Kept since the marking began, and not yet marked. */
  #added: { readonly entry: KeptEntry; readonly as: 'pinned' | 'leased' }[] = []

  constructor(deps: CollectorDeps, options: { readonly recentMs: number }) {
    this.#deps = deps
    this.#recentMs = options.recentMs
  }

  /** To be told of every pin and lease. */
  added(as: 'pinned' | 'leased', entry: KeptEntry): void {
    if (this.#marking !== undefined) this.#added.push({ entry, as })
  }

  /** One at a time. */
  async collect(request: GcRequest, signal: AbortSignal): Promise<GcReport> {
    const { index, log, useTimeMs } = this.#deps
    const rules = { nowMs: useTimeMs(), recentMs: this.#recentMs, takesRecent: request.takesRecent }
    const marking = await this.#mark()
    try {
      const tally = new Tally(rules)
      for await (const batch of index.scan()) {
        signal.throwIfAborted()
        for (const [digest, record] of batch)
          tally.add(this.#classOf(digest, record, rules), record.sizeBytes, record.usedAtMs)
      }
      const plan = planGc(tally, request.freeBytes)
      const evicted =
        request.isDryRun === true || plan.evict.count === 0
          ? { count: 0, bytes: 0 }
          : await this.#evict(plan, signal)
      log[request.isDryRun === true ? 'debug' : 'info'](
        {
          evictedCount: evicted.count,
          evictedBytes: evicted.bytes,
          shortBytes: plan.shortBytes,
          markedCount: marking.pinned.marks.count + marking.leased.marks.count,
        },
        'garbage collected',
      )
      return { ...plan, evicted }
    } finally {
      this.#marking = undefined
      this.#added = []
    }
  }

  async #mark(): Promise<Marking> {
    const { pins, leases, read } = this.#deps
    const marking = { pinned: new Marker({ read }), leased: new Marker({ read }) }
    this.#marking = marking
    for (const pin of pins.list()) await marking.pinned.mark(pin)
    // What is added during the walk is in #added as well.
    for (const entry of leases.entries()) await marking.leased.mark(entry)
    return marking
  }

  async #evict({ rules, allBeforeMs, partBytes }: GcPlan, signal: AbortSignal): Promise<Amount> {
    let evicted: Amount = { count: 0, bytes: 0 }
    let partLeftBytes = partBytes
    const removeBatch = async (candidates: readonly Digest[]): Promise<void> => {
      await this.#markAdded()
      const removed: Digest[] = []
      let { count, bytes } = evicted
      for (const digest of candidates) {
        const record = this.#deps.index.find(digest)
        if (record === undefined) continue
        const now = { ...rules, nowMs: this.#deps.useTimeMs() }
        if (!mayGo(this.#classOf(digest, record, now), record.usedAtMs, now)) continue
        removed.push(digest)
        count++
        bytes += record.sizeBytes
      }
      evicted = { count, bytes }
      await this.#deps.remove(removed)
    }
    let candidates: Digest[] = []
    for await (const batch of this.#deps.index.scan()) {
      signal.throwIfAborted()
      for (const [digest, record] of batch) {
        const bucketMs = bucketOf(record.usedAtMs, rules.nowMs)
        if (bucketMs > allBeforeMs || (bucketMs === allBeforeMs && partLeftBytes <= 0)) continue
        if (!mayGo(this.#classOf(digest, record, rules), record.usedAtMs, rules)) continue
        if (bucketMs === allBeforeMs) partLeftBytes -= record.sizeBytes
        candidates.push(digest)
        if (candidates.length < EVICT_BATCH) continue
        await removeBatch(candidates)
        candidates = []
      }
    }
    await removeBatch(candidates)
    return evicted
  }

  #classOf(digest: Digest, { usedAtMs }: BlobRecord, rules: GcRules): BlobClass {
    return classOf(
      {
        isPinned: this.#marking?.pinned.marks.has(digest) ?? true,
        isLeased: this.#marking?.leased.marks.has(digest) ?? true,
        usedAtMs,
      },
      rules,
    )
  }

  async #markAdded(): Promise<void> {
    // In rounds, since more may come during the walk.
    while (this.#marking !== undefined && this.#added.length > 0)
      for (const { entry, as } of this.#added.splice(0)) await this.#marking[as].mark(entry)
  }
}
