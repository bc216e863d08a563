/**
 * Leases of the parent that this node passes on: to its own worker, to a child, or to the subtree of one.
 *
 * A lease keeps its attempt's id on its way down, an outcome goes up unchanged, and the parent's word that
 * it has the outcome goes down again: so nothing of a lease is durable here, and whoever takes this node's
 * place, or this node after a restart, learns all of it from below. It never tries again by itself: what
 * has failed or finds no room goes back to the owner.
 */
import type { NodeRef } from '../wire/facts.ts'
import {
  LEASE_MS,
  LEASE_SLACK_MS,
  RUNNING_MAX,
  type DesiredMessage,
  type FinishedAttempt,
  type Lease,
  type Limits,
  type Resources,
  type RunningAttempt,
  type SyncMessage,
} from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { freeOf, type Requirement } from './match.ts'
import type { Claim, NodeEntry, Relayed } from './model.ts'
import { DISCONNECT_GRACE_MS } from './nodes.ts'
import { chooseNode } from './relay-choice.ts'
import { hasMoved, isHeldBy, leaseResources, newRelayed, NOTHING, sameLimits } from './relayed.ts'
import { requirementFromWire, requirementOfLease } from './requirement-wire.ts'
import { offerOfSubtree } from './subtree-offer.ts'

/** What finds no room goes back after this. */
const RETURN_MS = 2_000
/** After a start the nodes below are waited for so long before what they run counts as known. */
const RECOVERY_MS = 20_000
/** What is left of the own lease when one is passed on, so that the one below ends first. */
const NESTING_MS = 1_000
/** Parents whose epochs are remembered. */
const GRANTERS_MAX = 64

const NO_BYTES = { peer: 0, mirror: 0, local: 0 } as const

export class Relays {
  readonly #core: Core
  readonly #relayed = new Map<string, Relayed>()
  /** By peer id of the parent that granted. */
  readonly #epochs = new Map<string, number>()
  /** The connection to the parent. */
  #uplink: { readonly peerId: string; ackSeq: number; leaseUntilMs: number } | undefined
  #classes: ReadonlyMap<string, Requirement> = new Map()
  /** Programs that those above want to know the contents of. */
  #tools: readonly string[] = []
  #ancestors: readonly NodeRef[] = []
  #recoveringUntilMs = 0

  constructor(core: Core) {
    this.#core = core
  }

  /** Those above this node, its parent first; empty without a parent that has said. */
  get ancestors(): readonly NodeRef[] {
    return this.#uplink === undefined ? [] : this.#ancestors
  }
  get all(): IterableIterator<Relayed> {
    return this.#relayed.values()
  }
  /** When the own lease of what is passed on ends; undefined without a parent. */
  get leaseUntilMs(): number | undefined {
    return this.#uplink?.leaseUntilMs
  }
  /** Classes that wait above, as the parent named them. */
  get classesAbove(): ReadonlyMap<string, Requirement> {
    return this.#uplink === undefined ? new Map() : this.#classes
  }

  /** Programs whose contents those above want to know. */
  get toolsAbove(): readonly string[] {
    return this.#uplink === undefined ? [] : this.#tools
  }

  find(id: string): Relayed | undefined {
    return this.#relayed.get(id)
  }

  /** The daemon has started: what ran before is told of by those that run it. */
  recover(): void {
    if (this.#core.takesChildren) this.#recoveringUntilMs = this.#core.moment.nowMs + RECOVERY_MS
  }

  up(peerId: string): void {
    this.#classes = new Map()
    this.#ancestors = []
    this.#tools = []
    this.#uplink = { peerId, ackSeq: 0, leaseUntilMs: this.#core.moment.nowMs + LEASE_MS }
    this.#changed()
  }

  down(isRing: boolean): void {
    this.#uplink = undefined
    // Drains hold until somebody above says otherwise: they are no leases. What went round a ring is nobody's.
    if (isRing) {
      this.#core.drains.setInherited([])
      this.#core.slots.setInherited([])
    }
    // What only waits here is nobody's any more: its owner grants it again.
    for (const relayed of [...this.#relayed.values()])
      if (relayed.node === undefined && relayed.finished === undefined) this.#forget(relayed)
    for (const node of this.#core.nodes.values())
      this.#core.effects.push({ type: 'desired', peerId: node.peerId })
  }

  /** What the parent says should be. `sentAtMs` is when the sync that it answers was sent. */
  orders(peerId: string, message: DesiredMessage, sentAtMs: number): void {
    const uplink = this.#uplink
    if (uplink?.peerId !== peerId || message.seq <= uplink.ackSeq) return
    const epoch = this.#epochs.get(peerId) ?? 0
    // An earlier life of the parent does not grant any more.
    if (message.epoch < epoch) return
    this.#remember(peerId, message.epoch)
    uplink.ackSeq = message.seq
    uplink.leaseUntilMs = Math.max(
      uplink.leaseUntilMs,
      sentAtMs + Math.min(LEASE_MS, message.leaseMs ?? LEASE_MS),
    )
    const ancestors = message.ancestors ?? [{ peerId, name: '' }]
    const isNews =
      message.tools.some((tool) => !this.#tools.includes(tool)) ||
      wayOf(ancestors) !== wayOf(this.#ancestors)
    this.#ancestors = ancestors
    this.#tools = message.tools
    // Nodes below hear of it with their next message; that is now where it is new.
    if (isNews)
      for (const node of this.#core.nodes.values())
        this.#core.effects.push({ type: 'desired', peerId: node.peerId })
    // Left out where they are those that were named before.
    if (message.classes !== undefined) {
      const known = this.#classes
      this.#classes = new Map(
        message.classes.map(({ key, requirement }) => [
          key,
          known.get(key) ?? requirementFromWire(requirement),
        ]),
      )
      this.#core.classes.changed()
    }
    this.#core.drains.setInherited(message.drains ?? [])
    this.#core.slots.setInherited(message.slotOrders ?? [])
    for (const lease of message.grants) this.#take(lease)
    for (const { attempt, limits } of message.limits) this.#limit(attempt, limits)
    for (const { attempt, cpus } of message.allotments ?? []) {
      const relayed = this.#relayed.get(attempt)
      if (relayed !== undefined) this.allot(relayed, cpus)
    }
    this.#claim(message.claims ?? [])
    for (const id of message.cancel) this.#cancel(id)
    for (const id of message.ack) this.#acknowledge(id)
    this.place()
  }

  #remember(peerId: string, epoch: number): void {
    this.#epochs.delete(peerId)
    this.#epochs.set(peerId, epoch)
    const [oldest] = this.#epochs.keys()
    if (this.#epochs.size > GRANTERS_MAX && oldest !== undefined) this.#epochs.delete(oldest)
  }

  #take(lease: Lease): void {
    const known = this.#relayed.get(lease.attempt)
    if (known !== undefined) {
      known.lease ??= lease
      known.limits ??= lease.limits
      return
    }
    if (this.#relayed.size >= RUNNING_MAX) return
    this.#changed()
    this.#relayed.set(lease.attempt, newRelayed(lease.attempt, this.#core.moment.nowMs, lease))
  }

  #limit(id: string, limits: Limits): void {
    const relayed = this.#relayed.get(id)
    if (relayed === undefined || sameLimits(relayed.limits, limits)) return
    relayed.limits = limits
    this.#tell(relayed)
  }

  /** These come before others of their machine; what was said of others before is over. */
  #claim(claims: NonNullable<DesiredMessage['claims']>): void {
    const wanted = new Map(claims.map(({ attempt, ...claim }) => [attempt, claim]))
    for (const [id, relayed] of this.#relayed) {
      const claim = wanted.get(id)
      if (claim?.cpus === relayed.claim?.cpus && claim?.why === relayed.claim?.why) continue
      relayed.claim = claim
      this.#tell(relayed)
      if (relayed.node !== undefined) this.#core.allotments.nodeChanged(relayed.node)
    }
  }

  /** The same for those further below. */
  claimsFor(node: NodeEntry): { attempt: string; cpus: number; why: Claim['why'] }[] {
    return [...node.relayed.values()].flatMap(({ id, claim, finished }) =>
      claim === undefined || finished !== undefined ? [] : [{ attempt: id, ...claim }],
    )
  }

  /** It should use so many processors from now on. */
  allot(relayed: Relayed, wanted: number): void {
    const { node, reserved } = relayed
    if (node === undefined || reserved === NOTHING) return
    // Whoever says so may not know yet what else was begun there; it says so again with every message.
    const cpus = Math.min(wanted, reserved.cpus + Math.max(0, freeOf(node).cpus))
    if (reserved.cpus === cpus) return
    node.allocated.cpus += cpus - reserved.cpus
    relayed.reserved = { ...reserved, cpus }
    this.#core.waiting.nodeChanged(node)
    this.#tell(relayed)
    this.#changed()
  }

  /** Processors for what was passed on to the node, as it was told or is about to be. */
  allotmentsFor(node: NodeEntry): { attempt: string; cpus: number }[] {
    return [...node.relayed.values()].flatMap(({ id, reserved, finished, confirmed, sentSeq }) =>
      finished === undefined && reserved.cpus > 0 && (confirmed || sentSeq > 0)
        ? [{ attempt: id, cpus: reserved.cpus }]
        : [],
    )
  }

  #cancel(id: string): void {
    const relayed = this.#relayed.get(id)
    if (relayed === undefined || relayed.fate !== 'open') return
    relayed.fate = 'cancelled'
    if (relayed.node === undefined && relayed.finished === undefined)
      this.#end(relayed, { kind: 'cancelled' })
    this.#tell(relayed)
  }

  /** The parent has the outcome durably: so has whoever keeps it below no reason to any more. */
  #acknowledge(id: string): void {
    const relayed = this.#relayed.get(id)
    if (relayed === undefined || relayed.fate === 'acknowledged') return
    relayed.fate = 'acknowledged'
    this.#tell(relayed)
    if (relayed.node?.finished.has(id) !== true) this.#forget(relayed)
  }

  /** Whoever has it should hear what is now wanted of it. */
  #tell({ node }: Relayed): void {
    if (node !== undefined) this.#core.effects.push({ type: 'desired', peerId: node.peerId })
  }

  #forget(relayed: Relayed): void {
    this.#release(relayed)
    this.#relayed.delete(relayed.id)
  }

  #release(relayed: Relayed): void {
    const { node } = relayed
    if (node === undefined) return
    this.#free(relayed)
    node.relayed.delete(relayed.id)
    relayed.node = undefined
    this.#core.waiting.nodeChanged(node)
    this.#core.allotments.nodeChanged(node)
  }

  /** It takes no room any more. */
  #free(relayed: Relayed): void {
    const { node, reserved } = relayed
    if (node === undefined || reserved === NOTHING) return
    node.allocated.cpus -= reserved.cpus
    node.allocated.memoryBytes -= reserved.memoryBytes
    node.allocated.diskBytes -= reserved.diskBytes
    relayed.reserved = NOTHING
    this.#core.waiting.nodeChanged(node)
  }

  #assign(relayed: Relayed, node: NodeEntry, reserved: Resources): void {
    this.#release(relayed)
    relayed.node = node
    relayed.boot = node.boot
    relayed.reserved = node.bundle === undefined ? reserved : NOTHING
    node.relayed.set(relayed.id, relayed)
    node.allocated.cpus += relayed.reserved.cpus
    node.allocated.memoryBytes += relayed.reserved.memoryBytes
    node.allocated.diskBytes += relayed.reserved.diskBytes
    this.#core.waiting.nodeChanged(node)
    this.#core.allotments.nodeChanged(node)
  }

  /** Passes on what is held here and finds room. */
  place(): void {
    const held = [...this.#relayed.values()]
      .filter(({ node, finished, fate }) => !node && !finished && fate === 'open')
      .toSorted(
        (a, b) =>
          (b.lease?.terms?.priority ?? 0) - (a.lease?.terms?.priority ?? 0) ||
          a.sinceMs - b.sinceMs,
      )
    for (const relayed of held) {
      const { lease } = relayed
      if (lease === undefined) continue
      const requirement = requirementOfLease(lease)
      const node = chooseNode(this.#core, lease, requirement)
      if (node === undefined) continue
      const cpus = Math.max(
        requirement.cpusMin,
        Math.min(
          requirement.cpusMax,
          node.bundle === undefined ? this.#core.allotments.freeOn(node).cpus : lease.cpus,
        ),
      )
      relayed.lease = { ...lease, cpus }
      this.#assign(relayed, node, {
        cpus,
        memoryBytes: lease.memoryBytes,
        diskBytes: lease.diskBytes,
      })
      relayed.leaseUntilMs = this.#leaseBelow()
      this.#core.outcomes.leaseEndsAt(relayed.leaseUntilMs)
      this.#core.effects.push({ type: 'desired', peerId: node.peerId })
      this.#changed()
    }
  }

  /** How long a lease that is passed on now runs: it ends before that of this node. */
  #leaseBelow(): number {
    return this.#core.moment.nowMs + this.leaseMsBelow() + LEASE_SLACK_MS
  }

  /**
   * How long leases of the node run from its last message: what is passed on ends before it ends here. What
   * this node grants for itself, since nobody is above it or says anything, does not hang on that.
   */
  leaseMsFor(node: NodeEntry): number {
    const { attempts, relayed } = node
    const isHead = this.#uplink === undefined
    const isOwn = attempts.size > 0 && ![...relayed.values()].some(({ confirmed }) => !confirmed)
    return isHead || isOwn || relayed.size === 0 ? LEASE_MS : this.leaseMsBelow()
  }

  leaseMsBelow(): number {
    const { nowMs } = this.#core.moment
    // Without a parent those below go on as orphans, whose outcomes are offered when there is one again.
    const leftMs = (this.#uplink?.leaseUntilMs ?? nowMs) - nowMs - NESTING_MS
    return Math.max(0, Math.min(LEASE_MS, leftMs))
  }

  // ---- what nodes say

  /** True when the attempt is one of the parent's, or may be. */
  heardRunning(node: NodeEntry, running: RunningAttempt): boolean {
    const relayed = this.#relayed.get(running.attempt) ?? this.#foreign(running.attempt, node)
    if (relayed === undefined) return false
    if (relayed.finished !== undefined && relayed.node !== node) return true
    if (relayed.node !== node) {
      if (!hasMoved(relayed, node, running)) return true
      this.#assign(relayed, node, running.held ?? leaseResources(relayed.lease))
    }
    relayed.isAway = running.awayMs !== undefined
    const runner = running.runner ?? { peerId: node.peerId, name: node.record.name }
    if (
      relayed.phase !== running.phase ||
      relayed.runner?.peerId !== runner.peerId ||
      !relayed.confirmed
    )
      this.#changed()
    relayed.runner = runner
    relayed.phase = running.phase
    relayed.phases = running.phases
    relayed.confirmed = true
    return true
  }

  heardFinished(node: NodeEntry, finished: FinishedAttempt): boolean {
    const relayed = this.#relayed.get(finished.attempt) ?? this.#foreign(finished.attempt, node)
    if (relayed === undefined) return false
    if (relayed.node !== node && !this.#mayTell(relayed, node, finished)) return true
    relayed.confirmed = true
    if (relayed.node !== node) this.#assign(relayed, node, NOTHING)
    // It takes no room any more, and stays with its node until that has dropped it.
    this.#free(relayed)
    if (relayed.finished === undefined)
      this.#core.quarantine.passedOn(node, finished.outcome, relayed)
    if (relayed.finished !== undefined && relayed.finished.outcome.kind !== 'infrastructure')
      return true
    relayed.runner = finished.runner ?? { peerId: node.peerId, name: node.record.name }
    relayed.finished = finished
    this.#changed()
    return true
  }

  /** Whether another node than the one that it was passed on to may say how it ended: only on behalf of who runs it. */
  #mayTell(relayed: Relayed, node: NodeEntry, { outcome, runner }: FinishedAttempt): boolean {
    // That it was lost on its old way is no news.
    const isResult = outcome.kind === 'built' || outcome.kind === 'failed'
    if (!isResult && isHeldBy(relayed.node, relayed)) return false
    // One that was just heard of for the first time is for its owner to judge.
    if (relayed.lease === undefined && relayed.node === undefined) return true
    const named = runner?.peerId ?? node.peerId
    if (relayed.runner?.peerId !== named) return false
    return named === node.peerId || this.#core.members.of(named)?.via === node.peerId
  }

  /** Granted by way of another parent, or before this node was restarted: whoever granted it says what becomes of it. */
  #foreign(id: string, node: NodeEntry): Relayed | undefined {
    if (!this.#core.hasParents || this.#relayed.size >= RUNNING_MAX) return undefined
    const relayed = newRelayed(id, this.#core.moment.nowMs)
    relayed.boot = node.boot
    relayed.confirmed = true
    this.#relayed.set(id, relayed)
    return relayed
  }

  /** The node has told all that it has: what it was given and does not know is gone. */
  heardAll(node: NodeEntry): void {
    for (const relayed of [...node.relayed.values()]) {
      const { id } = relayed
      const isTold = node.running.has(id) || node.finished.has(id)
      if (isTold) {
        relayed.leaseUntilMs = this.#core.moment.nowMs + LEASE_MS + LEASE_SLACK_MS
        continue
      }
      if (relayed.fate === 'acknowledged') {
        this.#forget(relayed)
        continue
      }
      if (relayed.finished !== undefined) {
        // Its keeper dropped it unasked; the copy here goes on being offered.
        this.#release(relayed)
        continue
      }
      const wasTold =
        relayed.confirmed ||
        relayed.boot !== node.boot ||
        (relayed.sentSeq > 0 && relayed.sentSeq <= node.heardSeq)
      if (!wasTold || this.#core.moment.nowMs < node.recoveringUntilMs) continue
      if (relayed.fate === 'cancelled') this.#end(relayed, { kind: 'cancelled' })
      else this.#lose(relayed, `${node.record.name} was restarted and no longer runs it`)
    }
    this.place()
    this.#changed()
  }

  nodeUp(node: NodeEntry): void {
    for (const relayed of node.relayed.values()) relayed.sentSeq = 0
    this.#changed()
  }

  nodeDown(node: NodeEntry): void {
    const untilMs = this.#core.moment.nowMs + DISCONNECT_GRACE_MS
    for (const relayed of node.relayed.values()) {
      relayed.leaseUntilMs = Math.min(relayed.leaseUntilMs, untilMs)
      this.#core.outcomes.leaseEndsAt(relayed.leaseUntilMs)
    }
    this.#changed()
  }

  // ---- time

  tick(): void {
    const { nowMs } = this.#core.moment
    for (const relayed of [...this.#relayed.values()]) {
      if (relayed.node !== undefined && relayed.leaseUntilMs <= nowMs) {
        const { name } = relayed.node.record
        if (relayed.fate === 'acknowledged') this.#forget(relayed)
        else if (relayed.finished === undefined)
          this.#lose(relayed, `${name} was not heard of before its lease ended`)
        else this.#release(relayed)
      }
    }
    this.place()
    for (const relayed of [...this.#relayed.values()])
      if (
        relayed.node === undefined &&
        relayed.finished === undefined &&
        nowMs - relayed.sinceMs >= RETURN_MS
      )
        this.#end(relayed, { kind: 'returned', message: 'no node below had room for it' })
  }

  nextDeadlineMs(): number {
    let next = Number.POSITIVE_INFINITY
    for (const { node, finished, sinceMs, leaseUntilMs } of this.#relayed.values()) {
      if (node !== undefined) next = Math.min(next, leaseUntilMs)
      else if (finished === undefined) next = Math.min(next, sinceMs + RETURN_MS)
    }
    return next
  }

  #lose(relayed: Relayed, message: string): void {
    const { node, confirmed, phase } = relayed
    const died = confirmed && phase !== 'leased' && node?.leftOrderly !== true
    const outcome = {
      kind: 'infrastructure',
      code: 'MESH0505',
      message,
      ...(died ? { died } : {}),
    } as const
    if (node !== undefined) this.#core.quarantine.passedOn(node, outcome, relayed)
    this.#end(relayed, outcome)
  }

  /** The node is drained: what it has not begun goes back to its owner, with `isAll` what it runs as well. */
  takeBack(node: NodeEntry, isAll: boolean, message: string): void {
    for (const relayed of [...node.relayed.values()]) {
      const hasBegun = relayed.confirmed && relayed.phase !== 'leased'
      if (relayed.finished !== undefined || relayed.fate !== 'open' || (hasBegun && !isAll))
        continue
      // Should it run there all the same, it is ended.
      relayed.fate = 'cancelled'
      this.#end(relayed, { kind: 'returned', message })
    }
  }

  #end(relayed: Relayed, outcome: FinishedAttempt['outcome']): void {
    this.#release(relayed)
    relayed.finished = {
      attempt: relayed.id,
      outcome,
      usage: null,
      phases: relayed.phases,
      bytes: NO_BYTES,
    }
    this.#changed()
  }

  // ---- what is told

  /** Leases that the node does not know yet. Marks them as sent in `seq`. */
  grantsFor(node: NodeEntry, seq: number): Lease[] {
    const leases: Lease[] = []
    // Under a lease that is over nothing is begun; what was begun goes on.
    if (this.leaseMsBelow() === 0) return leases
    for (const relayed of node.relayed.values()) {
      if (relayed.confirmed || relayed.finished !== undefined || relayed.lease === undefined)
        continue
      // An earlier life of the node may have begun it below.
      if (relayed.fate !== 'open' || relayed.boot !== node.boot) continue
      relayed.sentSeq = seq
      leases.push({ ...relayed.lease, limits: relayed.limits ?? relayed.lease.limits })
    }
    return leases
  }

  /** Its lease did not go with the message. */
  defer(id: string): void {
    const relayed = this.#relayed.get(id)
    if (relayed !== undefined) relayed.sentSeq = 0
  }

  limitsFor(node: NodeEntry): { attempt: string; limits: Lease['limits'] }[] {
    return [...node.relayed.values()].flatMap(({ id, limits, confirmed, finished }) =>
      confirmed && finished === undefined && limits !== undefined ? [{ attempt: id, limits }] : [],
    )
  }

  /** What the node should end, of what it said it runs. */
  isOver(id: string): boolean | undefined {
    const relayed = this.#relayed.get(id)
    if (relayed === undefined) return undefined
    return relayed.fate !== 'open'
  }

  isAcknowledged(id: string): boolean | undefined {
    const relayed = this.#relayed.get(id)
    return relayed === undefined ? undefined : relayed.fate === 'acknowledged'
  }

  /** What this node says to its parent. Undefined without one. */
  syncUp(seq: number): SyncMessage | undefined {
    const uplink = this.#uplink
    if (uplink === undefined) return undefined
    const running: RunningAttempt[] = []
    const finished: FinishedAttempt[] = []
    for (const relayed of this.#relayed.values()) {
      if (relayed.finished !== undefined) {
        const { runner: _before, ...outcome } = relayed.finished
        if (relayed.fate !== 'acknowledged')
          finished.push({ ...outcome, ...this.#runnerOf(relayed) })
      } else running.push(this.#running(relayed))
    }
    const heldCount = [...this.#relayed.values()].filter(
      ({ node, finished: end }) => node === undefined && end === undefined,
    ).length
    const leftMs = this.#recoveringUntilMs - this.#core.moment.nowMs
    return {
      type: 'sync',
      seq,
      ackSeq: uplink.ackSeq,
      running: running.slice(0, RUNNING_MAX),
      finished: finished.slice(0, RUNNING_MAX),
      ...offerOfSubtree(this.#core, this.#classes, heldCount),
      ...(leftMs > 0 ? { recoveringMs: Math.ceil(leftMs) } : {}),
    }
  }

  /** Who runs it is told only where it is not this node itself. */
  #runnerOf({ runner }: Relayed): { runner?: NodeRef } {
    return runner === undefined || runner.peerId === this.#core.selfId ? {} : { runner }
  }

  #running(relayed: Relayed): RunningAttempt {
    const { id, phase, phases, node, reserved } = relayed
    return {
      attempt: id,
      phase,
      phases,
      ...this.#runnerOf(relayed),
      ...(reserved === NOTHING ? {} : { held: reserved }),
      ...(node?.connected === false
        ? { awayMs: Math.max(1, Math.round(this.#core.moment.nowMs - node.disconnectedAtMs)) }
        : {}),
    }
  }

  #changed(): void {
    if (this.#uplink !== undefined) this.#core.effects.push({ type: 'uplink' })
  }
}

const wayOf = (ancestors: readonly NodeRef[]): string =>
  ancestors.map(({ peerId }) => peerId).join()
