/** Where waiting jobs stand in the order, and what the choice of nodes keeps them waiting for on purpose. */
import { plural } from '../../base/units.ts'
import { compareItems, type Aside, type Item, type JobClass } from '../classes.ts'
import type { Core } from '../core.ts'
import { canStart } from '../match.ts'
import type { Job, NodeEntry, Step, WaitReason } from '../model.ts'
import { compareRank } from '../rank.ts'
import type { ClassViews } from './class-view.ts'
import { about } from './words.ts'

/** A job's place among those of its class. */
export interface Place {
  readonly n: number
  readonly of: number
  /** Somebody who has had less, and goes first with jobs that would otherwise come later. */
  readonly outranking: string | undefined
}

interface Sorted {
  readonly places: ReadonlyMap<Item, Place>
  readonly turn: number
  readonly atMs: number
}

/** In a longer class places may be so old: nobody reads the ten thousandth place to the job. */
const LONG_CLASS = 1_000
const PLACES_OLD_MS = 1_000

export class Order {
  readonly #core: Core
  readonly #views: ClassViews
  /** The classes as they stood when somebody asked. */
  readonly #sorted = new WeakMap<JobClass, Sorted>()

  constructor(core: Core, views: ClassViews) {
    this.#core = core
    this.#views = views
  }

  /** Undefined for a job that is not queued. O(1) for all but the first job of a class between two events; O(n log n) for that. */
  placeOf(job: Job): Place | undefined {
    const item = this.#core.queues.itemOf(job)
    return item === undefined ? undefined : this.#placesOf(item).get(item)
  }

  /** Why the job waits although a node has room, or for a node of its own; undefined where it waits for room alone. */
  reasonOf(job: Job, nowMs: number): WaitReason | undefined {
    const item = this.#core.queues.itemOf(job)
    if (item === undefined) return undefined
    const aside = item.home.aside.get(item)
    if (aside !== undefined) return asideReason(aside, nowMs)
    const place = this.placeOf(job)
    const reservation = this.#core.reservations.of(item.home)
    if (reservation !== undefined && place?.n === 1) {
      const inMs = reservation.atMs - nowMs
      return {
        class: 'reserved',
        text: `${reservation.node.record.name} is kept free for it${inMs > 0 ? `, and expected to have room in about ${about(inMs)}` : ''}`,
      }
    }
    if (place?.outranking !== undefined) return this.#shareReason(item, place)
    return this.#claimReason(item)
  }

  /** What is free is kept for a job that runs there. */
  #claimReason({ home: { requirement, cut, avoid } }: Item): WaitReason | undefined {
    for (const { node, cpus, attempt, claim } of this.#core.allotments.keptFor()) {
      if (cut.has(node.peerId) || avoid.has(node.peerId) || !canStart(requirement, node)) continue
      const [step] = [...attempt.job.waiters, ...attempt.job.shownBy]
      const { name, id } = step === undefined ? { name: '', id: '' } : nameOf(step)
      const why =
        claim === 'person'
          ? `${step?.slots?.by ?? 'somebody'} set how many it has`
          : 'its request would end later otherwise'
      return {
        class: 'reserved',
        text: `the next ${plural(cpus, 'processor')} of ${node.record.name} ${cpus === 1 ? 'goes' : 'go'} to ${name} (${id}), which runs there: ${why}`,
      }
    }
    return undefined
  }

  /** When what it waits for on purpose is expected; undefined where it waits for its turn. */
  promisedAtMs(job: Job): number | undefined {
    const item = this.#core.queues.itemOf(job)
    if (item === undefined) return undefined
    const aside = item.home.aside.get(item)
    if (aside !== undefined) return Math.min(aside.atMs, aside.untilMs)
    if (this.placeOf(job)?.n !== 1) return undefined
    return this.#core.reservations.of(item.home)?.atMs
  }

  /** Jobs that go before it on the nodes, in their order, each with the share of it that falls to them. */
  aheadOf(
    job: Job,
    nodes: ReadonlySet<NodeEntry>,
  ): { readonly job: Job; readonly share: number }[] {
    const item = this.#core.queues.itemOf(job)
    if (item === undefined) return []
    const { score } = this.#core.queues
    const ahead: { item: Item; share: number }[] = []
    for (const home of this.#core.queues.all) {
      const share = home === item.home ? 1 : this.#shareOf(home, nodes)
      if (share === 0) continue
      for (const other of home.all())
        if (other !== item && compareItems(other, item, score) < 0)
          ahead.push({ item: other, share })
    }
    return ahead
      .toSorted((a, b) => compareItems(a.item, b.item, score))
      .map(({ item: other, share }) => ({ job: other.job, share }))
  }

  /** The share of the nodes that jobs of the class may run on which are among `nodes`. */
  #shareOf({ requirement }: JobClass, nodes: ReadonlySet<NodeEntry>): number {
    const { present } = this.#views.of(requirement)
    if (present.length === 0) return 0
    return present.filter((node) => nodes.has(node)).length / present.length
  }

  #placesOf(item: Item): ReadonlyMap<Item, Place> {
    const { home } = item
    const { turn, moment } = this.#core
    const known = this.#sorted.get(home)
    if (known !== undefined && known.turn === turn) return known.places
    if (
      known !== undefined &&
      known.places.size > LONG_CLASS &&
      known.places.has(item) &&
      moment.nowMs - known.atMs < PLACES_OLD_MS
    )
      return known.places
    const places = this.#sort(home)
    this.#sorted.set(home, { places, turn, atMs: moment.nowMs })
    return places
  }

  #sort(home: JobClass): ReadonlyMap<Item, Place> {
    const { score } = this.#core.queues
    const items = [...home.all()].toSorted((a, b) => compareItems(a, b, score))
    const places = new Map<Item, Place>()
    // Of those whose users have had less: the one that by rank alone would come last.
    let last: Item | undefined
    let lastOfGroup: Item | undefined
    let groupScore = Number.NEGATIVE_INFINITY
    for (const [at, item] of items.entries()) {
      const own = score(item.user)
      if (own > groupScore) {
        last = later(last, lastOfGroup)
        groupScore = own
      }
      lastOfGroup = later(lastOfGroup, item)
      const outranking =
        last !== undefined && last.user !== item.user && compareRank(last.rank, item.rank) > 0
          ? last.user
          : undefined
      places.set(item, { n: at + 1, of: items.length, outranking })
    }
    return places
  }

  #shareReason({ user, home }: Item, { n, of, outranking = '' }: Place): WaitReason {
    const { shares } = this.#core
    const total = this.#views.of(home.requirement).cpuCount
    const own = Math.round(shares.runningCpus(user))
    const others = Math.round(shares.runningCpus(outranking))
    const why =
      own > others
        ? `your share is ${own} of ${total} cpus; ${outranking} uses ${others}`
        : `you have had more of the cpus lately than ${outranking}, who goes first`
    return { class: 'share', text: `held: ${why}: position ${n} of ${of} in the queue` }
  }
}

/** The one that goes later by rank. */
function later(a: Item | undefined, b: Item | undefined): Item | undefined {
  if (a === undefined || b === undefined) return a ?? b
  return compareRank(a.rank, b.rank) > 0 ? a : b
}

function asideReason({ kind, node, untilMs, atMs }: Aside, nowMs: number): WaitReason {
  const { name } = node.record
  switch (kind) {
    case 'held-for':
      return {
        class: 'faster',
        text: `held for ${name}, which is busy, has room in about ${about(Math.max(0, atMs - nowMs))}, and is expected to finish it sooner than a node that is free`,
      }
    case 'near-inputs':
      return {
        class: 'locality',
        text: `waits at most ${Math.max(0.1, (untilMs - nowMs) / 1000).toFixed(1)} s for ${name}, which has its inputs already`,
      }
    case 'reserved':
      return {
        class: 'reserved',
        text: `the room on ${name} is kept for a big job that has waited longer${Number.isFinite(atMs) && atMs > nowMs ? `, for about ${about(atMs - nowMs)}` : ''}`,
      }
  }
}

const nameOf = ({ id, derivation }: Step): { readonly name: string; readonly id: string } => ({
  name: derivation.name,
  id,
})
