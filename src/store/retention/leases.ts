/**
 * What others asked to keep for a while, in memory: one set per holder, which ends by itself. A holder
 * sends changes, and renews its set by the set's digest; one whose set is lost here sends it whole again.
 *
 * Leases save work, they do not promise anything: a blob that went is fetched or built again.
 */
import type { Clock } from '../../base/clock.ts'
import type { Digest } from '../../wire/digest.ts'
import { SetDigest } from '../../wire/set-digest.ts'
import type { KeptEntry } from './kept.ts'

const HOLDERS_MAX = 4_096
/** Of all holders together, about 100 bytes each. */
const ENTRIES_MAX = 1_000_000

export interface LeaseChange {
  readonly add: readonly KeptEntry[]
  readonly remove: readonly Digest[]
}

interface Held {
  readonly entries: Map<Digest, KeptEntry['kind']>
  readonly set: SetDigest
  /** Monotonic; infinite for what this process itself is using. */
  endsAtMs: number
}

export class Leases {
  readonly #clock: Clock
  readonly #onAdded: (entry: KeptEntry) => void
  readonly #entriesMax: number
  readonly #held = new Map<string | symbol, Held>()
  #entryCount = 0

  constructor(
    deps: { readonly clock: Clock; readonly onAdded: (entry: KeptEntry) => void },
    options: { readonly entriesMax?: number } = {},
  ) {
    this.#clock = deps.clock
    this.#onAdded = deps.onAdded
    this.#entriesMax = options.entriesMax ?? ENTRIES_MAX
  }

  /** Replaces the holder's whole set. False, with nothing changed, when there is no room for it. */
  hold(holder: string, entries: readonly KeptEntry[], ttlMs: number): boolean {
    this.#expire()
    const held: Held = { entries: new Map(), set: new SetDigest(), endsAtMs: Infinity }
    const freedCount = this.#held.get(holder)?.entries.size ?? 0
    if (!this.#hasRoom(holder, entries.length - freedCount)) return false
    this.drop(holder)
    this.#held.set(holder, held)
    this.#add(held, entries)
    held.endsAtMs = this.#clock.nowMs() + ttlMs
    return true
  }

  /** Changes the set that the holder has, beginning with an empty one; like `hold` otherwise. */
  change(holder: string, change: LeaseChange, ttlMs: number): boolean {
    this.#expire()
    const held = this.#held.get(holder)
    if (held === undefined) return this.hold(holder, change.add, ttlMs)
    if (!this.#hasRoom(holder, change.add.length - change.remove.length)) return false
    for (const digest of change.remove) {
      if (!held.entries.delete(digest)) continue
      held.set.exclude(digest)
      this.#entryCount--
    }
    this.#add(held, change.add)
    held.endsAtMs = this.#clock.nowMs() + ttlMs
    return true
  }

  /** False when the holder's set here is another one, or has ended. */
  renew(holder: string, setDigest: Digest, ttlMs: number): boolean {
    this.#expire()
    const held = this.#held.get(holder)
    if (held === undefined || held.set.value.digest !== setDigest) return false
    held.endsAtMs = this.#clock.nowMs() + ttlMs
    return true
  }

  drop(holder: string | symbol): void {
    this.#entryCount -= this.#held.get(holder)?.entries.size ?? 0
    this.#held.delete(holder)
  }

  /** For as long as this process needs them: what a running fetch or build uses. Not bounded by time or number. */
  use(entries: readonly KeptEntry[]): Disposable {
    const holder = Symbol('use')
    const held: Held = { entries: new Map(), set: new SetDigest(), endsAtMs: Infinity }
    this.#held.set(holder, held)
    this.#add(held, entries)
    return { [Symbol.dispose]: () => this.drop(holder) }
  }

  /** All that is held now; one held twice comes twice. */
  *entries(): Generator<Pick<KeptEntry, 'digest' | 'kind'>> {
    this.#expire()
    for (const { entries } of this.#held.values())
      for (const [digest, kind] of entries) yield { digest, kind }
  }

  stats(): { readonly holderCount: number; readonly entryCount: number } {
    this.#expire()
    return { holderCount: this.#held.size, entryCount: this.#entryCount }
  }

  #add({ entries, set }: Held, added: readonly KeptEntry[]): void {
    for (const entry of added) {
      if (!entries.has(entry.digest)) {
        set.include(entry.digest)
        this.#entryCount++
      }
      // What is held as a directory anywhere is kept with all that is in it.
      if (entry.kind === 'dir' || !entries.has(entry.digest)) entries.set(entry.digest, entry.kind)
      this.#onAdded(entry)
    }
  }

  #hasRoom(holder: string, moreCount: number): boolean {
    return (
      this.#entryCount + moreCount <= this.#entriesMax &&
      (this.#held.has(holder) || this.#held.size < HOLDERS_MAX)
    )
  }

  #expire(): void {
    const nowMs = this.#clock.nowMs()
    for (const [holder, { endsAtMs }] of this.#held) if (endsAtMs <= nowMs) this.drop(holder)
  }
}
