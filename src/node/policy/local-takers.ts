/**
 * Processors of this node that builds outside of the mesh have taken: `mesh jobserver` registers here.
 *
 * They share the machine with the builds of the mesh, which go down to one processor each to make room;
 * whoever asked first has no advantage. A taker is never told less than one: it runs anyway.
 */
import { MeshError } from '../../base/errors.ts'

/** Takers at one time; another one is refused. */
const TAKERS_MAX = 64

export interface TakerOptions {
  /** The most that it can use. */
  readonly cpus: number
  /** Of the process that it runs below, so that what it uses is not taken for a stranger's. */
  readonly pid?: number | undefined
  /** Called when it should use another number than before, until it is disposed of. */
  readonly onShare?: (cpus: number) => void
}

/** Disposing of it gives all back. */
export interface Taking extends Disposable {
  /** Processors that it should use now, at least one. */
  readonly cpus: number
  /** It can use another number from now on. */
  want(cpus: number): void
}

export interface LocalTakers {
  /** Throws MESH0211 where too many have taken some already. */
  take(options: TakerOptions): Taking
}

class Taker {
  wanted: number
  cpus = 1
  readonly pid: number | undefined
  readonly onShare: ((cpus: number) => void) | undefined

  constructor({ cpus, pid, onShare }: TakerOptions) {
    this.pid = pid
    this.wanted = atLeastOne(cpus)
    this.onShare = onShare
  }
}

/** What the node itself holds of them: it says how much there is. */
export class TakerPool implements LocalTakers {
  readonly #takers = new Set<Taker>()
  readonly #onChange: () => void
  #slots: number
  #builds = 0

  /** `onChange` hears that `taken` may be another one. */
  constructor(slots: number, onChange: () => void) {
    this.#slots = slots
    this.#onChange = onChange
  }

  /** Processors that the builds of the mesh do not get. */
  get taken(): number {
    let taken = 0
    for (const { cpus } of this.#takers) taken += cpus
    return taken
  }

  /** Processes that takers run below, as far as they are known. */
  get pids(): number[] {
    return [...this.#takers].flatMap(({ pid }) => pid ?? [])
  }

  take(options: TakerOptions): Taking {
    if (this.#takers.size >= TAKERS_MAX)
      throw new MeshError('MESH0211', `${TAKERS_MAX} local builds have taken processors already`, {
        hints: ['run it with a fixed number of jobs: mesh jobserver --no-daemon -j N'],
      })
    const taker = new Taker(options)
    this.#takers.add(taker)
    this.#share(taker)
    return {
      get cpus() {
        return taker.cpus
      },
      want: (cpus) => {
        taker.wanted = atLeastOne(cpus)
        if (this.#takers.has(taker)) this.#share()
      },
      [Symbol.dispose]: () => {
        if (this.#takers.delete(taker)) this.#share()
      },
    }
  }

  /** There are `slots` processors for builds of either kind, and so many builds of the mesh run. */
  setPool(slots: number, builds: number): void {
    if (slots === this.#slots && builds === this.#builds) return
    this.#slots = slots
    this.#builds = builds
    this.#share()
  }

  /** A newcomer reads its share from what it is given. */
  #share(newcomer?: Taker): void {
    const takers = [...this.#takers]
    const before = takers.map(({ cpus }) => cpus)
    const shares = sharesOf(
      this.#slots,
      this.#builds,
      takers.map(({ wanted }) => wanted),
    )
    for (const [at, taker] of takers.entries()) taker.cpus = shares[at] ?? 1
    this.#onChange()
    for (const [at, taker] of takers.entries())
      if (taker !== newcomer && taker.cpus !== before[at]) taker.onShare?.(taker.cpus)
  }
}

/**
 * Equal parts of what is left when each of `builds` has one processor, nobody more than wanted, each at
 * least one.
 */
export function sharesOf(slots: number, builds: number, wanted: readonly number[]): number[] {
  const shares = wanted.map(() => 1)
  let left = Math.max(0, slots - builds - wanted.length)
  for (let isServed = true; isServed && left > 0;) {
    isServed = false
    for (const [at, want] of wanted.entries()) {
      const has = shares[at] ?? 1
      if (has >= want || left === 0) continue
      shares[at] = has + 1
      left -= 1
      isServed = true
    }
  }
  return shares
}

const atLeastOne = (cpus: number): number => Math.max(1, Math.floor(cpus))
