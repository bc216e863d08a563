/**
 * The production scheduler over the machines of a site, in virtual time: it gets the events that the
 * daemon gives it, and its machines do what it tells them, one message late.
 *
 * Every fact counts as durable COMMIT_MS after it was made; nobody fails, lies or goes away.
 */
import type { Timer } from '../../src/base/clock.ts'
import type { Desired, Effect, Event, Grant, Moment } from '../../src/scheduler/events.ts'
import { Scheduler } from '../../src/scheduler/scheduler.ts'
import type { Derivation, InputRef } from '../../src/wire/derivation.ts'
import { sha256, type Digest } from '../../src/wire/digest.ts'
import type { RequestWire } from '../../src/wire/facts.ts'
import type { ActionResult } from '../../src/wire/result.ts'
import {
  HEARTBEAT_MS,
  type FinishedAttempt,
  type SyncMessage,
} from '../../src/wire/work-messages.ts'
import {
  derivation,
  environment,
  GIB,
  peerOf,
  requestWire,
  resultOf,
  unsigned,
} from '../../test/scheduler/samples.ts'
import { SimClock } from '../../test/sim/sim-clock.ts'
import { COMMIT_MS, LATENCY_MS, Site, type Machine, type Run } from './site.ts'
import { salted, type Source, type Task, type TaskGraph } from './task-graph.ts'

/** What each build is seen to use. */
const RSS_BYTES = 200 * 2 ** 20
const MACHINE_MEMORY_BYTES = 64 * GIB
/** As many as the owner's table keeps. */
const PROVIDERS_MAX = 8
const ENVIRONMENT = environment()

interface Work {
  readonly graph: TaskGraph
  readonly task: Task
}

export interface Start {
  readonly user: string
  readonly request: string
  readonly name: string
  readonly atMs: number
  /** Since its request was submitted. */
  readonly waitMs: number
}

export class MeshFarm {
  readonly clock = new SimClock()
  readonly site: Site
  readonly scheduler: Scheduler
  readonly #nodes: FarmNode[] = []
  readonly #byPeer = new Map<string, FarmNode>()
  /** By request and derivation. */
  readonly #works = new Map<string, Work>()
  readonly #blobs = new Map<Digest, string>()
  readonly #submittedAtMs = new Map<string, number>()
  readonly #unfinished = new Map<string, number>()
  readonly #asked = new Set<FarmNode>()
  #timer: Timer | undefined
  #timerAtMs = Number.POSITIVE_INFINITY
  #eventCount = 0
  /** Told of each attempt as it is granted. */
  onStart: (start: Start) => void = () => {}

  constructor(machines: readonly Machine[]) {
    this.site = new Site(this.clock, machines)
    this.scheduler = new Scheduler({
      selfId: peerOf('root'),
      providersOf: (digest) => this.#providersOf(digest),
    })
    this.#take(this.scheduler.recover(this.#moment()))
    for (const [at, machine] of machines.entries()) {
      const node = new FarmNode(this, at, machine)
      this.#nodes.push(node)
      this.#byPeer.set(node.peerId, node)
      node.up()
    }
  }

  /** Events that the scheduler was given. */
  get eventCount(): number {
    return this.#eventCount
  }

  #moment(): Moment {
    return { nowMs: this.clock.nowMs(), wallMs: this.clock.wallMs(), ownBlobBytes: 0 }
  }

  #providersOf(digest: Digest): string[] {
    const blob = this.#blobs.get(digest)
    if (blob === undefined) return []
    return this.site.holdersOf(blob, PROVIDERS_MAX).map((at) => this.#nodes[at]?.peerId ?? '')
  }

  apply(event: Event): void {
    this.#eventCount += 1
    this.#take(this.scheduler.apply(event, this.#moment()))
  }

  #take(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.type === 'lookup')
        this.clock.setTimer(COMMIT_MS, () =>
          this.apply({ type: 'looked-up', job: effect.job, results: [] }),
        )
      if (effect.type === 'copy')
        this.clock.setTimer(LATENCY_MS, () =>
          this.apply({ type: 'copied', copy: effect.copy.id, ok: true, message: '' }),
        )
      if (effect.type === 'desired') this.#ask(this.#byPeer.get(effect.peerId))
      if (effect.type === 'fact' && effect.fact.type === 'granted') this.#granted(effect.fact)
      if (effect.type === 'fact' && effect.fact.type === 'pinned') {
        const { request } = effect.fact
        this.#unfinished.set(request, (this.#unfinished.get(request) ?? 0) - 1)
      }
    }
    this.#arm()
  }

  #granted(fact: { readonly job: string }): void {
    const [step] = this.scheduler.state.jobs.get(fact.job)?.waiters ?? []
    if (step === undefined) return
    const atMs = this.clock.nowMs()
    this.onStart({
      user: step.request.wire.user,
      request: step.request.wire.id,
      name: step.derivation.name,
      atMs,
      waitMs: atMs - (this.#submittedAtMs.get(step.request.wire.id) ?? atMs),
    })
  }

  #ask(node: FarmNode | undefined): void {
    if (node === undefined || this.#asked.has(node)) return
    this.#asked.add(node)
    this.clock.setTimer(COMMIT_MS, () => {
      this.#asked.delete(node)
      const seq = node.sentSeq + 1
      const desired = this.scheduler.desiredOf(node.peerId, this.scheduler.state.factSeq, seq)
      if (desired === undefined) return
      node.sentSeq = seq
      this.clock.setTimer(LATENCY_MS, () => node.receive(seq, desired))
    })
  }

  #arm(): void {
    const next = this.scheduler.nextDeadlineMs()
    if (next === undefined || (this.#timer !== undefined && this.#timerAtMs <= next)) return
    this.#timer?.cancel()
    this.#timerAtMs = next
    this.#timer = this.clock.setTimer(next - this.clock.nowMs(), () => {
      this.#timer = undefined
      this.#timerAtMs = Number.POSITIVE_INFINITY
      this.apply({ type: 'tick' })
      this.#arm()
    })
  }

  /** `salt` parts what would otherwise be one job. */
  submit(graph: TaskGraph, options: { readonly user: string; readonly salt: string }): RequestWire {
    const taken = new Set(graph.tasks.flatMap(({ after }) => after))
    const wanted = graph.tasks.filter((_, at) => !taken.has(at)).map(({ name }) => name)
    const placed = salted(graph, options.salt)
    const derivations = graph.tasks.map((task, at) =>
      this.#derivationOf(graph, task, placed.tasks[at]?.sources ?? []),
    )
    const request: RequestWire = {
      ...requestWire(`${options.user}/${options.salt}`, derivations, { wanted }),
      user: options.user,
      keepGoing: true,
      takesCopy: true,
      submittedAtWall: this.clock.wallMs(),
    }
    for (const [at, { name }] of graph.tasks.entries()) {
      const task = placed.tasks[at]
      if (task !== undefined) this.#works.set(`${request.id}/${name}`, { graph: placed, task })
    }
    this.#submittedAtMs.set(request.id, this.clock.nowMs())
    this.#unfinished.set(request.id, graph.tasks.length)
    this.apply({ type: 'submit', request })
    return request
  }

  #derivationOf(graph: TaskGraph, task: Task, sources: readonly Source[]): Derivation {
    const inputs: Record<string, InputRef> = {}
    for (const [at, { name, bytes }] of sources.entries()) {
      const digest = sha256(name)
      this.#blobs.set(digest, name)
      inputs[`source${at}`] = {
        kind: 'entry',
        entry: { kind: 'file', digest, size: bytes, executable: false },
      }
    }
    for (const [at, before] of task.after.entries()) {
      const name = graph.tasks[before]?.name ?? ''
      inputs[`in${at}`] = { kind: 'output', derivation: name, output: 'out' }
    }
    return { ...derivation(task.name, { cpus: task.cpus }), inputs }
  }

  /** Lets the time pass until every step of the request has its outputs. */
  runUntilDone(request: RequestWire): void {
    while ((this.#unfinished.get(request.id) ?? 0) > 0)
      if (!this.clock.step(Number.MAX_SAFE_INTEGER)) throw new Error('the request does not end')
  }

  runUntil(atMs: number): void {
    while (this.clock.step(atMs));
  }

  /** What a granted attempt does. */
  workOf(grant: Grant): Work | undefined {
    for (const step of grant.attempt.job.shownBy) {
      const work = this.#works.get(`${step.request.wire.id}/${step.derivation.name}`)
      if (work !== undefined) return work
    }
    return undefined
  }

  madeBlob(digest: Digest, name: string): void {
    this.#blobs.set(digest, name)
  }
}

interface Running {
  readonly grant: Grant
  readonly run: Run
}

/** A machine as the scheduler sees it: says what is, does what should be. */
class FarmNode {
  readonly at: number
  readonly peerId: string
  readonly #farm: MeshFarm
  readonly #machine: Machine
  readonly #running = new Map<string, Running>()
  readonly #finished = new Map<string, FinishedAttempt>()
  readonly #results = new Map<string, ActionResult>()
  sentSeq = 0
  #heardSeq = 0
  #seq = 0
  #isSaying = false
  #saidAtMs = 0

  constructor(farm: MeshFarm, at: number, machine: Machine) {
    this.#farm = farm
    this.at = at
    this.#machine = machine
    this.peerId = peerOf(`machine ${at}`)
  }

  up(): void {
    const record = {
      peerId: this.peerId,
      name: `m${this.at}`,
      // What it makes stays with it: together with the client's copy that is enough of them.
      roles: ['worker' as const, 'store' as const],
      addresses: [`/ip4/10.0.${this.at >> 8}.${this.at & 255}/tcp/7421`],
      http: null,
    }
    const version = { mesh: '0', protocols: [] }
    this.#farm.apply({ type: 'node-up', record, version, boot: '1' })
    this.#say()
    this.#beat()
  }

  #beat(): void {
    const { clock } = this.#farm
    const dueMs = Math.max(0, this.#saidAtMs + HEARTBEAT_MS - clock.nowMs())
    clock.setTimer(dueMs === 0 ? HEARTBEAT_MS : dueMs, () => {
      if (clock.nowMs() >= this.#saidAtMs + HEARTBEAT_MS) this.#say()
      this.#beat()
    })
  }

  /** Its whole state, once for all that happens at one moment. */
  #say(): void {
    if (this.#isSaying) return
    this.#isSaying = true
    this.#farm.clock.setTimer(0, () => {
      this.#isSaying = false
      this.#saidAtMs = this.#farm.clock.nowMs()
      const results = new Map(this.#results)
      const message = this.#message()
      this.#farm.clock.setTimer(LATENCY_MS, () =>
        this.#farm.apply({ type: 'sync', peerId: this.peerId, message, results }),
      )
    })
  }

  #message(): SyncMessage {
    this.#seq += 1
    const { cpus, speed } = this.#machine
    const message = {
      type: 'sync' as const,
      seq: this.#seq,
      ackSeq: this.#heardSeq,
      state: 'ready' as const,
      note: '',
      environments: [ENVIRONMENT],
      capacity: { cpus, memoryBytes: MACHINE_MEMORY_BYTES, diskBytes: 1000 * GIB },
      running: [...this.#running.keys()].map((attempt) => ({
        attempt,
        phase: 'building' as const,
        phases: {},
      })),
      finished: [...this.#finished.values()],
      speed,
    }
    return message
  }

  receive(seq: number, { grants, cancel, ack }: Desired): void {
    if (seq <= this.#heardSeq) return
    this.#heardSeq = seq
    let hasChanged = false
    for (const attempt of ack) {
      this.#finished.delete(attempt)
      this.#results.delete(attempt)
    }
    for (const attempt of cancel) {
      this.#running.get(attempt)?.run.cancel()
      if (!this.#running.delete(attempt)) continue
      this.#finished.set(attempt, {
        attempt,
        outcome: { kind: 'cancelled' },
        usage: null,
        phases: {},
        bytes: { peer: 0, mirror: 0, local: 0 },
      })
      hasChanged = true
    }
    for (const grant of grants) {
      const { id } = grant.attempt
      if (this.#running.has(id) || this.#finished.has(id)) continue
      this.#begin(grant)
      hasChanged = true
    }
    if (hasChanged) this.#say()
  }

  #begin(grant: Grant): void {
    const work = this.#farm.workOf(grant)
    if (work === undefined) throw new Error(`${grant.name} is no task of this farm`)
    const { graph, task } = work
    const run = this.#farm.site.begin(this.at, graph, task, () => this.#end(grant, run, task))
    this.#running.set(grant.attempt.id, { grant, run })
  }

  #end(grant: Grant, { fetchMs, buildMs }: Run, task: Task): void {
    const { id } = grant.attempt
    this.#running.delete(id)
    const [fetch, build] = [Math.round(fetchMs), Math.max(1, Math.round(buildMs))]
    const usage = { wallMs: build, cpuMs: build * task.cpus, maxRssBytes: RSS_BYTES }
    const digest = sha256(`out of ${grant.attempt.action}`)
    this.#farm.madeBlob(digest, task.name)
    const entry = { kind: 'file' as const, digest, size: task.outputBytes, executable: false }
    const result = { ...resultOf(grant, entry), usage }
    this.#results.set(id, result)
    this.#finished.set(id, {
      attempt: id,
      outcome: { kind: 'built', result: unsigned(result) },
      usage,
      phases: { fetch, build, upload: 0 },
      bytes: { peer: 0, mirror: 0, local: 0 },
    })
    this.#say()
  }
}
