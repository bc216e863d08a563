/**
 * What has processors of a machine and may have another number of them, and how many of them it has before
 * others: a person's word comes first, then big jobs, all of them together within their part of the machine.
 */
import { BIG_PART, type BigJob, type Claims } from './claims.ts'
import type { Core } from './core.ts'
import { cpuRangeOf } from './cpu-range.ts'
import { isLive, type Attempt, type Claim, type NodeEntry, type Relayed } from './model.ts'
import { isAlone } from './subtree-offer.ts'

/** What has processors of a node: an attempt, or a lease of the parent that was passed on. */
export interface Holder {
  readonly of: Attempt | Relayed
  readonly min: number
  readonly max: number
  readonly cpus: number
  /** What it has before what stands back for it; its least for one without a claim. */
  readonly floor: number
  readonly claim: Claim['why'] | undefined
  /** Of a big one whose owner this is. */
  readonly big: BigJob | undefined
}

export class Holders {
  readonly #core: Core
  readonly #claims: Claims

  constructor(core: Core, claims: Claims) {
    this.#core = core
    this.#claims = claims
  }

  areOn(node: NodeEntry): boolean {
    for (const _ of this.#malleable(node)) return true
    return false
  }

  /** What holds processors of the node and may have another number of them, with what it has before others. */
  on(node: NodeEntry): Holder[] {
    const holders = [...this.#malleable(node)]
    if (holders.length === 0) return holders
    // Those without a claim go on with what they have, and give it back when they end.
    let room = node.capacity.cpus
    for (const { claim, min } of holders) if (claim !== undefined) room -= min
    let roomForBig = Math.floor(node.capacity.cpus * BIG_PART)
    for (const { claim, min } of holders) if (claim === 'big') roomForBig -= min
    const floors = new Map<Holder, number>()
    for (const holder of holders.toSorted(byClaim)) {
      const { min, max, claim } = holder
      if (claim === undefined || room <= 0) break
      const most = claim === 'person' ? max - min : Math.min(max - min, roomForBig)
      const given = Math.max(0, Math.min(room, most))
      room -= given
      if (claim === 'big') roomForBig -= given
      floors.set(holder, min + given)
    }
    return holders.map((holder) => ({ ...holder, floor: floors.get(holder) ?? holder.floor }))
  }

  *#malleable(node: NodeEntry): Generator<Holder> {
    if (node.bundle !== undefined) return
    for (const attempt of node.attempts) {
      if (!isLive(attempt)) continue
      const { min, max, asked } = cpuRangeOf(attempt.job)
      const { allotted: cpus } = attempt
      if (max <= min && cpus === min && asked === undefined) continue
      const big = asked === undefined ? this.#claims.bigOf(attempt, node) : undefined
      const claim = asked !== undefined ? 'person' : big === undefined ? undefined : 'big'
      yield { of: attempt, min, max, cpus, floor: min, claim, big }
    }
    if (node.relayed.size === 0 || isAlone(this.#core)) return
    for (const relayed of node.relayed.values()) {
      const { terms } = relayed.lease ?? {}
      const { claim, reserved } = relayed
      if (terms === undefined || relayed.finished !== undefined) continue
      const isAsked = claim?.why === 'person'
      const min = isAsked ? Math.min(terms.cpusMin, claim.cpus) : terms.cpusMin
      const max = isAsked ? claim.cpus : terms.cpusMax
      if ((max <= min && reserved.cpus === min && !isAsked) || reserved.cpus === 0) continue
      const { cpus } = reserved
      yield { of: relayed, min, max, cpus, floor: min, claim: claim?.why, big: undefined }
    }
  }
}

/** A person's word first, then the longest way to go, then those that have no claim. */
export function byClaim(a: Holder, b: Holder): number {
  const rankOfClaim = ({ claim }: Holder): number =>
    claim === 'person' ? 2 : claim === 'big' ? 1 : 0
  return rankOfClaim(b) - rankOfClaim(a) || (b.big?.pathMs ?? 0) - (a.big?.pathMs ?? 0)
}
