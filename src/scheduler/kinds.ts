/** Kinds of nodes: those that are as good as each other for any job, but for what they have free. */
import type { Environment } from '../wire/environment.ts'
import type { IndexedHeap, HeapMember } from './indexed-heap.ts'
import type { Fit, Requirement } from './match.ts'
import type { NodeEntry } from './model.ts'
import type { Room, RoomIndex } from './room-index.ts'

/** A band of speed is so much wide; what is nearer than that is a tie. */
const SPEED_BAND = 1.1
const GIB = 2 ** 30

export interface Kind {
  /** Order of appearance. */
  readonly id: number
  readonly key: string
  readonly profile: Profile
  /** The middle of its band; the same for all of its nodes. */
  readonly speed: number
  /** Grows with processors, memory and features: the weakest that will do goes first. */
  readonly strength: number
  readonly rooms: RoomIndex<Seat>
  /** Those that run something whose end can be foretold, the one that has room soonest first. */
  readonly ends: IndexedHeap<Seat>
}

export interface Profile {
  readonly id: number
  readonly key: string
  readonly kinds: Map<string, Kind>
  readonly fits: Map<string, Fit>
  /** What was granted to one of its nodes last: whoever needs more and waits was passed over. */
  lastGrant: LastGrant | undefined
}

export interface LastGrant extends Room {
  readonly atMs: number
  readonly user: string
  readonly priority: number
}

/** A node's place among the nodes. */
export interface Seat extends HeapMember {
  readonly node: NodeEntry
  kind: Kind
  place: number
  /** As the index knows it: undefined while the node takes nothing. */
  free: Room | undefined
  capacity: Room
  environments: readonly Environment[]
  /** When something that runs there ends first; infinity while that is not known. */
  soonestMs: number
  bundle: NodeEntry['bundle']
  /** Grants to a subtree that it does not know of yet. */
  unconfirmedCount: number
}

export function roomOf({ cpusMin, memoryBytes, diskBytes }: Requirement): Room {
  return { cpus: cpusMin, memoryBytes, diskBytes }
}

/** Whether it may be granted anything. */
export function isOpen(node: NodeEntry): boolean {
  return node.connected && node.state === 'ready' && node.ackSeq > 0
}

/** Two per doubling of the processors, one per doubling of the memory, two per feature. */
export function strengthOf({ capacity, environments }: NodeEntry): number {
  const features = new Set<string>()
  for (const environment of environments)
    for (const feature of environment.features) features.add(feature)
  const cpus = Math.round(2 * Math.log2(Math.max(1, capacity.cpus)))
  const memory = Math.round(Math.log2(Math.max(1, capacity.memoryBytes / GIB)))
  return cpus + memory + 2 * features.size
}

function clean(speed: number): number {
  return Number.isFinite(speed) && speed > 0 ? Math.min(100, Math.max(0.01, speed)) : 1
}

export function sameRoom(a: Room | undefined, b: Room | undefined): boolean {
  if (a === undefined || b === undefined) return a === b
  return a.cpus === b.cpus && a.memoryBytes === b.memoryBytes && a.diskBytes === b.diskBytes
}

export function speedBandOf({ speed }: NodeEntry): number {
  return Math.round(Math.log(clean(speed)) / Math.log(SPEED_BAND))
}

/** The middle of the band. */
export function speedOfBand(band: number): number {
  return SPEED_BAND ** band
}
