/**
 * The network of a simulated tree: links that keep their order, as TCP does, and break at any point. Two
 * machines may be cut off from each other in one direction or both; what is sent meanwhile waits, or is lost
 * with its link. Each end learns of the end of a link in its own time.
 */
import type { Machine } from './machine.ts'
import type { Message } from './messages.ts'
import type { TreeWorld } from './world.ts'

/** As in `src/node/links/peer-link.ts`: a peer that says nothing for so long is gone. */
const SILENCE_MS = 30_000
/** As in `src/node/links/parents.ts`: how long a dial may take. */
const DIAL_MS_MAX = 15_000

export interface EndHandlers {
  onMessage(message: Message): void
  onClosed(reason: string): void
}

/** One of the two ends of a link. */
export class LinkEnd {
  readonly #link: Link
  readonly owner: Machine
  readonly remote: Machine
  /** Who the remote is: it may come back as somebody else. */
  readonly remoteId: string
  handlers: EndHandlers | undefined
  isOpen = true
  lastHeardMs: number

  constructor(link: Link, owner: Machine, remote: Machine, nowMs: number) {
    this.#link = link
    this.owner = owner
    this.remote = remote
    this.remoteId = remote.peerId
    this.lastHeardMs = nowMs
  }

  send(message: Message): void {
    if (this.isOpen) this.#link.put(this, message)
  }

  /** This end goes; the other one hears of it after what was sent before. */
  close(reason: string): void {
    if (!this.isOpen) return
    this.#link.put(this, undefined)
    this.shut(reason)
  }

  /** It is over for this end. */
  shut(reason: string): void {
    if (!this.isOpen) return
    this.isOpen = false
    this.#link.ended()
    this.handlers?.onClosed(reason)
  }
}

/** Undefined is the last word. */
type Sent = Message | undefined

class Link {
  readonly #world: TreeWorld
  readonly #network: Network
  readonly child: LinkEnd
  readonly parent: LinkEnd
  readonly #queues = new Map<LinkEnd, Sent[]>()
  readonly #lastAtMs = new Map<LinkEnd, number>()
  readonly #watched = new Set<LinkEnd>()
  #isBroken = false

  constructor(world: TreeWorld, network: Network, child: Machine, parent: Machine) {
    this.#world = world
    this.#network = network
    const nowMs = world.clock.nowMs()
    this.child = new LinkEnd(this, child, parent, nowMs)
    this.parent = new LinkEnd(this, parent, child, nowMs)
  }

  get ends(): readonly LinkEnd[] {
    return [this.child, this.parent]
  }

  other(end: LinkEnd): LinkEnd {
    return end === this.child ? this.parent : this.child
  }

  put(from: LinkEnd, sent: Sent): void {
    if (this.#isBroken) return
    const { clock } = this.#world
    const queue = this.#queues.get(from) ?? []
    this.#queues.set(from, queue)
    queue.push(sent)
    const nowMs = clock.nowMs()
    const atMs = Math.max(this.#lastAtMs.get(from) ?? 0, nowMs + this.#network.latencyMs())
    this.#lastAtMs.set(from, atMs)
    clock.setTimer(atMs - nowMs, () => this.#deliver(from))
  }

  /** One message; none while the way is cut. */
  #deliver(from: LinkEnd): void {
    const to = this.other(from)
    const queue = this.#queues.get(from)
    if (this.#isBroken || queue === undefined || queue.length === 0) return
    if (this.#network.isCut(from.owner, to.owner)) return
    const sent = queue.shift()
    if (!to.isOpen) {
      // A host that is up answers that it knows no such connection.
      if (to.owner.process === undefined) this.watch(from)
      else from.shut('connection reset')
      return
    }
    to.lastHeardMs = this.#world.clock.nowMs()
    if (sent === undefined) to.shut('the peer hung up')
    else {
      this.#network.heard(to.owner, sent)
      to.handlers?.onMessage(sent)
    }
  }

  /** The way is there again: what has waited goes on. */
  resume(): void {
    for (const [from, queue] of this.#queues)
      for (let count = queue.length; count > 0; count -= 1)
        this.#world.clock.setTimer(this.#network.latencyMs(), () => this.#deliver(from))
  }

  /** What is under way is lost, and each end learns of it in its own time. */
  break(): void {
    this.#isBroken = true
    this.#queues.clear()
    for (const end of this.ends) this.lose(end)
  }

  /** Its other end is gone. */
  lose(end: LinkEnd): void {
    const ms = this.#network.noticeMs()
    if (ms === undefined) this.watch(end)
    else this.#world.clock.setTimer(ms, () => end.shut('connection reset'))
  }

  ended(): void {
    if (!this.child.isOpen && !this.parent.isOpen) this.#network.forget(this)
  }

  /** Gives the link up once nothing was heard for too long. */
  watch(end: LinkEnd): void {
    if (this.#watched.has(end) || !end.isOpen) return
    this.#watched.add(end)
    const { clock } = this.#world
    clock.setTimer(end.lastHeardMs + SILENCE_MS - clock.nowMs(), () => {
      this.#watched.delete(end)
      if (!end.isOpen) return
      if (clock.nowMs() - end.lastHeardMs >= SILENCE_MS) end.close('silent for 30 s')
      else if (this.#isTroubled(end)) this.watch(end)
    })
  }

  #isTroubled(end: LinkEnd): boolean {
    const other = this.other(end)
    return this.#isBroken || !other.isOpen || this.#network.isCut(other.owner, end.owner)
  }
}

export class Network {
  readonly #world: TreeWorld
  readonly #links = new Set<Link>()
  /** Directed pairs of machines that nothing gets through. */
  readonly #cuts = new Set<string>()
  /** Every message takes as long; drawn for each where it is left out. */
  readonly #fixedLatencyMs: number | undefined
  /** Whether whoever loses a link hears of it at once. */
  readonly #isFrank: boolean
  messageCount = 0
  readonly #heardBy = new Map<Machine, number>()

  constructor(
    world: TreeWorld,
    options: { readonly isFrank: boolean; readonly fixedLatencyMs?: number | undefined },
  ) {
    this.#world = world
    this.#isFrank = options.isFrank
    this.#fixedLatencyMs = options.fixedLatencyMs
  }

  /** How soon an end hears that its link is gone; undefined where only the silence tells. */
  noticeMs(): number | undefined {
    const { dice } = this.#world
    return this.#isFrank || dice.chance(0.6) ? dice.between(1, 50) : undefined
  }

  latencyMs(): number {
    const { dice } = this.#world
    if (this.#fixedLatencyMs !== undefined) return this.#fixedLatencyMs
    return dice.chance(0.03) ? dice.between(50, 800) : dice.between(1, 20)
  }

  heard(machine: Machine, _message: Message): void {
    this.messageCount += 1
    this.#heardBy.set(machine, (this.#heardBy.get(machine) ?? 0) + 1)
  }
  /** Messages that the machine has received. */
  heardBy(machine: Machine): number {
    return this.#heardBy.get(machine) ?? 0
  }

  isCut(from: Machine, to: Machine): boolean {
    return this.#cuts.size > 0 && this.#cuts.has(`${from.name} ${to.name}`)
  }

  /** Nothing gets from one to the other, until `heal`. */
  cut(from: Machine, to: Machine): void {
    this.#cuts.add(`${from.name} ${to.name}`)
    for (const link of this.#between(from, to)) for (const end of link.ends) link.watch(end)
  }

  heal(from: Machine, to: Machine): void {
    if (!this.#cuts.delete(`${from.name} ${to.name}`)) return
    for (const link of this.#between(from, to)) link.resume()
  }

  healAll(): void {
    this.#cuts.clear()
    for (const link of this.#links) link.resume()
  }

  #between(a: Machine, b: Machine): Link[] {
    return [...this.#links].filter(
      ({ child, parent }) =>
        (child.owner === a && parent.owner === b) || (child.owner === b && parent.owner === a),
    )
  }

  /** Breaks one of the links that there are. */
  breakOne(): void {
    const links = [...this.#links]
    if (links.length === 0) return
    const link = this.#world.dice.pick(links)
    this.#world.trace(() => `break ${link.child.owner.name} - ${link.parent.owner.name}`)
    link.break()
  }

  forget(link: Link): void {
    this.#links.delete(link)
  }

  /** Connects to a machine; `done` is told the own end, or why there is none. */
  dial(from: Machine, to: Machine, done: (end: LinkEnd | string) => void): void {
    const { clock } = this.#world
    const { process } = from
    if (this.isCut(from, to) || this.isCut(to, from)) {
      clock.setTimer(DIAL_MS_MAX, () => done('no link within 15 s'))
      return
    }
    clock.setTimer(2 * this.latencyMs(), () => {
      if (from.process !== process) return
      if (to.process?.isReady !== true || !to.isDialable) {
        done('connection refused')
        return
      }
      const link = new Link(this.#world, this, from, to)
      this.#links.add(link)
      to.process.accept(link.parent)
      done(link.child)
    })
  }

  /** Its ends go without a word; the others hear of it at once, or find out. */
  died(machine: Machine): void {
    for (const link of [...this.#links])
      for (const end of link.ends) {
        if (end.owner !== machine || !end.isOpen) continue
        end.isOpen = false
        end.handlers = undefined
        const other = link.other(end)
        if (this.isCut(machine, other.owner)) link.watch(other)
        else link.lose(other)
        link.ended()
      }
  }
}
