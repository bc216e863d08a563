/**
 * What a node says to its parent of what could be built at and below it: a single machine shows its own
 * vector, a subtree says for each class that waits above what it could take. Never sums of memory: what a
 * subtree has in all runs on no machine.
 */
import type { Environment } from '../wire/environment.ts'
import {
  CLASSES_MAX,
  OFFER_COUNT_MAX,
  type Bundle,
  type Resources,
  type SyncMessage,
} from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { canStart, environmentFor, mayEverStart, type Requirement } from './match.ts'
import type { BundleOffer, BundleOfferItem, NodeEntry } from './model.ts'

/** Environments that a subtree tells of; further ones get nothing from above. */
const ENVIRONMENTS_MAX = 64
/** A node that has been away for less may come back: what it has is not gone. */
const AWAY_MS_MAX = 10 * 60_000
/** When the first node could be free, where nothing is known of how long its jobs run. */
const UNKNOWN_MS = 60_000
const NOTHING: Resources = { cpus: 0, memoryBytes: 0, diskBytes: 0 }

type Offered = Pick<
  SyncMessage,
  'state' | 'note' | 'environments' | 'capacity' | 'bundle' | 'speed' | 'policy' | 'facts' | 'away'
>

/** `classes` wait above; `heldCount` leases have found no room here yet. */
export function offerOfSubtree(
  core: Core,
  classes: ReadonlyMap<string, Requirement>,
  heldCount: number,
): Offered {
  const offer = isAlone(core)
    ? ownOffer(core)
    : jointOffer(core, workersOf(core), classes, heldCount)
  const away = awayOf(core)
  if (away === undefined) return offer
  return { ...offer, away: { ...away, environments: [...away.environments] } }
}

/** Whether nothing but the worker of this node could build anything here: it is no subtree to its parent. */
export function isAlone(core: Core): boolean {
  for (const { peerId, connected, environments } of core.nodes.values())
    if (connected && environments.length > 0 && peerId !== core.selfId) return false
  return true
}

function workersOf(core: Core): NodeEntry[] {
  return [...core.nodes.values()].filter(
    ({ connected, environments }) => connected && environments.length > 0,
  )
}

/** What nodes have that were here and may be about to come back. */
function awayOf({ nodes, moment }: Core): NodeEntry['away'] {
  const places = new Places()
  let capacity = NOTHING
  for (const { connected, disconnectedAtMs, environments, capacity: own, away } of nodes.values()) {
    if (!connected && moment.nowMs - disconnectedAtMs >= AWAY_MS_MAX) continue
    const gone = connected ? [] : environments
    if (gone.length === 0 && away === undefined) continue
    for (const environment of [...gone, ...(away?.environments ?? [])]) places.of(environment)
    if (gone.length > 0) capacity = largerOf(capacity, own)
    if (away !== undefined) capacity = largerOf(capacity, away.capacity)
  }
  return places.environments.length === 0
    ? undefined
    : { environments: places.environments, capacity }
}

function largerOf(a: Resources, b: Resources): Resources {
  return {
    cpus: Math.max(a.cpus, b.cpus),
    memoryBytes: Math.max(a.memoryBytes, b.memoryBytes),
    diskBytes: Math.max(a.diskBytes, b.diskBytes),
  }
}

/** The worker of this node is all there is: the parent sees it as it is, less what runs for others. */
function ownOffer(core: Core): Offered {
  const self = core.nodes.get(core.selfId)
  if (self === undefined || self.ackSeq === 0)
    return { state: 'ready', note: '', environments: [], capacity: NOTHING }
  const own = { cpus: 0, memoryBytes: 0, diskBytes: 0 }
  for (const attempt of self.attempts) {
    own.cpus += attempt.allotted
    own.memoryBytes += attempt.memoryBytes
    own.diskBytes += attempt.diskBytes
  }
  return {
    state: stateForParent(core, self),
    note: self.note,
    environments: [...self.environments],
    capacity: {
      cpus: Math.max(0, self.capacity.cpus - own.cpus),
      memoryBytes: Math.max(0, self.capacity.memoryBytes - own.memoryBytes),
      diskBytes: Math.max(0, self.capacity.diskBytes - own.diskBytes),
    },
    speed: self.speed,
    ...(self.policy === undefined ? {} : { policy: self.policy }),
    ...(self.facts === undefined ? {} : { facts: [...self.facts] }),
  }
}

/** Drained or in quarantine by its own judgement it takes nothing; a drain that came from above is known there. */
function stateForParent(core: Core, self: NodeEntry): SyncMessage['state'] {
  switch (self.state) {
    case 'ready':
    case 'full':
      return self.state
    case 'draining':
    case 'drained':
      return core.drains.isOwn(self) ? 'draining' : self.told.state
    case 'quarantined':
    case 'lost':
    case 'sleeping':
    case 'waking':
    case 'broken':
      return 'draining'
  }
}

function jointOffer(
  core: Core,
  workers: readonly NodeEntry[],
  classes: ReadonlyMap<string, Requirement>,
  heldCount: number,
): Offered {
  const places = new Places()
  // The most that any one machine has: a job runs on one.
  const capacity = { cpus: 0, memoryBytes: 0, diskBytes: 0 }
  const cpus = { total: 0, busy: 0 }
  let slots = -heldCount
  for (const node of workers) {
    for (const environment of node.environments) places.of(environment)
    capacity.cpus = Math.max(capacity.cpus, node.capacity.cpus)
    capacity.memoryBytes = Math.max(capacity.memoryBytes, node.capacity.memoryBytes)
    capacity.diskBytes = Math.max(capacity.diskBytes, node.capacity.diskBytes)
    const { total, busy } = cpusOf(node)
    cpus.total += total
    cpus.busy += busy
    slots += slotsOf(core, node)
  }
  const offers: Bundle['offers'] = []
  for (const [key, requirement] of classes)
    offers.push(...offersOfClass(core, { key, requirement }, workers, places))
  return {
    state: 'ready',
    note: '',
    environments: places.environments,
    capacity,
    bundle: { slots: Math.max(0, slots), cpus, offers: offers.slice(0, 2 * CLASSES_MAX) },
  }
}

/** Processors of a machine, or of all machines of a subtree. */
export function cpusOf({ bundle, capacity, allocated }: NodeEntry): BundleOffer['cpus'] {
  return bundle?.cpus ?? { total: capacity.cpus, busy: Math.max(0, allocated.cpus) }
}

function slotsOf(core: Core, node: NodeEntry): number {
  if (node.bundle !== undefined) return Math.max(0, node.bundle.slots - unconfirmedOf(node))
  if (node.state !== 'ready') return 0
  return Math.max(0, core.allotments.freeOn(node).cpus)
}

/** By environment, since whoever grants chooses that. */
function offersOfClass(
  core: Core,
  { key, requirement }: { readonly key: string; readonly requirement: Requirement },
  workers: readonly NodeEntry[],
  places: Places,
): Bundle['offers'] {
  const byPlace = new Map<number, { count: number; speed: number; freeInMs: number }>()
  const add = ({ environment, count, speed, freeInMs }: BundleOfferItem): void => {
    const place = places.of(environment)
    if (place === undefined) return
    const offer = byPlace.get(place) ?? { count: 0, speed: 0, freeInMs: UNKNOWN_MS }
    byPlace.set(place, {
      count: offer.count + count,
      speed: Math.max(offer.speed, speed),
      freeInMs: Math.min(offer.freeInMs, freeInMs),
    })
  }
  for (const node of workers) {
    if (node.bundle !== undefined) {
      for (const offer of offeredBy(node, key)) add(offer)
      continue
    }
    const environment = environmentFor(requirement, node)
    if (environment === undefined || !mayEverStart(requirement, node)) continue
    const count = canStart(requirement, node) ? startableOn(core, requirement, node) : 0
    const freeInMs = count > 0 ? 0 : freeInMsOf(core, node)
    add({ environment, count, speed: node.speed, freeInMs })
  }
  return [...byPlace].map(([environment, { count, speed, freeInMs }]) => ({
    class: key,
    environment,
    count: Math.min(OFFER_COUNT_MAX, count),
    speed: Math.min(100, Math.max(0.01, speed)),
    freeInMs: count > 0 ? 0 : Math.max(0, Math.round(freeInMs)),
  }))
}

/** When the first of what runs there is expected to end. */
function freeInMsOf({ moment }: Core, node: NodeEntry): number {
  let freeInMs = UNKNOWN_MS
  for (const { lease, sinceMs } of node.relayed.values()) {
    const estimateMs = lease?.terms?.estimateMs ?? 0
    if (estimateMs === 0) continue
    const endMs = sinceMs + estimateMs / node.speed
    freeInMs = Math.min(freeInMs, Math.max(0, endMs - moment.nowMs))
  }
  return freeInMs
}

/** How many jobs of the class fit the node's free vector, but for what is kept for those that run there. */
function startableOn(core: Core, requirement: Requirement, node: NodeEntry): number {
  const free = core.allotments.freeOn(node)
  if (free.cpus < requirement.cpusMin) return 0
  const fits = (amount: number, each: number): number =>
    each === 0 ? OFFER_COUNT_MAX : Math.floor(amount / each)
  return Math.max(
    1,
    Math.min(
      OFFER_COUNT_MAX,
      fits(free.cpus, requirement.cpusMin),
      fits(free.memoryBytes, requirement.memoryBytes),
      fits(free.diskBytes, requirement.diskBytes),
    ),
  )
}

/** Grants that a subtree has not confirmed: its offers do not know of them yet. */
function unconfirmedOf(node: NodeEntry): number {
  let count = 0
  for (const { confirmed } of node.attempts) if (!confirmed) count += 1
  for (const { confirmed, finished } of node.relayed.values())
    if (!confirmed && finished === undefined) count += 1
  return count
}

/** What the subtree can take of the class now, less what it was granted since; empty for a single machine. */
export function offeredBy(node: NodeEntry, key: string): BundleOfferItem[] {
  if (node.bundle === undefined) return []
  const unconfirmed = unconfirmedOf(node)
  const slots = node.bundle.slots - unconfirmed
  return (node.bundle.offers.get(key) ?? []).map((offer) => ({
    ...offer,
    count: Math.max(0, Math.min(slots, offer.count - unconfirmed)),
  }))
}

/** What makes two environments one; an environment stays what it is. */
const keys = new WeakMap<Environment, string>()

function keyOf(environment: Environment): string {
  const known = keys.get(environment) ?? JSON.stringify(environment)
  keys.set(environment, known)
  return known
}

/** The environments of a message, each once, and their places in it. */
class Places {
  readonly environments: Environment[] = []
  readonly #places = new Map<string, number>()

  /** Undefined where there is no room for another one. */
  of(environment: Environment): number | undefined {
    const key = keyOf(environment)
    const known = this.#places.get(key)
    if (known !== undefined) return known
    if (this.environments.length >= ENVIRONMENTS_MAX) return undefined
    const place = this.environments.push(environment) - 1
    this.#places.set(key, place)
    return place
  }
}
