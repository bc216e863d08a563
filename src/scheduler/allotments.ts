/**
 * How many processors what runs has: between the least and the most that its job asks for, as what waits
 * and what is free demand.
 *
 * What waits comes first: holders give up what they have beyond their least when a waiting job could start
 * thereby, the one with the most of it first. They get more when nothing that waits could use what is
 * free. It is the other way round for what has a claim (claims.ts): a job of which a person said how many it
 * has, and a big one that is waited for; it takes what becomes free on its machine, and what others there have
 * beyond their least, and only what does not stand back for it gets it to give. What runs is never ended for it. All of it is volatile: a node is told the numbers again with
 * every message. The level that sees a machine decides, so a lease of the parent is changed here only where
 * this node speaks for a subtree; what waits above counts as waiting here.
 */
import type { Core } from './core.ts'
import { Claims } from './claims.ts'
import type { Item } from './classes.ts'
import { cpuRangeOf } from './cpu-range.ts'
import { byClaim, Holders, type Holder } from './holders.ts'
import { canStart, freeOf, verdictsOf, type Requirement } from './match.ts'
import {
  isLive,
  type Attempt,
  type Claim,
  type Job,
  type NodeEntry,
  type Relayed,
} from './model.ts'

/** Between two changes of one holder that its node was told of. */
const CHANGE_MS = 1_000
/** A node that has something to give is held against what waits this often. */
const RECHECK_MS = 250
/** After room was made that nobody took, none is made on that node for so long. */
const VAIN_MS = 30_000
/** How long room that was made for what waits above is kept: time for it to be told of and taken. */
const OFFER_MS = 2_000
/** After that was in vain it is not made for so long, twice as long each time, and VAIN_MS in the end. */
const OFFER_PAUSE_MS = 5_000
/** Nodes that are looked at in one round; the others have their turn with the next event. */
const NODES_PER_ROUND = 32
/** How often in one event room is made for one more job each. */
const ROUNDS_MAX = 16
/** Requirement classes that are looked at for one that does not stand back; with more of them one is taken to be. */
const DISPUTES_MAX = 256
/** Requirement classes that are held against one node at a time. */
const CLASSES_PER_NODE = 64
/** Nodes that are looked at to see whether what waits above has room already. */
const NODES_PER_CLASS = 64

/** A requirement class that waits, with the nodes that are passed over for it. */
interface Waits {
  readonly requirement: Requirement
  readonly avoid?: ReadonlySet<string>
  readonly cut?: ReadonlySet<string>
  /** It waits above this node, or did a minute ago. */
  readonly isAbove: boolean
  /** The one that goes first; undefined for what waits above. */
  readonly first: Item | undefined
}

export class Allotments {
  readonly #core: Core
  readonly #claims: Claims
  readonly #holders: Holders
  /** Processors that are kept for those with a claim as soon as they are free. */
  readonly #kept = new Map<NodeEntry, number>()
  /** Nodes to look at, and when. */
  readonly #due = new Map<NodeEntry, number>()
  /** Nodes with holders that could give something once something waits. */
  readonly #parked = new Set<NodeEntry>()
  readonly #changedAtMs = new WeakMap<Attempt | Relayed, number>()
  readonly #vainUntilMs = new WeakMap<NodeEntry, number>()
  /** By class that waits above: until when room that was made for it is kept, and how long it then is not made again. */
  readonly #offers = new Map<string, { readonly untilMs: number; readonly pauseMs: number }>()
  /** No node is due before. */
  #nextMs = Number.POSITIVE_INFINITY

  constructor(core: Core) {
    this.#core = core
    this.#claims = new Claims(core)
    this.#holders = new Holders(core, this.#claims)
  }

  /** What of the node is free for what waits. */
  freeOn(node: NodeEntry): ReturnType<typeof freeOf> {
    const free = freeOf(node)
    return { ...free, cpus: free.cpus - this.#keptOn(node) }
  }

  /** What of its free processors the node does not give to what waits. */
  #keptOn(node: NodeEntry): number {
    return this.#kept.get(node) ?? 0
  }

  /** Nodes whose next processors go to something that runs there, for `mesh why`: to what, and why. */
  *keptFor(): Generator<{
    readonly node: NodeEntry
    readonly cpus: number
    readonly attempt: Attempt
    readonly claim: Claim['why'] | undefined
  }> {
    for (const [node, cpus] of this.#kept) {
      const holder = this.#holders
        .on(node)
        .toSorted(byClaim)
        .find((one) => one.cpus < one.floor)
      if (holder !== undefined && 'job' in holder.of)
        yield { node, cpus, attempt: holder.of, claim: holder.claim }
    }
  }

  /** A person has said how many the job has, or takes that back: what runs of it changes now. */
  sized(job: Job): void {
    for (const attempt of job.attempts) {
      if (!isLive(attempt)) continue
      this.#changedAtMs.delete(attempt)
      const node = this.#core.nodes.get(attempt.node.peerId)
      if (node === undefined) continue
      this.nodeChanged(node)
      this.#core.effects.push({ type: 'desired', peerId: node.peerId })
    }
  }

  /** What is reserved on the node has changed, or what it has. */
  nodeChanged(node: NodeEntry): void {
    this.#parked.delete(node)
    if (this.#holders.areOn(node)) this.#setDue(node, this.#core.moment.nowMs)
    else {
      this.#due.delete(node)
      this.#keep(node, 0)
    }
  }

  /** The owner was restarted: until its node says how many the attempt has, it counts as having its least. */
  recover(attempt: Attempt): void {
    attempt.allotted = Math.min(attempt.cpus, cpuRangeOf(attempt.job).min)
  }

  /** The node says how many the attempt has there. */
  heard(node: NodeEntry, attempt: Attempt, cpus: number): void {
    const { min, max } = cpuRangeOf(attempt.job)
    if (min === max && attempt.allotted === min) return
    if (node.bundle !== undefined) {
      // Who sees the machine decides; here it is counted and shown.
      this.#set(node, attempt, Math.min(max, Math.max(min, cpus)))
      return
    }
    const heldCpus = Math.min(max, Math.max(attempt.allotted, cpus))
    if (attempt.confirmed || heldCpus - attempt.allotted > freeOf(node).cpus) return
    this.#set(node, attempt, heldCpus)
  }

  /** When there may be something to do without anything else happening; infinity for never. */
  get nextDeadlineMs(): number {
    return this.#nextMs
  }

  /** After what can be granted is granted: makes room for what waits, has that granted, and gives away what is left. */
  plan(): void {
    if (this.#parked.size > 0 && this.#isWaiting) {
      for (const node of this.#parked) this.#setDue(node, this.#core.moment.nowMs)
      this.#parked.clear()
    }
    const seen = new Set<NodeEntry>()
    for (let round = 0; round < ROUNDS_MAX; round += 1) {
      const made = new Map<NodeEntry, number>()
      let isFreed = false
      for (const node of this.#take()) {
        seen.add(node)
        const keptBefore = this.#keptOn(node)
        this.#serveClaims(node)
        isFreed ||= this.#keptOn(node) < keptBefore
        if (this.#makeRoom(node)) made.set(node, freeOf(node).cpus)
      }
      if (made.size === 0 && !isFreed) break
      this.#core.waiting.plan()
      for (const [node, freeCpus] of made) {
        // It is held for another node or reserved for another job, or those above gave their job to another
        // node: giving up again and again helps nobody.
        if (freeOf(node).cpus >= freeCpus && freeCpus > 0)
          this.#vainUntilMs.set(node, this.#core.moment.nowMs + VAIN_MS)
        this.#setDue(node, this.#core.moment.nowMs)
      }
    }
    for (const node of seen) this.#settle(node)
  }

  /** Processors that attempts which the node was told of should use, where their jobs leave that open. */
  of(node: NodeEntry): { readonly attempt: string; readonly cpus: number }[] {
    if (node.bundle !== undefined) return []
    const allotments: { attempt: string; cpus: number }[] = []
    for (const attempt of node.attempts) {
      // It may know it already without having said so: then a lease that is repeated changes nothing.
      if (!wasTold(attempt)) continue
      // One that has ended here runs until its node hears so: what it gave up before may be another's already.
      if (!isLive(attempt) && attempt.allotted === attempt.cpus) continue
      const { min, max } = cpuRangeOf(attempt.job)
      if (max > min || attempt.allotted !== attempt.cpus)
        allotments.push({ attempt: attempt.id, cpus: Math.max(1, attempt.allotted) })
    }
    return allotments
  }

  /** What those below are told of attempts that come before others. */
  claimsBelow(node: NodeEntry): { attempt: string; cpus: number; why: Claim['why'] }[] {
    if (node.bundle === undefined) return []
    const claims = this.#core.relays.claimsFor(node)
    for (const attempt of node.attempts) {
      if (!isLive(attempt)) continue
      const claim = this.#claims.claimBelow(attempt, node)
      if (claim !== undefined) claims.push({ attempt: attempt.id, ...claim })
    }
    return claims
  }

  get #isWaiting(): boolean {
    for (const _ of this.#waiting()) return true
    return false
  }

  /** What waits here, and above. */
  *#waiting(): Generator<Waits> {
    for (const home of this.#core.queues.all) {
      const { requirement, avoid, cut } = home
      yield { requirement, avoid, cut, isAbove: false, first: this.#core.queues.first(home) }
    }
    for (const requirement of this.#core.relays.classesAbove.values())
      yield { requirement, isAbove: true, first: undefined }
  }

  #setDue(node: NodeEntry, atMs: number): void {
    this.#due.set(node, atMs)
    this.#nextMs = Math.min(this.#nextMs, atMs)
  }

  /** The nodes whose turn it is; they are no longer due. */
  #take(): NodeEntry[] {
    const { nowMs } = this.#core.moment
    if (nowMs < this.#nextMs) return []
    const taken: NodeEntry[] = []
    let nextMs = Number.POSITIVE_INFINITY
    for (const [node, atMs] of this.#due)
      if (atMs <= nowMs && taken.length < NODES_PER_ROUND) taken.push(node)
      else nextMs = Math.min(nextMs, atMs)
    for (const node of taken) this.#due.delete(node)
    this.#nextMs = nextMs
    return taken
  }

  /** Gives away what is left on the node, and says when it is to be looked at again. */
  #settle(node: NodeEntry): void {
    const { nowMs } = this.#core.moment
    this.#serveClaims(node)
    this.#grow(node)
    const holders = this.#holders.on(node)
    if (holders.length === 0) {
      this.#due.delete(node)
      this.#keep(node, 0)
      return
    }
    let againMs = Number.POSITIVE_INFINITY
    for (const holder of holders) {
      const readyMs = this.#readyAtMs(holder)
      if (readyMs > nowMs) againMs = Math.min(againMs, readyMs)
    }
    if (this.#isWaiting) againMs = Math.min(againMs, nowMs + RECHECK_MS)
    if (Number.isFinite(againMs)) {
      this.#setDue(node, againMs)
      return
    }
    this.#due.delete(node)
    this.#parked.add(node)
  }

  /** From when it may have another number. One whose node has not been told of it yet may at any time. */
  #readyAtMs({ of: holder }: Holder): number {
    if ('allotted' in holder && !wasTold(holder)) return 0
    return (this.#changedAtMs.get(holder) ?? Number.NEGATIVE_INFINITY) + CHANGE_MS
  }

  #ready(node: NodeEntry): Holder[] {
    return this.#holders
      .on(node)
      .filter((holder) => this.#readyAtMs(holder) <= this.#core.moment.nowMs)
  }

  /** Those with a claim get what is free, and what others have beyond their least, as far as those stand back. */
  #serveClaims(node: NodeEntry): void {
    if (!node.connected || node.ackSeq === 0) return
    const { nowMs } = this.#core.moment
    // Nobody wants it to have so many any more.
    for (const holder of this.#holders.on(node))
      if (holder.cpus > holder.max && this.#readyAtMs(holder) <= nowMs)
        this.#set(node, holder.of, holder.max)
    // Whoever gives keeps what it has before others: nobody else comes to lack some meanwhile.
    const short = this.#holders.on(node).filter(({ cpus, floor }) => cpus < floor)
    for (const { of: taker } of short.toSorted(byClaim)) {
      // Each round as things are after the one before.
      const holders = this.#holders.on(node)
      const holder = holders.find((one) => one.of === taker)
      if (holder === undefined || holder.cpus >= holder.floor) continue
      if (this.#readyAtMs(holder) > nowMs) continue
      const wanted = holder.floor - holder.cpus
      const free = this.#isDisputed(node, holder) ? 0 : Math.max(0, freeOf(node).cpus)
      const givers = holders.filter(
        (giver) =>
          giver !== holder && this.#givesTo(giver, holder) && this.#readyAtMs(giver) <= nowMs,
      )
      const surplus = givers.reduce((sum, giver) => sum + Math.max(0, giver.cpus - giver.floor), 0)
      const given = Math.min(wanted, free + surplus)
      if (given <= 0) continue
      if (given > free) this.#shrink(node, givers, given - free, (giver) => giver.floor)
      this.#set(node, taker, holder.cpus + given)
    }
    this.#keepFor(node)
  }

  /** What becomes free is kept for those that have less than they claim. */
  #keepFor(node: NodeEntry): void {
    let kept = 0
    for (const holder of this.#holders.on(node))
      if (holder.cpus < holder.floor && !this.#isDisputed(node, holder))
        kept += holder.floor - holder.cpus
    this.#keep(node, kept)
  }

  #keep(node: NodeEntry, cpus: number): void {
    if (this.#keptOn(node) === cpus) return
    if (cpus === 0) this.#kept.delete(node)
    else this.#kept.set(node, cpus)
    this.#core.waiting.nodeChanged(node)
  }

  /** Whether something that waits could have the free processors of the node and does not stand back. */
  #isDisputed(node: NodeEntry, holder: Holder): boolean {
    // What was less than its least for a while has that back before anything begins.
    if (holder.claim === 'person' || holder.cpus < holder.min) return false
    let left = DISPUTES_MAX
    for (const waits of this.#waiting()) {
      if ((left -= 1) < 0) return true
      const { requirement, avoid, cut } = waits
      if (requirement.cpusMin > node.capacity.cpus || this.#standsBack(waits, holder)) continue
      if (avoid?.has(node.peerId) === true || cut?.has(node.peerId) === true) continue
      if (lacksNothingBut('cpus', requirement, node)) return true
    }
    return false
  }

  #standsBack({ first, isAbove }: Waits, { claim, big }: Holder): boolean {
    if (claim === undefined) return false
    // Whoever granted it has held it against what waits there.
    if (claim === 'person' || big === undefined) return true
    // All of a class that is set aside waits for another node on purpose.
    return first === undefined ? !isAbove : this.#claims.standsBack(first, big)
  }

  /** Whether a running job gives up what it has beyond its least for the one with the claim. */
  #givesTo(giver: Holder, { claim, big }: Holder): boolean {
    if (giver.claim === 'person') return false
    if (claim === 'person') return true
    if (giver.claim !== undefined) return false
    if (big === undefined) return true
    if (!('job' in giver.of)) return false
    return this.#claims.mayPass(big.user, this.#core.queues.userOf(giver.of.job))
  }

  /** What the holder can give to what waits. */
  #surplus(holder: Holder, waits: Waits): number {
    const least = this.#standsBack(waits, holder) ? holder.floor : holder.min
    return Math.max(0, holder.cpus - least)
  }

  /** Takes from holders of the node what the job that needs least lacks to start there, or what the node no longer has. */
  #makeRoom(node: NodeEntry): boolean {
    if (!node.connected || node.ackSeq === 0) return false
    const givers = this.#ready(node).filter(({ cpus, min }) => cpus > min)
    if (givers.length === 0) return false
    const { cpus } = freeOf(node)
    if (cpus < 0) {
      const most = givers.reduce((sum, giver) => sum + giver.cpus - giver.min, 0)
      this.#shrink(node, givers, Math.min(-cpus, most), ({ min }) => min)
      return false
    }
    if ((this.#vainUntilMs.get(node) ?? 0) > this.#core.moment.nowMs) return false
    let least: Waits | undefined
    for (const waits of this.#lackingCpus(node)) {
      if (waits.requirement.cpusMin >= (least?.requirement.cpusMin ?? Number.POSITIVE_INFINITY))
        continue
      const surplus = givers.reduce((sum, giver) => sum + this.#surplus(giver, waits), 0)
      if (waits.requirement.cpusMin - cpus <= surplus) least = waits
    }
    if (least === undefined) return false
    const waits = least
    this.#shrink(node, givers, waits.requirement.cpusMin - cpus, (giver) =>
      this.#standsBack(waits, giver) ? giver.floor : giver.min,
    )
    if (least.isAbove) this.#offered(least.requirement)
    return !least.isAbove
  }

  /** Room was made for what waits above, or did lately: it is kept for a moment, and made again after longer and longer. */
  #offered({ key }: Requirement): void {
    const { nowMs } = this.#core.moment
    const { classesAbove } = this.#core.relays
    const named = new Set([...classesAbove.values()].map((requirement) => requirement.key))
    for (const known of this.#offers.keys()) if (!named.has(known)) this.#offers.delete(known)
    const before = this.#offers.get(key)?.pauseMs
    const pauseMs = before === undefined ? OFFER_PAUSE_MS : Math.min(VAIN_MS, 2 * before)
    this.#offers.set(key, { untilMs: nowMs + OFFER_MS, pauseMs })
    this.#core.effects.push({ type: 'uplink' })
  }

  /** Whether room is to be made for the class above. One that took the last that was made is as good as new. */
  #mayOffer(requirement: Requirement): boolean {
    const hasRoom = this.#hasRoomFor(requirement)
    const offer = this.#offers.get(requirement.key)
    const { nowMs } = this.#core.moment
    if (hasRoom || offer === undefined) return !hasRoom
    if (nowMs < offer.untilMs) {
      this.#offers.delete(requirement.key)
      return true
    }
    return nowMs >= offer.untilMs + offer.pauseMs
  }

  /** What waits and could start on the node but for processors, of which the node has enough in all. */
  *#lackingCpus(node: NodeEntry): Generator<Waits> {
    const { cpus } = freeOf(node)
    let left = CLASSES_PER_NODE
    for (const waits of this.#waiting()) {
      const { requirement, avoid, cut, isAbove } = waits
      if (requirement.cpusMin <= cpus || requirement.cpusMin > node.capacity.cpus) continue
      if (avoid?.has(node.peerId) === true || cut?.has(node.peerId) === true) continue
      if ((left -= 1) < 0) return
      if (!lacksNothingBut('cpus', requirement, node)) continue
      // Those above choose among all nodes here, and need not know of this one.
      if (!isAbove || this.#mayOffer(requirement)) yield waits
    }
  }

  #hasRoomFor(requirement: Requirement): boolean {
    let left = NODES_PER_CLASS
    for (const node of this.#core.nodes.values())
      if (node.connected && node.bundle === undefined) {
        if (canStart(requirement, node)) return true
        if ((left -= 1) <= 0) break
      }
    return false
  }

  /** Processors that are kept free on the node for what waits above until it has had the time to come. */
  #keptFree(node: NodeEntry): number {
    let kept = 0
    for (const requirement of this.#core.relays.classesAbove.values())
      if (
        this.#core.moment.nowMs < (this.#offers.get(requirement.key)?.untilMs ?? 0) &&
        lacksNothingBut(undefined, requirement, node)
      )
        kept = Math.max(kept, requirement.cpusMin)
    return kept
  }

  /** Those without a claim give first, then the holder with the most beyond its least, each down to `leastOf`. */
  #shrink(
    node: NodeEntry,
    givers: readonly Holder[],
    cpus: number,
    leastOf: (giver: Holder) => number,
  ): void {
    let left = cpus
    const surplusOf = (giver: Holder): number => Math.max(0, giver.cpus - leastOf(giver))
    for (const giver of givers.toSorted((a, b) => byClaim(b, a) || surplusOf(b) - surplusOf(a))) {
      if (left <= 0) return
      const given = Math.min(left, surplusOf(giver))
      left -= given
      this.#set(node, giver.of, giver.cpus - given)
    }
  }

  /** The holders with the fewest get more first, so that equal ones end up equal. */
  #grow(node: NodeEntry): void {
    if (!node.connected || node.ackSeq === 0 || freeOf(node).cpus <= 0) return
    const takers = this.#ready(node)
      .filter(({ cpus, max }) => cpus < max)
      .toSorted((a, b) => a.cpus - b.cpus)
    if (takers.length === 0) return
    for (const waits of this.#lackingCpus(node))
      if (!takers.every((taker) => this.#standsBack(waits, taker))) return
    const levels = takers.map(({ cpus }) => cpus)
    const spare = freeOf(node).cpus - Math.max(this.#keptFree(node), this.#keptOn(node))
    for (let left = spare; left > 0; left -= 1) {
      const lowest = lowestOf(takers, levels)
      if (lowest === undefined) break
      levels[lowest] = (levels[lowest] ?? 0) + 1
    }
    for (const [at, { of: holder }] of takers.entries()) this.#set(node, holder, levels[at] ?? 0)
  }

  #set(node: NodeEntry, holder: Attempt | Relayed, cpus: number): void {
    if (!('allotted' in holder)) {
      this.#changedAtMs.set(holder, this.#core.moment.nowMs)
      this.#core.relays.allot(holder, cpus)
      return
    }
    if (cpus === holder.allotted) return
    this.#changedAtMs.set(holder, this.#core.moment.nowMs)
    const isLess = cpus < holder.allotted
    if (node.attempts.has(holder)) node.allocated.cpus += cpus - holder.allotted
    holder.allotted = cpus
    if (isLess) this.#core.waiting.nodeChanged(node)
    this.#core.shares.jobChanged(holder.job)
    for (const step of holder.job.waiters) this.#core.effects.push({ type: 'step', step })
    this.#core.effects.push({ type: 'desired', peerId: node.peerId })
  }
}

const wasTold = ({ confirmed, sentSeq }: Attempt): boolean => confirmed || sentSeq > 0

/** Whether the job could start there now if `what` did not matter. */
function lacksNothingBut(
  what: string | undefined,
  requirement: Requirement,
  node: NodeEntry,
): boolean {
  return verdictsOf(requirement, node).every(
    (verdict) => verdict.ok || verdict.requirement === what,
  )
}

/** Of the takers that may have more, the one with the fewest. */
function lowestOf(takers: readonly Holder[], levels: readonly number[]): number | undefined {
  let lowest: number | undefined
  for (const [at, { max }] of takers.entries()) {
    const level = levels[at] ?? 0
    if (level < max && (lowest === undefined || level < (levels[lowest] ?? 0))) lowest = at
  }
  return lowest
}
