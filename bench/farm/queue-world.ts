/**
 * A scheduler in memory with as many nodes and waiting jobs as wanted, and the time that each event takes.
 *
 * Jobs are of a few hundred requirement classes and some users; nodes are of a dozen kinds, most of which
 * can run most classes. A node ends one attempt in each of its messages, and gets another.
 */
import type { Desired, Effect, Event, Grant, Moment } from '../../src/scheduler/events.ts'
import { Scheduler } from '../../src/scheduler/scheduler.ts'
import type { Derivation } from '../../src/wire/derivation.ts'
import type { ActionResult } from '../../src/wire/result.ts'
import type { FinishedAttempt } from '../../src/wire/work-messages.ts'
import {
  derivation,
  environment,
  GIB,
  peerOf,
  requestWire,
  resultOf,
  unsigned,
} from '../../test/scheduler/samples.ts'
import type { Dice } from '../../test/sim/dice.ts'

/** Derivations of one request. */
const BATCH = 10_000
/** Of every job on a node of speed 1; as many run at once as there is room for. */
const JOB_MS = 1_000
const SPEEDS = [1, 1.5, 2, 4]
/** How often the scheduler looks at all that waits. */
const SWEEP_MS = 5_000
const USERS = 20
const ENVIRONMENT = environment({ features: ['kvm', 'gpu'] })
const PLAIN_ENVIRONMENT = environment()
/** 4 x 15 x 4 classes, of which those with features fit a third of the nodes. */
const CPUS = [1, 1, 2, 4]
const MEMORY_STEPS = 15
const FEATURES: readonly (readonly string[])[] = [[], [], ['kvm'], ['gpu', 'kvm']]

interface QueueNode {
  readonly peerId: string
  readonly at: number
  readonly running: Map<string, Grant>
  finished: FinishedAttempt[]
  results: Map<string, ActionResult>
  seq: number
  heardSeq: number
}

const speedOf = ({ at }: QueueNode): number => SPEEDS[at % SPEEDS.length] ?? 1

function threadUs(): number {
  const { user, system } = process.threadCpuUsage()
  return user + system
}

export class QueueWorld {
  readonly scheduler = new Scheduler({ selfId: peerOf('root'), providersOf: () => [] })
  readonly #dice: Dice
  readonly #nodes: QueueNode[] = []
  readonly #byPeer = new Map<string, QueueNode>()
  #nowMs = 1_000
  #requestCount = 0
  #lookups: string[] = []
  /** Nodes whose desired state changed. */
  readonly #asked = new Set<QueueNode>()
  #runningCount = 0
  /** Jobs that were enqueued and have not been granted. */
  queuedCount = 0
  grantCount = 0
  /**
   * Processor time of this thread in all events so far. It is counted in clock ticks, so only sums say
   * something; but they do so on a machine that others use too.
   */
  processorUs = 0

  constructor(dice: Dice) {
    this.#dice = dice
    this.#take(this.scheduler.recover(this.#moment()))
  }

  #moment(): Moment {
    const nowMs = Math.floor(this.#nowMs)
    return { nowMs, wallMs: 1_700_000_000_000 + nowMs, ownBlobBytes: 0 }
  }

  /** Gives the microseconds that the scheduler took. */
  #apply(event: Event): number {
    this.#nowMs += 0.05
    const startedCpuUs = threadUs()
    const startedAt = performance.now()
    const effects = this.scheduler.apply(event, this.#moment())
    const tookUs = (performance.now() - startedAt) * 1_000
    this.processorUs += threadUs() - startedCpuUs
    this.#take(effects)
    return tookUs
  }

  #take(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.type === 'lookup') this.#lookups.push(effect.job)
      const node = effect.type === 'desired' ? this.#byPeer.get(effect.peerId) : undefined
      if (node !== undefined) this.#asked.add(node)
      if (effect.type === 'fact' && effect.fact.type === 'granted') {
        this.queuedCount -= 1
        this.grantCount += 1
      }
    }
  }

  /** Nodes that are there and have no room yet; gives how many it came to within the budget. */
  addNodes(count: number, budgetMs: number): number {
    const untilMs = performance.now() + budgetMs
    for (let at = 0; at < count; at++) {
      if (performance.now() > untilMs) return at
      const node: QueueNode = {
        peerId: peerOf(`queue node ${at}`),
        at,
        running: new Map(),
        finished: [],
        results: new Map(),
        seq: 0,
        heardSeq: 0,
      }
      this.#nodes.push(node)
      this.#byPeer.set(node.peerId, node)
      const record = {
        peerId: node.peerId,
        name: `n${at}`,
        roles: ['worker' as const],
        addresses: [`/ip4/10.${at >> 16}.${(at >> 8) & 255}.${at & 255}/tcp/7421`],
        http: null,
      }
      this.#apply({ type: 'node-up', record, version: { mesh: '0', protocols: [] }, boot: '1' })
      this.#sync(node, 'full')
    }
    return count
  }

  #sync(node: QueueNode, state: 'ready' | 'full'): number {
    node.seq += 1
    const cpus = [4, 8, 16][node.at % 3] ?? 4
    const message = {
      type: 'sync' as const,
      seq: node.seq,
      ackSeq: node.heardSeq,
      state,
      note: '',
      environments: [node.at % 4 === 0 ? ENVIRONMENT : PLAIN_ENVIRONMENT],
      capacity: { cpus, memoryBytes: cpus * 4 * GIB, diskBytes: 1000 * GIB },
      running: [...node.running.keys()].map((attempt) => ({
        attempt,
        phase: 'building' as const,
        phases: {},
      })),
      finished: node.finished,
      speed: speedOf(node),
    }
    return this.#apply({ type: 'sync', peerId: node.peerId, message, results: node.results })
  }

  /** Submits until so many wait, or the budget is spent; gives the microseconds that each took to be enqueued. */
  fill(count: number, budgetMs: number): number[] {
    const untilMs = performance.now() + budgetMs
    const tookUs: number[] = []
    while (this.queuedCount < count && performance.now() < untilMs) {
      if (this.#lookups.length === 0) this.#submit(Math.min(BATCH, count - this.queuedCount))
      for (let job = this.#lookups.pop(); job !== undefined; job = this.#lookups.pop()) {
        this.queuedCount += 1
        tookUs.push(this.#apply({ type: 'looked-up', job, results: [] }))
        if (performance.now() > untilMs) return tookUs
      }
    }
    return tookUs
  }

  #submit(count: number): void {
    this.#requestCount += 1
    const name = `request ${this.#requestCount}`
    const derivations = Array.from({ length: count }, (_, at) => this.#derivation(name, at))
    const first = derivations[0]?.name ?? ''
    const request = {
      ...requestWire(name, derivations, { wanted: [first] }),
      user: `user-${this.#requestCount % USERS}/local`,
      priority: this.#dice.pick([50, 50, 50, 20, 80]),
      keepGoing: true,
    }
    this.#apply({ type: 'submit', request })
  }

  #derivation(request: string, at: number): Derivation {
    const dice = this.#dice
    return derivation(`d${at}`, {
      args: [`${request} ${at}`],
      cpus: dice.pick(CPUS),
      memoryBytes: dice.between(0, MEMORY_STEPS - 1) * (GIB / 4),
      features: dice.pick(FEATURES),
    })
  }

  /** A node with the room that its size gives it says that it is ready. */
  open(at: number): void {
    const node = this.#nodes[at]
    if (node === undefined) return
    this.#sync(node, 'ready')
    this.#receive(node)
  }

  /** Microseconds of the re-match that insures against a lost wake-up. */
  sweep(): number {
    this.#nowMs += SWEEP_MS
    const before = this.processorUs
    this.#apply({ type: 'tick' })
    return this.processorUs - before
  }

  /** A node that runs something ends its oldest attempt: the microseconds until the scheduler has decided what comes next, and those of telling it. */
  turn(): { readonly applyUs: number; readonly desiredUs: number; readonly grants: number } {
    const running = this.#nodes.length
    let node: QueueNode | undefined
    for (let tries = 0; tries < 64; tries++) {
      node = this.#nodes[this.#dice.between(0, running - 1)]
      if (node !== undefined && node.running.size > 0) break
    }
    node =
      node !== undefined && node.running.size > 0
        ? node
        : this.#nodes.find((each) => each.running.size > 0)
    const [grant] = node?.running.values() ?? []
    if (node === undefined || grant === undefined) return { applyUs: 0, desiredUs: 0, grants: 0 }
    const { id } = grant.attempt
    const wallMs = Math.round(JOB_MS / speedOf(node))
    const result = { ...resultOf(grant), usage: { wallMs, cpuMs: wallMs, maxRssBytes: 2 ** 20 } }
    node.running.delete(id)
    // So that each attempt takes about as long as it says that it took.
    this.#nowMs += JOB_MS / this.#runningCount
    this.#runningCount -= 1
    node.results.set(id, result)
    node.finished.push({
      attempt: id,
      outcome: { kind: 'built', result: unsigned(result) },
      usage: result.usage,
      phases: { build: wallMs },
      bytes: { peer: 0, mirror: 0, local: 0 },
    })
    const before = this.grantCount
    const applyUs = this.#sync(node, 'ready')
    const startedAt = performance.now()
    this.#receive(node)
    const desiredUs = (performance.now() - startedAt) * 1_000
    const grants = this.grantCount - before
    this.#tellAll()
    return { applyUs, desiredUs, grants }
  }

  /** Does what time has come for, and tells all whom it concerns. */
  passTime(): void {
    if ((this.scheduler.nextDeadlineMs() ?? Number.POSITIVE_INFINITY) > this.#nowMs) return
    this.#apply({ type: 'tick' })
    this.#tellAll()
  }

  #tellAll(): void {
    for (const node of [...this.#asked]) this.#receive(node)
  }

  #receive(node: QueueNode): void {
    this.#asked.delete(node)
    const seq = node.heardSeq + 1
    const desired: Desired | undefined = this.scheduler.desiredOf(
      node.peerId,
      this.scheduler.state.factSeq,
      seq,
    )
    if (desired === undefined) return
    node.heardSeq = seq
    const acked = new Set(desired.ack)
    node.finished = node.finished.filter(({ attempt }) => !acked.has(attempt))
    for (const attempt of acked) node.results.delete(attempt)
    for (const grant of desired.grants) {
      if (node.running.has(grant.attempt.id)) continue
      node.running.set(grant.attempt.id, grant)
      this.#runningCount += 1
    }
  }
}
