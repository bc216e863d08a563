/** Blobs that nobody had a moment ago: not asked for again at once, and ever more seldom. Pure. */
import type { Digest } from '../../wire/digest.ts'

/** How long a first "nobody has it" holds; doubled each time up to the longest. */
const ABSENT_MS = 5_000
const ABSENT_MS_MAX = 60_000
/** Beyond it the one that was asked for longest ago is forgotten. */
const ABSENCES_MAX = 100_000

export class Absences {
  readonly #absent = new Map<Digest, { readonly untilMs: number; readonly forMs: number }>()

  has(digest: Digest, nowMs: number): boolean {
    return (this.#absent.get(digest)?.untilMs ?? 0) > nowMs
  }

  add(digest: Digest, nowMs: number): void {
    const before = this.#absent.get(digest)
    const forMs = before === undefined ? ABSENT_MS : Math.min(2 * before.forMs, ABSENT_MS_MAX)
    this.#absent.delete(digest)
    this.#absent.set(digest, { untilMs: nowMs + forMs, forMs })
    if (this.#absent.size <= ABSENCES_MAX) return
    const [oldest] = this.#absent.keys()
    if (oldest !== undefined) this.#absent.delete(oldest)
  }

  delete(digest: Digest): void {
    this.#absent.delete(digest)
  }

  get count(): number {
    return this.#absent.size
  }
}
