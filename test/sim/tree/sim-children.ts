/** The children of a simulated node, and its own worker: what `src/node/owner/children.ts` does, in virtual time. */
import { desiredMessage } from '../../../src/node/owner/desired-message.ts'
import { FEATURE_REFUSE, FEATURE_TREE } from '../../../src/wire/work-messages.ts'
import type { Driver } from './driver.ts'
import type { Machine } from './machine.ts'
import type { Answer, Message, Question } from './messages.ts'
import type { LinkEnd } from './network.ts'
import { SimBuilder } from './sim-builder.ts'
import { overWire } from './sim-uplink.ts'
import type { TreeWorld } from './world.ts'

const VERSION = { mesh: '0', protocols: [], features: [FEATURE_TREE, FEATURE_REFUSE] }

interface Port {
  readonly end: LinkEnd
  seq: number
  isAsked: boolean
}

export interface ChildrenHandlers {
  /** Nodes below came, went or moved. */
  onBelow(): void
  onCall(call: Question, answer: (answer: Answer) => void): void
}

export class SimChildren {
  readonly #world: TreeWorld
  readonly #machine: Machine
  readonly #driver: Driver
  readonly #handlers: ChildrenHandlers
  readonly #ports = new Map<string, Port>()
  readonly builder: SimBuilder | undefined
  #isOwnSyncAsked = false
  #isOwnDesiredAsked = false
  #ownSyncSeq = 0
  #ownAckSeq = 0
  #ownDesiredSeq = 0

  constructor(world: TreeWorld, machine: Machine, driver: Driver, handlers: ChildrenHandlers) {
    this.#world = world
    this.#machine = machine
    this.#driver = driver
    this.#handlers = handlers
    const { builds } = machine.spec
    if (builds !== undefined)
      this.builder = new SimBuilder(world, machine, builds, () => this.#ownChanged())
  }

  // ---- the own worker

  startOwn(boot: string): void {
    const { record } = this.#machine
    this.#driver.apply({
      type: 'node-up',
      record,
      version: { mesh: '0', protocols: [] },
      boot,
    })
    this.#ownChanged()
  }

  #ownChanged(): void {
    if (this.#isOwnSyncAsked || !this.#driver.isAlive) return
    this.#isOwnSyncAsked = true
    this.#world.clock.setTimer(0, () => {
      this.#isOwnSyncAsked = false
      if (!this.#driver.isAlive) return
      this.#ownSyncSeq += 1
      const state = this.builder?.state() ?? NO_WORKER
      this.#driver.sync(this.#machine.peerId, {
        type: 'sync',
        seq: this.#ownSyncSeq,
        ackSeq: this.#ownAckSeq,
        ...state,
      })
    })
  }

  #tellOwn(): void {
    if (this.#isOwnDesiredAsked) return
    this.#isOwnDesiredAsked = true
    this.#world.clock.setTimer(0, () => {
      this.#isOwnDesiredAsked = false
      if (!this.#driver.isAlive) return
      const message = this.#message(this.#machine.peerId, (this.#ownDesiredSeq += 1))
      if (message === undefined || message.seq <= this.#ownAckSeq) return
      if (this.builder?.take(message) === false) return
      this.#ownAckSeq = message.seq
    })
  }

  // ---- children

  get ids(): string[] {
    return [...this.#ports.keys()]
  }

  attach(end: LinkEnd): void {
    const { remoteId, remote } = end
    const before = this.#ports.get(remoteId)
    const port: Port = { end, seq: 0, isAsked: false }
    before?.end.close('the same node has connected again')
    this.#ports.set(remoteId, port)
    end.handlers = {
      onMessage: (message) => this.#receive(port, message),
      onClosed: () => {
        if (!this.#driver.isAlive) return
        if (this.#ports.get(remoteId) === port) {
          this.#ports.delete(remoteId)
          this.#driver.apply({ type: 'node-down', peerId: remoteId, note: 'the link closed' })
        }
        this.#handlers.onBelow()
      },
    }
    this.#driver.apply({
      type: 'node-up',
      record: remote.record,
      version: VERSION,
      boot: remote.boot,
    })
    this.#handlers.onBelow()
  }

  #receive(port: Port, message: Message): void {
    if (!this.#driver.isAlive) return
    const { end } = port
    switch (message.type) {
      case 'sync':
        this.#driver.sync(end.remoteId, message)
        return
      case 'call': {
        const { id, call } = message
        const answer = (given: Answer): void => end.send({ type: 'answer', id, answer: given })
        if (call.method === 'below') {
          this.#driver.apply({ type: 'below', peerId: end.remoteId, below: call.below })
          this.#handlers.onBelow()
          answer({ ok: true, results: [] })
        } else this.#handlers.onCall(call, answer)
        return
      }
      case 'desired':
      case 'answer':
        throw new Error(`a child does not say ${message.type}`)
    }
  }

  /** The desired state of the node may have changed. */
  tell(peerId: string): void {
    if (peerId === this.#machine.peerId) {
      this.#tellOwn()
      return
    }
    const port = this.#ports.get(peerId)
    if (port === undefined || port.isAsked) return
    port.isAsked = true
    this.#world.clock.setTimer(0, () => {
      port.isAsked = false
      if (!this.#driver.isAlive || this.#ports.get(peerId) !== port) return
      const message = this.#message(peerId, (port.seq += 1))
      if (message !== undefined) port.end.send(overWire(this.#world, message))
    })
  }

  #message(peerId: string, seq: number): ReturnType<typeof desiredMessage> | undefined {
    const desired = this.#driver.scheduler.desiredOf(peerId, this.#driver.syncedSeq, seq)
    if (desired === undefined) return undefined
    const { name } = this.#machine
    const message = desiredMessage(desired, seq, { peerId: this.#machine.peerId, name }, () => ({
      hints: [],
      peers: [],
    }))
    this.#world.onDesired(this.#machine, peerId, message)
    return message
  }

  beat(): void {
    this.#ownChanged()
    for (const peerId of this.#ports.keys()) this.tell(peerId)
  }
}

const NO_WORKER = {
  state: 'ready',
  note: '',
  environments: [],
  capacity: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
  running: [],
  finished: [],
} satisfies Partial<ReturnType<SimBuilder['state']>>
