/**
 * The worker's side of one connection to its granter: says what is, whenever that changes and at every
 * heartbeat, and passes on what should be.
 */
import type { Shells } from '../build/shells.ts'
import type { Worker } from '../build/worker.ts'
import { formatSize } from '../base/units.ts'
import type { Space } from '../store/retention/space.ts'
import type { DesiredMessage, SyncMessage } from '../wire/work-messages.ts'
import { FactsTeller } from './facts-teller.ts'
import type { Machine } from './machine.ts'
import type { Offer } from './offer.ts'
import type { PolicyKeeper } from './policy/keeper.ts'
import type { Slots } from './policy/slots.ts'

/** Whether there is room for another job, and what people are told when there is none. */
export interface Room {
  readonly state: 'ok' | 'full'
  readonly note: string
}

export function roomOf(space: Space, directory: string): Room {
  const { state, freeBytes, floorBytes, usedBytes, quotaBytes, freeableBytes } = space
  if (state === 'ok') return { state, note: '' }
  const facts =
    quotaBytes === undefined || freeBytes < floorBytes
      ? `${directory} has ${formatSize(freeBytes)} free: no new jobs until well over ${formatSize(floorBytes)} are`
      : `the store has ${formatSize(usedBytes)} of the ${formatSize(quotaBytes)} that it may have: no new jobs until it has less`
  const way = freeableBytes > 0 ? `; ${formatSize(freeableBytes)} could be freed: mesh gc` : ''
  return { state, note: `${facts}${way}`.slice(0, 1024) }
}

/** One connection. A node without a worker says only that it is there. */
export class WorkerSession {
  readonly #node: Sessions
  readonly #request: (make: () => SyncMessage) => void
  #seq = 0
  #ackSeq = 0
  readonly #facts = new FactsTeller()

  /** `request` asks for a sync to be sent when the connection can take it. */
  constructor(node: Sessions, request: (make: () => SyncMessage) => void) {
    this.#node = node
    this.#request = request
  }

  /** Something changed. */
  changed(): void {
    this.#request(() => this.#make())
  }

  #make(): SyncMessage {
    this.#seq += 1
    const { worker, offer, room, slots } = this.#node
    const isFull = room.state === 'full'
    const facts = this.#facts.next(this.#node.machine?.facts, this.#seq)
    return {
      type: 'sync',
      seq: this.#seq,
      ackSeq: this.#ackSeq,
      state: isFull ? 'full' : offer?.isDraining === true ? 'draining' : 'ready',
      note: isFull ? room.note : (offer?.note ?? ''),
      environments: offer?.environments ?? [],
      capacity: offer?.offered ?? { cpus: 0, memoryBytes: 0, diskBytes: 0 },
      running: worker?.running ?? [],
      finished: worker?.finished ?? [],
      ...(offer?.speed === undefined ? {} : { speed: offer.speed }),
      ...(facts === undefined ? {} : { facts }),
      ...(slots === undefined ? {} : { policy: slots.note }),
    }
  }

  take(message: DesiredMessage): void {
    this.#facts.heard(message.ackSeq)
    if (message.seq <= this.#ackSeq) return
    const { worker, offer } = this.#node
    if (worker !== undefined && !worker.take(message)) return
    this.#ackSeq = message.seq
    this.#node.policy?.setSlots(message.slots)
    if (message.tools.length === 0 || offer === undefined) return
    void offer.probe(message.tools).then((hasAdded) => {
      if (hasAdded) this.changed()
    })
  }
}

/** The worker of this node, and its one connection to whoever grants it work now. */
export class Sessions {
  readonly worker: Worker | undefined
  readonly offer: Offer | undefined
  /** How much of the machine is for builds; of a node with a worker. */
  policy: PolicyKeeper | undefined
  /** What there is of it. */
  machine: Machine | undefined
  /** Divides it; local builds take theirs of it. */
  slots: Slots | undefined
  /** For users of this node who want to see where a job runs. */
  shells: Shells | undefined
  /** Of the store, which a node without a worker has too. */
  #room: Room = { state: 'ok', note: '' }
  #current: WorkerSession | undefined

  constructor(worker: Worker | undefined, offer: Offer | undefined) {
    this.worker = worker
    this.offer = offer
  }

  get room(): Room {
    return this.#room
  }
  set room(room: Room) {
    this.#room = room
    this.changed()
  }

  /** The node's own checks said what is wrong with them; an empty text for nothing. */
  checked(note: string): void {
    if (this.offer === undefined || this.offer.note === note) return
    this.offer.note = note
    this.changed()
  }

  measured(speed: number): void {
    if (this.offer !== undefined) this.offer.speed = speed
    this.changed()
  }

  get isConnected(): boolean {
    return this.#current !== undefined
  }
  use(session: WorkerSession): void {
    this.#current = session
    session.changed()
  }
  drop(session: WorkerSession): void {
    if (this.#current === session) this.#current = undefined
  }
  /** Something that the granter should hear of changed. */
  changed(): void {
    this.#current?.changed()
  }
}
