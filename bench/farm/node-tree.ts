/**
 * A tree of nodes in virtual time: the root and the middles are production schedulers that speak the
 * production messages, the leaves do what they are told. What passes the root's links is counted.
 *
 * Leaves answer as a worker of its own does. Results are not signed by those who send them, only as long
 * as signed ones; no connection breaks.
 */
import type { Timer } from '../../src/base/clock.ts'
import { desiredMessage } from '../../src/node/owner/desired-message.ts'
import { BELOW_PACE_MS, BUNDLE_PACE_MS, UplinkSession } from '../../src/node/tree/uplink-session.ts'
import type { Effect, Event } from '../../src/scheduler/events.ts'
import { Scheduler } from '../../src/scheduler/scheduler.ts'
import { actionDigest, decodeAction } from '../../src/wire/action.ts'
import { encodeObject } from '../../src/wire/cbor.ts'
import { sha256 } from '../../src/wire/digest.ts'
import type { PeerRecord } from '../../src/wire/peer-record.ts'
import { signResult, type ActionResult } from '../../src/wire/result.ts'
import {
  FEATURE_TREE,
  HEARTBEAT_MS,
  WorkMessage,
  type DesiredMessage,
  type FinishedAttempt,
  type Lease,
  type SyncMessage,
} from '../../src/wire/work-messages.ts'
import {
  derivation,
  environment,
  fileEntry,
  GIB,
  peerOf,
  requestWire,
} from '../../test/scheduler/samples.ts'
import { Dice } from '../../test/sim/dice.ts'
import { SimClock } from '../../test/sim/sim-clock.ts'
import { newSigner } from './pulling-nodes.ts'
import { COMMIT_MS, LATENCY_MS } from './site.ts'
import { lognormal } from './task-graph.ts'

const ENVIRONMENT = environment()
const NO_HINTS = { hints: [], peers: [] }
const MEDIAN_MS = 60_000
const SPREAD = 0.5

/** What crossed the root's links. */
export interface Traffic {
  messages: number
  bytes: number
}

export interface TreeOptions {
  /** Children of the root, of each of those, and so on; the last are leaves of one processor. */
  readonly fanouts: readonly number[]
  readonly seed: number
}

/** Whoever is told what should be. */
interface Below {
  readonly peerId: string
  orders(message: DesiredMessage): void
}

export class NodeTree {
  readonly clock = new SimClock()
  readonly dice: Dice
  readonly signer = newSigner()
  /** By attempt, as the root would open them. */
  readonly results = new Map<string, ActionResult>()
  readonly traffic: Readonly<Record<'in' | 'out', Traffic>> = {
    in: { messages: 0, bytes: 0 },
    out: { messages: 0, bytes: 0 },
  }
  /** Spent by the root's scheduler, on the machine's own clock. */
  rootMs = 0
  finishedCount = 0
  readonly #root: InnerNode
  #leafCount = 0

  constructor({ fanouts, seed }: TreeOptions) {
    this.dice = new Dice(seed)
    this.#root = new InnerNode(this, 'root', undefined)
    this.#grow(this.#root, fanouts)
  }

  get leafCount(): number {
    return this.#leafCount
  }

  #grow(parent: InnerNode, [fanout = 0, ...rest]: readonly number[]): void {
    for (let at = 0; at < fanout; at++) {
      const name = `${parent.name}-${at}`
      if (rest.length === 0) {
        this.#leafCount += 1
        const leaf = new Leaf(this, name, parent)
        // Nobody starts all machines in one moment, and their heartbeats do not beat as one.
        this.clock.setTimer(this.dice.between(0, HEARTBEAT_MS), () => leaf.start())
      } else {
        const middle = new InnerNode(this, name, parent)
        middle.start()
        this.#grow(middle, rest)
      }
    }
  }

  submit(name: string, count: number): void {
    const derivations = Array.from({ length: count }, (_, at) =>
      derivation(`d${at}`, { args: [`${name} ${at}`] }),
    )
    const wanted = [derivations[0]?.name ?? '']
    const request = requestWire(name, derivations, { wanted, keepGoing: true })
    this.#root.apply({ type: 'submit', request })
  }

  run(forMs: number): void {
    const untilMs = this.clock.nowMs() + forMs
    while (this.clock.step(untilMs));
  }

  resetTraffic(): void {
    for (const traffic of [this.traffic.in, this.traffic.out]) traffic.messages = traffic.bytes = 0
    this.rootMs = 0
    this.finishedCount = 0
  }

  /** A message on a link of `node`; those of the root are counted. */
  pass(node: InnerNode, direction: 'in' | 'out', message: WorkMessage): void {
    if (node !== this.#root) return
    const traffic = this.traffic[direction]
    traffic.messages += 1
    traffic.bytes += encodeObject(WorkMessage, message).byteLength
  }

  durationMs(): number {
    return Math.round(lognormal(this.dice, MEDIAN_MS, SPREAD))
  }
}

function recordOf(peerId: string, name: string): PeerRecord {
  return { peerId, name, roles: ['worker'], addresses: ['/ip4/10.0.0.7/tcp/7421'], http: null }
}

/** The root or a middle. */
class InnerNode implements Below {
  readonly name: string
  readonly peerId: string
  readonly #tree: NodeTree
  readonly #parent: InnerNode | undefined
  readonly #scheduler: Scheduler
  readonly #session: UplinkSession | undefined
  readonly #children = new Map<string, { readonly child: Below; seq: number }>()
  readonly #asked = new Set<string>()
  #timer: Timer | undefined
  #timerAtMs = Number.POSITIVE_INFINITY
  #isPaced = false
  #isTelling = false
  #lastSyncMs = 0

  constructor(tree: NodeTree, name: string, parent: InnerNode | undefined) {
    this.#tree = tree
    this.name = name
    this.peerId = peerOf(name)
    this.#parent = parent
    this.#scheduler = new Scheduler({
      selfId: this.peerId,
      providersOf: () => [],
      hasParents: parent !== undefined,
    })
    this.#session = parent && new UplinkSession(this.#scheduler, this.peerId, parent.peerId)
    this.#take(this.#scheduler.recover(this.#moment()))
    tree.clock.setTimer(tree.dice.between(0, HEARTBEAT_MS), () => this.#beat())
  }

  start(): void {
    this.#parent?.attach(this, [FEATURE_TREE])
    if (this.#parent !== undefined) this.apply({ type: 'uplink-up', peerId: this.#parent.peerId })
    this.#request()
    this.belowChanged()
  }

  #moment(): { nowMs: number; wallMs: number; ownBlobBytes: number } {
    const { clock } = this.#tree
    return { nowMs: clock.nowMs(), wallMs: clock.wallMs(), ownBlobBytes: 0 }
  }

  attach(child: Below & { readonly name: string }, features: readonly string[]): void {
    this.#children.set(child.peerId, { child, seq: 0 })
    const version = { mesh: '0', protocols: [], features }
    const record = recordOf(child.peerId, child.name)
    this.apply({ type: 'node-up', record, version, boot: '1' })
    this.belowChanged()
  }

  apply(event: Event): void {
    const startedAt = performance.now()
    const effects = this.#scheduler.apply(event, this.#moment())
    if (this.#parent === undefined) this.#tree.rootMs += performance.now() - startedAt
    this.#take(effects)
  }

  #take(effects: readonly Effect[]): void {
    const { clock } = this.#tree
    for (const effect of effects) {
      if (effect.type === 'desired') this.#ask(effect.peerId)
      if (effect.type === 'uplink') this.#request()
      if (effect.type === 'lookup')
        clock.setTimer(COMMIT_MS, () =>
          this.apply({ type: 'looked-up', job: effect.job, results: [] }),
        )
    }
    const next = this.#scheduler.nextDeadlineMs()
    if (next === undefined || (this.#timer !== undefined && this.#timerAtMs <= next)) return
    this.#timer?.cancel()
    this.#timerAtMs = next
    this.#timer = clock.setTimer(next - clock.nowMs(), () => {
      this.#timer = undefined
      this.#timerAtMs = Number.POSITIVE_INFINITY
      this.apply({ type: 'tick' })
    })
  }

  #beat(): void {
    this.#session?.beat()
    this.#request()
    for (const peerId of this.#children.keys()) this.#ask(peerId)
    this.#tree.clock.setTimer(HEARTBEAT_MS, () => this.#beat())
  }

  // ---- to those below

  #ask(peerId: string): void {
    if (this.#asked.has(peerId)) return
    this.#asked.add(peerId)
    this.#tree.clock.setTimer(COMMIT_MS, () => {
      this.#asked.delete(peerId)
      const port = this.#children.get(peerId)
      const seq = (port?.seq ?? 0) + 1
      const desired = this.#scheduler.desiredOf(peerId, this.#scheduler.state.factSeq, seq)
      if (port === undefined || desired === undefined) return
      port.seq = seq
      const message = desiredMessage(desired, seq, this, () => NO_HINTS)
      this.#tree.pass(this, 'out', message)
      this.#tree.clock.setTimer(LATENCY_MS, () => port.child.orders(message))
    })
  }

  heard(peerId: string, message: SyncMessage): void {
    this.#tree.pass(this, 'in', message)
    const results = new Map<string, ActionResult>()
    for (const { attempt } of message.finished) {
      const result = this.#tree.results.get(attempt)
      if (result !== undefined && this.#parent === undefined) results.set(attempt, result)
    }
    this.apply({ type: 'sync', peerId, message, results })
  }

  // ---- to the one above

  orders(message: DesiredMessage): void {
    const heard = this.#session?.take(message, this.#tree.clock.nowMs())
    if (heard?.kind === 'orders') this.apply(heard.event)
  }

  #request(): void {
    const { clock } = this.#tree
    if (this.#session === undefined || this.#isPaced) return
    this.#isPaced = true
    clock.setTimer(Math.max(0, this.#lastSyncMs + BUNDLE_PACE_MS - clock.nowMs()), () => {
      this.#isPaced = false
      const message = this.#session?.sync(clock.nowMs())
      if (message === undefined) return
      this.#lastSyncMs = clock.nowMs()
      clock.setTimer(LATENCY_MS, () => this.#parent?.heard(this.peerId, message))
    })
  }

  belowChanged(): void {
    if (this.#session === undefined || this.#isTelling) return
    this.#isTelling = true
    this.#tree.clock.setTimer(BELOW_PACE_MS, () => {
      this.#isTelling = false
      this.#tellBelow()
    })
  }

  #tellBelow(): void {
    if (this.#parent === undefined || this.#session === undefined) return
    const session = this.#session
    for (let below = session.below(); below !== undefined; below = session.below()) {
      const { isWhole, added, gone } = below
      const call = { method: 'below' as const, isWhole, added: [...added], gone: [...gone] }
      this.#tree.pass(this.#parent, 'in', { type: 'call', id: 1, call })
      this.#parent.apply({ type: 'below', peerId: this.peerId, below })
      this.#parent.belowChanged()
      session.toldBelow(below)
    }
  }
}

/** A machine with one processor. */
class Leaf implements Below {
  readonly name: string
  readonly peerId: string
  readonly #tree: NodeTree
  readonly #parent: InnerNode
  readonly #running = new Set<string>()
  readonly #finished = new Map<string, FinishedAttempt>()
  #seq = 0
  #heardSeq = 0
  #isSaying = false

  constructor(tree: NodeTree, name: string, parent: InnerNode) {
    this.#tree = tree
    this.name = name
    this.peerId = peerOf(name)
    this.#parent = parent
  }

  start(): void {
    this.#parent.attach(this, [])
    this.#beat()
  }

  #beat(): void {
    this.#say()
    this.#tree.clock.setTimer(HEARTBEAT_MS, () => this.#beat())
  }

  #say(): void {
    if (this.#isSaying) return
    this.#isSaying = true
    this.#tree.clock.setTimer(LATENCY_MS, () => {
      this.#isSaying = false
      this.#seq += 1
      this.#parent.heard(this.peerId, {
        type: 'sync',
        seq: this.#seq,
        ackSeq: this.#heardSeq,
        state: 'ready',
        note: '',
        environments: [ENVIRONMENT],
        capacity: { cpus: 1, memoryBytes: 4 * GIB, diskBytes: 100 * GIB },
        running: [...this.#running].map((attempt) => ({ attempt, phase: 'building', phases: {} })),
        finished: [...this.#finished.values()],
      })
    })
  }

  orders({ seq, grants, ack }: DesiredMessage): void {
    if (seq <= this.#heardSeq) return
    this.#heardSeq = seq
    for (const attempt of ack) this.#finished.delete(attempt)
    for (const lease of grants) {
      if (this.#running.has(lease.attempt) || this.#finished.has(lease.attempt)) continue
      this.#running.add(lease.attempt)
      this.#tree.clock.setTimer(this.#tree.durationMs(), () => this.#end(lease))
      this.#say()
    }
  }

  #end(lease: Lease): void {
    const result = this.#resultOf(lease)
    this.#tree.finishedCount += 1
    this.#running.delete(lease.attempt)
    this.#tree.results.set(lease.attempt, result)
    this.#finished.set(lease.attempt, {
      attempt: lease.attempt,
      outcome: { kind: 'built', result: signResult(result, this.#tree.signer) },
      usage: result.usage,
      phases: { fetch: 10, build: MEDIAN_MS, upload: 10 },
      bytes: { peer: 0, mirror: 0, local: 0 },
    })
    this.#say()
  }

  #resultOf(lease: Lease): ActionResult {
    const action = decodeAction(lease.action)
    const digest = actionDigest(action)
    return {
      v: 1,
      action: digest,
      jobKey: lease.jobKey,
      attempt: lease.attempt,
      exitCode: 0,
      outputs: Object.fromEntries(action.outputs.map(([name]) => [name, fileEntry(digest)])),
      log: { digest: sha256(''), size: 0 },
      usage: { wallMs: MEDIAN_MS, cpuMs: MEDIAN_MS, maxRssBytes: 1_000_000 },
      userland: lease.userland,
      builder: {
        peerId: this.peerId,
        name: this.name,
        system: action.system,
        isolation: lease.isolation,
      },
      endedAtWallMs: this.#tree.clock.wallMs(),
    }
  }
}
