/**
 * A small world around one scheduler: a clock that is stepped, a journal in memory, a result cache, and
 * nodes that do what they are told. Everything happens at once unless a test says otherwise.
 */
import assert from 'node:assert/strict'
import { decodeObject, encodeObject } from '../../src/wire/cbor.ts'
import type { Role } from '../../src/wire/api.ts'
import type { Digest } from '../../src/wire/digest.ts'
import type { Derivation } from '../../src/wire/derivation.ts'
import type { Environment } from '../../src/wire/environment.ts'
import { Fact } from '../../src/wire/facts.ts'
import type { ActionResult } from '../../src/wire/result.ts'
import type { Entry } from '../../src/wire/tree.ts'
import type { AttemptOutcome, FinishedAttempt, SyncMessage } from '../../src/wire/work-messages.ts'
import {
  isLive,
  type Attempt,
  type NodeEntry,
  type Request,
  type Step,
} from '../../src/scheduler/model.ts'
import type { Copy, Desired, Effect, Event, Grant, Moment } from '../../src/scheduler/events.ts'
import { Scheduler } from '../../src/scheduler/scheduler.ts'
import {
  environment,
  GIB,
  peerOf,
  requestId,
  requestWire,
  resultOf,
  unsigned,
  type RequestOptions,
} from './samples.ts'

export class World {
  /** Who has a blob, besides those that the requests name. */
  readonly providers = new Map<Digest, string[]>()
  /** Of the finished jobs those that are audited; holds from the next start of the owner on. */
  auditShare = 0
  scheduler = this.#newScheduler()
  /** The journal. */
  readonly facts: Fact[] = []
  readonly cache = new Map<Digest, ActionResult[]>()
  nowMs = 1_000
  /** False holds the syncs back: nothing that hangs on newer facts leaves. */
  isSyncing = true
  syncedSeq = 0
  readonly nodes: WorldNode[] = []
  /** False keeps look-ups in the cache open until `answer`. */
  isAnswering = true
  /** Copies that were begun and have not ended. */
  readonly copies: Copy[] = []
  /** False keeps those who are asked from answering. */
  isChecking = true
  /** Who says that it has a blob when it is asked, by digest. */
  readonly holders = new Map<Digest, Set<string>>()
  readonly #checks: Extract<Effect, { type: 'check' }>[] = []
  readonly #lookups: Extract<Effect, { type: 'lookup' }>[] = []

  constructor() {
    this.#take(this.scheduler.recover(this.moment))
  }

  #newScheduler(): Scheduler {
    return new Scheduler({
      selfId: peerOf('root'),
      providersOf: (digest) => this.providers.get(digest) ?? [],
      auditShare: this.auditShare,
    })
  }

  get moment(): Moment {
    return { nowMs: this.nowMs, wallMs: 1_000_000_000 + this.nowMs, ownBlobBytes: 0 }
  }

  apply(event: Event): void {
    this.#take(this.scheduler.apply(event, this.moment))
  }

  #take(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.type === 'fact') this.facts.push(effect.fact)
      if (effect.type === 'commit')
        this.cache.set(effect.result.jobKey, [
          ...(this.cache.get(effect.result.jobKey) ?? []),
          effect.result,
        ])
      if (effect.type === 'lookup') this.#lookups.push(effect)
      if (effect.type === 'copy') this.copies.push(effect.copy)
      if (effect.type === 'check') this.#checks.push(effect)
    }
    if (this.isSyncing) this.syncedSeq = this.scheduler.state.factSeq
    if (this.isAnswering) this.answer()
    if (this.isChecking) for (const check of this.#checks.splice(0)) this.#check(check)
  }

  #check({ attempt, asks }: Extract<Effect, { type: 'check' }>): void {
    const held = new Map<Digest, string[]>()
    for (const { entry, peers } of asks) {
      if (entry.kind === 'symlink') continue
      const having = peers.filter((peerId) => this.holders.get(entry.digest)?.has(peerId))
      if (having.length > 0) held.set(entry.digest, having)
    }
    this.apply({ type: 'checked', attempt, held })
  }

  /** Ends a copy, by default the oldest, as its store says. */
  copied(message?: string, copy = this.copies[0]): void {
    assert(copy !== undefined, 'a copy is under way')
    this.copies.splice(this.copies.indexOf(copy), 1)
    this.apply({
      type: 'copied',
      copy: copy.id,
      ok: message === undefined,
      message: message ?? '',
    })
  }

  /** Answers the look-ups that are open, or those for the named derivations. */
  answer(...names: readonly string[]): void {
    const isMeant = (job: string): boolean =>
      names.length === 0 ||
      [...(this.scheduler.state.jobs.get(job)?.waiters ?? [])].some((step) =>
        names.includes(step.derivation.name),
      )
    const meant = this.#lookups.filter(({ job }) => isMeant(job))
    for (const lookup of meant) this.#lookups.splice(this.#lookups.indexOf(lookup), 1)
    for (const { job, key } of meant)
      this.apply({ type: 'looked-up', job, results: this.cache.get(key) ?? [] })
  }

  submit(name: string, derivations: readonly Derivation[], options: RequestOptions = {}): Request {
    this.apply({ type: 'submit', request: requestWire(name, derivations, options) })
    return this.request(name)
  }

  cancel(name: string): void {
    this.apply({ type: 'cancel', request: requestId(name) })
  }

  request(name: string): Request {
    const request = this.scheduler.state.requests.get(requestId(name))
    assert(request !== undefined, `request ${name} is known`)
    return request
  }

  step(request: string, derivation: string): Step {
    const step = this.request(request).steps.get(derivation)
    assert(step !== undefined, `${derivation} is a step of ${request}`)
    return step
  }

  /** Lets the time pass in steps of a second at most, with every deadline met; connected nodes say that they are alive. */
  pass(ms: number): void {
    const endMs = this.nowMs + ms
    let nextBeatMs = this.nowMs
    while (this.nowMs < endMs) {
      const next = Math.min(this.scheduler.nextDeadlineMs() ?? endMs, this.nowMs + 1_000, endMs)
      this.nowMs = Math.max(next, Math.min(this.nowMs + 1, endMs))
      if (this.nowMs >= nextBeatMs) {
        for (const node of this.nodes) if (node.isConnected && !node.isSilent) node.sync()
        nextBeatMs = this.nowMs + 1_000
      }
      this.apply({ type: 'tick' })
      for (const node of this.nodes) if (node.isConnected && !node.isSilent) node.take()
    }
  }

  /** Connects a node that is ready for work. */
  node(name: string, options: NodeOptions = {}): WorldNode {
    const node = new WorldNode(this, name, options)
    this.nodes.push(node)
    node.up()
    return node
  }

  /** All connected nodes take what they are granted, and build it, until nothing moves. */
  buildAll(): void {
    for (let moved = true; moved;) {
      moved = false
      for (const node of this.nodes) {
        if (!node.isConnected) continue
        node.take()
        for (const id of [...node.running.keys()]) {
          node.build(id)
          moved = true
        }
      }
    }
  }

  /** The owner is killed and started again: only what was synced is left, and nobody is connected. */
  restart(): void {
    for (const node of this.nodes) node.isConnected = false
    this.facts.length = this.syncedSeq
    this.scheduler = this.#newScheduler()
    for (const fact of this.facts)
      this.scheduler.replay(decodeObject(Fact, encodeObject(Fact, fact), 'fact'))
    this.#take(this.scheduler.recover(this.moment))
  }

  /** How often something was granted. */
  get grantCount(): number {
    return this.facts.filter((fact) => fact.type === 'granted').length
  }
}

/** What a node tells of an attempt besides how it ended. */
export type Told = Partial<Pick<FinishedAttempt, 'usage' | 'measured' | 'phases'>>

export interface NodeOptions {
  /** As it measured; undefined for one that does not. */
  readonly speed?: number
  readonly cpus?: number
  readonly memoryBytes?: number
  readonly environments?: readonly Environment[]
  readonly roles?: readonly Role[]
  /** False: others cannot dial it. */
  readonly isOpen?: boolean
  /** Equal for nodes of one machine. */
  readonly loopback?: string
}

export class WorldNode {
  readonly world: World
  readonly name: string
  readonly peerId: string
  environments: readonly Environment[]
  capacity: { cpus: number; memoryBytes: number; diskBytes: number }
  state: SyncMessage['state'] = 'ready'
  speed: number | undefined
  policy: SyncMessage['policy']
  /** Processors that its attempts use, as it was told last. */
  readonly allotments = new Map<string, number>()
  isConnected = false
  /** True: its messages do not arrive. */
  isSilent = false
  readonly roles: readonly Role[]
  readonly isOpen: boolean
  readonly loopback: string | undefined
  note = ''
  readonly running = new Map<string, Grant>()
  readonly finished = new Map<string, FinishedAttempt>()
  readonly #results = new Map<string, ActionResult>()
  readonly acked: string[] = []
  #boot = 1
  #syncSeq = 0
  #desiredSeq = 0

  constructor(world: World, name: string, options: NodeOptions) {
    this.world = world
    this.name = name
    this.peerId = peerOf(name)
    this.roles = options.roles ?? ['worker']
    this.isOpen = options.isOpen ?? true
    this.loopback = options.loopback
    this.environments = options.environments ?? [environment()]
    this.speed = options.speed
    this.capacity = {
      cpus: options.cpus ?? 4,
      memoryBytes: options.memoryBytes ?? 16 * GIB,
      diskBytes: 100 * GIB,
    }
  }

  get entry(): NodeEntry {
    const entry = this.world.scheduler.nodes.get(this.peerId)
    assert(entry !== undefined, `node ${this.name} is known`)
    return entry
  }

  get attempts(): string[] {
    return [...this.running.keys()]
  }

  /** Names of the derivations that it runs. */
  get names(): string[] {
    return [...this.running.values()].map(({ name }) => name)
  }

  up(): void {
    this.isConnected = true
    this.#syncSeq = 0
    this.#desiredSeq = 0
    const record = {
      peerId: this.peerId,
      name: this.name,
      roles: [...this.roles],
      addresses: this.isOpen ? ['/ip4/10.0.0.7/tcp/7421'] : [],
      http: null,
      ...(this.loopback === undefined ? {} : { loopback: this.loopback }),
    }
    this.world.apply({
      type: 'node-up',
      record,
      version: { mesh: '0', protocols: [] },
      boot: `${this.#boot}`,
    })
    this.sync()
    this.take()
  }

  down(): void {
    this.isConnected = false
    this.world.apply({ type: 'node-down', peerId: this.peerId, note: 'connection lost' })
  }

  /** The process dies and another one connects. */
  restart(): void {
    this.down()
    this.#boot += 1
    this.running.clear()
    this.finished.clear()
    this.up()
  }

  sync(): void {
    this.#syncSeq += 1
    const message: SyncMessage = {
      type: 'sync',
      seq: this.#syncSeq,
      ackSeq: this.#desiredSeq,
      state: this.state,
      note: this.note,
      environments: [...this.environments],
      capacity: this.capacity,
      running: this.attempts.map((attempt) => ({
        attempt,
        phase: 'building',
        phases: {},
        held: { cpus: this.allotments.get(attempt) ?? 1, memoryBytes: 0, diskBytes: 0 },
      })),
      finished: [...this.finished.values()],
      ...(this.speed === undefined ? {} : { speed: this.speed }),
      ...(this.policy === undefined ? {} : { policy: this.policy }),
    }
    this.world.apply({
      type: 'sync',
      peerId: this.peerId,
      message,
      results: new Map(this.#results),
    })
  }

  /** Receives the desired state and does it, then says so. */
  take(): void {
    const desired = this.receive()
    if (desired === undefined) return
    for (const { attempt, cpus } of desired.allotments)
      if (this.running.has(attempt)) this.allotments.set(attempt, cpus)
    let hasChanged = false
    for (const grant of desired.grants) {
      if (this.running.has(grant.attempt.id) || this.finished.has(grant.attempt.id)) continue
      this.running.set(grant.attempt.id, grant)
      this.allotments.set(grant.attempt.id, grant.attempt.allotted)
      hasChanged = true
    }
    for (const attempt of desired.cancel) {
      if (!this.running.delete(attempt)) continue
      this.#end(attempt, { kind: 'cancelled' })
      hasChanged = true
    }
    for (const attempt of desired.ack) {
      this.acked.push(attempt)
      hasChanged = this.finished.delete(attempt) || hasChanged
    }
    if (!hasChanged) return
    this.sync()
    this.take()
  }

  /** The next message to it, unread. */
  receive(): Desired | undefined {
    const desired = this.world.scheduler.desiredOf(
      this.peerId,
      this.world.syncedSeq,
      this.#desiredSeq + 1,
    )
    if (desired !== undefined) this.#desiredSeq += 1
    return desired
  }

  #end(attempt: string, outcome: AttemptOutcome, told: Told = {}): void {
    this.finished.set(attempt, {
      attempt,
      outcome,
      usage: null,
      phases: {},
      bytes: { peer: 1, mirror: 0, local: 0 },
      ...told,
    })
  }

  #only(): string {
    const [attempt, ...others] = this.attempts
    assert(
      attempt !== undefined && others.length === 0,
      `${this.name} runs ${this.attempts.length} attempts, not one`,
    )
    return attempt
  }

  /** The attempt (the only one by default) succeeds. `made` replaces the outputs that hang on the action. */
  build(attempt = this.#only(), made?: string | Entry, told?: Told): void {
    const grant = this.running.get(attempt)
    assert(grant !== undefined, `${attempt} runs on ${this.name}`)
    const result = resultOf(grant, made)
    this.running.delete(attempt)
    this.#results.set(attempt, result)
    this.#end(attempt, { kind: 'built', result: unsigned(result) }, told)
    this.tell()
  }

  /** The attempt (the only one by default) ends otherwise. */
  finish(outcome: AttemptOutcome, attempt = this.#only(), told?: Told): void {
    this.running.delete(attempt)
    this.#end(attempt, outcome, told)
    this.tell()
  }

  fail(attempt = this.#only()): void {
    this.finish(failed, attempt)
  }

  tell(): void {
    if (!this.isConnected || this.isSilent) return
    this.sync()
    this.take()
  }

  /** The grant of the named derivation. */
  grantOf(name: string): Grant {
    const grant = [...this.running.values()].find((candidate) => candidate.name === name)
    assert(grant !== undefined, `${name} runs on ${this.name}, which runs ${this.names.join(', ')}`)
    return grant
  }
}

export const failed = {
  kind: 'failed',
  code: 'MESH0401',
  message: 'exit code 1',
  exitCode: 1,
  log: null,
  logTail: 'no',
} as const satisfies AttemptOutcome

export const broken: AttemptOutcome = {
  kind: 'infrastructure',
  code: 'MESH0505',
  message: 'it broke',
}

/** The inputs that `grant` takes from the outputs of others are gone. */
export function missing(grant: Grant, ...variables: readonly string[]): AttemptOutcome {
  const inputs: Digest[] = []
  for (const [path, entry] of grant.action.inputs)
    if (entry.kind !== 'symlink' && variables.some((name) => path.endsWith(`/${name}`)))
      inputs.push(entry.digest)
  return { kind: 'missing', inputs, message: `${variables.join()} is nowhere` }
}

export function liveOf(step: Step): Attempt[] {
  return step.job?.attempts.filter(isLive) ?? []
}
