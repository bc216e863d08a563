/**
 * A few schedulers above each other, with a clock that is stepped: every node passes on what its parent
 * grants, and those that build do so when they are told to. Messages arrive at once and in order; what is
 * said to whom is decided by the code of the product.
 */
import assert from 'node:assert/strict'
import { desiredMessage } from '../../src/node/owner/desired-message.ts'
import { objection, UplinkSession } from '../../src/node/tree/uplink-session.ts'
import type { Event } from '../../src/scheduler/events.ts'
import type { Relayed, Request, Step } from '../../src/scheduler/model.ts'
import { Scheduler } from '../../src/scheduler/scheduler.ts'
import { decodeAction } from '../../src/wire/action.ts'
import { sha256 } from '../../src/wire/digest.ts'
import type { Derivation } from '../../src/wire/derivation.ts'
import type { Environment } from '../../src/wire/environment.ts'
import type { Fact } from '../../src/wire/facts.ts'
import type { ActionResult } from '../../src/wire/result.ts'
import {
  FEATURE_TREE,
  HEARTBEAT_MS,
  type AttemptOutcome,
  type DesiredMessage,
  type FinishedAttempt,
  type Lease,
  type SyncMessage,
} from '../../src/wire/work-messages.ts'
import {
  environment,
  fileEntry,
  GIB,
  peerOf,
  requestId,
  requestWire,
  sha,
  unsigned,
  type RequestOptions,
} from './samples.ts'

const ASKING_MS = 200
/** Messages of one exchange; more would go on for ever. */
const MESSAGES_MAX = 2_000

export class TreeWorld {
  nowMs = 1_000
  readonly nodes: TreeNode[] = []
  /** By the id of the attempt. */
  readonly results = new Map<string, ActionResult>()

  node(name: string, options: TreeNodeOptions = {}): TreeNode {
    const node = new TreeNode(this, name, options)
    this.nodes.push(node)
    node.start()
    if (options.parent !== undefined) node.connect(options.parent)
    this.settle()
    return node
  }

  /** Everybody says what has changed, until nothing does any more. */
  settle(): void {
    for (let count = 0; this.nodes.some((node) => node.say()); count += 1)
      assert(count < MESSAGES_MAX, 'they go on talking for ever')
  }

  /** Lets the time pass, with every deadline met and heartbeats in between. */
  pass(ms: number): void {
    const endMs = this.nowMs + ms
    let nextBeatMs = this.nowMs
    while (this.nowMs < endMs) {
      const due = this.nodes.map(({ scheduler }) => scheduler.nextDeadlineMs() ?? endMs)
      this.nowMs = Math.max(this.nowMs + 1, Math.min(endMs, nextBeatMs, ...due))
      if (this.nowMs >= nextBeatMs) {
        for (const node of this.nodes) node.beat()
        nextBeatMs = this.nowMs + HEARTBEAT_MS
      }
      for (const node of this.nodes) node.apply({ type: 'tick' })
      this.settle()
    }
  }
}

export interface TreeNodeOptions {
  readonly parent?: TreeNode
  /** Undefined for one that builds nothing. */
  readonly cpus?: number
  readonly environment?: Environment
}

interface Link {
  readonly parent: TreeNode
  readonly session: UplinkSession
}

export class TreeNode {
  readonly world: TreeWorld
  readonly name: string
  readonly peerId: string
  readonly facts: Fact[] = []
  /** False holds the syncs of its journal back: nothing that hangs on newer facts leaves. */
  isSyncing = true
  /** True: nothing that it says arrives, and nothing arrives here. */
  isSilent = false
  scheduler: Scheduler
  readonly running = new Map<string, Lease>()
  readonly finished = new Map<string, FinishedAttempt>()
  /** Programs that it was asked to look at. */
  readonly tools = new Set<string>()
  readonly #options: TreeNodeOptions
  #syncedSeq = 0
  #boot = 0
  #up: Link | undefined
  readonly #told = new Map<string, number>()
  readonly #toTell = new Set<string>()
  #isUplinkAsked = false
  #ownSeq = 0
  #ownAckSeq = 0
  #isOwnChanged = false

  constructor(world: TreeWorld, name: string, options: TreeNodeOptions) {
    this.world = world
    this.name = name
    this.peerId = peerOf(name)
    this.#options = options
    this.scheduler = this.#newScheduler()
  }

  #newScheduler(): Scheduler {
    return new Scheduler({
      selfId: this.peerId,
      providersOf: () => [],
      hasParents: this.#options.parent !== undefined,
    })
  }

  // ---- its life

  start(): void {
    this.#boot += 1
    this.#take(() => this.scheduler.recover(this.#moment))
    const record = {
      peerId: this.peerId,
      name: this.name,
      roles: [],
      addresses: ['/ip4/10.0.0.7/tcp/7421'],
      http: null,
    }
    this.#record = record
    this.apply({
      type: 'node-up',
      record,
      version: { mesh: '0', protocols: [] },
      boot: String(this.#boot),
    })
    this.#isOwnChanged = true
  }
  #record: Extract<Event, { type: 'node-up' }>['record'] | undefined

  /** The daemon is killed and started again, with all that it built; it finds its parent and its children again. */
  restart(): void {
    const parent = this.#up?.parent
    const children = this.world.nodes.filter((node) => node.#up?.parent === this)
    this.disconnect()
    for (const child of children) child.disconnect()
    this.running.clear()
    this.finished.clear()
    this.#told.clear()
    this.#toTell.clear()
    this.#ownSeq = 0
    this.#ownAckSeq = 0
    this.scheduler = this.#newScheduler()
    for (const fact of this.facts) this.scheduler.replay(fact)
    this.start()
    if (parent !== undefined) this.connect(parent)
    for (const child of children) child.connect(this)
    this.world.settle()
  }

  connect(parent: TreeNode): void {
    const session = new UplinkSession(this.scheduler, this.peerId, parent.peerId)
    this.#up = { parent, session }
    parent.#told.set(this.peerId, 0)
    assert(this.#record !== undefined)
    parent.apply({
      type: 'node-up',
      record: this.#record,
      version: { mesh: '0', protocols: [], features: [FEATURE_TREE] },
      boot: String(this.#boot),
    })
    this.apply({ type: 'uplink-up', peerId: parent.peerId })
    this.#isUplinkAsked = true
  }

  /** Why it must not have that parent. */
  objectionTo(parent: TreeNode): string | undefined {
    return objection(this.scheduler, this.peerId, parent)
  }

  disconnect(): void {
    const { parent } = this.#up ?? {}
    if (parent === undefined) return
    this.#up = undefined
    this.apply({ type: 'uplink-down', isRing: false })
    parent.apply({ type: 'node-down', peerId: this.peerId, note: 'the link closed' })
  }

  // ---- what happens to it

  get #moment() {
    return { nowMs: this.world.nowMs, wallMs: 1_000_000_000 + this.world.nowMs, ownBlobBytes: 0 }
  }

  apply(event: Event): void {
    this.#take(() => this.scheduler.apply(event, this.#moment))
  }

  #take(change: () => ReturnType<Scheduler['apply']>): void {
    const lookups: string[] = []
    for (const effect of change()) {
      if (effect.type === 'fact') this.facts.push(effect.fact)
      if (effect.type === 'desired') this.#toTell.add(effect.peerId)
      if (effect.type === 'uplink') this.#isUplinkAsked = true
      if (effect.type === 'lookup') lookups.push(effect.job)
    }
    if (this.isSyncing) this.#syncedSeq = this.scheduler.state.factSeq
    for (const job of lookups) this.apply({ type: 'looked-up', job, results: [] })
  }

  submit(name: string, derivations: readonly Derivation[], options: RequestOptions = {}): Request {
    this.apply({ type: 'submit', request: requestWire(name, derivations, options) })
    // Subtrees are asked what they could take, and say so.
    this.world.pass(ASKING_MS)
    return this.request(name)
  }

  request(name: string): Request {
    const request = this.scheduler.state.requests.get(requestId(name))
    assert(request !== undefined, `${this.name} knows the request ${name}`)
    return request
  }

  step(request: string, derivation: string): Step {
    const step = this.request(request).steps.get(derivation)
    assert(step !== undefined, `${derivation} is a step of ${request}`)
    return step
  }

  /** The journal is written again. */
  sync(): void {
    this.isSyncing = true
    this.#syncedSeq = this.scheduler.state.factSeq
    for (const peerId of this.scheduler.nodes.keys()) this.#toTell.add(peerId)
    this.world.settle()
  }

  get relayed(): Relayed[] {
    return [...this.scheduler.relayed]
  }

  // ---- what it says

  beat(): void {
    this.#isOwnChanged = true
    this.#up?.session.beat()
    this.#isUplinkAsked = true
    for (const peerId of this.scheduler.nodes.keys()) this.#toTell.add(peerId)
  }

  /** Says one thing that has changed; false when there is none. */
  say(): boolean {
    if (this.#isOwnChanged) {
      this.#isOwnChanged = false
      this.#sayOwn()
      return true
    }
    if (this.#isUplinkAsked) {
      this.#isUplinkAsked = false
      this.#sayUp()
      return true
    }
    for (const peerId of this.#toTell) {
      this.#toTell.delete(peerId)
      this.#tell(peerId)
      return true
    }
    return false
  }

  #sayOwn(): void {
    const { cpus = 0, environment: own = environment() } = this.#options
    this.#ownSeq += 1
    this.#hear(this.peerId, {
      type: 'sync',
      seq: this.#ownSeq,
      ackSeq: this.#ownAckSeq,
      state: 'ready',
      note: '',
      environments: cpus === 0 ? [] : [own],
      capacity: { cpus, memoryBytes: 16 * GIB, diskBytes: 100 * GIB },
      running: [...this.running.keys()].map((attempt) => ({
        attempt,
        phase: 'building',
        phases: {},
      })),
      finished: [...this.finished.values()],
    })
  }

  #sayUp(): void {
    const up = this.#up
    const message = up?.session.sync(this.world.nowMs)
    if (up === undefined || message === undefined) return
    if (!this.isSilent && !up.parent.isSilent) up.parent.#hear(this.peerId, message)
    const below = up.session.below()
    if (below === undefined) return
    up.session.toldBelow(below)
    up.parent.apply({ type: 'below', peerId: this.peerId, below })
  }

  #hear(peerId: string, message: SyncMessage): void {
    const results = new Map<string, ActionResult>()
    for (const { attempt, outcome } of message.finished) {
      const result = this.world.results.get(attempt)
      if (outcome.kind === 'built' && result !== undefined) results.set(attempt, result)
    }
    this.apply({ type: 'sync', peerId, message, results })
  }

  #tell(peerId: string): void {
    const seq = (this.#told.get(peerId) ?? 0) + 1
    const desired = this.scheduler.desiredOf(peerId, this.#syncedSeq, seq)
    if (desired === undefined) return
    this.#told.set(peerId, seq)
    const message = desiredMessage(desired, seq, this, () => ({ hints: [], peers: [] }))
    if (peerId === this.peerId) this.#build(message)
    else {
      const child = this.world.nodes.find((node) => node.peerId === peerId)
      if (child === undefined || this.isSilent || child.isSilent) return
      if (child.#up?.parent === this) child.#obey(message)
    }
  }

  #obey(message: DesiredMessage): void {
    const heard = this.#up?.session.take(message, this.world.nowMs)
    if (heard?.kind === 'orders') this.apply(heard.event)
  }

  /** As the worker of the node. */
  #build(message: DesiredMessage): void {
    this.#ownAckSeq = message.seq
    let hasChanged = false
    for (const lease of message.grants) {
      if (this.running.has(lease.attempt) || this.finished.has(lease.attempt)) continue
      this.running.set(lease.attempt, lease)
      hasChanged = true
    }
    for (const attempt of message.cancel)
      if (this.running.has(attempt)) this.#end(attempt, { kind: 'cancelled' })
    for (const attempt of message.ack) hasChanged = this.finished.delete(attempt) || hasChanged
    for (const tool of message.tools) this.tools.add(tool)
    if (hasChanged) this.#isOwnChanged = true
  }

  #end(attempt: string, outcome: AttemptOutcome): void {
    this.running.delete(attempt)
    this.finished.set(attempt, {
      attempt,
      outcome,
      usage: null,
      phases: {},
      bytes: { peer: 0, mirror: 0, local: 0 },
    })
    this.#isOwnChanged = true
  }

  /** Names of the derivations that it builds. */
  get names(): string[] {
    return [...this.running.values()].map(({ name }) => name)
  }

  /** What it builds comes to its end. */
  finish(outcome?: AttemptOutcome): void {
    for (const [attempt, lease] of [...this.running]) {
      const result = this.#resultOf(lease)
      this.world.results.set(attempt, result)
      this.#end(attempt, outcome ?? { kind: 'built', result: unsigned(result) })
    }
    this.world.settle()
  }

  #resultOf(lease: Lease): ActionResult {
    const action = decodeAction(lease.action)
    const digest = sha256(lease.action)
    return {
      v: 1,
      action: digest,
      jobKey: lease.jobKey,
      attempt: lease.attempt,
      exitCode: 0,
      outputs: Object.fromEntries(
        action.outputs.map(([name]) => [name, fileEntry(`${name} ${digest}`)]),
      ),
      log: { digest: sha(''), size: 0 },
      usage: { wallMs: 1, cpuMs: 1, maxRssBytes: 1 },
      userland: lease.userland,
      builder: {
        peerId: this.peerId,
        name: this.name,
        system: action.system,
        isolation: lease.isolation,
      },
      endedAtWallMs: 1_000_000,
    }
  }
}
