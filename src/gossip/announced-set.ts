/**
 * What one index node should know of this node, and what it is known to know: makes the announcements that
 * lead from one to the other, one at a time.
 *
 * An announcement that got no answer is sent again as it was, for it may have been taken in. An index node
 * that turns out to hold another set is told everything, newest first. Pure.
 */
import {
  ANNOUNCEMENT_ITEMS_MAX,
  type Announcement,
  type Fingerprint,
} from '../wire/announcement.ts'
import type { Digest } from '../wire/digest.ts'
import { isSameSet, SetDigest } from '../wire/set-digest.ts'

type Change = 'added' | 'gone'

export class AnnouncedSet {
  /** What should be announced, oldest first. */
  readonly #digests = new Set<Digest>()
  readonly #whole = new SetDigest()
  /** What leads from `#told` to the set. */
  #pending = new Map<Digest, Change>()
  /** The set after the last announcement that was made. */
  #told = new SetDigest()
  /** What the index node confirmed; null before it is told everything; undefined while that is not known. */
  #held: Fingerprint | null | undefined
  #unanswered: Announcement | undefined

  get size(): number {
    return this.#digests.size
  }
  /** Whether there is anything to say. */
  get hasNews(): boolean {
    return this.#unanswered !== undefined || this.#held === undefined || this.#pending.size > 0
  }

  has(digest: Digest): boolean {
    return this.#digests.has(digest)
  }

  add(digest: Digest): void {
    if (this.#digests.has(digest)) return
    this.#digests.add(digest)
    this.#whole.include(digest)
    this.#change(digest, 'added')
  }

  remove(digest: Digest): void {
    if (!this.#digests.delete(digest)) return
    this.#whole.exclude(digest)
    this.#change(digest, 'gone')
  }

  /** What takes back an unsent change is no change. */
  #change(digest: Digest, change: Change): void {
    const unsent = this.#pending.get(digest)
    if (unsent === undefined || unsent === change) this.#pending.set(digest, change)
    else this.#pending.delete(digest)
  }

  /** The announcement to send; a renewal when there is nothing to say. The same one until it is answered. */
  next(): Announcement {
    this.#unanswered ??= this.#held === undefined ? this.#question() : this.#step(this.#held)
    return this.#unanswered
  }

  /** Whether it holds all of the set already, as after a lost connection or a restart of this node. */
  #question(): Announcement {
    this.#pending = new Map()
    const whole = this.#whole.value
    return { from: whole, added: [], gone: [], to: whole }
  }

  #step(from: Fingerprint | null): Announcement {
    const added: Digest[] = []
    const gone: Digest[] = []
    for (const [digest, change] of this.#pending) {
      if (added.length + gone.length === ANNOUNCEMENT_ITEMS_MAX) break
      this.#pending.delete(digest)
      if (change === 'added') {
        added.push(digest)
        this.#told.include(digest)
      } else {
        gone.push(digest)
        this.#told.exclude(digest)
      }
    }
    return { from, added, gone, to: this.#told.value }
  }

  /**
   * Takes the answer to the last `next`. An index node that holds something else is told everything; false
   * when that was not to be expected, so that it is not done over and over without a pause.
   */
  answered(held: Fingerprint | null): boolean {
    const sent = this.#unanswered
    if (sent === undefined) return true
    const wasQuestion = this.#held === undefined
    this.#unanswered = undefined
    if (isSameSet(held, sent.to)) {
      this.#held = sent.to
      if (wasQuestion) this.#told = this.#setBefore()
      return true
    }
    this.#held = null
    this.#told = new SetDigest()
    this.#pending = new Map([...this.#digests].toReversed().map((digest) => [digest, 'added']))
    return wasQuestion
  }

  /** The set that a question was about: changes since then are pending. */
  #setBefore(): SetDigest {
    const set = new SetDigest()
    for (const digest of this.#digests) if (!this.#pending.has(digest)) set.include(digest)
    for (const [digest, change] of this.#pending) if (change === 'gone') set.include(digest)
    return set
  }
}
