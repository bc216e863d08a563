/**
 * What the parts of the scheduler share: the durable state, the nodes, the queues, and the effects of the
 * event that is being applied. The parts call each other through it.
 */
import type { Fact } from '../wire/facts.ts'
import type { Effect, Moment } from './events.ts'
import type { NodeEntry } from './model.ts'
import { Nodes } from './nodes.ts'
import { Outcomes } from './outcomes.ts'
import { Queues } from './queue.ts'
import { Reach, type ProvidersOf } from './reach.ts'
import { Replicas } from './replicas.ts'
import { Requests } from './requests.ts'
import { State } from './state.ts'
import { Steps } from './steps.ts'
import { Waiting } from './waiting.ts'

export interface CoreOptions {
  readonly selfId: string
  readonly providersOf: ProvidersOf
}

export class Core {
  readonly state = new State()
  /** By peer id. */
  readonly nodes = new Map<string, NodeEntry>()
  readonly queues = new Queues()
  /** Until when a restart's survivors are waited for. */
  recoveringUntilMs = 0
  moment: Moment = { nowMs: 0, wallMs: 0, ownBlobBytes: 0 }
  effects: Effect[] = []

  readonly requests = new Requests(this)
  readonly steps = new Steps(this)
  readonly waiting = new Waiting(this)
  readonly attendance = new Nodes(this)
  readonly outcomes = new Outcomes(this)
  readonly replicas = new Replicas(this)
  readonly reach: Reach
  /** Peer id of the owner's own node, which all others are connected to. */
  readonly selfId: string

  constructor({ selfId, providersOf }: CoreOptions) {
    this.selfId = selfId
    this.reach = new Reach(this, providersOf)
  }

  begin(moment: Moment): void {
    this.effects = []
    this.moment = moment
  }

  /** Makes it true, and has it journaled. */
  fact(fact: Fact): void {
    this.state.evolve(fact)
    this.effects.push({ type: 'fact', fact })
  }
}
