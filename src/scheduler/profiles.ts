/**
 * Nodes by what they can do. Nodes with the same environments have one profile: what of a requirement hangs
 * on environments is judged once for all of them. Inside a profile nodes of about the same speed and
 * strength are one kind, with an index of their free room.
 *
 * Speeds and strengths are rounded to bands on purpose: nodes of one band are as good as each other, so the
 * best of a kind is the one with the largest free share, and the choice among all nodes is the choice among
 * the best of each kind. The index only finds candidates; `match.ts` has the last word.
 */
import type { Core } from './core.ts'
import { IndexedHeap } from './indexed-heap.ts'
import {
  isOpen,
  roomOf,
  sameRoom,
  speedBandOf,
  speedOfBand,
  strengthOf,
  type Kind,
  type Profile,
  type Seat,
} from './kinds.ts'
import { fitOf, type Fit, type Requirement } from './match.ts'
import type { NodeEntry } from './model.ts'
import { unconfirmedOf } from './offers.ts'
import { RoomIndex, type Room } from './room-index.ts'

/** Judgements that a profile remembers; beyond it, it begins anew. */
const FITS_MAX = 4_096
const ANY_ROOM: Room = { cpus: 0, memoryBytes: 0, diskBytes: 0 }

export class Profiles {
  readonly #core: Core
  readonly #profiles = new Map<string, Profile>()
  readonly #seats = new Map<NodeEntry, Seat>()
  /** Seats of nodes that stand for a subtree. */
  readonly #bundles = new Set<Seat>()
  readonly #possible = new Map<string, boolean>()
  #profileCount = 0
  #goneVisitCount = 0
  #kindCount = 0
  /** Changes whenever what is possible for a requirement may have changed. */
  version = 0

  constructor(core: Core) {
    this.#core = core
  }

  /** Nodes and groups of them that were looked at so far, for those who count the cost. */
  get visitCount(): number {
    let count = this.#goneVisitCount
    for (const { kinds } of this.#profiles.values())
      for (const { rooms } of kinds.values()) count += rooms.visitCount
    return count
  }
  get bundles(): ReadonlySet<Seat> {
    return this.#bundles
  }
  get seats(): IterableIterator<Seat> {
    return this.#seats.values()
  }
  get all(): IterableIterator<Profile> {
    return this.#profiles.values()
  }
  get kindCount(): number {
    let count = 0
    for (const { kinds } of this.#profiles.values()) count += kinds.size
    return count
  }

  seatOf(node: NodeEntry): Seat | undefined {
    return this.#seats.get(node)
  }

  seatOfPeer(peerId: string): Seat | undefined {
    const node = this.#core.nodes.get(peerId)
    return node === undefined ? undefined : this.#seats.get(node)
  }

  /** Takes in what the node is now; true when it may take something that it could not take before. */
  update(node: NodeEntry): boolean {
    if (this.#core.nodes.get(node.peerId) !== node) {
      this.#drop(node)
      return false
    }
    const known = this.#seats.get(node)
    const kind = this.#kindOf(node, known)
    const seat = known ?? this.#seat(node, kind)
    const isNew = known === undefined || known.kind !== kind
    if (known !== undefined && known.kind !== kind) {
      this.#leave(known)
      known.kind = kind
      known.place = kind.rooms.add(known)
      this.#changed()
    }
    const { capacity } = node
    if (isNew || !sameRoom(seat.capacity, capacity)) this.#changed()
    const before = seat.free
    const free = this.#freeOf(seat)
    const isSame = !isNew && sameRoom(before, free) && sameRoom(seat.capacity, capacity)
    seat.free = free
    seat.capacity = capacity
    if (!isSame) kind.rooms.set(seat.place, free, capacity)
    this.#foretell(seat)
    return this.#hasGrown(seat, before, isNew)
  }

  #hasGrown(seat: Seat, before: Room | undefined, isNew: boolean): boolean {
    const { node, free } = seat
    if (node.bundle !== undefined || seat.bundle !== undefined) {
      const { unconfirmedCount } = seat
      const isOther = seat.bundle !== node.bundle
      seat.bundle = node.bundle
      seat.unconfirmedCount = unconfirmedOf(node)
      if (node.bundle === undefined) this.#bundles.delete(seat)
      else this.#bundles.add(seat)
      return isOther || seat.unconfirmedCount < unconfirmedCount
    }
    if (free === undefined) return false
    if (before === undefined || isNew) return true
    return (
      free.cpus > before.cpus ||
      free.memoryBytes > before.memoryBytes ||
      free.diskBytes > before.diskBytes
    )
  }

  /** What it can be granted; undefined for a node that takes nothing now, or is kept for a big job. */
  #freeOf({ node }: Seat): Room | undefined {
    if (node.bundle !== undefined || !isOpen(node)) return undefined
    const free = this.#core.allotments.freeOn(node)
    const kept = this.#core.reservations.at(node)
    if (kept === undefined) return free
    // Only a part of the machine is kept: what is left when the big job has begun is for others at any time.
    const need = roomOf(kept.home.requirement)
    if (free.cpus <= need.cpus) return undefined
    return {
      cpus: free.cpus - need.cpus,
      memoryBytes: Math.max(0, free.memoryBytes - need.memoryBytes),
      diskBytes: Math.max(0, free.diskBytes - need.diskBytes),
    }
  }

  #foretell(seat: Seat): void {
    const { ends } = seat.kind
    const soonestMs = isOpen(seat.node)
      ? this.#core.forecast.soonestMs(seat.node)
      : Number.POSITIVE_INFINITY
    if (seat.soonestMs === soonestMs && seat.heapAt >= 0 === Number.isFinite(soonestMs)) return
    seat.soonestMs = soonestMs
    if (!Number.isFinite(soonestMs)) ends.remove(seat)
    else if (seat.heapAt < 0) ends.add(seat)
    else ends.moved(seat)
  }

  #seat(node: NodeEntry, kind: Kind): Seat {
    const seat: Seat = {
      node,
      kind,
      place: -1,
      free: undefined,
      capacity: node.capacity,
      environments: node.environments,
      soonestMs: Number.POSITIVE_INFINITY,
      bundle: undefined,
      unconfirmedCount: 0,
      heapAt: -1,
    }
    seat.place = kind.rooms.add(seat)
    this.#seats.set(node, seat)
    return seat
  }

  #drop(node: NodeEntry): void {
    const seat = this.#seats.get(node)
    if (seat === undefined) return
    this.#leave(seat)
    this.#seats.delete(node)
    this.#bundles.delete(seat)
    this.#changed()
  }

  #leave(seat: Seat): void {
    const { kind } = seat
    kind.ends.remove(seat)
    kind.rooms.remove(seat.place)
    if (kind.rooms.size > 0) return
    const { profile } = kind
    profile.kinds.delete(kind.key)
    this.#goneVisitCount += kind.rooms.visitCount
    if (profile.kinds.size > 0) return
    this.#profiles.delete(profile.key)
  }

  /** Forgets nodes that are gone without a word. */
  sweep(): void {
    for (const node of [...this.#seats.keys()])
      if (this.#core.nodes.get(node.peerId) !== node) this.#drop(node)
  }

  #changed(): void {
    this.version += 1
    this.#possible.clear()
  }

  #kindOf(node: NodeEntry, known: Seat | undefined): Kind {
    const speedBand = speedBandOf(node)
    const strength = strengthOf(node)
    const key = `${speedBand} ${strength}`
    if (
      known?.environments === node.environments &&
      known.kind.key === key &&
      (known.bundle === undefined) === (node.bundle === undefined)
    )
      return known.kind
    // What stands for many nodes has all of their environments, each for itself.
    const environments = `${node.bundle === undefined ? '' : 'bundle '}${JSON.stringify(node.environments)}`
    if (known !== undefined) known.environments = node.environments
    if (known?.kind.profile.key === environments && known.kind.key === key) return known.kind
    let profile = this.#profiles.get(environments)
    if (profile === undefined) {
      profile = {
        id: (this.#profileCount += 1),
        key: environments,
        kinds: new Map(),
        fits: new Map(),
        lastGrant: undefined,
      }
      this.#profiles.set(environments, profile)
    }
    let kind = profile.kinds.get(key)
    if (kind === undefined) {
      kind = {
        id: (this.#kindCount += 1),
        key,
        profile,
        speed: speedOfBand(speedBand),
        strength,
        rooms: new RoomIndex(),
        ends: new IndexedHeap<Seat>((a, b) => a.soonestMs - b.soonestMs || a.place - b.place),
      }
      profile.kinds.set(key, kind)
    }
    return kind
  }

  // ---- what a requirement is to a profile

  /** Judged by the list of checks that granting and `mesh why` share, on any node of the profile. */
  fitOf(requirement: Requirement, { kind, node }: Pick<Seat, 'kind' | 'node'>): Fit {
    const { fits } = kind.profile
    const known = fits.get(requirement.key)
    if (known !== undefined) return known
    if (fits.size >= FITS_MAX) fits.clear()
    const fit = fitOf(requirement, node)
    fits.set(requirement.key, fit)
    return fit
  }

  /** Of a profile by any of its nodes. */
  fitOfProfile(requirement: Requirement, profile: Profile): Fit | undefined {
    const known = profile.fits.get(requirement.key)
    if (known !== undefined) return known
    for (const kind of profile.kinds.values())
      for (const seat of kind.rooms.some(ANY_ROOM, 1)) return this.fitOf(requirement, seat)
    return undefined
  }

  /** How fast nodes of the kind run it, where an emulated environment has `emulationSpeed`. */
  speedOf(requirement: Requirement, kind: Kind, emulationSpeed: number): number {
    const isEmulated = this.fitOfProfile(requirement, kind.profile)?.isEmulated === true
    return isEmulated ? kind.speed * emulationSpeed : kind.speed
  }

  /** Kinds whose nodes can run it, room aside. */
  *kindsFor(requirement: Requirement): Generator<Kind> {
    for (const profile of this.#profiles.values())
      if (this.fitOfProfile(requirement, profile)?.isNow === true) yield* profile.kinds.values()
  }

  /** Whether some node may ever run it, whether it is there or not. */
  isPossible(requirement: Requirement): boolean {
    this.#core.matcher.settle()
    const known = this.#possible.get(requirement.key)
    if (known !== undefined) return known
    const isPossible = this.somePossible(requirement, 1).length > 0
    if (this.#possible.size >= FITS_MAX) this.#possible.clear()
    this.#possible.set(requirement.key, isPossible)
    return isPossible
  }

  /** The first few nodes that may ever run it and that `accepts` takes. */
  somePossible(requirement: Requirement, count: number, accepts?: (seat: Seat) => boolean): Seat[] {
    const need = roomOf(requirement)
    const found: Seat[] = []
    for (const profile of this.#profiles.values()) {
      if (this.fitOfProfile(requirement, profile)?.isPossible !== true) continue
      for (const { rooms } of profile.kinds.values())
        found.push(...rooms.some(need, count - found.length, accepts))
      if (found.length >= count) break
    }
    return found
  }

  /** The memory of the largest node that otherwise matches; 0 when none does. */
  largestMemory(requirement: Requirement): number {
    this.#core.matcher.settle()
    let most = 0
    for (const profile of this.#profiles.values()) {
      if (this.fitOfProfile(requirement, profile)?.isPossible !== true) continue
      for (const { rooms } of profile.kinds.values())
        most = Math.max(most, rooms.largestMemory(roomOf(requirement)))
    }
    return most
  }
}
