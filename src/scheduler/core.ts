/**
 * What the parts of the scheduler share: the durable state, the nodes, the queues, and the effects of the
 * event that is being applied. The parts call each other through it.
 */
import type { Fact } from '../wire/facts.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import { Allotments } from './allotments.ts'
import { CriticalPaths } from './critical-path.ts'
import type { Effect, Moment } from './events.ts'
import { Learning } from './learning.ts'
import { Drains } from './drains.ts'
import { Explainer } from './explain/explainer.ts'
import { Levers } from './levers.ts'
import { Audit } from './audit.ts'
import { Builders } from './builders.ts'
import { Members } from './members.ts'
import { Forecast } from './forecast.ts'
import { Lookups } from './lookups.ts'
import { Matcher } from './matcher.ts'
import type { NodeEntry } from './model.ts'
import { NodeSlots } from './node-slots.ts'
import { Nodes } from './nodes.ts'
import { Outcomes } from './outcomes.ts'
import { Poison } from './poison.ts'
import { Quarantine } from './quarantine.ts'
import { Placement } from './placement.ts'
import { Profiles } from './profiles.ts'
import { Queues } from './queue.ts'
import { Reach, type ProvidersOf } from './reach.ts'
import { Refusals } from './refusals.ts'
import { Relays } from './relays.ts'
import { Reservations } from './reservations.ts'
import { Replicas } from './replicas.ts'
import { Requests } from './requests.ts'
import { Standing } from './standing.ts'
import { Shares, type ShareOptions } from './shares.ts'
import { State } from './state.ts'
import { Stragglers } from './stragglers.ts'
import { Steps } from './steps.ts'
import { Verify } from './verify.ts'
import { Waiting } from './waiting.ts'
import { WaitingClasses } from './waiting-classes.ts'

export interface CoreOptions {
  readonly selfId: string
  readonly providersOf: ProvidersOf
  /** This node may have a parent, whose leases it passes on. */
  readonly hasParents?: boolean
  /** False for a node that nobody can dial: nothing runs below it. */
  readonly takesChildren?: boolean
  /** Of the finished jobs those that are built again on idle nodes and compared, from 0 to 1. */
  readonly auditShare?: number
  /** Groups of users, and how fast their use is forgotten. */
  readonly shares?: ShareOptions
}

export class Core {
  readonly state: State
  /** By peer id. */
  readonly nodes = new Map<string, NodeEntry>()
  readonly queues = new Queues(this)
  /** Until when a restart's survivors are waited for. */
  recoveringUntilMs = 0
  moment: Moment = { nowMs: 0, wallMs: 0, ownBlobBytes: 0 }
  effects: Effect[] = []
  /** Counts the events: nothing changes between two of them. */
  turn = 0

  readonly requests = new Requests(this)
  readonly steps = new Steps(this)
  readonly waiting = new Waiting(this)
  readonly matcher = new Matcher(this)
  readonly lookups = new Lookups(this)
  readonly profiles = new Profiles(this)
  readonly forecast = new Forecast(this)
  readonly placement = new Placement(this)
  readonly reservations = new Reservations(this)
  readonly stragglers = new Stragglers(this)
  readonly attendance = new Nodes(this)
  readonly outcomes = new Outcomes(this)
  readonly replicas = new Replicas(this)
  readonly verify = new Verify(this)
  readonly builders = new Builders(this)
  readonly audit: Audit
  readonly relays = new Relays(this)
  readonly members = new Members()
  readonly classes = new WaitingClasses(this)
  readonly criticalPaths = new CriticalPaths(this)
  readonly allotments = new Allotments(this)
  readonly learning = new Learning(this)
  readonly shares: Shares
  readonly levers = new Levers(this)
  readonly drains = new Drains(this)
  readonly slots = new NodeSlots(this)
  readonly quarantine = new Quarantine(this)
  readonly poison = new Poison(this)
  readonly refusals = new Refusals(this)
  readonly standing = new Standing(this)
  readonly explainer = new Explainer(this)
  readonly reach: Reach
  /** Peer id of the owner's own node, which all others are connected to. */
  readonly selfId: string
  readonly hasParents: boolean
  readonly takesChildren: boolean

  constructor({
    selfId,
    providersOf,
    hasParents = false,
    takesChildren = true,
    auditShare = 0,
    shares,
  }: CoreOptions) {
    this.selfId = selfId
    this.hasParents = hasParents
    this.takesChildren = takesChildren
    this.state = new State({ halfLifeMs: shares?.halfLifeMs })
    this.shares = new Shares(this, shares)
    this.reach = new Reach(this, providersOf)
    this.audit = new Audit(this, auditShare)
  }

  /** Not everybody may be back yet, after a restart of this node or of one that answers for a subtree. */
  get isRecovering(): boolean {
    const { nowMs } = this.moment
    if (nowMs < this.recoveringUntilMs) return true
    for (const { connected, recoveringUntilMs, bundle, environments } of this.nodes.values())
      if (
        connected &&
        nowMs < recoveringUntilMs &&
        (bundle !== undefined || environments.length === 0)
      )
        return true
    return false
  }

  begin(moment: Moment): void {
    this.effects = []
    this.moment = moment
    this.turn += 1
  }

  /** Of a node that is there, at any depth below. */
  recordOf(peerId: string): PeerRecord | undefined {
    const node = this.nodes.get(peerId)
    return node?.connected === true ? node.record : this.members.of(peerId)?.record
  }

  /** Store nodes that are there, at any depth below. */
  *stores(): Iterable<PeerRecord> {
    for (const { connected, record } of this.nodes.values())
      if (connected && record.roles.includes('store')) yield record
    for (const { record } of this.members.stores) yield record
  }

  /** Makes it true, and has it journaled. */
  fact(fact: Fact): void {
    this.state.evolve(fact)
    this.shares.followed(fact)
    this.criticalPaths.followed(fact)
    this.effects.push({ type: 'fact', fact })
  }
}
