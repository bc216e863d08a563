/**
 * A whole mesh in virtual time: clients, one owner, workers and the network between them. One seed is one
 * run: the same seed gives the same trace. First things go wrong, then they stop going wrong, and then
 * every accepted request must have come to its end and nothing be left.
 */
import { createHash } from 'node:crypto'
import type { z } from 'zod'
import { decodeObject, encodeObject } from '../../src/wire/cbor.ts'
import type { Digest } from '../../src/wire/digest.ts'
import type { Userland } from '../../src/wire/environment.ts'
import type { ActionResult } from '../../src/wire/result.ts'
import { blobOf } from '../../src/wire/tree.ts'
import type { Request, Step } from '../../src/scheduler/model.ts'
import { sha } from '../scheduler/samples.ts'
import { Dice } from './dice.ts'
import { checkHistory, checkReplay, checkUserlands, wantedBlobs } from './invariants.ts'
import { Places } from './places.ts'
import { SimClock } from './sim-clock.ts'
import { Disk, SimOwner } from './sim-owner.ts'
import { behaviourOf, SimWorker, SLOW_MS, type Machine, type SimLease } from './sim-worker.ts'
import {
  makeEqualMachines,
  makeMachines,
  makePlans,
  otherEnvironment,
  type Plan,
} from './workload.ts'

/** Requests come, and things go wrong, until then. */
const ROUGH_MS = 60_000
/** In peace all must end within this. */
const PEACE_MS_MAX = 600_000
/** And then nothing be left after this. */
const QUIET_MS = 40_000
/** And replicas be made within this; a copy may take that long. */
const REPAIR_MS_MAX = 200_000
const EVENTS_MAX = 1_000_000

export interface SimOptions {
  readonly seed: number
  readonly nodeCount: number
  /** Facts and messages go through their encodings, as they do between processes. Slow. */
  readonly isEncoded?: boolean
  /** Called with every line of the trace. */
  readonly onTrace?: (line: string) => void
  /** Many derivations are to be built by several nodes; all machines are alike then. */
  readonly isCompared?: boolean
}

export interface SimReport {
  readonly traceHash: string
  readonly events: number
  readonly virtualMs: number
  readonly requests: { done: number; failed: number; cancelled: number }
  readonly facts: number
  readonly crashes: number
  /** Copies that were made, and inputs that were somewhere and could not be got to a node. */
  readonly copies: number
  readonly unreached: number
}

/** An invariant does not hold; the message names the seed. */
export class BrokenInvariant extends Error {}

interface Client {
  readonly plan: Plan
  isAccepted: boolean
  hasCancelled: boolean
}

export class Simulation {
  readonly clock = new SimClock()
  readonly dice: Dice
  readonly #options: SimOptions
  readonly #trace = createHash('sha256')
  readonly #disk = new Disk(this)
  readonly #machines: readonly Machine[]
  readonly #workers: readonly SimWorker[]
  readonly #clients: readonly Client[]
  readonly #epochs = new Map<number, SimOwner | undefined>()
  readonly places = new Places()
  readonly #made: Digest[] = []
  /** What each action was built with. */
  readonly userlands = new Map<
    Digest,
    { readonly system: string; readonly userland: Userland | null }
  >()
  readonly #builds = new Map<string, number>()
  /** Whether anything goes wrong in this run at all. */
  readonly isCompared: boolean
  readonly isEventful: boolean
  /** Whether it may go wrong now. */
  isRough: boolean
  owner: SimOwner | undefined
  copies = 0
  unreached = 0
  #crashes = 0
  #events = 0

  constructor(options: SimOptions) {
    this.#options = options
    this.dice = new Dice(options.seed)
    const { dice } = this
    this.isEventful = dice.chance(0.8)
    this.isRough = this.isEventful
    this.isCompared = options.isCompared === true
    this.#machines = this.isCompared
      ? makeEqualMachines(dice, options.nodeCount)
      : makeMachines(dice, options.nodeCount, !this.isEventful)
    this.#workers = this.#machines.map((machine) => new SimWorker(this, machine))
    const requestCount = dice.chance(0.2) ? dice.between(15, 25) : dice.between(2, 7)
    const plans = makePlans(dice, {
      requestCount,
      fromMs: 6_000,
      toMs: ROUGH_MS - 10_000,
      isCalm: !this.isEventful,
      isCompared: this.isCompared,
    })
    this.#clients = plans.map((plan) => ({ plan, isAccepted: false, hasCancelled: false }))
    for (const { wire } of plans)
      for (const { name } of wire.graph.derivations)
        this.places.addEverywhere(sha(`source of ${name}`))
  }

  run(): SimReport {
    this.#startOwner()
    for (const worker of this.#workers) worker.start()
    for (const client of this.#clients)
      this.clock.setTimer(client.plan.atMs - this.clock.nowMs(), () => this.#submit(client))
    if (this.isEventful) this.#troubleSoon(this.dice.pick([400, 1_200, 4_000]))
    this.#runUntil(ROUGH_MS, () => false)
    this.#makePeace()
    this.#runUntil(ROUGH_MS + PEACE_MS_MAX, () => this.#areAllEnded())
    this.#checkEnds()
    this.#runUntil(this.clock.nowMs() + QUIET_MS, () => false)
    this.#runUntil(this.clock.nowMs() + REPAIR_MS_MAX, () => this.#unrepaired() === undefined)
    this.#checkQuiet()
    return this.#report()
  }

  #runUntil(untilMs: number, isOver: () => boolean): void {
    while (!isOver() && this.clock.step(untilMs)) {
      this.#events += 1
      this.check(this.#events < EVENTS_MAX, `${EVENTS_MAX} events and no end`)
    }
  }

  /** The value as it arrives. */
  overWire<T>(schema: z.ZodType<T>, value: T): T {
    return this.#options.isEncoded === true
      ? decodeObject(schema, encodeObject(schema, value), 'simulated')
      : value
  }

  check(holds: boolean, message: string): void {
    if (!holds)
      throw new BrokenInvariant(`seed ${this.#options.seed}, ${this.clock.nowMs()} ms: ${message}`)
  }

  trace(line: string): void {
    const entry = `${this.clock.nowMs()} ${line}`
    this.#trace.update(`${entry}\n`)
    this.#options.onTrace?.(entry)
  }

  get storeIds(): string[] {
    return this.#workers.flatMap(({ machine, peerId }) => (machine.isStore ? [peerId] : []))
  }

  workerOf(peerId: string): SimWorker {
    const worker = this.#workers.find((candidate) => candidate.peerId === peerId)
    if (worker === undefined) throw new RangeError(`no worker has the id ${peerId}`)
    return worker
  }

  /** Gets the blob to the worker, from another or by way of a store, if there is a way; true when it has it then. */
  bring(digest: Digest, worker: SimWorker): boolean {
    if (this.places.has(digest, worker.peerId)) return true
    const isThere = (other: SimWorker): boolean => other.isUp && other.connection !== undefined
    const hub = this.#workers.some(
      (other) => other.machine.isStore && other.machine.isOpen && isThere(other),
    )
    const canCome = this.#workers.some(
      (other) =>
        this.places.has(digest, other.peerId) && isThere(other) && (other.machine.isOpen || hub),
    )
    if (canCome) this.places.add(digest, worker.peerId)
    return canCome
  }

  /** Whether the epoch is the present owner's alone. */
  useEpoch(epoch: number): boolean {
    if (!this.#epochs.has(epoch)) this.#epochs.set(epoch, this.owner)
    return this.#epochs.get(epoch) === this.owner
  }

  onBuilt(lease: SimLease, result: ActionResult, worker: SimWorker): void {
    this.userlands.set(lease.actionDigest, { system: lease.system, userland: lease.userland })
    for (const entry of Object.values(result.outputs)) {
      const blob = blobOf(entry)
      if (blob === undefined) continue
      this.places.add(blob.digest, worker.peerId)
      this.#made.push(blob.digest)
    }
    const build = `${lease.jobKey} with ${JSON.stringify(lease.userland)}`
    const count = (this.#builds.get(build) ?? 0) + 1
    this.#builds.set(build, count)
    this.check(
      this.isEventful || this.isCompared || count === 1,
      `${lease.name} (${lease.jobKey}) was built ${count} times, though nothing failed`,
    )
  }

  // ---- clients

  #submit(client: Client): void {
    const { dice, clock } = this
    const { wire, cancelAtMs } = client.plan
    clock.setTimer(dice.between(1, 60), () => {
      const { owner } = this
      owner?.submit(wire, () => {
        clock.setTimer(dice.between(1, 60), () => {
          // An answer that is under way when the owner dies is lost with its connection.
          if (owner.isAlive) client.isAccepted = true
        })
      })
    })
    if (cancelAtMs !== undefined && !client.hasCancelled) {
      client.hasCancelled = true
      clock.setTimer(cancelAtMs - clock.nowMs(), () => this.#cancel(client))
    }
    clock.setTimer(dice.between(1_000, 5_000), () => {
      if (!client.isAccepted || dice.chance(0.1)) this.#submit(client)
    })
  }

  /** Again and again, until it is seen to have an effect. */
  #cancel(client: Client): void {
    client.hasCancelled = true
    const { id } = client.plan.wire
    const state = this.owner?.scheduler.state.requests.get(id)?.state
    if (client.isAccepted && state !== undefined && state !== 'active') return
    this.owner?.apply({ type: 'cancel', request: id })
    this.clock.setTimer(2_000, () => this.#cancel(client))
  }

  // ---- trouble

  #troubleSoon(meanMs: number): void {
    this.clock.setTimer(this.dice.between(1, 2 * meanMs), () => {
      if (!this.isRough) return
      this.#trouble()
      this.#troubleSoon(meanMs)
    })
  }

  #trouble(): void {
    const { dice } = this
    const worker = dice.pick(this.#workers)
    const troubles: readonly (() => void)[] = [
      () => this.#crashOwner(),
      () => this.#killWorker(worker),
      () => this.#killWorker(worker),
      () => worker.cutConnection(),
      () => worker.connection?.stall(dice.between(500, 30_000)),
      () => this.#isolate([worker]),
      () => this.#isolate(this.#workers.filter(() => dice.chance(0.5))),
      () => {
        worker.state = worker.state === 'ready' ? 'draining' : 'ready'
      },
      () => {
        worker.cpus = dice.between(1, worker.machine.cpus)
      },
      () => this.#loseBlobs(),
      () => this.#loseBlobs(),
      () => this.#askLost(),
      () => this.#leave(),
    ]
    dice.pick(troubles)()
  }

  #startOwner(): void {
    this.owner = new SimOwner(this, this.#disk)
  }

  #crashOwner(): void {
    const { owner } = this
    if (owner === undefined) return
    this.trace('crash of the owner')
    this.#crashes += 1
    checkReplay(this, owner.scheduler, owner.allFacts)
    const connections = this.#workers.map(({ connection }) => connection)
    owner.crash()
    this.owner = undefined
    for (const [at, worker] of this.#workers.entries()) {
      const connection = connections[at]
      if (connection !== undefined)
        this.clock.setTimer(this.dice.between(1, 8_000), () => worker.onOwnerCrash(connection))
    }
    this.clock.setTimer(this.dice.between(100, 12_000), () => this.#startOwner())
  }

  #killWorker(worker: SimWorker): void {
    if (!worker.isUp) return
    this.trace(`kill ${worker.machine.name}`)
    worker.kill()
    const isChanged = this.dice.chance(0.15) && !this.isCompared
    const next = isChanged
      ? otherEnvironment(this.dice, this.#machines.length)
      : worker.machine.environment
    this.clock.setTimer(this.dice.between(100, 25_000), () => worker.start(next))
  }

  #isolate(workers: readonly SimWorker[]): void {
    this.trace(`isolate ${workers.map(({ machine }) => machine.name).join()}`)
    const ms = this.dice.between(1_000, 40_000)
    for (const worker of workers) {
      worker.isCut = true
      worker.cutConnection()
      this.clock.setTimer(ms, () => {
        worker.isCut = false
      })
    }
  }

  #loseBlobs(): void {
    for (let count = this.dice.between(1, 3); count > 0 && this.#made.length > 0; count -= 1) {
      // What was made last is what is needed next.
      const digest = this.dice.chance(0.5) ? this.#made.at(-1) : this.dice.pick(this.#made)
      if (digest !== undefined && this.places.lose(digest)) this.trace(`lose ${digest.slice(0, 8)}`)
    }
  }

  /** Somebody cannot get an output of a request that is done. */
  #askLost(): void {
    const done = [...(this.owner?.scheduler.state.finished ?? [])].filter(
      ({ state }) => state === 'done',
    )
    if (done.length === 0) return
    const { wire } = this.dice.pick(done)
    this.owner?.apply({
      type: 'lost',
      request: wire.id,
      derivation: this.dice.pick(wire.graph.wanted),
    })
  }

  /** Somebody does not wait for what they asked for, and takes no copy of it. */
  #leave(): void {
    const { wire } = this.dice.pick(this.#clients).plan
    this.owner?.apply({ type: 'left', request: wire.id })
  }

  #makePeace(): void {
    this.trace('peace')
    this.isRough = false
    for (const worker of this.#workers) {
      worker.isCut = false
      worker.state = 'ready'
      worker.cpus = worker.machine.cpus
      if (worker.isUp && worker.usesUserlandOf !== worker.machine.environment) worker.kill()
      this.clock.setTimer(this.dice.between(1, 1_000), () => {
        if (worker.usesUserlandOf !== worker.machine.environment) worker.kill()
        worker.start()
      })
    }
    // What no machine has would wait for a day.
    for (const client of this.#clients)
      if (client.plan.isImpossible && !client.plan.wire.noWait)
        this.clock.setTimer(5_000, () => this.#cancel(client))
  }

  // ---- ends

  #areAllEnded(): boolean {
    const requests = this.owner?.scheduler.state.requests
    return this.#clients.every(({ plan, isAccepted }) => {
      const state = requests?.get(plan.wire.id)?.state
      return isAccepted && state !== undefined && state !== 'active'
    })
  }

  #checkEnds(): void {
    for (const client of this.#clients) {
      const { id } = client.plan.wire
      const request = this.owner?.scheduler.state.requests.get(id)
      this.check(
        client.isAccepted && request !== undefined,
        `${id} was ${client.isAccepted ? 'accepted and forgotten' : 'never accepted'}`,
      )
      if (request !== undefined) this.#checkEnd(client, request)
    }
  }

  #checkEnd(client: Client, request: Request): void {
    const { id } = client.plan.wire
    const steps = [...request.steps.values()]
    const phases = steps.map((step) => `${step.derivation.name} ${step.phase}`).join(', ')
    checkUserlands(this, request)
    switch (request.state) {
      case 'active':
        this.check(false, `${id} has not ended: ${phases}`)
        return
      case 'cancelled':
        this.check(client.hasCancelled, `${id} is cancelled, and nobody cancelled it`)
        return
      case 'done':
        this.check(
          steps.every((step) => step.phase === 'done' && step.outputs !== undefined),
          `${id} is done: ${phases}`,
        )
        this.check(
          steps.every((step) => behaviourOfStep(step) !== 'fail'),
          `${id} is done, though one of it always fails`,
        )
        return
      case 'failed': {
        const failed = steps.filter((step) => step.phase === 'failed')
        this.check(failed.length > 0, `${id} has failed without a failure: ${phases}`)
        for (const step of failed) this.#checkReason(client, step)
      }
    }
  }

  /** A failure must have its true reason. */
  #checkReason(client: Client, step: Step): void {
    const code = step.failure?.code ?? ''
    const behaviour = behaviourOfStep(step)
    const { noWait } = client.plan.wire
    const isTrue: Record<string, boolean> = {
      MESH0401: behaviour === 'fail',
      MESH0405: this.isCompared && behaviour === 'random',
      MESH0402: behaviour === 'slow' && step.derivation.run.timeoutMs < SLOW_MS,
      MESH0301: noWait && (client.plan.isImpossible || this.isEventful),
      MESH0505: this.isEventful,
      MESH0506: this.isEventful,
      MESH0507: this.isEventful,
    }
    const { id } = client.plan.wire
    this.check(
      isTrue[code] === true,
      `${id} ${step.derivation.name} (${behaviour}) failed with ${code}: ${step.failure?.message}`,
    )
  }

  #checkQuiet(): void {
    const { owner } = this
    if (owner === undefined)
      throw new BrokenInvariant(`seed ${this.#options.seed}: the owner is not there`)
    for (const worker of this.#workers) {
      const { name } = worker.machine
      this.check(
        worker.running.size === 0,
        `${name} still runs ${[...worker.running.keys()].join()}`,
      )
      this.check(
        worker.finished.size === 0,
        `${name} still keeps the outcomes of ${[...worker.finished.keys()].join()}`,
      )
    }
    const { nodes, queues, state } = owner.scheduler
    for (const node of nodes.values())
      this.check(
        node.attempts.size === 0 && node.allocated.cpus === 0,
        `${node.record.name} has reservations`,
      )
    this.check([...queues.all].length === 0, 'there are queues')
    this.check(
      state.openJobs.size === 0,
      `these jobs are open: ${[...state.openJobs.keys()].join()}`,
    )
    const unrepaired = this.#unrepaired()
    // The end of a quarantine comes whether anybody waits for it or not.
    const isAnyQuarantined = [...nodes.values()].some(({ state: taken }) => taken === 'quarantined')
    this.check(unrepaired === undefined, `${unrepaired} is done with too few replicas`)
    this.check(
      this.#isAnyLost() || isAnyQuarantined || owner.scheduler.nextDeadlineMs() === undefined,
      'a deadline is waited for',
    )
    checkReplay(this, owner.scheduler, owner.allFacts)
    checkHistory(this, this.#disk.facts)
  }

  get #done(): Request[] {
    const finished = [...(this.owner?.scheduler.state.finished ?? [])]
    return finished.filter(({ state }) => state === 'done')
  }

  /** A request that is done and not on two stores, though there are two and its outputs are still somewhere. */
  #unrepaired(): string | undefined {
    return this.#done.find((request) => {
      const { takesCopy } = request
      const possible = Math.min(2, this.storeIds.length + Number(takesCopy))
      const replicas = this.owner?.scheduler.replicasOf(request) ?? 0
      return replicas < possible && !this.#isLost(request)
    })?.wire.id
  }

  #isAnyLost(): boolean {
    return this.#done.some((request) => this.#isLost(request))
  }

  #isLost(request: Request): boolean {
    return wantedBlobs(request).some((digest) => this.places.isLost(digest))
  }

  #report(): SimReport {
    const requests = { done: 0, failed: 0, cancelled: 0 }
    for (const { state } of this.owner?.scheduler.state.requests.values() ?? [])
      if (state !== 'active') requests[state] += 1
    return {
      traceHash: this.#trace.digest('hex'),
      events: this.#events,
      virtualMs: this.clock.nowMs(),
      requests,
      facts: this.#disk.facts.length,
      crashes: this.#crashes,
      copies: this.copies,
      unreached: this.unreached,
    }
  }
}

function behaviourOfStep(step: Step): string {
  return behaviourOf({ argv: [step.derivation.builder, ...step.derivation.args] })
}
