/**
 * Nodes that are kept for a job that needs more room than others do and would be passed over for ever: one
 * per class, on the node that is expected to have room soonest. Others start there only when they are
 * expected to end before (placement.ts).
 */
import type { Item, JobClass } from './classes.ts'
import type { Core } from './core.ts'
import { priorityOf, type Job, type NodeEntry } from './model.ts'
import { isOpen, roomOf, type LastGrant, type Profile, type Seat } from './kinds.ts'
import type { Room } from './room-index.ts'

/** The first of a class waits so long for room before a node is kept for it. */
export const RESERVE_AFTER_MS = 30_000
/** The part of the nodes that may be kept, one at least, and their number. */
const RESERVED_PART = 0.1
export const RESERVATIONS_MAX = 64
/** A node that has still no room so long after it was expected to is given up for another. */
const OVERDUE_MS = 600_000
/** Nodes of a kind that are looked at: those that have something free, and those with an end soonest. */
const LOOKED_AT = 16

export interface Reservation {
  readonly home: JobClass
  readonly node: NodeEntry
  /** When it is expected to have room. */
  readonly atMs: number
}

export class Reservations {
  readonly #core: Core
  readonly #byClass = new Map<JobClass, Reservation>()
  readonly #byNode = new Map<NodeEntry, Reservation>()

  constructor(core: Core) {
    this.#core = core
  }

  get all(): IterableIterator<Reservation> {
    return this.#byClass.values()
  }
  get count(): number {
    return this.#byClass.size
  }

  has(node: NodeEntry): boolean {
    return this.#byNode.has(node)
  }
  of(home: JobClass): Reservation | undefined {
    return this.#byClass.get(home)
  }
  at(node: NodeEntry): Reservation | undefined {
    return this.#byNode.get(node)
  }

  /** The job has started, or nobody of its class waits any more. */
  classGone(home: JobClass): void {
    const reservation = this.#byClass.get(home)
    if (reservation === undefined) return
    this.#byClass.delete(home)
    this.#byNode.delete(reservation.node)
    this.#core.waiting.nodeChanged(reservation.node)
  }

  /** Remembered for those who are passed over. */
  granted(seat: Seat, room: Room, job: Job, user: string): void {
    let priority = 0
    for (const step of job.waiters) priority = Math.max(priority, priorityOf(step))
    const { nowMs } = this.#core.moment
    const { cpus, memoryBytes, diskBytes } = room
    seat.kind.profile.lastGrant = { cpus, memoryBytes, diskBytes, atMs: nowMs, user, priority }
  }

  /** Gives up what is of no use any more, and keeps nodes for those who have been passed over for long. */
  sweep(): void {
    const { nowMs } = this.#core.moment
    for (const { home, node, atMs } of [...this.#byClass.values()])
      if (!this.#mayEverTake(home, node) || nowMs > atMs + OVERDUE_MS) this.classGone(home)
    for (const home of this.#core.queues.all) {
      if (this.#byClass.has(home)) continue
      if (this.#byClass.size >= this.#countMax) return
      const first = home.first(this.#core.queues.score)
      if (first !== undefined && this.#isPassedOver(first)) this.#reserve(home)
    }
  }

  get #countMax(): number {
    let nodeCount = 0
    for (const { node } of this.#core.profiles.seats) if (isOpen(node)) nodeCount += 1
    return Math.min(RESERVATIONS_MAX, Math.max(1, Math.floor(nodeCount * RESERVED_PART)))
  }

  #mayEverTake({ requirement, cut }: JobClass, node: NodeEntry): boolean {
    const seat = this.#core.profiles.seatOf(node)
    if (seat === undefined || !isOpen(node) || cut.has(node.peerId)) return false
    const need = roomOf(requirement)
    return (
      this.#core.profiles.fitOf(requirement, seat).isNow &&
      node.capacity.cpus >= need.cpus &&
      node.capacity.memoryBytes >= need.memoryBytes &&
      node.capacity.diskBytes >= need.diskBytes
    )
  }

  /** Whether something smaller, that it need not stand back for, was started where it could run as well. */
  #isPassedOver(item: Item): boolean {
    const { job, home } = item
    if (this.#core.moment.nowMs - job.waitingSinceMs < RESERVE_AFTER_MS) return false
    const { profiles } = this.#core
    for (const profile of profiles.all) {
      const { lastGrant } = profile
      if (lastGrant === undefined || lastGrant.atMs <= job.waitingSinceMs) continue
      if (!isSmaller(lastGrant, roomOf(home.requirement))) continue
      if (profiles.fitOfProfile(home.requirement, profile)?.isNow !== true) continue
      if (this.#isDue(item, lastGrant)) return true
    }
    return false
  }

  /** Neither priority nor the share of its user says that the other one goes first. */
  #isDue({ job, user }: Item, other: LastGrant): boolean {
    const { score } = this.#core.queues
    if (user !== other.user && score(user) > score(other.user)) return false
    for (const step of job.waiters) if (priorityOf(step) >= other.priority) return true
    return false
  }

  /** Keeps the node that is expected to have room soonest; of those of which nothing is known the one with most free. */
  #reserve(home: JobClass): void {
    let best: { seat: Seat; atMs: number; share: number } | undefined
    for (const profile of this.#core.profiles.all) {
      for (const seat of this.#seatsOf(profile, home)) {
        if (this.#byNode.has(seat.node) || !this.#mayEverTake(home, seat.node)) continue
        const need = roomOf(home.requirement)
        const atMs = this.#core.forecast.readyMs(seat.node, need, { guess: true })
        const share = (seat.free?.cpus ?? 0) / Math.max(1, seat.capacity.cpus)
        if (best === undefined || atMs < best.atMs || (atMs === best.atMs && share > best.share))
          best = { seat, atMs, share }
      }
    }
    if (best === undefined) return
    const { node } = best.seat
    const { nowMs } = this.#core.moment
    const atMs = Number.isFinite(best.atMs) ? best.atMs : nowMs
    const reservation = { home, node, atMs }
    this.#byClass.set(home, reservation)
    this.#byNode.set(node, reservation)
    this.#core.profiles.update(node)
    this.#core.waiting.wakeClass(home)
  }

  #seatsOf(profile: Profile, { requirement }: JobClass): Seat[] {
    const seats = new Set<Seat>()
    if (this.#core.profiles.fitOfProfile(requirement, profile)?.isNow !== true) return []
    const need = roomOf(requirement)
    for (const { rooms, ends } of profile.kinds.values()) {
      for (const seat of rooms.some(need, LOOKED_AT)) seats.add(seat)
      for (const seat of ends.some(LOOKED_AT)) seats.add(seat)
    }
    return [...seats]
  }
}

/** Whether `other` is more in any respect. */
function isSmaller(room: Room, other: Room): boolean {
  return (
    other.cpus > room.cpus ||
    other.memoryBytes > room.memoryBytes ||
    other.diskBytes > room.diskBytes
  )
}
