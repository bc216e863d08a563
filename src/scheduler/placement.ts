/**
 * Where a waiting job starts: the node on which it is expected to end first.
 *
 * The time on a node is its estimate at the node's speed, and that of fetching the larger inputs that the
 * node lacks. Of nodes that are as good as each other the weakest is taken, so that strong ones stay free
 * for jobs that need them, and of those the one with the largest free share; while nothing was learnt of
 * the job the largest free share decides at once. A free node is declined when a busy faster one is
 * expected to end the job sooner all the same, and for a moment when a node that has its inputs is busy:
 * both are bounded, and the next job of the class has the node instead.
 *
 * What this costs hangs on the number of kinds of nodes (profiles.ts), not of nodes, and not on the queue.
 */
import type { Environment } from '../wire/environment.ts'
import { compareItems, hasRoomAside, type Aside, type Item, type JobClass } from './classes.ts'
import type { Core } from './core.ts'
import { canStart, environmentFor, type Requirement } from './match.ts'
import type { Job, NodeEntry } from './model.ts'
import { Holding } from './holding.ts'
import { offerFor, speedOfOffer } from './offers.ts'
import { isOpen, roomOf, type Kind, type Seat } from './kinds.ts'
import { shareOf } from './room-index.ts'
import { fits } from './forecast.ts'
import { bigInputsOf, NO_INPUTS, transferMs } from './transfer.ts'

/** Ends that are nearer to each other than this are a tie. */
const TIE_FACTOR = 1.1
/** One that waits behind a reservation is judged anew after this at the soonest. */
const STEP_MS = 250
/** Candidates that the checks turn down, though the index knew better; further ones wait for the sweep. */
const STALE_MAX = 8

/** A node that could start the job now. */
interface Candidate {
  readonly node: NodeEntry
  readonly environment: Environment | undefined
  readonly speed: number
  readonly transferMs: number
  /** Until it would end there. */
  readonly forMs: number
  readonly strength: number
  readonly share: number
  /** Ties go to the lowest. */
  readonly order: readonly [kind: number, place: number]
}

export type Choice =
  | { readonly kind: 'start'; readonly node: NodeEntry; readonly environment: Environment }
  | { readonly kind: 'aside'; readonly why: Aside }
  | { readonly kind: 'none' }

/**
 * What a job that waits for room waits for on purpose, for `mesh why`. `held-for`: `node` is busy, expected to
 * have room at `atMs`, and faster. `near-inputs`: `node` has its inputs. `reserved`: `node` is being emptied for
 * it. `behind-reserved`: what is free is kept for a big job that has waited longer. `share`: jobs of `ahead`, who
 * has had less, go first. `position`: its place among the jobs of its class, whoever's they are.
 */
export type PlaceState =
  | {
      readonly kind: 'held-for' | 'near-inputs' | 'behind-reserved'
      readonly node: NodeEntry
      readonly untilMs: number
      readonly atMs: number
    }
  | { readonly kind: 'reserved'; readonly node: NodeEntry; readonly atMs: number }
  | {
      readonly kind: 'share'
      readonly user: string
      readonly ahead: string
      readonly n: number
      readonly of: number
    }
  | { readonly kind: 'position'; readonly n: number; readonly of: number }

export class Placement {
  readonly #core: Core
  /** Choices made so far, for those who count the cost; `RoomIndex.visitCount` has the nodes. */
  choiceCount = 0
  readonly #holding: Holding

  constructor(core: Core) {
    this.#core = core
    this.#holding = new Holding(core)
  }

  /** Where the job of `item`, the first of its class, starts now. */
  choose(item: Item): Choice {
    this.choiceCount += 1
    const { home, job } = item
    const reserved = this.#core.reservations.of(home)
    if (reserved !== undefined) {
      const environment = this.#environmentAt(home, reserved.node)
      if (environment !== undefined) return { kind: 'start', node: reserved.node, environment }
    }
    item.estimate = this.#core.queues.estimateOf(job)
    item.emulationSpeed = this.#core.queues.emulationSpeedOf(job)
    item.inputs = bigInputsOf(this.#core, job, item.inputs)
    const barred = this.#barredFor(home)
    const best = this.#bestFree(item, barred)
    if (best === undefined) return this.#behindReserved(item, barred)
    const { candidate, environment } = best
    if (hasRoomAside(home)) {
      const why = this.#holding.decline(item, candidate, barred)
      if (why !== undefined) return { kind: 'aside', why }
    }
    return { kind: 'start', node: candidate.node, environment }
  }

  /** The environment that a job of the class would have on the node now; undefined when it cannot start there. */
  #environmentAt({ requirement }: JobClass, node: NodeEntry): Environment | undefined {
    const seat = this.#core.profiles.seatOf(node)
    if (seat === undefined || !isOpen(node)) return undefined
    if (node.bundle !== undefined) return offerFor(requirement, seat, 'now')?.environment
    return canStart(requirement, node) ? environmentFor(requirement, node) : undefined
  }

  /** Nodes that the class passes over: those barred, and those that failed it while any other will do. */
  #barredFor({ cut: barred, avoid, requirement }: JobClass): ReadonlySet<string> {
    if (avoid.size === 0) return barred
    const all = new Set([...barred, ...avoid])
    const isOther = (seat: Seat): boolean =>
      !all.has(seat.node.peerId) && isOpen(seat.node) && isOffering(requirement, seat)
    return this.#core.profiles.somePossible(requirement, 1, isOther).length > 0 ? all : barred
  }

  /** The best free node, with the environment that the checks give. */
  #bestFree(
    item: Item,
    barred: ReadonlySet<string>,
  ): { candidate: Candidate; environment: Environment } | undefined {
    let excluded = barred
    for (let tries = 0; tries <= STALE_MAX; tries += 1) {
      const candidate = bestOf(this.#candidates(item, excluded), item)
      if (candidate === undefined) return undefined
      const { node } = candidate
      const environment = candidate.environment ?? this.#environmentAt(item.home, node)
      if (environment !== undefined) return { candidate, environment }
      // The index is behind.
      this.#core.profiles.update(node)
      excluded = new Set([...excluded, node.peerId])
    }
    return undefined
  }

  #candidates(item: Item, excluded: ReadonlySet<string>): Candidate[] {
    const { home, inputs } = item
    const need = roomOf(home.requirement)
    const accepts = excluded.size === 0 ? undefined : ({ node }: Seat) => !excluded.has(node.peerId)
    const found: Candidate[] = []
    for (const kind of this.#core.profiles.kindsFor(home.requirement)) {
      const best = kind.rooms.best(need, accepts, this.#orderOn(kind))
      if (best !== undefined) found.push(this.#candidateOf(item, best.member, best.share))
    }
    for (const peerId of inputs?.holders ?? []) {
      const seat = this.#core.profiles.seatOfPeer(peerId)
      if (seat?.free === undefined || excluded.has(peerId) || !fits(seat.free, need)) continue
      if (!this.#core.profiles.fitOf(home.requirement, seat).isNow) continue
      found.push(this.#candidateOf(item, seat, shareOf(seat.free, seat.capacity)))
    }
    for (const seat of this.#core.profiles.bundles) {
      const { node, kind, place } = seat
      if (excluded.has(node.peerId) || !isOpen(node)) continue
      const offer = offerFor(home.requirement, seat, 'now')
      if (offer === undefined) continue
      const { environment, count } = offer
      const speed = speedOfOffer(offer, item.emulationSpeed)
      const away = transferMs(inputs ?? NO_INPUTS, node.peerId)
      found.push({
        node,
        environment,
        speed,
        transferMs: away,
        forMs: away + item.estimate.durationMs / speed,
        strength: 0,
        share: count / Math.max(1, node.bundle?.slots ?? 1),
        order: [kind.id, place],
      })
    }
    return found
  }

  #candidateOf(item: Item, { node, kind, place }: Seat, share: number): Candidate {
    const away = transferMs(item.inputs ?? NO_INPUTS, node.peerId)
    const speed = this.#core.profiles.speedOf(item.home.requirement, kind, item.emulationSpeed)
    return {
      node,
      environment: undefined,
      speed,
      transferMs: away,
      forMs: away + item.estimate.durationMs / speed,
      strength: kind.strength,
      share,
      order: [kind.id, place],
    }
  }

  #orderOn({ rooms }: Kind): 'roomiest' | 'tightest' {
    return this.#core.queues.largest.orderOn(rooms.largestCpus)
  }

  // ---- around reservations

  /** No node is free but those that are kept for a big job: a short one may have one of them before that. */
  #behindReserved(item: Item, barred: ReadonlySet<string>): Choice {
    const { home, estimate } = item
    const { reservations, profiles, moment } = this.#core
    let kept: { node: NodeEntry; atMs: number } | undefined
    for (const { node, atMs } of reservations.all) {
      const seat = profiles.seatOf(node)
      if (seat === undefined || barred.has(node.peerId)) continue
      const environment = this.#environmentAt(home, node)
      if (environment === undefined) continue
      const away = transferMs(item.inputs ?? NO_INPUTS, node.peerId)
      const speed = profiles.speedOf(home.requirement, seat.kind, item.emulationSpeed)
      const endMs = moment.nowMs + away + estimate.durationP90Ms / speed
      if (estimate.sampleCount > 0 && endMs <= atMs) return { kind: 'start', node, environment }
      kept ??= { node, atMs }
    }
    if (kept === undefined || !hasRoomAside(home)) return { kind: 'none' }
    const { node, atMs } = kept
    const untilMs = Math.max(atMs, moment.nowMs + STEP_MS)
    const why = { node, atMs, untilMs, finishAtMs: Number.POSITIVE_INFINITY } as const
    return { kind: 'aside', why: { kind: 'reserved', ...why } }
  }

  // ---- what others ask

  /** Whether the item, which is set aside, may do better on a node that has changed. */
  isBetter(item: Item, why: Aside, { node, kind }: Seat): boolean {
    const { inputs, estimate, home, emulationSpeed } = item
    if (why.node === node) return true
    switch (why.kind) {
      case 'held-for': {
        const speed = this.#core.profiles.speedOf(home.requirement, kind, emulationSpeed)
        const forMs = transferMs(inputs ?? NO_INPUTS, node.peerId) + estimate.durationMs / speed
        return this.#core.moment.nowMs + forMs <= why.finishAtMs
      }
      case 'near-inputs':
        return inputs?.holders.has(node.peerId) === true
      case 'reserved':
        return !this.#core.reservations.has(node)
    }
  }

  /** What the job waits for; undefined for one that is not queued. O(jobs of its class). */
  stateOf(job: Job): PlaceState | undefined {
    const item = this.#core.queues.itemOf(job)
    if (item === undefined) return undefined
    const { home } = item
    const why = home.aside.get(item)
    if (why !== undefined) {
      const { kind, node, untilMs, atMs } = why
      return { kind: kind === 'reserved' ? 'behind-reserved' : kind, node, untilMs, atMs }
    }
    const reservation = this.#core.reservations.of(home)
    const score = this.#core.queues.score
    if (reservation !== undefined && home.first(score) === item)
      return { kind: 'reserved', node: reservation.node, atMs: reservation.atMs }
    let n = 1
    let of = 0
    let ahead: string | undefined
    for (const other of home.all()) {
      of += 1
      if (other === item || compareItems(other, item, score) > 0) continue
      n += 1
      if (other.user !== item.user && score(other.user) < score(item.user)) ahead ??= other.user
    }
    return ahead === undefined
      ? { kind: 'position', n, of }
      : { kind: 'share', user: item.user, ahead, n, of }
  }
}

/** The earliest end; of ties the weakest node, then the largest free share. Share comes first for a job of which nothing was learnt. */
function bestOf(candidates: readonly Candidate[], { estimate }: Item): Candidate | undefined {
  let soonestMs = Number.POSITIVE_INFINITY
  for (const { forMs } of candidates) soonestMs = Math.min(soonestMs, forMs)
  let best: Candidate | undefined
  for (const candidate of candidates) {
    if (candidate.forMs > soonestMs * TIE_FACTOR) continue
    if (best === undefined || compare(candidate, best, estimate.sampleCount > 0) < 0)
      best = candidate
  }
  return best
}

function compare(a: Candidate, b: Candidate, isLearnt: boolean): number {
  const byStrength = a.strength - b.strength
  const byShare = b.share - a.share
  return (
    (isLearnt ? byStrength || byShare : byShare || byStrength) ||
    a.order[0] - b.order[0] ||
    a.order[1] - b.order[1]
  )
}

/** A subtree has what its nodes have, but no one of them need have all of it: only one that offers the class will do. */
function isOffering(requirement: Requirement, seat: Seat): boolean {
  return (
    seat.node.bundle === undefined ||
    offerFor(requirement, seat, 'now') !== undefined ||
    offerFor(requirement, seat, 'busy') !== undefined
  )
}
