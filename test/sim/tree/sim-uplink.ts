/** The way up of a simulated node: what `src/node/tree/uplink.ts` does, in virtual time. */
import type { Timer } from '../../../src/base/clock.ts'
import { ParentRounds } from '../../../src/node/links/parent-rounds.ts'
import {
  BELOW_PACE_MS,
  BUNDLE_PACE_MS,
  CUT_OFF_MS,
  isLoop,
  objection,
  UplinkSession,
} from '../../../src/node/tree/uplink-session.ts'
import { WorkMessage, type DesiredMessage } from '../../../src/wire/work-messages.ts'
import { Calls } from './calls.ts'
import type { Driver } from './driver.ts'
import { Liar } from './lies.ts'
import type { Machine } from './machine.ts'
import type { Answer, Call, Message } from './messages.ts'
import type { LinkEnd } from './network.ts'
import type { TreeWorld } from './world.ts'

const BELOW_ANSWER_MS = 30_000

interface Session {
  readonly end: LinkEnd
  readonly calls: Calls
  readonly state: UplinkSession
  isTelling: boolean
  isSyncAsked: boolean
}

export interface UplinkHandlers {
  /** A new parent, or another way to the root. */
  onWay(): void
}

export class SimUplink {
  readonly #world: TreeWorld
  readonly #machine: Machine
  readonly #driver: Driver
  readonly #handlers: UplinkHandlers
  #liar: Liar | undefined
  readonly #rounds: ParentRounds
  /** By name of the parent: why it was not reached, or lost. */
  readonly #errors = new Map<string, string>()
  #session: Session | undefined
  #lostAtMs: number
  #lastSyncMs = Number.NEGATIVE_INFINITY
  #paced: Timer | undefined
  #belowTimer: Timer | undefined

  constructor(world: TreeWorld, machine: Machine, driver: Driver, handlers: UplinkHandlers) {
    this.#world = world
    this.#machine = machine
    this.#driver = driver
    this.#handlers = handlers
    this.#rounds = new ParentRounds(machine.spec.parents.length)
    this.#lostAtMs = world.clock.nowMs()
    if (machine.spec.builds?.isLiar === true) this.#liar = new Liar(world, machine)
  }

  get isUp(): boolean {
    return this.#session !== undefined
  }
  get parentId(): string | undefined {
    return this.#session?.end.remoteId
  }
  /** Nobody above has been reached for a while. */
  get isCutOff(): boolean {
    return !this.isUp && this.#world.clock.nowMs() - this.#lostAtMs >= CUT_OFF_MS
  }

  /** All of its parents are below it. */
  get isTop(): boolean {
    const { parents } = this.#machine.spec
    return !this.isUp && parents.every((name) => isLoop(this.#errors.get(name) ?? null))
  }

  // ---- which parent

  dial(): void {
    const { at, delayMs } = this.#rounds.next(this.#world.random)
    const name = this.#machine.spec.parents[at]
    if (name === undefined) return
    this.#world.clock.setTimer(delayMs, () => {
      if (!this.#driver.isAlive) return
      this.#world.network.dial(this.#machine, this.#world.machineOf(name), (end) => {
        if (!this.#driver.isAlive) return
        if (typeof end === 'string') {
          this.#errors.set(name, end)
          this.#rounds.failed()
          this.dial()
        } else this.#use(end)
      })
    })
  }

  #use(end: LinkEnd): void {
    const { clock } = this.#world
    const { scheduler } = this.#driver
    const sinceMs = clock.nowMs()
    const calls = new Calls(this.#world, end)
    const state = new UplinkSession(scheduler, this.#machine.peerId, end.remoteId)
    const session: Session = { end, calls, state, isTelling: false, isSyncAsked: false }
    end.handlers = {
      onMessage: (message) => this.#receive(session, message),
      onClosed: (reason) => {
        calls.closed()
        this.#errors.set(end.remote.name, reason)
        if (!this.#driver.isAlive) return
        this.#world.trace(() => `${this.#machine.name} lost ${end.remote.name}: ${reason}`)
        this.#rounds.ended(clock.nowMs() - sinceMs)
        if (this.#session === session) {
          this.#session = undefined
          this.#lostAtMs = clock.nowMs()
          this.#driver.apply({ type: 'uplink-down', isRing: isLoop(reason) })
        }
        this.dial()
      },
    }
    const reason = objection(scheduler, this.#machine.peerId, {
      peerId: end.remoteId,
      name: end.remote.name,
    })
    if (reason !== undefined) {
      end.close(reason)
      this.#driver.apply({ type: 'uplink-down', isRing: true })
      return
    }
    this.#world.trace(() => `${this.#machine.name} reached ${end.remote.name}`)
    this.#session = session
    this.#errors.delete(end.remote.name)
    this.#driver.apply({ type: 'uplink-up', peerId: end.remoteId })
    this.request()
    this.belowChanged()
    this.#handlers.onWay()
  }

  // ---- what is said

  /** A heartbeat is due. */
  beat(): void {
    this.#session?.state.beat()
    this.request()
  }

  /** What the parent should hear may have changed. */
  request(): void {
    const session = this.#session
    if (session === undefined || this.#paced !== undefined) return
    const waitMs = this.#lastSyncMs + BUNDLE_PACE_MS - this.#world.clock.nowMs()
    if (waitMs <= 0) {
      this.#sync(session)
      return
    }
    this.#paced = this.#world.clock.setTimer(waitMs, () => {
      this.#paced = undefined
      if (this.#session !== undefined) this.#sync(this.#session)
    })
  }

  /** At the end of this turn, however often it is asked for in it. */
  #sync(session: Session): void {
    if (session.isSyncAsked) return
    session.isSyncAsked = true
    const { clock } = this.#world
    clock.setTimer(0, () => {
      session.isSyncAsked = false
      if (!this.#driver.isAlive || this.#session !== session) return
      const message = session.state.sync(clock.nowMs())
      if (session.state.isSubtree) this.#lastSyncMs = clock.nowMs()
      if (message === undefined) return
      session.end.send(overWire(this.#world, this.#liar?.say(message) ?? message))
    })
  }

  /** Nodes below came, went or moved. */
  belowChanged(): void {
    if (this.#session === undefined || this.#belowTimer !== undefined) return
    this.#belowTimer = this.#world.clock.setTimer(BELOW_PACE_MS, () => {
      this.#belowTimer = undefined
      if (this.#driver.isAlive && this.#session !== undefined) this.#tellBelow(this.#session)
    })
  }

  #tellBelow(session: Session): void {
    if (session.isTelling) return
    const below = session.state.below()
    if (below === undefined) return
    session.isTelling = true
    session.calls.call({ method: 'below', below }, BELOW_ANSWER_MS, ({ ok }) => {
      session.isTelling = false
      if (!ok || this.#session !== session) return
      session.state.toldBelow(below)
      this.#tellBelow(session)
    })
  }

  /** Asks the parent; without one there is no answer. */
  call(call: Call, limitMs: number, done: (answer: Answer) => void): void {
    if (this.#session === undefined) done({ ok: false, reason: 'the root cannot be reached' })
    else this.#session.calls.call(call, limitMs, done)
  }

  // ---- what is heard

  #receive(session: Session, message: Message): void {
    if (!this.#driver.isAlive) return
    switch (message.type) {
      case 'desired':
        this.#take(session, message)
        return
      case 'answer':
        session.calls.answered(message.id, message.answer)
        return
      case 'sync':
      case 'call':
        throw new Error(`a parent does not say ${message.type}`)
    }
  }

  #take(session: Session, message: DesiredMessage): void {
    const heard = session.state.take(message, this.#world.clock.nowMs())
    switch (heard.kind) {
      case 'loop':
        session.end.close(heard.reason)
        return
      case 'orders':
        this.#driver.apply(heard.event)
        if (heard.isOtherWay) this.#handlers.onWay()
        return
    }
  }
}

/** As it arrives: of the same kind as it left. */
export function overWire<T extends WorkMessage & Message>(
  world: TreeWorld,
  message: T,
): Extract<WorkMessage, { type: T['type'] }> {
  const arrived = world.overWire<WorkMessage>(WorkMessage, message)
  if (isOf<T['type']>(message.type, arrived)) return arrived
  throw new Error(`a ${message.type} came as a ${arrived.type}`)
}

function isOf<K extends WorkMessage['type']>(
  type: K,
  message: WorkMessage,
): message is Extract<WorkMessage, { type: K }> {
  return message.type === type
}
