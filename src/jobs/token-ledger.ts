/**
 * Which build should have how many of the tokens that run jobs beside its first one: a pure core.
 *
 * A token is the right to run one job more. The node grants each build a number of them; what a build does
 * not use is lent to those that would use more, and comes back as soon as its owner takes its last free one.
 * So that this can be seen, an owner that lends keeps one free token. Tokens in use are never taken away:
 * what is too many is owed, and no other build gets it before it was given back.
 *
 * Invariant: giving never makes the tokens that are out more than those granted to all together.
 */

/** What a look at a build's tokens shows. */
export interface TokenSample {
  /** Tokens that nobody has taken. */
  readonly free: number
  /** Processors that the build keeps busy; absent where that is not known. */
  readonly busy?: number | undefined
}

/** What one build has and should have. */
export interface TokenAccount {
  readonly id: string
  /** Of the node. */
  readonly granted: number
  /** More are never lent to it. */
  readonly most: number
  /** Out: free in its FIFO, or taken by its jobs. */
  readonly placed: number
  /** What it should have now: more or less than granted where tokens are lent. */
  readonly wanted: number
}

/** A borrower that left its tokens lying is not asked again for so many samples. */
const DEAF_SAMPLES = 25
/** Of a processor: so much less than a whole one still counts as a busy one. */
const BUSY_SLACK = 0.25

interface State {
  readonly id: string
  granted: number
  most: number
  placed: number
  wanted: number
  /** Of the last sample; undefined before the first. */
  free: number | undefined
  /** Free in the last two samples, and not needed by jobs that run without tokens. */
  idle: number
  isHungry: boolean
  /** Samples for which it is lent nothing. */
  deaf: number
}

export class TokenLedger {
  readonly #states = new Map<string, State>()

  get accounts(): TokenAccount[] {
    return [...this.#states.values()]
  }

  /** Tokens granted to all builds together. */
  get grantedCount(): number {
    return this.#sum((state) => state.granted)
  }

  find(id: string): TokenAccount | undefined {
    return this.#states.get(id)
  }

  /** A build begins with nothing placed. */
  open(id: string, granted: number, most: number): void {
    this.#states.set(id, {
      id,
      granted,
      most,
      placed: 0,
      wanted: granted,
      free: undefined,
      idle: 0,
      isHungry: false,
      deaf: 0,
    })
    this.#share()
  }

  grant(id: string, granted: number): void {
    const state = this.#states.get(id)
    if (state === undefined || state.granted === granted) return
    state.granted = granted
    this.#share()
  }

  /** All that it had is free for others again, whatever its processes did with it. */
  close(id: string): void {
    if (this.#states.delete(id)) this.#share()
  }

  /** Takes note of looks at builds, and decides anew who lends to whom. */
  sampled(samples: ReadonlyMap<string, TokenSample>): void {
    for (const [id, sample] of samples) {
      const state = this.#states.get(id)
      if (state !== undefined) look(state, sample)
    }
    this.#share()
  }

  /** `count` tokens of a build were taken out of its FIFO. */
  took(id: string, count: number): void {
    const state = this.#states.get(id)
    if (state === undefined) return
    state.placed -= count
    if (state.free !== undefined) state.free = Math.max(0, state.free - count)
    state.idle = Math.max(0, state.idle - count)
  }

  /** How many tokens each build is to be given now; they count as placed from here on. */
  give(): Map<string, number> {
    const gifts = new Map<string, number>()
    let room = this.grantedCount - this.#sum((state) => state.placed)
    while (room > 0) {
      const poorest = [...this.#states.values()]
        .filter((state) => state.placed < state.wanted)
        .toSorted((a, b) => a.placed - b.placed)[0]
      if (poorest === undefined) break
      poorest.placed++
      room--
      gifts.set(poorest.id, (gifts.get(poorest.id) ?? 0) + 1)
    }
    return gifts
  }

  /** Everybody gets what it needs of its own grant; what is left goes one by one to those that need more. */
  #share(): void {
    const states = [...this.#states.values()]
    let pot = 0
    for (const state of states) {
      state.wanted = Math.min(state.granted, needOf(state))
      pot += state.granted - state.wanted
    }
    const borrowers = states.filter((state) => needOf(state) > state.wanted)
    while (pot > 0) {
      const poorest = borrowers
        .filter((state) => state.wanted < needOf(state))
        .toSorted((a, b) => a.wanted - b.wanted)[0]
      if (poorest === undefined) break
      poorest.wanted++
      pot--
    }
    // Nobody wants the rest: it stays where it was granted, so that its owner has it at once.
    for (const state of states) {
      if (pot === 0) break
      const back = Math.min(pot, Math.max(0, state.granted - state.wanted))
      state.wanted += back
      pot -= back
    }
  }

  #sum(of: (state: State) => number): number {
    let sum = 0
    for (const state of this.#states.values()) sum += of(state)
    return sum
  }
}

function look(state: State, { free, busy }: TokenSample): void {
  const spare =
    busy === undefined
      ? state.placed
      : Math.max(0, Math.floor(state.placed + 1 + BUSY_SLACK - busy))
  state.idle = Math.min(free, state.free ?? 0, spare)
  state.free = free
  state.deaf = Math.max(0, state.deaf - 1)
  // Tokens that were lent to it and lie about: its jobs are as many as it has.
  if (state.placed > state.granted && state.idle > 0) state.deaf = DEAF_SAMPLES
  // Without a first token nothing can be seen but what its one job makes of its processor.
  const isBusy = state.placed > 0 || busy === undefined || busy > 1 - BUSY_SLACK
  state.isHungry = free === 0 && isBusy
}

/** How many tokens it would use. */
function needOf(state: State): number {
  if (state.isHungry) return Math.max(state.granted, state.deaf > 0 ? state.placed : state.most)
  const inUse = state.placed - state.idle
  if (state.idle === 0) return Math.max(state.granted, inUse)
  return inUse >= state.granted ? inUse : inUse + 1
}
