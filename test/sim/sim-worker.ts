/**
 * A worker of a simulation: holds attempts, ends them as their derivations say, keeps outcomes until they
 * are acknowledged, loses everything when it is killed. It speaks sync and desired as a node does.
 *
 * The second argument of a derivation says what its build does: see `Behaviour`.
 */
import type { Timer } from '../../src/base/clock.ts'
import type { Action } from '../../src/wire/action.ts'
import type { Role } from '../../src/wire/api.ts'
import type { Digest } from '../../src/wire/digest.ts'
import type { Environment, Isolation, Userland } from '../../src/wire/environment.ts'
import type { ActionResult } from '../../src/wire/result.ts'
import { blobOf, type Entry } from '../../src/wire/tree.ts'
import {
  HEARTBEAT_MS,
  WorkMessage,
  type AttemptOutcome,
  type FinishedAttempt,
  type Limits,
  type RunningAttempt,
  type SyncMessage,
} from '../../src/wire/work-messages.ts'
import { fileEntry, peerOf, sha, unsigned } from '../scheduler/samples.ts'
import { Connection, SILENCE_MS } from './connection.ts'
import type { Simulation } from './simulation.ts'

/** ok: outputs hang on the action. constant: always the same outputs. random: other outputs each time. broken: the node fails it now and then. slow: longer than small limits. */
const BEHAVIOURS = ['ok', 'constant', 'random', 'fail', 'broken', 'slow'] as const
export type Behaviour = (typeof BEHAVIOURS)[number]
export const SLOW_MS = 9_000
const ROLES: readonly Role[] = ['worker']
const STORE: readonly Role[] = ['store']

/** A lease as it travels. */
export interface SimLease {
  readonly attempt: string
  readonly job: string
  readonly jobKey: Digest
  readonly name: string
  readonly action: Action
  readonly actionDigest: Digest
  readonly node: { readonly peerId: string; readonly name: string }
  readonly system: string
  readonly isolation: Isolation
  readonly userland: Userland | null
  readonly cpus: number
  readonly memoryBytes: number
  readonly limits: Limits
}

/** A desired state as it travels. */
export interface Orders {
  readonly seq: number
  readonly epoch: number
  readonly leases: readonly SimLease[]
  readonly limits: readonly { readonly attempt: string; readonly limits: Limits }[]
  readonly cancel: readonly string[]
  readonly ack: readonly string[]
  readonly tools: readonly string[]
  readonly allotments: readonly { readonly attempt: string; readonly cpus: number }[]
}

interface Run {
  readonly lease: SimLease
  /** Processors that it uses now. */
  cpus: number
  phase: RunningAttempt['phase']
  limits: Limits
  startedAtMs: number
  timers: Timer[]
}

export interface Machine {
  readonly name: string
  readonly cpus: number
  readonly memoryBytes: number
  /** With all its tools; what is not probed yet is left out of what it tells. */
  readonly environment: Environment
  readonly isStore: boolean
  /** Others can dial it; its record may say otherwise. */
  readonly isOpen: boolean
  readonly saysOpen: boolean
}

export class SimWorker {
  readonly machine: Machine
  readonly peerId: string
  readonly #sim: Simulation
  readonly running = new Map<string, Run>()
  readonly finished = new Map<string, FinishedAttempt>()
  readonly #results = new Map<string, ActionResult>()
  /** Attempts whose outcome was acknowledged: they must never come back. */
  readonly #acked = new Set<string>()
  readonly #probed = new Set<string>()
  state: 'ready' | 'draining' = 'ready'
  cpus: number
  isUp = false
  isCut = false
  connection: Connection | undefined
  #boot = 0
  #epoch = 0
  #syncSeq = 0
  #ackSeq = 0
  #isAsked = false
  #heardAtMs = 0
  #userland: Environment

  constructor(sim: Simulation, machine: Machine) {
    this.#sim = sim
    this.machine = machine
    this.peerId = peerOf(machine.name)
    this.cpus = machine.cpus
    this.#userland = machine.environment
  }

  // ---- life

  start(environment = this.machine.environment): void {
    if (this.isUp) return
    this.isUp = true
    this.#boot += 1
    this.#userland = environment
    this.#probed.clear()
    this.#dialSoon()
    this.#beat(this.#boot)
  }

  /** The process is killed. */
  kill(): void {
    if (!this.isUp) return
    this.isUp = false
    for (const run of this.running.values()) for (const timer of run.timers) timer.cancel()
    this.running.clear()
    this.finished.clear()
    this.#results.clear()
    this.#loseConnection()
  }

  get usesUserlandOf(): Environment {
    return this.#userland
  }

  #beat(boot: number): void {
    this.#sim.clock.setTimer(HEARTBEAT_MS, () => {
      if (!this.isUp || this.#boot !== boot) return
      if (this.connection !== undefined && this.#sim.clock.nowMs() - this.#heardAtMs > SILENCE_MS)
        this.#loseConnection()
      else this.#syncSoon()
      this.#beat(boot)
    })
  }

  // ---- connection

  #dialSoon(): void {
    const boot = this.#boot
    this.#sim.clock.setTimer(this.#sim.dice.between(50, 2_500), () => {
      if (!this.isUp || this.#boot !== boot || this.connection !== undefined) return
      const owner = this.#sim.owner
      if (owner === undefined || !owner.isAlive || this.isCut) {
        this.#dialSoon()
        return
      }
      const connection = new Connection(this.#sim.clock, this.#sim.dice)
      this.connection = connection
      this.#syncSeq = 0
      this.#ackSeq = 0
      this.#heardAtMs = this.#sim.clock.nowMs()
      this.#sim.trace(`connect ${this.machine.name}`)
      const record = {
        peerId: this.peerId,
        name: this.machine.name,
        roles: [...ROLES, ...(this.machine.isStore ? STORE : [])],
        addresses: this.machine.saysOpen ? ['/ip4/10.0.0.7/tcp/7421'] : [],
        http: null,
      }
      owner.attach(this, record, String(this.#boot), connection)
      this.#syncSoon()
    })
  }

  /** The connection is gone for this end; the owner learns it later. */
  #loseConnection(): void {
    const { connection } = this
    if (connection === undefined) return
    connection.break()
    this.connection = undefined
    const owner = this.#sim.owner
    const noticeMs = this.#sim.dice.chance(0.5)
      ? this.#sim.dice.between(1, 50)
      : this.#sim.dice.between(1_000, SILENCE_MS)
    this.#sim.clock.setTimer(noticeMs, () => owner?.detach(this, connection))
    if (this.isUp) this.#dialSoon()
  }

  /** Something between the two breaks it. */
  cutConnection(): void {
    this.#loseConnection()
  }

  onOwnerCrash(connection: Connection): void {
    if (this.connection === connection) this.#loseConnection()
  }

  // ---- sync

  #syncSoon(): void {
    if (this.#isAsked) return
    this.#isAsked = true
    this.#sim.clock.setTimer(this.#sim.dice.between(0, 10), () => {
      this.#isAsked = false
      this.#sync()
    })
  }

  #sync(): void {
    const { connection } = this
    const owner = this.#sim.owner
    if (!this.isUp || connection === undefined || owner === undefined) return
    this.#syncSeq += 1
    const message: SyncMessage = {
      type: 'sync',
      seq: this.#syncSeq,
      ackSeq: this.#ackSeq,
      state: this.state,
      note: '',
      environments: [this.#told()],
      capacity: { cpus: this.cpus, memoryBytes: this.machine.memoryBytes, diskBytes: 2 ** 40 },
      running: [...this.running.values()].map(({ lease, phase, cpus }) => ({
        attempt: lease.attempt,
        phase,
        phases: {},
        held: { cpus, memoryBytes: lease.memoryBytes, diskBytes: 0 },
      })),
      finished: [...this.finished.values()],
    }
    const results = new Map(this.#results)
    connection.send('up', () => {
      const arrived = this.#sim.overWire(WorkMessage, message)
      if (arrived.type === 'sync') owner.sync(this, connection, arrived, results)
    })
  }

  #told(): Environment {
    const tools = Object.entries(this.#userland.tools).filter(([tool]) => this.#probed.has(tool))
    return { ...this.#userland, tools: Object.fromEntries(tools) }
  }

  // ---- orders

  receive(connection: Connection, orders: Orders): void {
    if (!this.isUp || this.connection !== connection) return
    const { clock, dice } = this.#sim
    this.#heardAtMs = clock.nowMs()
    this.#sim.check(
      orders.epoch >= this.#epoch,
      `${this.machine.name} was given epoch ${orders.epoch} after ${this.#epoch}`,
    )
    this.#epoch = orders.epoch
    const isNews = orders.seq > this.#ackSeq
    this.#ackSeq = Math.max(this.#ackSeq, orders.seq)
    let hasChanged = false
    for (const { attempt, cpus } of orders.allotments) {
      const run = this.running.get(attempt)
      if (run !== undefined) run.cpus = cpus
    }
    for (const lease of orders.leases) hasChanged = this.#begin(lease) || hasChanged
    for (const { attempt, limits } of orders.limits) {
      const run = this.running.get(attempt)
      if (run !== undefined) run.limits = limits
    }
    for (const attempt of orders.cancel) {
      if (!this.running.has(attempt)) continue
      hasChanged = true
      // A killed process takes its time to go.
      clock.setTimer(dice.between(1, 300), () => this.#end(attempt, { kind: 'cancelled' }))
    }
    for (const attempt of orders.ack) {
      if (!this.finished.delete(attempt)) continue
      this.#results.delete(attempt)
      this.#acked.add(attempt)
      hasChanged = true
    }
    const unprobed = orders.tools.filter((tool) => !this.#probed.has(tool))
    if (isNews && unprobed.length > 0)
      clock.setTimer(dice.between(10, 500), () => {
        for (const tool of unprobed) this.#probed.add(tool)
        this.#syncSoon()
      })
    if (hasChanged) this.#syncSoon()
  }

  #begin(lease: SimLease): boolean {
    if (this.running.has(lease.attempt) || this.finished.has(lease.attempt)) return false
    this.#sim.check(
      !this.#acked.has(lease.attempt),
      `${lease.attempt} was granted again to ${this.machine.name}, which was done with it`,
    )
    this.#sim.trace(`begin ${lease.attempt} on ${this.machine.name}`)
    const run: Run = {
      lease,
      cpus: lease.cpus,
      phase: 'leased',
      limits: lease.limits,
      startedAtMs: this.#sim.clock.nowMs(),
      timers: [],
    }
    this.running.set(lease.attempt, run)
    let cpus = 0
    let memoryBytes = 0
    for (const other of this.running.values()) {
      cpus += other.cpus
      memoryBytes += other.lease.memoryBytes
    }
    // What was granted before its processors became fewer goes on.
    this.#sim.check(
      cpus <= this.machine.cpus && memoryBytes <= this.machine.memoryBytes,
      `${this.machine.name} runs ${cpus} cpus and ${memoryBytes} bytes at once, it has ${this.machine.cpus} and ${this.machine.memoryBytes}`,
    )
    this.#after(run, this.#sim.dice.between(5, 300), () => this.#fetch(run))
    return true
  }

  #after(run: Run, ms: number, fire: () => void): void {
    run.timers.push(
      this.#sim.clock.setTimer(ms, () => {
        if (this.running.get(run.lease.attempt) === run) fire()
      }),
    )
  }

  #fetch(run: Run): void {
    const { lease } = run
    run.phase = 'fetching'
    this.#syncSoon()
    const missing: Digest[] = []
    for (const [, entry] of lease.action.inputs) {
      const blob = blobOf(entry)
      if (blob !== undefined && !this.#sim.bring(blob.digest, this)) missing.push(blob.digest)
    }
    this.#after(run, this.#sim.dice.between(10, 1_500), () => {
      if (missing.length > 0)
        this.#end(lease.attempt, {
          kind: 'missing',
          inputs: missing,
          message: `inputs of ${lease.name} are nowhere`,
        })
      else this.#build(run)
    })
  }

  #build(run: Run): void {
    const { lease } = run
    const { dice, clock } = this.#sim
    run.phase = 'building'
    run.startedAtMs = clock.nowMs()
    const behaviour = behaviourOf(lease.action)
    const tookMs = behaviour === 'slow' ? SLOW_MS : this.#durationMs()
    const breaks = behaviour === 'broken' && this.#sim.isRough && dice.chance(0.5)
    this.#after(run, tookMs, () => {
      if (tookMs > run.limits.timeoutMs) this.#end(lease.attempt, overTime(run.limits.timeoutMs))
      else if (breaks)
        this.#end(lease.attempt, {
          kind: 'infrastructure',
          code: 'MESH0505',
          message: `${this.machine.name} broke`,
        })
      else if (behaviour === 'fail') this.#end(lease.attempt, FAILED)
      else this.#built(run, behaviour)
    })
    this.#watch(run)
  }

  /** Mostly short; some outlive the leases of a node that is cut off. */
  #durationMs(): number {
    const { dice } = this.#sim
    const longest = dice.fraction()
    return longest < 0.04
      ? dice.between(15_000, 60_000)
      : longest < 0.14
        ? dice.between(3_000, 12_000)
        : dice.between(50, 2_500)
  }

  /** Ends it at its limit, which may be raised while it runs. */
  #watch(run: Run): void {
    const { timeoutMs } = run.limits
    const leftMs = run.startedAtMs + timeoutMs - this.#sim.clock.nowMs()
    if (leftMs > 60_000) return
    this.#after(run, Math.max(0, leftMs), () => {
      if (run.limits.timeoutMs > timeoutMs) this.#watch(run)
      else this.#end(run.lease.attempt, overTime(timeoutMs))
    })
  }

  #built(run: Run, behaviour: Behaviour): void {
    const { lease } = run
    const salt =
      behaviour === 'constant'
        ? lease.action.argv[1]
        : behaviour === 'random'
          ? lease.attempt
          : lease.actionDigest
    const outputs = Object.fromEntries(
      lease.action.outputs.map(([name]): [string, Entry] => [name, fileEntry(`${name} ${salt}`)]),
    )
    const result: ActionResult = {
      v: 1,
      action: lease.actionDigest,
      jobKey: lease.jobKey,
      attempt: lease.attempt,
      exitCode: 0,
      outputs,
      log: { digest: sha(''), size: 0 },
      usage: { wallMs: this.#sim.clock.nowMs() - run.startedAtMs, cpuMs: 1, maxRssBytes: 1 },
      userland: lease.userland,
      builder: {
        peerId: this.peerId,
        name: this.machine.name,
        system: lease.system,
        isolation: lease.isolation,
      },
      endedAtWallMs: this.#sim.clock.wallMs(),
    }
    this.#sim.onBuilt(lease, result, this)
    this.#results.set(lease.attempt, result)
    this.#end(lease.attempt, { kind: 'built', result: unsigned(result) })
  }

  #end(attempt: string, outcome: AttemptOutcome): void {
    const run = this.running.get(attempt)
    if (run === undefined) return
    this.#sim.trace(`end ${attempt} ${outcome.kind} on ${this.machine.name}`)
    for (const timer of run.timers) timer.cancel()
    this.running.delete(attempt)
    this.finished.set(attempt, {
      attempt,
      outcome,
      usage: null,
      phases: {},
      bytes: { peer: 10, mirror: 0, local: 0 },
    })
    this.#syncSoon()
  }
}

export function behaviourOf(action: Pick<Action, 'argv'>): Behaviour {
  return BEHAVIOURS.find((behaviour) => behaviour === action.argv[2]) ?? 'ok'
}

const FAILED = {
  kind: 'failed',
  code: 'MESH0401',
  message: 'exit code 1',
  exitCode: 1,
  log: null,
  logTail: '',
} as const satisfies AttemptOutcome

function overTime(value: number): AttemptOutcome {
  return { ...FAILED, code: 'MESH0402', message: 'ran too long', limit: { name: 'timeout', value } }
}
