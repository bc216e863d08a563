/**
 * The nodes that build a job which several are to build: whether there are enough of them, which of them are
 * too near to each other, and when a further build may begin while the first still runs.
 *
 * Two nodes of one machine share its kernel and its files, and agree where two machines would not. A node of
 * another machine is therefore waited for as long as one is there that matches; of one machine they will do.
 */
import type { Environment, Userland } from '../wire/environment.ts'
import type { Core } from './core.ts'
import {
  canStart,
  environmentFor,
  fitOf,
  mayHaveUserland,
  requirementOf,
  type Requirement,
} from './match.ts'
import {
  barredFrom,
  buildersOf,
  type Job,
  type NodeEntry,
  type Step,
  type WaitReason,
} from './model.ts'
import { offerFor } from './offers.ts'
import { isOpen, roomOf, type Seat } from './kinds.ts'
import { votesWantedBy } from './votes.ts'

/** How often running jobs that want further builders are looked at. */
const LOOK_MS = 1_000
/** Of them those that are looked at in one go; the others follow. */
const LOOKED_AT_MAX = 16
/** Nodes that are tried for one build, where an input has no way to them. */
const TRIES_MAX = 4
const NAMES_SHOWN_MAX = 5

interface Place {
  readonly node: NodeEntry
  readonly environment: Environment
}

export class Builders {
  readonly #core: Core
  /** Jobs that run and want further builders. */
  readonly #eager = new Set<Job>()
  #lookAtMs = 0

  constructor(core: Core) {
    this.#core = core
  }

  /** Whether there are nodes enough for what `waiters` ask for together. `job` is the one that they wait at. */
  areEnough(waiters: readonly Step[], job: Job | undefined): boolean {
    let wanted = 1
    for (const step of waiters) wanted = Math.max(wanted, votesWantedBy(step))
    const requirement = requirementOf(waiters)
    if (wanted === 1)
      return this.#core.profiles.isPossible(requirement) || this.#mayComeBack(requirement)
    const builders = job === undefined ? new Set<string>() : buildersOf(job)
    return this.#areThere(waiters, wanted - builders.size, ({ node }) => !builders.has(node.peerId))
  }

  /** Whether somebody who is away from a subtree could do it. */
  #mayComeBack(requirement: Requirement): boolean {
    const { cpusMin, memoryBytes, diskBytes } = requirement
    for (const node of this.#core.nodes.values()) {
      const { environments = [], capacity } = node.away ?? {}
      if (capacity === undefined || capacity.cpus < cpusMin) continue
      if (capacity.memoryBytes < memoryBytes || capacity.diskBytes < diskBytes) continue
      for (const environment of environments)
        if (fitOf(requirement, { ...node, environments: [environment] }).isPossible) return true
    }
    return false
  }

  /** Whether so many nodes could add builds with this userland to those of `builders`. */
  couldAdd(
    waiters: readonly Step[],
    count: number,
    made: {
      readonly system: string
      /** Null for what was built in an image, which every node that matches has alike. */
      readonly userland: Userland | null
      readonly builders: ReadonlySet<string>
    },
  ): boolean {
    return this.#areThere(
      waiters,
      count,
      ({ node }) =>
        !made.builders.has(node.peerId) &&
        (made.userland === null || mayHaveUserland(node, made.system, made.userland)),
    )
  }

  #areThere(waiters: readonly Step[], count: number, accepts: (seat: Seat) => boolean): boolean {
    if (count <= 0) return true
    const { matcher, profiles } = this.#core
    matcher.settle()
    const found = profiles.somePossible(
      requirementOf(waiters),
      count,
      (seat) => seat.node.bundle !== undefined || accepts(seat),
    )
    // What stands for many nodes may have as many as it takes.
    return found.length >= count || found.some(({ node }) => node.bundle !== undefined)
  }

  // ---- machines

  /** Nodes that the job passes over while others will do: those that failed it, and those next to one that builds it. */
  avoidedBy(job: Job): ReadonlySet<string> {
    if (job.votesWanted <= 1) return new Set(job.avoid)
    const avoided = new Set(job.avoid)
    const machines = this.#machinesOf(job)
    if (machines.size > 0)
      for (const { peerId, record } of this.#core.nodes.values())
        if (record.loopback !== undefined && machines.has(record.loopback)) avoided.add(peerId)
    return avoided
  }

  #machinesOf(job: Job): ReadonlySet<string> {
    const machines = new Set<string>()
    for (const builder of buildersOf(job)) {
      const machine = this.#core.recordOf(builder)?.loopback
      if (machine !== undefined) machines.add(machine)
    }
    return machines
  }

  /** Whether the node is of the same machine as the one with this peer id. */
  areNear(peerId: string, { record: { loopback } }: NodeEntry): boolean {
    return loopback !== undefined && this.#core.recordOf(peerId)?.loopback === loopback
  }

  // ---- further builds at once

  /** The job runs, or is about to, and may want further builders at once. */
  watch(job: Job): void {
    if (job.votesWanted <= 1) return
    this.#eager.add(job)
    this.#lookAtMs = 0
  }

  /** Infinity for never. */
  nextDeadlineMs(): number {
    return this.#eager.size === 0 ? Number.POSITIVE_INFINITY : this.#lookAtMs
  }

  /** Lets further builds begin on nodes that nothing that waits could use. */
  plan(): void {
    const { matcher, moment, queues, waiting } = this.#core
    if (this.#eager.size === 0 || moment.nowMs < this.#lookAtMs) return
    for (const job of [...this.#eager].slice(0, LOOKED_AT_MAX)) {
      // Those that were not looked at come first next time.
      this.#eager.delete(job)
      if (job.phase !== 'leased' || job.waiters.size === 0 || job.votesWanted <= 1) continue
      while (buildersOf(job).size < job.votesWanted) {
        matcher.settle()
        const place = this.#choose(job)
        if (place === undefined) break
        waiting.grant(job, place.node, queues.requirementOf(job), place.environment)
      }
      if (buildersOf(job).size < job.votesWanted) this.#eager.add(job)
      else this.#eager.delete(job)
    }
    matcher.settle()
    this.#lookAtMs = moment.nowMs + LOOK_MS
  }

  /** Where it could begin now: of the free nodes the fastest, then the one with the largest free share. */
  #choose(job: Job): Place | undefined {
    const { profiles, queues, reach } = this.#core
    const requirement = queues.requirementOf(job)
    const barred = barredFrom(job)
    const excluded = new Set([...barred, ...this.avoidedBy(job)])
    const isOther = ({ node }: Seat): boolean => !excluded.has(node.peerId) && isOpen(node)
    if (profiles.somePossible(requirement, 1, isOther).length === 0)
      for (const peerId of excluded) if (!barred.has(peerId)) excluded.delete(peerId)
    for (let tries = 0; tries < TRIES_MAX; tries += 1) {
      const place = this.#best(job, excluded)
      if (place === undefined) return undefined
      const { node, environment } = place
      // The index only finds candidates.
      const isFree = node.bundle !== undefined || canStart(requirement, node)
      if (!isFree) profiles.update(node)
      else if (reach.obstacle(job, node, environment) === undefined) return place
      excluded.add(node.peerId)
    }
    return undefined
  }

  #best(job: Job, excluded: ReadonlySet<string>): Place | undefined {
    const { profiles, queues, stragglers } = this.#core
    const requirement = queues.requirementOf(job)
    const accepts = ({ node }: Seat): boolean => !excluded.has(node.peerId)
    let best: { readonly seat: Seat; readonly share: number } | undefined
    for (const kind of profiles.kindsFor(requirement)) {
      const found = kind.rooms.best(roomOf(requirement), accepts)
      if (found === undefined || stragglers.isWanted(found.member)) continue
      const isFaster = best === undefined || kind.speed > best.seat.kind.speed
      const isEqual = best !== undefined && kind.speed === best.seat.kind.speed
      if (isFaster || (isEqual && best !== undefined && found.share > best.share))
        best = { seat: found.member, share: found.share }
    }
    const environment = best === undefined ? undefined : environmentFor(requirement, best.seat.node)
    if (best !== undefined && environment !== undefined)
      return { node: best.seat.node, environment }
    for (const seat of profiles.bundles) {
      if (!accepts(seat) || !isOpen(seat.node)) continue
      const offer = offerFor(requirement, seat, 'now')
      if (offer !== undefined) return { node: seat.node, environment: offer.environment }
    }
    return undefined
  }

  // ---- reasons

  /** Why the job waits, when it is for want of another node; undefined when such nodes are there. */
  reasonOf(job: Job): WaitReason | undefined {
    if (job.votesWanted <= 1 || job.waiters.size === 0) return undefined
    const waiters = [...job.waiters]
    if (this.areEnough(waiters, job)) return undefined
    const { profiles } = this.#core
    const matching = profiles.somePossible(requirementOf(waiters), job.votesWanted)
    // That none matches has a reason of its own.
    if (matching.length === 0) return undefined
    const built = job.votes.map(({ node }) => node.name)
    const who =
      built.length === 0 ? '' : `, ${listed(built)} ${built.length === 1 ? 'has' : 'have'}`
    const names = matching.map(({ node }) => node.record.name)
    return {
      class: 'votes',
      text: `verify = ${job.votesWanted}: ${job.votesWanted} different nodes are to build it${who}; of all that are known only ${listed(names)} can`,
    }
  }
}

function listed(names: readonly string[]): string {
  const shown = names.slice(0, NAMES_SHOWN_MAX).join(', ')
  const hidden = names.length - NAMES_SHOWN_MAX
  return hidden > 0 ? `${shown} and ${hidden} more` : shown
}
