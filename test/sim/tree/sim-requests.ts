/** Who answers for a request: what `src/node/tree/tree-authority.ts` decides, in virtual time. */
import type { RequestWire } from '../../../src/wire/facts.ts'
import type { Driver } from './driver.ts'
import type { Machine } from './machine.ts'
import type { Answer, Question } from './messages.ts'
import type { SimUplink } from './sim-uplink.ts'
import type { TreeWorld } from './world.ts'

/** As there. */
const ANSWER_MS = 15_000
const HOPS_MAX = 16

type Cancel = Extract<Question, { method: 'cancel' }>

const DONE: Answer = { ok: true, results: [] }

export class SimRequests {
  readonly #world: TreeWorld
  readonly #machine: Machine
  readonly #driver: Driver
  readonly #uplink: SimUplink | undefined
  #isForwarding = false
  /** Requests that a parent may have taken over although its answer was not heard. */
  readonly #offered = new Set<string>()

  constructor(world: TreeWorld, machine: Machine, driver: Driver, uplink: SimUplink | undefined) {
    this.#world = world
    this.#machine = machine
    this.#driver = driver
    this.#uplink = uplink
  }

  owns(id: string): boolean {
    return this.#driver.scheduler.state.requests.has(id)
  }

  /** Cut off from all parents, with somebody who builds. */
  get #isHead(): boolean {
    if (this.#uplink?.isCutOff !== true) return false
    for (const { connected, environments } of this.#driver.scheduler.nodes.values())
      if (connected && environments.length > 0) return true
    return false
  }

  #answersFor(request: RequestWire): boolean {
    if (this.owns(request.id) || this.#uplink === undefined) return true
    if (this.#uplink.isUp || !this.#isHead) return false
    return this.#uplink.isTop || this.#driver.scheduler.couldBuild(request)
  }

  /** A user asks this node. */
  submit(request: RequestWire, onAccepted: () => void): void {
    if (this.#answersFor(request)) {
      this.#accept(request, onAccepted)
      return
    }
    const { outbox } = this.#machine.disk
    this.#world.clock.setTimer(this.#world.writeMs(), () => {
      if (!this.#driver.isAlive) return
      outbox.set(request.id, request)
      onAccepted()
      this.forward()
    })
  }

  #accept(request: RequestWire, onAccepted: () => void): void {
    this.#driver.apply({ type: 'submit', request })
    this.#driver.whenSynced(() => {
      this.#world.check(
        this.#machine.disk.accepted.has(request.id),
        () => `acceptance of ${request.id} left before it was durable`,
      )
      onAccepted()
    })
  }

  /** A child hands a request over. */
  handOver(request: RequestWire, hops: number, answer: (answer: Answer) => void): void {
    if (this.#answersFor(request)) this.#accept(request, () => answer(DONE))
    else if (hops >= HOPS_MAX) answer({ ok: false, reason: 'too many hops' })
    else this.#up().call({ method: 'submit', request, hops: hops + 1 }, ANSWER_MS, answer)
  }

  #up(): Pick<SimUplink, 'call'> {
    return (
      this.#uplink ?? { call: (_call, _limitMs, done) => done({ ok: false, reason: 'no way' }) }
    )
  }

  /** Sends all that waits, one by one. */
  forward(): void {
    if (this.#isForwarding) return
    const { outbox } = this.#machine.disk
    const request = [...outbox.values()].find(({ id }) => !this.owns(id))
    if (request === undefined) return
    this.#isForwarding = true
    if (this.#uplink?.isUp === true) this.#offered.add(request.id)
    this.handOver(request, 0, ({ ok }) => {
      if (!this.#driver.isAlive) return
      this.#isForwarding = false
      if (!ok) return
      this.#offered.delete(request.id)
      outbox.delete(request.id)
      this.forward()
    })
  }

  /** There is a parent, or another way to the root. */
  onWay(): void {
    for (const id of this.#offered) {
      if (!this.owns(id)) continue
      const call = { method: 'cancel', request: id, by: 'node', hops: 1 } as const
      this.#up().call(call, ANSWER_MS, ({ ok }) => {
        if (ok) this.#offered.delete(id)
      })
    }
    this.forward()
  }

  cancel(call: Cancel, answer: (answer: Answer) => void): void {
    const { request: id, by, hops } = call
    if (by === 'node' && this.#offered.has(id)) answer({ ok: false, reason: 'settled from here' })
    else if (this.owns(id)) {
      this.#driver.apply({ type: 'cancel', request: id })
      this.#driver.whenSynced(() => answer(DONE))
    } else if (this.#uplink === undefined) answer(DONE)
    else if (hops >= HOPS_MAX) answer({ ok: false, reason: 'too many hops' })
    else this.#up().call({ ...call, hops: hops + 1 }, ANSWER_MS, answer)
  }

  beat(): void {
    const { outbox } = this.#machine.disk
    if (outbox.size === 0) return
    if (this.#uplink?.isUp === true) this.forward()
    for (const request of outbox.values())
      if (this.#answersFor(request))
        this.#accept(request, () => {
          outbox.delete(request.id)
        })
  }
}
