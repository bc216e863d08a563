/** One life of the daemon of a simulated machine: scheduler and journal, children, own worker, way up. */
import type { Digest } from '../../../src/wire/digest.ts'
import type { Effect } from '../../../src/scheduler/events.ts'
import { HEARTBEAT_MS } from '../../../src/wire/work-messages.ts'
import { Driver, type Outward } from './driver.ts'
import type { Machine } from './machine.ts'
import type { Answer, Question } from './messages.ts'
import type { LinkEnd } from './network.ts'
import { SimChildren } from './sim-children.ts'
import { SimRequests } from './sim-requests.ts'
import { SimUplink } from './sim-uplink.ts'
import type { TreeWorld } from './world.ts'

/** As in `src/node/tree/tree-authority.ts`. */
const RESULTS_MS = 3_000
const HOPS_MAX = 16

export class TreeProcess {
  readonly driver: Driver
  readonly children: SimChildren
  readonly uplink: SimUplink | undefined
  readonly requests: SimRequests
  readonly boot: string
  /** It takes children. */
  isReady = false
  readonly #world: TreeWorld
  readonly #machine: Machine

  constructor(world: TreeWorld, machine: Machine) {
    this.#world = world
    this.#machine = machine
    this.boot = machine.nextBoot()
    this.driver = new Driver(world, machine, (effect) => this.#carryOut(effect))
    this.uplink =
      machine.spec.parents.length === 0
        ? undefined
        : new SimUplink(world, machine, this.driver, { onWay: () => this.requests.onWay() })
    this.requests = new SimRequests(world, machine, this.driver, this.uplink)
    this.children = new SimChildren(world, machine, this.driver, {
      onBelow: () => this.uplink?.belowChanged(),
      onCall: (call, answer) => this.#serve(call, answer),
    })
  }

  start(): void {
    this.driver.start()
    // Nothing is begun before the new epoch is on the disk.
    this.driver.whenSynced(() => {
      this.children.startOwn(this.boot)
      this.isReady = true
      this.uplink?.dial()
      this.#world.clock.setTimer(this.#world.dice.between(1, HEARTBEAT_MS), () => this.#beat())
    })
  }

  kill(): void {
    this.driver.crash()
    this.children.builder?.kill()
  }

  accept(end: LinkEnd): void {
    this.children.attach(end)
  }

  #beat(): void {
    if (!this.driver.isAlive) return
    this.children.beat()
    this.uplink?.beat()
    this.requests.beat()
    this.#world.clock.setTimer(HEARTBEAT_MS, () => this.#beat())
  }

  #serve(call: Question, answer: (answer: Answer) => void): void {
    switch (call.method) {
      case 'submit':
        this.requests.handOver(call.request, call.hops, answer)
        return
      case 'cancel':
        this.requests.cancel(call, answer)
        return
      case 'results': {
        const results = this.#machine.disk.resultsOf(call.key)
        if (results.length > 0 || this.uplink === undefined || call.hops >= HOPS_MAX)
          answer({ ok: true, results })
        else this.uplink.call({ ...call, hops: call.hops + 1 }, RESULTS_MS, answer)
        return
      }
    }
  }

  // ---- effects

  #carryOut(effect: Outward): void {
    switch (effect.type) {
      case 'desired':
        this.children.tell(effect.peerId)
        return
      case 'uplink':
        this.uplink?.request()
        return
      case 'lookup':
        this.#lookUp(effect.job, effect.key)
        return
      case 'copy':
        this.#copy(effect)
        return
      case 'check':
        this.#check(effect)
        return
    }
  }

  #lookUp(job: string, key: Digest): void {
    this.#world.clock.setTimer(this.#world.dice.between(0, 10), () => {
      const own = this.#machine.disk.resultsOf(key)
      if (own.length > 0 || this.uplink === undefined) {
        this.#lookedUp(job, key, { ok: true, results: own })
        return
      }
      this.uplink.call({ method: 'results', key, hops: 0 }, RESULTS_MS, (answer) =>
        this.#lookedUp(job, key, answer),
      )
    })
  }

  #lookedUp(job: string, key: Digest, answer: Answer): void {
    if (!this.driver.isAlive) return
    const results = (answer.ok ? answer.results : []).flatMap((signed) => {
      const result = this.#world.resultOf(signed)
      if (result?.jobKey !== key) return []
      this.#machine.disk.keep(result, signed)
      this.driver.provides(result)
      return [result]
    })
    this.driver.apply({ type: 'looked-up', job, results })
  }

  /** Big outputs take their time, some longer than a request waits. */
  #copy({ copy: { id, entries, to } }: Extract<Effect, { type: 'copy' }>): void {
    const { clock, dice } = this.#world
    const tookMs = dice.chance(0.05) ? dice.between(5_000, 90_000) : dice.between(5, 2_000)
    clock.setTimer(tookMs, () => {
      const ok = this.#world.machineBy(to)?.process !== undefined
      for (const entry of ok ? entries : [])
        if (entry.kind !== 'symlink') this.driver.addProvider(entry.digest, to)
      this.driver.apply({ type: 'copied', copy: id, ok, message: ok ? '' : 'it is away' })
    })
  }

  /** Whoever should have it has it. */
  #check({ attempt, asks }: Extract<Effect, { type: 'check' }>): void {
    this.#world.clock.setTimer(this.#world.dice.between(5, 3_000), () => {
      const held = new Map<Digest, readonly string[]>()
      for (const { entry, peers } of asks)
        if (entry.kind !== 'symlink') held.set(entry.digest, peers)
      this.driver.apply({ type: 'checked', attempt, held })
    })
  }
}
