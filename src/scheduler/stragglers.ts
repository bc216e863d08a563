/**
 * A second run of what takes much longer than it should, on another and faster node, while nothing else
 * wants that node. Whichever ends first counts, the other is ended.
 */
import { actionDigest, makeAction } from '../wire/action.ts'
import type { Core } from './core.ts'
import { cpusOf } from './subtree-offer.ts'
import { environmentFor, userlandOfJob } from './match.ts'
import { barredFrom, isLive, type Attempt, type NodeEntry } from './model.ts'
import { isOpen, roomOf, type Seat } from './kinds.ts'
import { bigInputsOf, transferMs } from './transfer.ts'
import { fingerprintFor } from './waiting.ts'

/** A run is late after so many times what nine of ten take, and after this at the soonest. */
const LATE_FACTOR = 1.5
export const LATE_MS_MIN = 30_000
/** Runs that an expectation must rest on. */
const SAMPLES_MIN = 3
/** A node that is so much faster is worth it; any other must be expected to end sooner. */
const FASTER_FACTOR = 1.2
/** The part of all processors that second runs may take; one run may be in any case. */
const DUPLICATES_PART = 0.05
/** Late runs that are looked at in one sweep; the others have their turn in the next. */
const LATE_MAX = 64

export class Stragglers {
  readonly #core: Core
  /** Second runs that were begun; those that have ended are dropped at each sweep. */
  readonly #duplicates = new Set<Attempt>()

  constructor(core: Core) {
    this.#core = core
  }

  isDuplicate(attempt: Attempt): boolean {
    return this.#duplicates.has(attempt)
  }

  /** Begins second runs of what is late. */
  sweep(): void {
    for (const attempt of this.#duplicates) if (!isLive(attempt)) this.#duplicates.delete(attempt)
    const { nodes } = this.#core
    let totalCpus = 0
    for (const node of nodes.values()) if (isOpen(node)) totalCpus += cpusOf(node).total
    let looked = 0
    for (const node of nodes.values())
      for (const attempt of node.attempts) {
        if (looked >= LATE_MAX || !this.#isLate(attempt, node)) continue
        looked += 1
        if (!this.#hasRoomFor(attempt.cpus, totalCpus)) return
        this.#duplicate(attempt, node)
      }
  }

  #hasRoomFor(cpus: number, totalCpus: number): boolean {
    if (this.#duplicates.size === 0) return true
    let used = cpus
    for (const attempt of this.#duplicates) used += attempt.cpus
    return used <= totalCpus * DUPLICATES_PART
  }

  /** It runs alone, in a closed environment, for much longer than it should. */
  #isLate(attempt: Attempt, { speed, bundle }: NodeEntry): boolean {
    const { job } = attempt
    // How fast whoever runs it in a subtree is, only the subtree knows.
    if (bundle !== undefined) return false
    if (!isLive(attempt) || attempt.isolation === 'host') return false
    if (attempt.userland === null && attempt.isolation !== 'image') return false
    if (job.phase !== 'leased' || job.votesWanted > 1 || job.waiters.size === 0) return false
    const forMs = this.#core.moment.nowMs - this.#core.forecast.begunMs(attempt)
    if (forMs <= LATE_MS_MIN) return false
    if (job.attempts.some((other) => other !== attempt && isLive(other))) return false
    const [step] = job.waiters
    if (step === undefined) return false
    const { durationP90Ms, sampleCount } = this.#core.state.estimates.of(
      step.derivation,
      attempt.machine !== undefined,
    )
    return sampleCount >= SAMPLES_MIN && forMs > (LATE_FACTOR * durationP90Ms) / speed
  }

  #duplicate(attempt: Attempt, slow: NodeEntry): void {
    const { job } = attempt
    const requirement = this.#core.queues.requirementOf(job)
    const need = roomOf(requirement)
    const barred = new Set([...barredFrom(job), ...job.avoid, slow.peerId])
    const inputs = bigInputsOf(this.#core, job, undefined)
    const [step] = job.waiters
    if (step === undefined) return
    const { estimates } = this.#core.state
    const { durationMs } = estimates.of(step.derivation)
    const emulationSpeed = estimates.emulationSpeedOf(step.derivation)
    const slowSpeed = slow.speed * (attempt.machine === undefined ? 1 : emulationSpeed)
    const leftMs = this.#core.forecast.endMs(attempt, slow) - this.#core.moment.nowMs
    let best: { seat: Seat; forMs: number } | undefined
    for (const kind of this.#core.profiles.kindsFor(requirement)) {
      const found = kind.rooms.best(need, ({ node }) => !barred.has(node.peerId))
      if (found === undefined) continue
      const speed = this.#core.profiles.speedOf(requirement, kind, emulationSpeed)
      const forMs = transferMs(inputs, found.member.node.peerId) + durationMs / speed
      if (speed < slowSpeed * FASTER_FACTOR && forMs >= leftMs) continue
      if (best === undefined || forMs < best.forMs) best = { seat: found.member, forMs }
    }
    if (best === undefined || this.isWanted(best.seat)) return
    const { node } = best.seat
    const environment = environmentFor(requirement, node)
    if (environment === undefined || environment.isolation === 'host') return
    // Only the same action gives the same result.
    const fingerprint = fingerprintFor(requirement.isFetch, environment, requirement.tools)
    const isImage = environment.isolation === 'image'
    if (!isImage && userlandOfJob(requirement, environment) === null) return
    if (actionDigest(makeAction(job.resolved, environment, fingerprint)) !== attempt.action) return
    if (this.#core.reach.obstacle(job, node, environment) !== undefined) return
    this.#core.waiting.grant(job, node, requirement, environment)
    const second = job.attempts.at(-1)
    if (second !== undefined && second !== attempt) this.#duplicates.add(second)
    this.#core.matcher.settle()
  }

  /** Whether something waits that the node could run, now or with more room. */
  isWanted(seat: Seat): boolean {
    for (const home of this.#core.queues.all) {
      if (home.isEmpty || home.cut.has(seat.node.peerId)) continue
      const need = roomOf(home.requirement)
      if (seat.capacity.cpus < need.cpus || seat.capacity.memoryBytes < need.memoryBytes) continue
      if (this.#core.profiles.fitOf(home.requirement, seat).isNow) return true
    }
    return false
  }
}
