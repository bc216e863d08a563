/**
 * What builds on a simulated machine: holds attempts, ends them as their derivations say, and keeps outcomes
 * until they are acknowledged. It takes and says what `src/build/worker.ts` does, and dies with its daemon.
 */
import type { Timer } from '../../../src/base/clock.ts'
import { decodeAction, type Action } from '../../../src/wire/action.ts'
import { sha256, type Digest } from '../../../src/wire/digest.ts'
import type { Environment } from '../../../src/wire/environment.ts'
import type { ActionResult } from '../../../src/wire/result.ts'
import type { Entry } from '../../../src/wire/tree.ts'
import type {
  AttemptOutcome,
  DesiredMessage,
  FinishedAttempt,
  Lease,
  Limits,
  RunningAttempt,
  SyncMessage,
} from '../../../src/wire/work-messages.ts'
import { fileEntry, sha } from '../../scheduler/samples.ts'
import { behaviourOf, SLOW_MS, type Behaviour } from '../sim-worker.ts'
import type { Building, Machine } from './machine.ts'
import type { TreeWorld } from './world.ts'

interface Run {
  readonly lease: Lease
  readonly action: Action
  readonly digest: Digest
  phase: RunningAttempt['phase']
  limits: Limits
  /** Processors that it has now. */
  cpus: number
  startedAtMs: number
  timers: Timer[]
}

export class SimBuilder {
  readonly #world: TreeWorld
  readonly #machine: Machine
  readonly #building: Building
  readonly #onChange: () => void
  readonly running = new Map<string, Run>()
  readonly finished = new Map<string, FinishedAttempt>()
  /** Attempts whose outcome was acknowledged: they must never come back. */
  readonly #acked = new Set<string>()
  readonly #probed = new Set<string>()
  #epoch = 0
  #isDead = false

  constructor(world: TreeWorld, machine: Machine, building: Building, onChange: () => void) {
    this.#world = world
    this.#machine = machine
    this.#building = building
    this.#onChange = onChange
  }

  kill(): void {
    this.#isDead = true
    for (const run of this.running.values()) for (const timer of run.timers) timer.cancel()
  }

  state(): Omit<SyncMessage, 'type' | 'seq' | 'ackSeq'> {
    const { memoryBytes, isLiar } = this.#building
    return {
      state: this.#machine.isDraining ? 'draining' : 'ready',
      note: '',
      environments: [this.#environment()],
      capacity: {
        cpus: isLiar ? 64 : this.#machine.cpus,
        memoryBytes: isLiar ? 2 ** 38 : memoryBytes,
        diskBytes: 2 ** 40,
      },
      speed: isLiar ? 100 : 1 / this.#building.slowness,
      running: [...this.running.values()].map(({ lease, phase, cpus }) => ({
        attempt: lease.attempt,
        phase,
        phases: {},
        held: { cpus, memoryBytes: lease.memoryBytes, diskBytes: lease.diskBytes },
      })),
      finished: [...this.finished.values()],
    }
  }

  #environment(): Environment {
    const { environment } = this.#building
    const tools = Object.entries(environment.tools).filter(([tool]) => this.#probed.has(tool))
    return { ...environment, tools: Object.fromEntries(tools) }
  }

  /** False for a granter whose epoch is over. */
  take(message: DesiredMessage): boolean {
    const { epoch, grants, limits, cancel, ack, tools, allotments } = message
    if (epoch < this.#epoch) return false
    this.#epoch = epoch
    let hasChanged = false
    for (const lease of grants) hasChanged = this.#begin(lease) || hasChanged
    for (const { attempt, cpus } of allotments ?? []) {
      const run = this.running.get(attempt)
      if (run !== undefined) run.cpus = cpus
    }
    this.#world.onTaken(this.#machine)
    for (const { attempt, limits: now } of limits) {
      const run = this.running.get(attempt)
      if (run !== undefined) run.limits = now
    }
    for (const attempt of cancel)
      // A killed process takes its time to go.
      this.#world.clock.setTimer(this.#world.dice.between(1, 300), () =>
        this.#end(attempt, { kind: 'cancelled' }),
      )
    for (const attempt of ack) {
      if (!this.finished.delete(attempt)) continue
      this.#acked.add(attempt)
      hasChanged = true
    }
    this.#probe(tools)
    if (hasChanged) this.#onChange()
    return true
  }

  #probe(tools: readonly string[]): void {
    const unprobed = tools.filter((tool) => !this.#probed.has(tool))
    if (unprobed.length === 0) return
    this.#world.clock.setTimer(this.#world.dice.between(10, 500), () => {
      if (this.#isDead) return
      for (const tool of unprobed) this.#probed.add(tool)
      this.#onChange()
    })
  }

  #begin(lease: Lease): boolean {
    if (this.running.has(lease.attempt) || this.finished.has(lease.attempt)) return false
    const { name } = this.#machine
    this.#world.check(
      !this.#acked.has(lease.attempt),
      () => `${lease.attempt} was granted again to ${name}, which was done with it`,
    )
    this.#world.trace(() => `begin ${lease.attempt} ${lease.name} on ${name}`)
    const action = decodeAction(lease.action)
    const run: Run = {
      lease,
      action,
      digest: sha256(lease.action),
      phase: 'leased',
      limits: lease.limits,
      cpus: lease.cpus,
      startedAtMs: this.#world.clock.nowMs(),
      timers: [],
    }
    this.running.set(lease.attempt, run)
    this.#world.onBegin(this.#machine, lease)
    this.#after(run, this.#world.dice.between(5, 300), () => {
      run.phase = 'fetching'
      this.#onChange()
      this.#after(run, this.#world.dice.between(10, 1_500), () => this.#build(run))
    })
    return true
  }

  #after(run: Run, ms: number, fire: () => void): void {
    run.timers.push(
      this.#world.clock.setTimer(ms, () => {
        if (this.running.get(run.lease.attempt) === run) fire()
      }),
    )
  }

  #build(run: Run): void {
    const { lease, action } = run
    const { dice, clock, isRough } = this.#world
    run.phase = 'building'
    run.startedAtMs = clock.nowMs()
    const behaviour = behaviourOf(action)
    const tookMs = behaviour === 'slow' ? SLOW_MS : this.#durationMs()
    const breaks = behaviour === 'broken' && isRough && dice.chance(0.5)
    this.#after(run, tookMs, () => {
      if (tookMs > run.limits.timeoutMs) this.#end(lease.attempt, overTime(run.limits.timeoutMs))
      else if (breaks)
        this.#end(lease.attempt, {
          kind: 'infrastructure',
          code: 'MESH0505',
          message: `${this.#machine.name} broke`,
        })
      else if (behaviour === 'fail') this.#end(lease.attempt, FAILED)
      else this.#built(run, behaviour)
    })
    this.#watch(run)
  }

  /** Mostly short; some outlive the leases of a node that is cut off. */
  #durationMs(): number {
    const { dice } = this.#world
    const longest = dice.fraction()
    const ms =
      longest < 0.04
        ? dice.between(15_000, 60_000)
        : longest < 0.14
          ? dice.between(3_000, 12_000)
          : dice.between(50, 2_500)
    return Math.round(ms * this.#building.slowness)
  }

  /** Ends it at its limit, which may be raised while it runs. */
  #watch(run: Run): void {
    const { timeoutMs } = run.limits
    const leftMs = run.startedAtMs + timeoutMs - this.#world.clock.nowMs()
    if (leftMs > 60_000) return
    this.#after(run, Math.max(0, leftMs), () => {
      if (run.limits.timeoutMs > timeoutMs) this.#watch(run)
      else this.#end(run.lease.attempt, overTime(timeoutMs))
    })
  }

  #built(run: Run, behaviour: Behaviour): void {
    const { lease, action, digest } = run
    const { dice, clock } = this.#world
    const salts = { constant: action.argv[1], random: lease.attempt }
    const salt = behaviour === 'constant' || behaviour === 'random' ? salts[behaviour] : digest
    const isLie = this.#building.isLiar && dice.chance(0.3)
    const outputs = Object.fromEntries(
      action.outputs.map(([name]): [string, Entry] => [name, fileEntry(`${name} ${salt}`)]),
    )
    const result: ActionResult = {
      v: 1,
      // A lie about what it built; a lie about what came out nobody can tell from the truth.
      action: isLie ? sha('another action') : digest,
      jobKey: lease.jobKey,
      attempt: lease.attempt,
      exitCode: 0,
      outputs,
      log: { digest: sha(''), size: 0 },
      usage: { wallMs: clock.nowMs() - run.startedAtMs, cpuMs: 1, maxRssBytes: 1 },
      userland: lease.userland,
      builder: {
        peerId: this.#machine.peerId,
        name: this.#machine.name,
        system: action.system,
        isolation: lease.isolation,
      },
      endedAtWallMs: clock.wallMs() + this.#machine.wallSkewMs,
    }
    this.#world.onBuilt(this.#machine, lease, result)
    this.#end(lease.attempt, { kind: 'built', result: this.#world.sign(result) })
  }

  #end(attempt: string, outcome: AttemptOutcome): void {
    const run = this.running.get(attempt)
    if (run === undefined || this.#isDead) return
    this.#world.trace(() => `end ${attempt} ${outcome.kind} on ${this.#machine.name}`)
    for (const timer of run.timers) timer.cancel()
    this.running.delete(attempt)
    this.finished.set(attempt, {
      attempt,
      outcome,
      usage: null,
      phases: {},
      bytes: { peer: 10, mirror: 0, local: 0 },
    })
    this.#onChange()
  }
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
