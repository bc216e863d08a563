/**
 * A whole mesh of any height in virtual time: clients at any node, nodes with their schedulers, journals,
 * workers and links, and the network between them. One seed is one run. First things go wrong, then they
 * stop going wrong, and then every accepted request must have come to its end and nothing be left anywhere.
 */
import { createHash } from 'node:crypto'
import type { z } from 'zod'
import type { Random } from '../../../src/base/random.ts'
import { mayEverStart, requirementOf } from '../../../src/scheduler/match.ts'
import type { NodeEntry, Request } from '../../../src/scheduler/model.ts'
import type { Scheduler } from '../../../src/scheduler/scheduler.ts'
import { decodeObject, encodeObject } from '../../../src/wire/cbor.ts'
import type { Fact } from '../../../src/wire/facts.ts'
import type { ActionResult, SignedResult } from '../../../src/wire/result.ts'
import type { DesiredMessage, Lease } from '../../../src/wire/work-messages.ts'
import { Dice } from '../dice.ts'
import { BrokenInvariant } from '../simulation.ts'
import { SimClock } from '../sim-clock.ts'
import { makePlans, type Plan } from '../workload.ts'
import { LIE } from './lies.ts'
import { checkEnd, checkNode, checkRest, History } from './tree-invariants.ts'
import { Machine, type MachineSpec } from './machine.ts'
import { Network } from './network.ts'
import { makeTopology, SHAPES, type Shape } from './topology.ts'
import { TreeProcess } from './tree-process.ts'
import { DRAINED, gentleTrouble, trouble } from './troubles.ts'
import type { TreeWorld } from './world.ts'

const ROUGH_MS = 60_000
/** In peace all must end within this. */
const PEACE_MS_MAX = 900_000
/** And then nothing be left after this. */
const QUIET_MS = 60_000
/** The same of a farm, in which nothing goes wrong: it need not last. */
const FARM_ROUGH_MS = 26_000
const FARM_QUIET_MS = 12_000
/** Replicas are made in the background. */
const REPAIR_MS_MAX = 200_000
const EVENTS_MAX = 3_000_000
/** In a large farm the state of a node is looked at after every so many events. */
const LOOK_EVERY = 500

/** `none`: nothing goes wrong. `gentle`: only what must not cost a single build. `rough`: everything. */
export type Mood = 'none' | 'gentle' | 'rough'

export interface TreeOptions {
  readonly seed: number
  readonly workerCount: number
  /** Drawn from the seed where they are left out. */
  readonly shape?: Shape | undefined
  readonly mood?: Mood | undefined
  readonly isEncoded?: boolean
  /** What there is and what is asked for, instead of what the seed gives. Invariants are looked at now and then only. */
  readonly farm?: { readonly specs: readonly MachineSpec[]; readonly plans: readonly Plan[] }
  readonly onTrace?: (line: string) => void
}

export interface TreeReport {
  readonly traceHash: string
  readonly shape: Shape
  readonly mood: Mood
  readonly events: number
  readonly messages: number
  /** That the first machine, which is the root where there is one, has received. */
  readonly rootMessages: number
  readonly virtualMs: number
  readonly crashes: number
  readonly requests: { done: number; failed: number; cancelled: number }
  readonly builds: number
  readonly rebuilds: number
  /** Requests that a node with parents answered for. */
  readonly heads: number
  /** Nodes with requests that wait for what has left them. */
  readonly stranded: number
}

interface Owned {
  readonly machine: Machine
  readonly request: Request
}

interface Client {
  readonly plan: Plan
  readonly entry: Machine
  isAccepted: boolean
  hasCancelled: boolean
}

export class TreeSimulation implements TreeWorld {
  readonly clock = new SimClock()
  readonly dice: Dice
  readonly random: Random
  readonly network: Network
  readonly shape: Shape
  readonly mood: Mood
  readonly machines: readonly Machine[]
  readonly clients: readonly Client[]
  readonly history: History
  isRough: boolean
  crashes = 0
  readonly #options: TreeOptions
  readonly #trace = createHash('sha256')
  readonly #byName = new Map<string, Machine>()
  readonly #byPeer = new Map<string, Machine>()
  readonly #parents: ReadonlySet<string>
  readonly #signed: ActionResult[] = []
  #events = 0
  #applied = 0
  readonly #stranded = new Set<Machine>()
  /** Requests that ended so long ago, by the steps of others, that their owner has forgotten them. */
  readonly #evicted = new Set<string>()

  constructor(options: TreeOptions) {
    this.#options = options
    this.dice = new Dice(options.seed)
    const { dice } = this
    this.random = {
      bytes: (count) => Uint8Array.from({ length: count }, () => dice.between(0, 255)),
    }
    this.shape = options.shape ?? dice.pick(SHAPES)
    this.mood = options.mood ?? dice.pick(['none', 'gentle', 'rough', 'rough', 'rough'])
    this.isRough = this.mood === 'rough'
    this.network = new Network(this, { isFrank: this.mood !== 'rough' })
    const isCalm = this.mood !== 'rough'
    const specs =
      options.farm?.specs ??
      makeTopology(dice, {
        shape: this.shape,
        workerCount: options.workerCount,
        isGentle: this.mood === 'gentle',
        hasLiars: this.mood === 'rough' && dice.chance(0.3),
        isCalm,
      })
    this.machines = specs.map((spec) => this.#addMachine(spec))
    this.#parents = new Set(specs.flatMap(({ parents }) => parents))
    const plans =
      options.farm?.plans ??
      makePlans(dice, {
        requestCount: dice.chance(0.2) ? dice.between(10, 15) : dice.between(1, 6),
        fromMs: 8_000,
        toMs: ROUGH_MS - 10_000,
        isCalm,
      })
    this.clients = plans.map((plan) => ({
      plan,
      entry: dice.pick(this.machines),
      isAccepted: false,
      hasCancelled: false,
    }))
    // Who of a ring lets go changes when one of them is restarted: then two may answer for the same.
    this.history = new History(this, isCalm && (this.mood === 'none' || this.shape !== 'ring'))
  }

  #addMachine(spec: MachineSpec): Machine {
    const machine = new Machine(spec)
    this.#byName.set(machine.name, machine)
    this.#byPeer.set(machine.peerId, machine)
    return machine
  }

  /** Whether others have it as their parent. */
  isParent(name: string): boolean {
    return this.#parents.has(name)
  }

  get hasLiars(): boolean {
    return this.machines.some(({ spec }) => spec.builds?.isLiar === true)
  }

  run(): TreeReport {
    for (const machine of this.machines)
      this.clock.setTimer(this.dice.between(0, 3_000), () => this.start(machine))
    for (const client of this.clients)
      this.clock.setTimer(client.plan.atMs - this.clock.nowMs(), () => this.#submit(client))
    if (this.mood === 'gentle') this.#gentleTroubleSoon()
    if (this.mood === 'rough') this.#troubleSoon(this.dice.pick([500, 1_500, 5_000]))
    const isFarm = this.#options.farm !== undefined
    const roughMs = isFarm ? FARM_ROUGH_MS : ROUGH_MS
    this.#runUntil(roughMs, () => false)
    this.#makePeace()
    this.#runUntil(roughMs + PEACE_MS_MAX, () => this.#areAllEnded())
    for (const client of this.clients) this.#checkEnd(client)
    this.#runUntil(this.clock.nowMs() + (isFarm ? FARM_QUIET_MS : QUIET_MS), () => false)
    this.#runUntil(this.clock.nowMs() + REPAIR_MS_MAX, () => this.#isRested())
    for (const machine of this.machines)
      checkRest(this, machine, {
        isWaiting: this.#stranded.has(machine),
        isHeadless: this.#topOf(machine).spec.parents.length > 0,
      })
    return this.#report()
  }

  #runUntil(untilMs: number, isOver: () => boolean): void {
    let looks = 0
    while (this.clock.step(untilMs)) {
      this.#events += 1
      this.check(
        this.#events < EVENTS_MAX || this.#options.farm !== undefined,
        `${EVENTS_MAX} events and no end`,
      )
      // Looking costs more than a step does.
      looks += 1
      if (looks % Math.max(50, this.machines.length) === 0 && isOver()) return
    }
  }

  // ---- machines

  start(machine: Machine): void {
    if (machine.process !== undefined) return
    this.trace(() => `start ${machine.name}`)
    this.#byPeer.set(machine.peerId, machine)
    machine.process = new TreeProcess(this, machine)
    machine.process.start()
  }

  kill(machine: Machine): void {
    const { process } = machine
    if (process === undefined) return
    this.trace(() => `kill ${machine.name}`)
    this.crashes += 1
    this.history.onKill(machine)
    process.kill()
    machine.process = undefined
    this.network.died(machine)
  }

  // ---- the world

  machineOf(name: string): Machine {
    const machine = this.#byName.get(name)
    if (machine === undefined) throw new RangeError(`no machine is called ${name}`)
    return machine
  }

  machineBy(peerId: string): Machine | undefined {
    return this.#byPeer.get(peerId)
  }

  overWire<T>(schema: z.ZodType<T>, value: T): T {
    return this.#options.isEncoded === true
      ? decodeObject(schema, encodeObject(schema, value), 'simulated')
      : value
  }

  writeMs(): number {
    return this.dice.chance(0.02) ? this.dice.between(100, 2_000) : this.dice.between(1, 8)
  }

  /** The body stands for the result; only the builder can have made one. */
  sign(result: ActionResult): SignedResult {
    const number = this.#signed.push(result) - 1
    return {
      body: Uint8Array.from([number & 255, (number >> 8) & 255, (number >> 16) & 255]),
      builder: { peerId: result.builder.peerId, signature: new Uint8Array(64) },
    }
  }

  resultOf({ body }: SignedResult): ActionResult | undefined {
    const [low = 0, middle = 0, high = 0] = body
    return this.#signed[low | (middle << 8) | (high << 16)]
  }

  check(holds: boolean, message: string | (() => string)): void {
    if (holds) return
    const text = typeof message === 'string' ? message : message()
    const { seed } = this.#options
    throw new BrokenInvariant(
      `seed ${seed} (${this.shape}, ${this.mood}), ${this.clock.nowMs()} ms: ${text}`,
    )
  }

  someAttemptOfOthers(machine: Machine): string | undefined {
    return this.history.someAttemptOfOthers(machine)
  }

  trace(line: () => string): void {
    if (this.#options.farm !== undefined && this.#options.onTrace === undefined) return
    const entry = `${this.clock.nowMs()} ${line()}`
    this.#trace.update(`${entry}\n`)
    this.#options.onTrace?.(entry)
  }

  afterEvent(machine: Machine, scheduler: Scheduler): void {
    this.#applied += 1
    if (this.#options.farm === undefined || this.#applied % LOOK_EVERY === 0)
      checkNode(this, machine, scheduler)
  }

  onFact(machine: Machine, fact: Fact): void {
    this.check(
      fact.type !== 'ended' || fact.state === 'lost' || fact.error?.includes(LIE) !== true,
      () => `${machine.name} believed a lie: ${describe(fact)}`,
    )
    if (fact.type === 'evicted') this.#evicted.add(fact.request)
    this.trace(() => `${machine.name}: ${describe(fact)}`)
  }

  onCommit(machine: Machine, result: ActionResult): void {
    this.history.onCommit(machine, result)
  }

  onDesired(granter: Machine, peerId: string, message: DesiredMessage): void {
    this.history.onDesired(granter, peerId, message)
  }

  onBegin(machine: Machine, lease: Lease): void {
    this.history.onBegin(machine, lease)
  }

  onTaken(machine: Machine): void {
    this.history.onTaken(machine)
  }

  onBuilt(machine: Machine, lease: Lease, result: ActionResult): void {
    this.history.onBuilt(machine, lease, result)
  }

  // ---- clients

  #submit(client: Client): void {
    const { dice, clock } = this
    const { wire, cancelAtMs } = client.plan
    clock.setTimer(dice.between(1, 20), () => {
      const { process } = client.entry
      process?.requests.submit(wire, () => {
        clock.setTimer(dice.between(1, 20), () => {
          // An answer that is under way when the node dies is lost.
          if (client.entry.process === process) client.isAccepted = true
        })
      })
    })
    if (cancelAtMs !== undefined && !client.hasCancelled) {
      client.hasCancelled = true
      clock.setTimer(Math.max(0, cancelAtMs - clock.nowMs()), () => this.#cancel(client))
    }
    clock.setTimer(dice.between(1_000, 5_000), () => {
      if (!client.isAccepted || dice.chance(0.1)) this.#submit(client)
    })
  }

  /** Again and again, until it is seen to have an effect. */
  #cancel(client: Client): void {
    client.hasCancelled = true
    if (client.isAccepted && this.#isEnded(client)) return
    const call = { method: 'cancel', request: client.plan.wire.id, by: 'user', hops: 0 } as const
    client.entry.process?.requests.cancel(call, () => undefined)
    this.clock.setTimer(2_000, () => this.#cancel(client))
  }

  /** A machine lost its disk: what only it knew is asked for again. */
  forgot(machine: Machine, known: (id: string) => boolean): void {
    for (const client of this.clients) {
      if (!known(client.plan.wire.id)) continue
      this.trace(() => `${machine.name} forgot ${client.plan.wire.id}`)
      client.isAccepted = false
      this.clock.setTimer(this.dice.between(1_000, 5_000), () => this.#submit(client))
    }
  }

  /** Who is above it and has nobody above. */
  #topOf(machine: Machine): Machine {
    let top = machine
    for (let hops = 0; hops < this.machines.length; hops += 1) {
      const parentId = top.process?.uplink?.parentId
      const parent = parentId === undefined ? undefined : this.machineBy(parentId)
      if (parent === undefined) return top
      top = parent
    }
    this.check(false, () => `${machine.name} is in a ring at rest`)
    return top
  }

  // ---- trouble and peace

  #troubleSoon(meanMs: number): void {
    this.clock.setTimer(this.dice.between(1, 2 * meanMs), () => {
      if (!this.isRough) return
      trouble(this)
      this.#troubleSoon(meanMs)
    })
  }

  /** One thing at a time, with time to get over it. */
  #gentleTroubleSoon(): void {
    this.clock.setTimer(this.dice.between(12_000, 20_000), () => {
      if (this.clock.nowMs() >= ROUGH_MS) return
      gentleTrouble(this)
      this.#gentleTroubleSoon()
    })
  }

  #makePeace(): void {
    this.trace(() => 'peace')
    this.isRough = false
    this.network.healAll()
    for (const machine of this.machines) {
      machine.isDraining = false
      machine.cpus = machine.spec.builds?.cpus ?? 0
      this.clock.setTimer(this.dice.between(1, 1_000), () => this.start(machine))
      // Whoever drained something ends that.
      this.clock.setTimer(2_000, () =>
        machine.process?.driver.apply({
          type: 'lever',
          lever: { kind: 'undrain', selector: DRAINED },
          by: 'test',
        }),
      )
    }
    // What no machine has would wait for a day.
    for (const client of this.clients)
      if (client.plan.isImpossible && !client.plan.wire.noWait)
        this.clock.setTimer(5_000, () => this.#cancel(client))
  }

  // ---- ends

  /** All that own it: two where the word that one had it was lost and the other was cut off. */
  ownersOf(id: string): Owned[] {
    return this.machines.flatMap((machine) => {
      const request = machine.process?.driver.scheduler.state.requests.get(id)
      return request === undefined ? [] : [{ machine, request }]
    })
  }

  #isEnded({ plan }: Client): boolean {
    const owners = this.ownersOf(plan.wire.id)
    return (
      (owners.length > 0 || this.#evicted.has(plan.wire.id)) &&
      owners.every((owner) => owner.request.state !== 'active' || this.#isStranded(owner))
    )
  }

  /**
   * Whoever answered for it while it was cut off has lost the nodes that could have built it to other parents:
   * it waits for them. So does a ring whose nodes are no longer below each other.
   */
  #isStranded({ machine, request }: Owned): boolean {
    const open = [...request.steps.values()].filter(({ phase }) => phase === 'open')
    if (machine.spec.parents.length === 0 || open.length === 0) return false
    const workers = this.#below(machine)
    return open.every(({ job }) => {
      if (job?.phase !== 'waiting') return false
      const requirement = requirementOf(job.waiters)
      return !workers.some((worker) => mayEverStart(requirement, worker))
    })
  }

  /** The workers at and below it, as each of them is seen by its own node. */
  #below(machine: Machine, seen = new Set<Machine>()): NodeEntry[] {
    // Rings come about, and are left again.
    if (seen.has(machine)) return []
    seen.add(machine)
    const { process } = machine
    const own = process?.driver.scheduler.nodes.get(machine.peerId)
    const children = (process?.children.ids ?? []).flatMap((peerId) => {
      const child = this.machineBy(peerId)
      return child === undefined ? [] : this.#below(child, seen)
    })
    return own === undefined ? children : [own, ...children]
  }

  #areAllEnded(): boolean {
    return this.clients.every((client) => client.isAccepted && this.#isEnded(client))
  }

  #checkEnd(client: Client): void {
    const { id } = client.plan.wire
    const owners = this.ownersOf(id)
    if (owners.length === 0 && this.#evicted.has(id)) return
    this.check(
      client.isAccepted && owners.length > 0,
      () =>
        `${id} of ${client.entry.name} was ${client.isAccepted ? 'accepted and forgotten' : 'never accepted'}`,
    )
    const answering =
      owners.find(({ machine }) => machine === client.entry) ??
      owners.find(({ request }) => request.state !== 'cancelled') ??
      owners[0]
    if (answering === undefined) return
    for (const owner of owners) if (this.#isStranded(owner)) this.#stranded.add(owner.machine)
    if (owners.some(({ machine }) => this.#stranded.has(machine))) return
    for (const { machine, request } of owners)
      this.check(
        request.state !== 'active',
        () => `${id} has not ended at ${machine.name}: ${stepsOf(request)}`,
      )
    checkEnd(this, answering.request, {
      isImpossible: client.plan.isImpossible,
      hasCancelled: client.hasCancelled,
      hasDouble: owners.length > 1,
    })
  }

  #isRested(): boolean {
    return this.machines.every(
      (machine) =>
        this.#stranded.has(machine) ||
        machine.process?.driver.scheduler.nextDeadlineMs() === undefined,
    )
  }

  #report(): TreeReport {
    const requests = { done: 0, failed: 0, cancelled: 0 }
    let heads = 0
    for (const machine of this.machines)
      for (const { state } of machine.process?.driver.scheduler.state.requests.values() ?? []) {
        if (state !== 'active') requests[state] += 1
        if (machine.spec.parents.length > 0) heads += 1
      }
    return {
      traceHash: this.#trace.digest('hex'),
      shape: this.shape,
      mood: this.mood,
      events: this.#events,
      messages: this.network.messageCount,
      rootMessages: Math.max(
        ...this.machines.slice(0, 1).map((root) => this.network.heardBy(root)),
      ),
      virtualMs: this.clock.nowMs(),
      crashes: this.crashes,
      requests,
      builds: this.history.buildCount,
      rebuilds: this.history.rebuildCount,
      heads,
      stranded: this.#stranded.size,
    }
  }
}

function stepsOf(request: Request): string {
  return [...request.steps.values()]
    .map(
      (step) =>
        `${step.derivation.name} ${step.phase}${step.job === undefined ? '' : ` (${step.job.phase}: ${step.job.attempts.map(({ id, state }) => `${id} ${state}`).join(', ')})`}`,
    )
    .join('; ')
}

function describe(fact: Fact): string {
  const { type } = fact
  if (type === 'accepted') return `${type} ${fact.request.id}`
  if (type === 'granted') return `${type} ${fact.attempt} of ${fact.job} to ${fact.node.name}`
  if (type === 'adopted') return `${type} ${fact.attempt} ${fact.node?.name ?? ''}`
  if (type === 'ended')
    return `${type} ${fact.attempt} ${fact.state} ${fact.cause ?? ''} ${fact.error ?? ''}`
  if (type === 'failed')
    return `${type} ${fact.request} ${fact.derivation} ${fact.failure.code} ${fact.failure.message}`
  return type === 'closed' ? `${type} ${fact.request} ${fact.state}` : type
}
