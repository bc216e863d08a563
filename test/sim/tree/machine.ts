/** A machine of a simulated tree: what it is, what is on its disk, and the life of the daemon that it runs now, if any. */
import type { Digest } from '../../../src/wire/digest.ts'
import type { Environment } from '../../../src/wire/environment.ts'
import { Fact, type RequestWire } from '../../../src/wire/facts.ts'
import type { PeerRecord } from '../../../src/wire/peer-record.ts'
import type { ActionResult, SignedResult } from '../../../src/wire/result.ts'
import { peerOf } from '../../scheduler/samples.ts'
import type { TreeProcess } from './tree-process.ts'
import type { TreeWorld } from './world.ts'

export interface MachineSpec {
  readonly name: string
  /** Names of its parents, the preferred one first. */
  readonly parents: readonly string[]
  /** Undefined for one that builds nothing. */
  readonly builds: Building | undefined
  readonly isStore: boolean
  /** False for one behind NAT: it only dials out. */
  readonly isDialable: boolean
}

export interface Building {
  readonly cpus: number
  readonly memoryBytes: number
  readonly environment: Environment
  /** Builds take this many times longer. */
  readonly slowness: number
  /** It says what is not so. */
  readonly isLiar: boolean
}

/** What survives a crash. */
export class Disk {
  readonly facts: Fact[] = []
  readonly outbox = new Map<string, RequestWire>()
  /** Stored results, by key of the job and action. */
  readonly results = new Map<Digest, Map<Digest, SignedResult>>()
  /** What the facts say was accepted, granted and ended. */
  readonly accepted = new Set<string>()
  readonly granted = new Set<string>()
  readonly ended = new Set<string>()

  append(world: TreeWorld, facts: readonly Fact[]): void {
    for (const fact of facts) {
      this.facts.push(world.overWire(Fact, fact))
      if (fact.type === 'accepted') this.accepted.add(fact.request.id)
      if (fact.type === 'granted') this.granted.add(fact.attempt)
      if (fact.type === 'ended') this.ended.add(fact.attempt)
      if (fact.type === 'adopted') this.ended.delete(fact.attempt)
    }
  }

  keep(result: ActionResult, signed: SignedResult): void {
    const results = this.results.get(result.jobKey) ?? new Map<Digest, SignedResult>()
    results.set(result.action, signed)
    this.results.set(result.jobKey, results)
  }

  resultsOf(key: Digest): SignedResult[] {
    return [...(this.results.get(key)?.values() ?? [])]
  }
}

export class Machine {
  readonly name: string
  readonly spec: MachineSpec
  /** Its key is on its disk. */
  peerId: string
  disk = new Disk()
  process: TreeProcess | undefined
  /** Its wall clock is wrong by so much. */
  wallSkewMs = 0
  /** Processors that it gives now. */
  cpus: number
  isDraining = false
  #identity = 1
  #boots = 0

  constructor(spec: MachineSpec) {
    this.spec = spec
    this.name = spec.name
    this.peerId = peerOf(`${spec.name} 1`)
    this.cpus = spec.builds?.cpus ?? 0
  }

  get isDialable(): boolean {
    return this.spec.isDialable
  }

  get record(): PeerRecord {
    const roles: PeerRecord['roles'] = []
    if (this.spec.builds !== undefined) roles.push('worker')
    if (this.spec.isStore) roles.push('store')
    return {
      peerId: this.peerId,
      name: this.name,
      roles,
      addresses: this.isDialable ? ['/ip4/10.0.0.7/tcp/7421'] : [],
      http: null,
    }
  }

  nextBoot(): string {
    return String((this.#boots += 1))
  }

  /** Which life it lives now. */
  get boot(): string {
    return String(this.#boots)
  }

  /** The disk is gone and with it who the node was. */
  loseDisk(): void {
    this.disk = new Disk()
    this.#identity += 1
    this.peerId = peerOf(`${this.name} ${this.#identity}`)
  }
}
