/**
 * How much of the processors each user has had lately: processor time that decays by half every few hours.
 *
 * Part of the durable state: charged by `State.evolve` when an attempt ends, from the fact alone. Decay
 * goes by wall clock, one for all users, so that a clock that jumps scales everybody's usage alike and
 * turns nobody's place around; a clock that goes back merely stands still.
 */

/** Users whose usage is remembered; over it those with the least of it are forgotten. */
export const USERS_MAX = 10_000
/** Forgotten at once when there are too many, so that a flood of new ones is cheap. */
const FORGET_COUNT = 1_000
/** Less than this is nothing. */
const USAGE_MS_MIN = 1
/** The most that one attempt is charged: 4096 processors for the longest limit. */
const CHARGE_MS_MAX = 4096 * 30 * 24 * 3600 * 1000

export const HALF_LIFE_MS_DEFAULT = 4 * 3600 * 1000

interface Entry {
  /** Processor ms at `atMs` of the decay clock. */
  usedMs: number
  atMs: number
}

export class UsageTable {
  readonly halfLifeMs: number
  readonly #users = new Map<string, Entry>()
  /** The decay clock: wall time that has gone by, steps back left out. */
  #clockMs = 0
  #lastWall: number | undefined

  constructor(halfLifeMs: number = HALF_LIFE_MS_DEFAULT) {
    this.halfLifeMs = halfLifeMs
  }

  get users(): IterableIterator<string> {
    return this.#users.keys()
  }

  /** Decayed processor ms of the user at `wallMs`. */
  of(user: string, wallMs: number): number {
    const entry = this.#users.get(user)
    if (entry === undefined) return 0
    const aheadMs = Math.max(0, wallMs - (this.#lastWall ?? wallMs))
    return this.#decayed(entry, this.#clockMs + aheadMs)
  }

  /** Charges the users with equal parts of `cpuMs`. */
  charge(users: readonly string[], cpuMs: number, wallMs: number): void {
    this.#advance(wallMs)
    if (users.length === 0 || !(cpuMs > 0)) return
    const partMs = Math.min(cpuMs, CHARGE_MS_MAX) / users.length
    for (const user of users) {
      const entry = this.#users.get(user)
      if (entry === undefined) this.#users.set(user, { usedMs: partMs, atMs: this.#clockMs })
      else {
        entry.usedMs = this.#decayed(entry, this.#clockMs) + partMs
        entry.atMs = this.#clockMs
      }
    }
    if (this.#users.size > USERS_MAX) this.#forget()
  }

  /** Every user's usage at `wallMs`, those with none left out. */
  *snapshot(wallMs: number): Generator<readonly [user: string, usedMs: number]> {
    for (const user of this.#users.keys()) {
      const usedMs = this.of(user, wallMs)
      if (usedMs >= USAGE_MS_MIN) yield [user, usedMs]
    }
  }

  clear(): void {
    this.#users.clear()
    this.#clockMs = 0
    this.#lastWall = undefined
  }

  /** Takes in one line of a snapshot made at `wallMs`. */
  restore(user: string, usedMs: number, wallMs: number): void {
    this.#advance(wallMs)
    this.#users.set(user, { usedMs: Math.min(usedMs, CHARGE_MS_MAX), atMs: this.#clockMs })
    if (this.#users.size > USERS_MAX) this.#forget()
  }

  #advance(wallMs: number): void {
    this.#clockMs += Math.max(0, wallMs - (this.#lastWall ?? wallMs))
    this.#lastWall = wallMs
  }

  #decayed({ usedMs, atMs }: Entry, clockMs: number): number {
    return usedMs * 2 ** (-Math.max(0, clockMs - atMs) / this.halfLifeMs)
  }

  #forget(): void {
    const byUsage = [...this.#users]
      .map(([user, entry]) => ({ user, usedMs: this.#decayed(entry, this.#clockMs) }))
      .toSorted((a, b) => a.usedMs - b.usedMs)
    for (const { user } of byUsage.slice(0, FORGET_COUNT)) this.#users.delete(user)
  }
}
