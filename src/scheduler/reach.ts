/**
 * Reach: whether the inputs of a job can get to a node at all. A grant without a way is not made.
 *
 * What the records say is believed until an attempt shows otherwise: then the pair is remembered for a
 * while, longer each time, until one of the two connects anew or another store does.
 */
import { imageFor, variantFor, type Place } from '../wire/derivation.ts'
import type { Digest } from '../wire/digest.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import { blobOf } from '../wire/tree.ts'
import type { Core } from './core.ts'
import { NOWHERE, runnerOf, type Job, type NodeEntry, type Step } from './model.ts'

/** How long a pair of nodes is believed to have no way, after the first, second ... failure. */
const NO_WAY_MS = [5_000, 15_000, 60_000, 120_000] as const
/** Pairs, and inputs, that are remembered; of more the oldest are forgotten. */
const NO_WAYS_MAX = 4_096
/** How long an input that nobody who is there has is not asked for again. */
const ABSENT_MS = 300_000
/** Jobs that are judged anew at once; the others follow. */
const REFRESHED_MAX = 1_000

/** Who has a blob, as far as the owner was told: peer ids, of nodes that are there or not. */
export type ProvidersOf = (digest: Digest) => readonly string[]

/** Why a node cannot get an input. */
export interface Obstacle {
  /** `unreachable`: it is at these nodes, which the node has no way to. `missing`: they are away. */
  readonly kind: 'unreachable' | 'missing'
  /** Name of the input. */
  readonly input: string
  /** Peer ids of those that have it. */
  readonly holders: readonly string[]
  /** The step whose output it is. */
  readonly producer: Step | undefined
}

export interface Input {
  readonly name: string
  readonly digest: Digest
  /** Of the blob; that of a directory is its listing. */
  readonly size: number
}

export class Reach {
  readonly #core: Core
  readonly #providersOf: ProvidersOf
  /** By `holder node`. */
  readonly #noWays = new Map<string, { readonly count: number; readonly untilMs: number }>()
  readonly #absent = new Map<Digest, number>()
  /** Jobs with a cut. */
  readonly #cutJobs = new Set<Job>()

  constructor(core: Core, providersOf: ProvidersOf) {
    this.#core = core
    this.#providersOf = providersOf
  }

  /** The first input that has no way to the node; undefined when all of them may have one. */
  obstacle(job: Job, node: NodeEntry, place: Place): Obstacle | undefined {
    for (const input of inputsOf(job, place)) {
      const { producers, holders } = this.#holdersOf(job, input)
      if (holders.has(node.peerId)) continue
      const present = [...holders].filter((peerId) => this.#isPresent(peerId))
      const { name } = input
      const [producer] = producers
      if (present.length > 0) {
        if (present.some((holder) => this.#hasWay(holder, node.peerId))) continue
        return { kind: 'unreachable', input: name, holders: present, producer }
      }
      if (holders.size > 0 && this.#isAbsent(input.digest))
        return { kind: 'missing', input: name, holders: [...holders], producer }
    }
    return undefined
  }

  /** The inputs of the job that have bytes, of all its variants. */
  inputsOf(job: Job): readonly Input[] {
    return inputsOf(job, undefined)
  }

  /** Who is known to have the input, whether they are there or not. */
  holdersOf(job: Job, input: Input): ReadonlySet<string> {
    return this.#holdersOf(job, input).holders
  }

  /** Who is known to have the input: by the owner's table, and by the requests of the job's waiters. */
  #holdersOf(job: Job, { name, digest }: Input): { producers: Set<Step>; holders: Set<string> } {
    const holders = new Set(this.#providersOf(digest))
    const producers = new Set<Step>()
    for (const step of job.waiters) {
      const { derivation, request } = step
      for (const taken of [derivation, ...derivation.variants]) {
        const input = namedInputs(taken).get(name)
        if (input?.kind === 'entry') holders.add(request.wire.entry.peerId)
        const producer = input?.kind === 'output' ? request.steps.get(input.derivation) : undefined
        if (producer === undefined) continue
        producers.add(producer)
        for (const peerId of producer.stores.keys()) holders.add(peerId)
        const maker = producer.job?.attempts.findLast(({ state }) => state === 'done')
        if (maker !== undefined) holders.add(runnerOf(maker).peerId)
      }
    }
    return { producers, holders }
  }

  /** Of connected nodes: whether blobs of one may get to the other, straight or by way of a store node. */
  #hasWay(from: string, to: string): boolean {
    if ((this.#noWays.get(`${from} ${to}`)?.untilMs ?? 0) > this.#core.moment.nowMs) return false
    const { nodes, selfId } = this.#core
    // Every node has a connection to the owner, and of a subtree one may have a way where another has none.
    if (from === selfId || to === selfId || nodes.get(to)?.bundle !== undefined) return true
    const [holder, node] = [this.#core.recordOf(from), this.#core.recordOf(to)]
    if (holder === undefined || node === undefined) return false
    if (canDial(node, holder)) return true
    for (const record of this.#core.stores()) {
      if (record.peerId === from) continue
      if (record.peerId === selfId || (canDial(node, record) && canDial(holder, record)))
        return true
    }
    return false
  }

  #isPresent(peerId: string): boolean {
    return this.#core.recordOf(peerId) !== undefined
  }

  #isAbsent(digest: Digest): boolean {
    return (this.#absent.get(digest) ?? 0) > this.#core.moment.nowMs
  }

  /** The node could not get it, though the holder has it whole. */
  addNoWay(holder: string, node: string): void {
    const pair = `${holder} ${node}`
    const count = (this.#noWays.get(pair)?.count ?? 0) + 1
    const forMs = NO_WAY_MS[Math.min(count, NO_WAY_MS.length) - 1] ?? 0
    put(this.#noWays, pair, { count, untilMs: this.#core.moment.nowMs + forMs })
  }

  /** Nobody who is there has it: true for a source that somebody who is away should have, which is waited for. */
  addAbsent(job: Job, digest: Digest): boolean {
    const input = inputsOf(job, undefined).find((candidate) => candidate.digest === digest)
    if (input === undefined) return false
    const { producers, holders } = this.#holdersOf(job, input)
    const isAway = [...holders].some((peerId) => !this.#isPresent(peerId))
    if (producers.size > 0 || !isAway) return false
    put(this.#absent, digest, this.#core.moment.nowMs + ABSENT_MS)
    return true
  }

  /** Connected peers, but for `node`, that should have the input. */
  presentHolders(job: Job, digest: Digest, node: string): string[] {
    const holders = new Set<string>()
    for (const input of inputsOf(job, undefined))
      if (input.digest === digest)
        for (const peerId of this.#holdersOf(job, input).holders)
          if (peerId !== node && this.#isPresent(peerId)) holders.add(peerId)
    return [...holders]
  }

  cameUp(records: readonly PeerRecord[]): void {
    const peerIds = new Set(records.map(({ peerId }) => peerId))
    const isStore = records.some(({ roles }) => roles.includes('store'))
    for (const pair of this.#noWays.keys())
      if (isStore || pair.split(' ').some((peerId) => peerIds.has(peerId)))
        this.#noWays.delete(pair)
    // It may be the one that has what was nowhere.
    this.#absent.clear()
    this.refresh()
  }

  /** Cuts the node off from the waiting job, which goes to the queue of those that are cut off alike. */
  cut(job: Job, peerId: string): void {
    job.cut = new Set([...job.cut, peerId])
    this.#cutJobs.add(job)
    this.#core.queues.put(job)
  }

  /** Judges anew what was cut off. */
  refresh(): void {
    for (const job of [...this.#cutJobs].slice(0, REFRESHED_MAX)) {
      // Those that were not looked at come first next time.
      this.#cutJobs.delete(job)
      if (job.phase !== 'waiting') job.cut = NOWHERE
      const cut = [...job.cut].filter((peerId) => {
        const node = this.#core.nodes.get(peerId)
        return (
          node !== undefined &&
          node.environments.some((place) => this.obstacle(job, node, place) !== undefined)
        )
      })
      if (cut.length > 0) this.#cutJobs.add(job)
      if (cut.length === job.cut.size) continue
      job.cut = cut.length === 0 ? NOWHERE : new Set(cut)
      if (job.queue !== undefined) this.#core.queues.put(job)
    }
  }
}

/** Whether some address of `to` may be of use to `from`, for all that the two records say. */
function canDial(from: PeerRecord, to: PeerRecord): boolean {
  if (from.peerId === to.peerId) return true
  const isNear =
    from.loopback === undefined || to.loopback === undefined || from.loopback === to.loopback
  const addresses = to.http === null ? to.addresses : [...to.addresses, to.http]
  return addresses.some((address) => isNear || !LOOPBACK.test(address))
}
const LOOPBACK = /^(?:\/ip4\/127\.|\/ip6\/::1\/|https?:\/\/(?:127\.|localhost\b|\[::1\]))/

/** The inputs that have bytes; with a place only those of an action for it. */
function inputsOf({ resolved }: Job, place: Place | undefined): Input[] {
  const taken =
    place === undefined
      ? [resolved, ...resolved.variants]
      : [
          { inputs: resolved.inputs, image: imageFor(resolved, place) },
          { inputs: variantFor(resolved.variants, place)?.inputs ?? {} },
        ]
  const found: Input[] = []
  for (const each of taken)
    for (const [name, entry] of namedInputs(each)) {
      const blob = blobOf(entry)
      if (blob !== undefined) found.push({ name, ...blob })
    }
  return found
}

/** What people see a layer of an image as has a blank in it, as no input has. */
function namedInputs<I>({
  inputs,
  image = [],
}: {
  readonly inputs: Readonly<Record<string, I>>
  readonly image?: readonly I[] | undefined
}): Map<string, I> {
  const layers = image.map((layer, at): [string, I] => [`image ${at + 1}`, layer])
  return new Map([...Object.entries(inputs), ...layers])
}

function put<K, V>(map: Map<K, V>, key: K, value: V): void {
  map.delete(key)
  map.set(key, value)
  if (map.size <= NO_WAYS_MAX) return
  const [oldest] = map.keys()
  if (oldest !== undefined) map.delete(oldest)
}
