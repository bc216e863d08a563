/**
 * Whom a node joins: of those it heard of, as many as it should ask, again later when they had no room.
 * It leaves room for those that come to it, else the first comers would know only each other. Pure.
 */

/** Members that a node seeks; it takes more that come (NEIGHBOURS_MAX). */
const SOUGHT_MAX = 12
/** Peers remembered for one swarm; beyond it, new ones are not. */
const KNOWN_MAX = 256
const RETRY_MS = 1_000
const RETRY_MS_MAX = 30_000

interface Acquaintance {
  state: 'idle' | 'joining'
  retryAtMs: number
  refusals: number
}

export class Acquaintances {
  readonly #known = new Map<string, Acquaintance>()

  /** Someone who may be in the swarm. The first ones are joined first. */
  know(id: string): void {
    if (!this.#known.has(id) && this.#known.size < KNOWN_MAX)
      this.#known.set(id, { state: 'idle', retryAtMs: 0, refusals: 0 })
  }

  /** It had no room, did not answer, or left. */
  refused(id: string, nowMs: number): void {
    const one = this.#known.get(id)
    if (one === undefined) return
    one.state = 'idle'
    one.retryAtMs = nowMs + Math.min(RETRY_MS_MAX, RETRY_MS * 2 ** one.refusals)
    one.refusals = Math.min(one.refusals + 1, 10)
  }

  taken(id: string): void {
    const one = this.#known.get(id)
    if (one !== undefined) one.state = 'idle'
  }

  /** It is never joined (again). */
  forbid(id: string): void {
    this.#known.set(id, { state: 'idle', retryAtMs: Infinity, refusals: 0 })
  }

  /** Whom to join now. Each then has to be taken, refused or forbidden. */
  next(isMember: (id: string) => boolean, memberCount: number, nowMs: number): string[] {
    let sought = memberCount
    for (const { state } of this.#known.values()) if (state === 'joining') sought++
    const join: string[] = []
    for (const [id, one] of this.#known) {
      if (sought >= SOUGHT_MAX) break
      if (one.state === 'joining' || one.retryAtMs > nowMs || isMember(id)) continue
      one.state = 'joining'
      join.push(id)
      sought++
    }
    return join
  }

  nextDeadlineMs(nowMs: number): number | undefined {
    let dueAtMs: number | undefined
    for (const { state, retryAtMs } of this.#known.values())
      if (state === 'idle' && retryAtMs > nowMs && retryAtMs < Infinity)
        dueAtMs = Math.min(dueAtMs ?? Infinity, retryAtMs)
    return dueAtMs
  }
}
