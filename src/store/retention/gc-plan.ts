/**
 * What garbage collection will do, as a pure function of what is in the store.
 *
 * A pass over the index sorts each blob into a class and adds it to a tally, which keeps only sums: by
 * class, and by the time of last use. From the tally the plan follows: which classes may go, and up to which
 * last use. A second pass then removes what the plan says, so nothing is ever sorted or held by the million.
 */

/** Why a blob stays, strongest first; `idle` ones may always go. */
export type BlobClass = 'pinned' | 'leased' | 'recent' | 'idle'

/**
 * A blob used this lately may be in the hands of whoever made or asked for it: it never goes. Longer than
 * the resolution of last use.
 */
export const BUSY_MS = 2 * 60_000
/** A blob used this lately goes only for the disk's sake. */
export const RECENT_MS = 60 * 60_000

const MINUTE_MS = 60_000
const HOUR_MS = 60 * MINUTE_MS
const DAY_MS = 24 * HOUR_MS

export interface Amount {
  readonly count: number
  readonly bytes: number
}

export interface GcRules {
  /** In the time of use. */
  readonly nowMs: number
  readonly recentMs: number
  /** Whether recent blobs may go too, when the disk itself is full. */
  readonly takesRecent: boolean
}

export interface BlobFacts {
  readonly isPinned: boolean
  readonly isLeased: boolean
  readonly usedAtMs: number
}

export function classOf({ isPinned, isLeased, usedAtMs }: BlobFacts, rules: GcRules): BlobClass {
  if (isPinned) return 'pinned'
  if (isLeased) return 'leased'
  return rules.nowMs - usedAtMs < Math.max(rules.recentMs, BUSY_MS) ? 'recent' : 'idle'
}

export function mayGo(blobClass: BlobClass, usedAtMs: number, rules: GcRules): boolean {
  if (blobClass === 'idle') return true
  return blobClass === 'recent' && rules.takesRecent && rules.nowMs - usedAtMs >= BUSY_MS
}

/** Times of use are told apart to the minute, older ones to the hour: what is equal goes in any order. */
export function bucketOf(usedAtMs: number, nowMs: number): number {
  const stepMs = nowMs - usedAtMs < DAY_MS ? MINUTE_MS : HOUR_MS
  return Math.floor(usedAtMs / stepMs) * stepMs
}

/** Sums over the blobs of a store. */
export class Tally {
  readonly amounts: Record<BlobClass, Amount> = {
    pinned: NONE,
    leased: NONE,
    recent: NONE,
    idle: NONE,
  }
  /** By bucket of last use: those that may go. */
  readonly ages = new Map<number, Amount>()
  readonly rules: GcRules

  constructor(rules: GcRules) {
    this.rules = rules
  }

  add(blobClass: BlobClass, sizeBytes: number, usedAtMs: number): void {
    const blob = { count: 1, bytes: sizeBytes }
    this.amounts[blobClass] = plus(this.amounts[blobClass], blob)
    if (!mayGo(blobClass, usedAtMs, this.rules)) return
    const bucket = bucketOf(usedAtMs, this.rules.nowMs)
    this.ages.set(bucket, plus(this.ages.get(bucket) ?? NONE, blob))
  }
}

export interface GcPlan {
  readonly rules: GcRules
  /** About how much goes: the number of blobs is estimated where only a part of a bucket goes. */
  readonly evict: Amount
  /** Of what may go, all that was used in an earlier bucket goes. */
  readonly allBeforeMs: number
  /** And of the bucket that begins there this much. */
  readonly partBytes: number
  /** All that is in the store, by the reason why it may or may not go. */
  readonly classes: Readonly<Record<BlobClass, Amount>>
  /** How much less than was asked for can be freed. */
  readonly shortBytes: number
}

/** The least recently used go first, and no more of them than needed. `freeBytes` may be infinite. */
export function planGc({ ages, amounts, rules }: Tally, freeBytes: number): GcPlan {
  let evict = NONE
  for (const [bucketMs, amount] of [...ages].toSorted(([a], [b]) => a - b)) {
    const partBytes = freeBytes - evict.bytes
    if (partBytes <= amount.bytes) {
      const part = partOf(amount, partBytes)
      evict = plus(evict, part)
      return { rules, evict, allBeforeMs: bucketMs, partBytes, classes: amounts, shortBytes: 0 }
    }
    evict = plus(evict, amount)
  }
  const shortBytes = freeBytes === Infinity ? 0 : Math.max(0, freeBytes - evict.bytes)
  return { rules, evict, allBeforeMs: Infinity, partBytes: 0, classes: amounts, shortBytes }
}

const NONE: Amount = { count: 0, bytes: 0 }
const plus = (a: Amount, b: Amount): Amount => ({
  count: a.count + b.count,
  bytes: a.bytes + b.bytes,
})

function partOf({ count, bytes }: Amount, partBytes: number): Amount {
  if (partBytes <= 0) return NONE
  return { count: Math.ceil((count * partBytes) / bytes), bytes: partBytes }
}
