/**
 * The owner of a simulation: the scheduler with a driver and a disk like those of a node. A crash loses
 * what is not on the disk yet; a write under way may or may not have made it.
 */
import type { Timer } from '../../src/base/clock.ts'
import type { Digest } from '../../src/wire/digest.ts'
import { Fact, type RequestWire } from '../../src/wire/facts.ts'
import type { ActionResult } from '../../src/wire/result.ts'
import type { PeerRecord } from '../../src/wire/peer-record.ts'
import type { SyncMessage } from '../../src/wire/work-messages.ts'
import type { Copy, Effect, Event, Moment } from '../../src/scheduler/events.ts'
import { Scheduler } from '../../src/scheduler/scheduler.ts'
import type { Connection } from './connection.ts'
import { checkDesired, checkState, DurableIndex, StoringWatch } from './invariants.ts'
import type { Simulation } from './simulation.ts'
import type { Orders, SimWorker } from './sim-worker.ts'

/** What survives a crash. */
export class Disk {
  readonly facts: Fact[] = []
  readonly cache = new Map<Digest, Map<Digest, ActionResult>>()
  readonly index = new DurableIndex()
  readonly #sim: Simulation

  constructor(sim: Simulation) {
    this.#sim = sim
  }

  append(facts: readonly Fact[]): void {
    for (const fact of facts) {
      this.facts.push(this.#sim.overWire(Fact, fact))
      this.index.add(fact)
    }
  }

  store(result: ActionResult): void {
    const results = this.cache.get(result.jobKey) ?? new Map<Digest, ActionResult>()
    results.set(result.action, result)
    this.cache.set(result.jobKey, results)
  }
}

interface Port {
  readonly worker: SimWorker
  readonly connection: Connection
  seq: number
  isAsked: boolean
}

interface Batch {
  effects: Effect[]
  waiting: (() => void)[]
}

export class SimOwner {
  readonly scheduler: Scheduler
  readonly #sim: Simulation
  /** Who has what, as far as this life was told. */
  readonly #providers = new Map<Digest, Set<string>>()
  readonly #storing: StoringWatch
  readonly #disk: Disk
  readonly #ports = new Map<string, Port>()
  #batch: Batch = { effects: [], waiting: [] }
  #writing: readonly Effect[] = []
  #isFlushing = false
  #syncedSeq = 0
  #timer: Timer | undefined
  #timerAtMs = Number.POSITIVE_INFINITY
  isAlive = true

  constructor(sim: Simulation, disk: Disk) {
    this.#sim = sim
    this.#disk = disk
    this.#storing = new StoringWatch(sim)
    this.scheduler = new Scheduler({
      selfId: 'owner',
      providersOf: (digest) => [...(this.#providers.get(digest) ?? [])],
    })
    for (const fact of disk.facts) this.scheduler.replay(fact)
    this.#take(this.scheduler.recover(this.#moment()))
    checkState(sim, this.scheduler)
    this.#storing.look(this.scheduler)
  }

  #moment(): Moment {
    return { nowMs: this.#sim.clock.nowMs(), wallMs: this.#sim.clock.wallMs(), ownBlobBytes: 0 }
  }

  /** Facts that were applied, whether they are on the disk or not. */
  get allFacts(): Fact[] {
    const unwritten = [...this.#writing, ...this.#batch.effects].flatMap((effect) =>
      effect.type === 'fact' ? [effect.fact] : [],
    )
    return [...this.#disk.facts, ...unwritten]
  }

  apply(event: Event): void {
    if (!this.isAlive) return
    this.#take(this.scheduler.apply(event, this.#moment()))
    checkState(this.#sim, this.scheduler)
    this.#storing.look(this.scheduler)
  }

  submit(request: RequestWire, onAccepted: () => void): void {
    this.apply({ type: 'submit', request })
    this.#whenSynced(() => {
      this.#sim.check(
        this.#disk.index.accepted.has(request.id),
        `acceptance of ${request.id} left before it was durable`,
      )
      onAccepted()
    })
  }

  attach(worker: SimWorker, record: PeerRecord, boot: string, connection: Connection): void {
    this.#ports.set(worker.peerId, { worker, connection, seq: 0, isAsked: false })
    this.apply({ type: 'node-up', record, version: { mesh: '0', protocols: [] }, boot })
  }

  detach(worker: SimWorker, connection: Connection): void {
    if (this.#ports.get(worker.peerId)?.connection !== connection) return
    this.#ports.delete(worker.peerId)
    this.apply({ type: 'node-down', peerId: worker.peerId, note: 'the connection broke' })
  }

  sync(
    worker: SimWorker,
    connection: Connection,
    message: SyncMessage,
    results: ReadonlyMap<string, ActionResult>,
  ): void {
    if (this.#ports.get(worker.peerId)?.connection !== connection) return
    this.apply({ type: 'sync', peerId: worker.peerId, message, results })
  }

  crash(): void {
    this.isAlive = false
    this.#timer?.cancel()
    for (const { connection } of this.#ports.values()) connection.break()
    if (this.#writing.length === 0 || this.#sim.dice.chance(0.4)) return
    this.#commit(this.#writing)
    if (this.#sim.dice.chance(0.5)) this.#disk.append(factsOf(this.#writing))
  }

  // ---- effects, as in the driver of a node

  #take(effects: readonly Effect[]): void {
    for (const effect of effects)
      if (effect.type === 'fact') {
        this.#sim.trace(`fact ${effect.fact.type} ${factSubject(effect.fact)}`)
        if (effect.fact.type === 'closed') this.#storing.onClosed(this.scheduler, effect.fact)
      }
    this.#batch.effects.push(...effects)
    this.#arm()
    this.#flush()
  }

  #whenSynced(done: () => void): void {
    this.#batch.waiting.push(done)
    this.#flush()
  }

  #flush(): void {
    if (this.#isFlushing || (this.#batch.effects.length === 0 && this.#batch.waiting.length === 0))
      return
    this.#isFlushing = true
    const { clock, dice } = this.#sim
    // Events of one turn of the event loop share a write.
    clock.setTimer(0, () => {
      if (!this.isAlive) return
      const batch = this.#batch
      this.#batch = { effects: [], waiting: [] }
      this.#writing = batch.effects
      const seq = this.scheduler.state.factSeq
      const facts = factsOf(batch.effects)
      const tookMs =
        facts.length === 0 ? 0 : dice.chance(0.03) ? dice.between(100, 3_000) : dice.between(1, 8)
      clock.setTimer(tookMs, () => {
        if (!this.isAlive) return
        this.#commit(batch.effects)
        this.#disk.append(facts)
        this.#writing = []
        this.#syncedSeq = seq
        for (const done of batch.waiting) done()
        this.#release(batch.effects)
        this.#isFlushing = false
        this.#flush()
      })
    })
  }

  #commit(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.type !== 'commit') continue
      this.#disk.store(effect.result)
      this.#provides(effect.result)
    }
  }

  #release(effects: readonly Effect[]): void {
    for (const effect of effects) {
      if (effect.type === 'desired') this.#askDesired(effect.peerId)
      if (effect.type === 'copy') this.#copy(effect.copy)
      if (effect.type === 'check') this.#check(effect)
      if (effect.type !== 'lookup') continue
      const { job, key } = effect
      this.#sim.clock.setTimer(this.#sim.dice.between(1, 20), () => {
        const results = [...(this.#disk.cache.get(key)?.values() ?? [])]
        for (const result of results) this.#provides(result)
        this.apply({ type: 'looked-up', job, results })
      })
    }
  }

  #provides(result: ActionResult): void {
    for (const entry of Object.values(result.outputs))
      if (entry.kind !== 'symlink') this.#addProvider(entry.digest, result.builder.peerId)
  }

  #addProvider(digest: Digest, peerId: string): void {
    this.#providers.set(digest, (this.#providers.get(digest) ?? new Set()).add(peerId))
  }

  /** Big outputs take their time, some longer than a request waits. */
  #copy({ id, entries, to }: Copy): void {
    const { clock, dice } = this.#sim
    const tookMs = dice.chance(0.05) ? dice.between(5_000, 90_000) : dice.between(5, 2_000)
    clock.setTimer(tookMs, () => {
      const worker = this.#sim.workerOf(to)
      const digests = entries.flatMap((entry) => (entry.kind === 'symlink' ? [] : [entry.digest]))
      const ok =
        this.#ports.has(to) &&
        worker.isUp &&
        digests.every((digest) => this.#sim.bring(digest, worker))
      if (ok) for (const digest of digests) this.#addProvider(digest, to)
      this.#sim.copies += Number(ok)
      this.apply({ type: 'copied', copy: id, ok, message: ok ? '' : 'it could not be brought' })
    })
  }

  #check({ attempt, asks }: Extract<Effect, { type: 'check' }>): void {
    const { clock, dice, places } = this.#sim
    clock.setTimer(dice.between(5, 3_000), () => {
      const held = new Map<Digest, string[]>()
      for (const { entry, peers } of asks) {
        if (entry.kind === 'symlink') continue
        const { digest } = entry
        const having = peers.filter(
          (peerId) =>
            this.#ports.has(peerId) &&
            this.#sim.workerOf(peerId).isUp &&
            places.has(digest, peerId),
        )
        if (having.length > 0) held.set(digest, having)
      }
      this.#sim.unreached += held.size
      this.apply({ type: 'checked', attempt, held })
    })
  }

  #askDesired(peerId: string): void {
    const port = this.#ports.get(peerId)
    if (port === undefined || port.isAsked) return
    port.isAsked = true
    this.#sim.clock.setTimer(this.#sim.dice.between(0, 3), () => {
      port.isAsked = false
      if (this.isAlive && this.#ports.get(peerId) === port) this.#sendDesired(port)
    })
  }

  #sendDesired(port: Port): void {
    const desired = this.scheduler.desiredOf(port.worker.peerId, this.#syncedSeq, port.seq + 1)
    if (desired === undefined) return
    port.seq += 1
    checkDesired(this.#sim, desired, this.#disk.index)
    const orders: Orders = {
      seq: port.seq,
      epoch: desired.epoch,
      limits: desired.limits,
      cancel: desired.cancel,
      ack: desired.ack,
      tools: desired.tools,
      allotments: desired.allotments,
      leases: desired.grants.map(({ attempt, action, limits, name }) => ({
        attempt: attempt.id,
        job: attempt.job.id,
        jobKey: attempt.job.key,
        name,
        action,
        actionDigest: attempt.action,
        node: attempt.node,
        system: attempt.system,
        isolation: attempt.isolation,
        userland: attempt.userland,
        cpus: attempt.allotted,
        memoryBytes: attempt.memoryBytes,
        limits,
      })),
    }
    const { worker, connection } = port
    connection.send('down', () => worker.receive(connection, orders))
  }

  #arm(): void {
    const next = this.scheduler.nextDeadlineMs()
    if (next === undefined) return
    if (this.#timer !== undefined && this.#timerAtMs <= next) return
    this.#timer?.cancel()
    this.#timerAtMs = next
    this.#timer = this.#sim.clock.setTimer(next - this.#sim.clock.nowMs(), () => {
      this.#timer = undefined
      this.#timerAtMs = Number.POSITIVE_INFINITY
      this.apply({ type: 'tick' })
      this.#arm()
    })
  }
}

function factsOf(effects: readonly Effect[]): Fact[] {
  return effects.flatMap((effect) => (effect.type === 'fact' ? [effect.fact] : []))
}

function factSubject(fact: Fact): string {
  switch (fact.type) {
    case 'epoch':
      return String(fact.epoch)
    case 'accepted':
      return fact.request.id
    case 'granted':
      return `${fact.attempt} of ${fact.job} on ${fact.node.name}`
    case 'raised':
      return `${fact.job} ${fact.memoryBytes}`
    case 'learnt':
      return ''
    case 'image-set':
    case 'image-removed':
      return fact.name
    case 'voted':
      return `${fact.job} ${fact.vote.attempt} on ${fact.vote.node.name}`
    case 'verified':
      return fact.action.slice(0, 6)
    case 'diverged':
    case 'audited':
      return `${fact.job} ${fact.name}`
    case 'adopted':
      return fact.attempt
    case 'ended':
      return `${fact.attempt} ${fact.state} ${fact.error ?? ''}`
    case 'joined':
      return `${fact.request} ${fact.derivation} ${fact.job} ${fact.key.slice(0, 6)}`
    case 'failed':
      return `${fact.request} ${fact.derivation} ${fact.failure.code}`
    case 'pinned':
    case 'stored':
    case 'rewound':
    case 'reopened':
      return `${fact.request} ${fact.derivation}`
    case 'boosted':
    case 'held':
    case 'released':
    case 'cancelled':
    case 'retried':
    case 'sized':
      return `${fact.request} ${fact.derivation ?? ''}`
    case 'drained':
    case 'undrained':
    case 'slotted':
    case 'unslotted':
      return fact.selector
    case 'quarantined':
      return fact.node.name
    case 'pardoned':
      return fact.node
    case 'killed':
      return `${fact.attempt} on ${fact.node.name}`
    case 'bound':
    case 'noticed':
    case 'closed':
    case 'detachable':
    case 'left':
    case 'evicted':
      return fact.request
  }
}
