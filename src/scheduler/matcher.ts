/**
 * Brings waiting jobs and nodes together, driven by what changed: a node that has come to have room is held
 * against the classes that wait, a class with a new job against the nodes. What neither changed is not
 * looked at again.
 *
 * **Invariant:** after `plan` no job that goes first in its class could start on a node that has room, but
 * for those that are set aside with a reason. A sweep looks at everything, in case something changed and
 * nobody said so.
 */
import { compareItems, type Item, type JobClass } from './classes.ts'
import type { Core } from './core.ts'
import { fits } from './forecast.ts'
import { LOOKUP_GRACE_MS } from './lookups.ts'
import type { NodeEntry } from './model.ts'
import { offerFor } from './offers.ts'
import type { Choice } from './placement.ts'
import { isOpen, roomOf, type Seat } from './kinds.ts'

/** Nodes that have changed are held against each class one by one up to this number. */
const WOKEN_MAX = 16

export class Matcher {
  readonly #core: Core
  /** Nodes that may have changed. */
  readonly #changed = new Set<NodeEntry>()
  /** Nodes that may take something that they could not take before. */
  #woken: Seat[] = []
  /** Nodes that have come to have room just now, and until when that is news. */
  readonly #news = new Map<NodeEntry, number>()
  /** Classes whose first job lets one go before it that is about to be queued. */
  readonly #postponed = new Set<JobClass>()
  #postponedUntilMs = Number.POSITIVE_INFINITY
  #lookupEnds = 0
  /** Classes looked at so far, for those who count the cost. */
  visitCount = 0

  constructor(core: Core) {
    this.#core = core
  }

  nodeChanged(node: NodeEntry): void {
    this.#changed.add(node)
  }

  /** Takes in what nodes are now, and wakes the classes that it is something for. */
  settle(): void {
    for (const node of this.#changed) {
      this.#changed.delete(node)
      const hasGrown = this.#core.profiles.update(node)
      const seat = this.#core.profiles.seatOf(node)
      const reservation = this.#core.reservations.at(node)
      if (reservation !== undefined) this.#core.queues.activate(reservation.home, 'fresh')
      if (seat === undefined || !isOpen(node)) this.#gone(node)
      else if (hasGrown) this.#wake(seat)
    }
  }

  /** Nobody waits for it any more, and those that it was better than may have to do with what is left. */
  #gone(node: NodeEntry): void {
    const { queues, forecast } = this.#core
    for (const item of forecast.promisedTo(node)) {
      queues.putBack(item)
      queues.activate(item.home, 'fresh')
    }
    for (const home of queues.all) if (home.avoid.size > 0) queues.activate(home, 'fresh')
  }

  #wake(seat: Seat): void {
    const { queues, placement } = this.#core
    this.#woken.push(seat)
    this.#news.delete(seat.node)
    this.#news.set(seat.node, this.#core.moment.nowMs + LOOKUP_GRACE_MS)
    for (const home of queues.all) {
      this.visitCount += 1
      if (!this.#mayTake(seat, home)) continue
      // What is judged anew may have declined a node that has been free all along.
      let isFresh = this.#woken.length > WOKEN_MAX
      for (const [item, why] of home.aside) {
        if (!placement.isBetter(item, why, seat)) continue
        queues.putBack(item)
        isFresh = true
      }
      queues.activate(home, isFresh ? 'fresh' : 'woken')
    }
  }

  /** A first look, which must not miss anything: the choice looks closer. */
  #mayTake(seat: Seat, home: JobClass): boolean {
    const { requirement } = home
    if (!this.#core.profiles.fitOf(requirement, seat).isNow) return false
    if (seat.node.bundle !== undefined) return offerFor(requirement, seat, 'now') !== undefined
    if (seat.free !== undefined && fits(seat.free, roomOf(requirement))) return true
    return this.#core.reservations.has(seat.node)
  }

  /** Starts all that can start. */
  plan(): void {
    const { queues, placement, state } = this.#core
    if (state.openJobs.size === 0) queues.clear()
    queues.forgetScores()
    this.settle()
    this.#resume()
    for (let item = this.#next(); item !== undefined; item = this.#next()) {
      const choice = placement.choose(item)
      switch (choice.kind) {
        case 'none':
          queues.block(item.home)
          break
        case 'aside':
          queues.setAside(item, choice.why)
          break
        case 'start':
          if (this.#postpones(item, choice.node)) break
          this.#start(item, choice)
          this.settle()
          break
      }
    }
    this.#woken = []
    for (const [node, untilMs] of this.#news) {
      if (untilMs > this.#core.moment.nowMs) break
      this.#news.delete(node)
    }
  }

  /** Looks again at what was postponed, once a look-up has ended or was waited for long enough. */
  #resume(): void {
    const { lookups, moment, queues } = this.#core
    if (lookups.endCount === this.#lookupEnds && moment.nowMs < this.#postponedUntilMs) return
    this.#lookupEnds = lookups.endCount
    for (const home of this.#postponed) if (!home.isEmpty) queues.activate(home, 'fresh')
    this.#postponed.clear()
    this.#postponedUntilMs = Number.POSITIVE_INFINITY
  }

  /** When a postponed job is looked at again; infinity for never. */
  get nextDeadlineMs(): number {
    return this.#postponedUntilMs
  }

  /**
   * A job that goes before this one is about to be queued: true when the class waits for that. A job does so
   * once, and for a node that has just come to have room.
   */
  #postpones(item: Item, node: NodeEntry): boolean {
    const { lookups, moment, queues } = this.#core
    const lookedUpMs = lookups.waitedForBy(item)
    if (lookedUpMs === undefined) return false
    item.postponedUntilMs ??= moment.nowMs + LOOKUP_GRACE_MS
    const untilMs = Math.max(item.postponedUntilMs, this.#news.get(node) ?? 0)
    if (moment.nowMs >= untilMs) return false
    this.#postponed.add(item.home)
    this.#postponedUntilMs = Math.min(this.#postponedUntilMs, lookedUpMs, untilMs)
    queues.block(item.home)
    return true
  }

  /** The job that goes first of all those that may be able to start. */
  #next(): Item | undefined {
    const { queues } = this.#core
    let best: Item | undefined
    for (const home of queues.active) {
      this.visitCount += 1
      const isWorthIt =
        home.state === 'fresh' || this.#woken.some((seat) => this.#mayTake(seat, home))
      const item = isWorthIt ? queues.first(home) : undefined
      if (item === undefined) queues.block(home)
      else if (best === undefined || compareItems(item, best, queues.score) < 0) best = item
    }
    return best
  }

  #start(item: Item, { node, environment }: Extract<Choice, { kind: 'start' }>): void {
    const { job, home } = item
    const { queues, reach, refusals, reservations } = this.#core
    if (refusals.hasNew(job, node.peerId)) {
      refusals.mark(job)
      queues.put(job)
      return
    }
    if (reach.obstacle(job, node, environment) !== undefined) {
      reach.cut(job, node.peerId)
      for (const step of job.waiters) this.#core.effects.push({ type: 'step', step })
      return
    }
    queues.remove(job)
    const seat = this.#core.profiles.seatOf(node)
    if (seat !== undefined) reservations.granted(seat, roomOf(home.requirement), job, item.user)
    this.#core.waiting.grant(job, node, home.requirement, environment)
    reservations.classGone(home)
    queues.forgetScores()
  }

  /** Looks at everything. */
  sweep(): void {
    const { nodes, profiles, queues, reservations } = this.#core
    for (const node of nodes.values()) profiles.update(node)
    profiles.sweep()
    reservations.sweep()
    for (const home of queues.all) queues.activate(home, 'fresh')
  }
}
