/**
 * What nodes would not begin: their own checks said so, for this job, for its derivation's name, or for
 * whatever comes. A refused job waits for another node, and for this one until the refusal is over.
 *
 * Volatile: an owner that was restarted asks once more. A node that was restarted may have other checks, and
 * is asked anew.
 */
import type { AttemptOutcome } from '../wire/work-messages.ts'
import { REFUSAL_MS_MAX } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { NOBODY, type Attempt, type Job, type NodeEntry, type Refusal } from './model.ts'

/** Refusals that are remembered; of more the oldest goes, and its node is asked again. */
const REFUSALS_MAX = 10_000
/** A node that refuses for less is not asked again before this, so that asking does not go round in circles. */
const REFUSAL_MS_MIN = 1_000
/** A subtree in which a node has refused gets the job again after this: another node of it may take it. */
const SUBTREE_MS = 30_000

type Outcome = Extract<AttemptOutcome, { kind: 'refused' }>

interface Kept extends Refusal {
  readonly scope: string
  readonly peerId: string
}

const ALL = 'all'
const scopeOfJob = (job: Job): string => `job ${job.key}`
const scopeOfName = (name: string): string => `name ${name}`

export class Refusals {
  readonly #core: Core
  /** By scope and peer id; the oldest first. */
  readonly #kept = new Map<string, Kept>()
  /** By scope: peer ids. */
  readonly #byScope = new Map<string, Map<string, Kept>>()
  /** Waiting jobs that are kept from some node. */
  readonly #barred = new Set<Job>()
  /** When the first refusal is over; infinity for never. */
  nextDeadlineMs = Number.POSITIVE_INFINITY

  constructor(core: Core) {
    this.#core = core
  }

  /** Takes in that the attempt was refused where it ran. */
  add(attempt: Attempt, node: NodeEntry, { scope, reason, forMs }: Outcome): void {
    const { job, runner } = attempt
    const untilMs =
      this.#core.moment.nowMs + Math.min(REFUSAL_MS_MAX, Math.max(REFUSAL_MS_MIN, forMs))
    const by = runner ?? { peerId: node.peerId, name: node.record.name }
    const kept = { node: by.name, reason, untilMs, peerId: by.peerId }
    switch (scope) {
      case 'job':
        this.#keep({ ...kept, scope: scopeOfJob(job) })
        break
      case 'name': {
        // The lease went by the name of the first who waited; others of the job may call it otherwise.
        const [first] = job.waiters
        if (first !== undefined) this.#keep({ ...kept, scope: scopeOfName(first.derivation.name) })
        this.#keep({ ...kept, scope: scopeOfJob(job) })
        break
      }
      case 'all':
        this.#keep({ ...kept, scope: ALL })
        break
    }
    // Only the level that sees the node can pass it over; from here its whole subtree is left alone for a while.
    if (by.peerId !== node.peerId)
      this.#keep({
        ...kept,
        peerId: node.peerId,
        scope: scopeOfJob(job),
        untilMs: Math.min(untilMs, this.#core.moment.nowMs + SUBTREE_MS),
      })
    const refuser = this.#core.nodes.get(by.peerId)
    if (refuser !== undefined) this.#core.standing.refresh(refuser)
  }

  /** Why the node takes nothing at all. */
  ofNode(peerId: string): Refusal | undefined {
    return this.#byScope.get(ALL)?.get(peerId)
  }

  /** Why the node would not begin the job. */
  of(job: Job, peerId: string): Refusal | undefined {
    for (const scope of this.#scopesOf(job)) {
      const refusal = this.#byScope.get(scope)?.get(peerId)
      if (refusal !== undefined) return refusal
    }
    return this.ofNode(peerId)
  }

  /** Notes at the job which nodes it is kept from. Called whenever it is queued. */
  mark(job: Job): void {
    const found = new Map<string, Refusal>()
    if (this.#kept.size > 0)
      for (const scope of this.#scopesOf(job))
        for (const [peerId, refusal] of this.#byScope.get(scope) ?? []) found.set(peerId, refusal)
    job.refusedBy = found.size === 0 ? NOBODY : found
    if (found.size === 0) this.#barred.delete(job)
    else this.#barred.add(job)
  }

  /** Whether the node has come to refuse the job since that was queued. */
  hasNew(job: Job, peerId: string): boolean {
    if (this.#kept.size === 0 || job.refusedBy.has(peerId)) return false
    return this.#scopesOf(job).some((scope) => this.#byScope.get(scope)?.has(peerId) === true)
  }

  /** The node has begun a new life. */
  forget(peerId: string): void {
    for (const kept of [...this.#kept.values()]) if (kept.peerId === peerId) this.#drop(kept)
    this.#requeue()
  }

  tick(): void {
    const { nowMs } = this.#core.moment
    if (nowMs < this.nextDeadlineMs) return
    this.nextDeadlineMs = Number.POSITIVE_INFINITY
    for (const kept of [...this.#kept.values()]) {
      if (kept.untilMs <= nowMs) this.#drop(kept)
      else this.nextDeadlineMs = Math.min(this.nextDeadlineMs, kept.untilMs)
    }
    this.#requeue()
  }

  #scopesOf(job: Job): string[] {
    const scopes = new Set([scopeOfJob(job)])
    for (const { derivation } of job.waiters) scopes.add(scopeOfName(derivation.name))
    return [...scopes]
  }

  #keep(kept: Kept): void {
    const id = `${kept.scope} ${kept.peerId}`
    this.#kept.delete(id)
    this.#kept.set(id, kept)
    const scope = this.#byScope.get(kept.scope) ?? new Map<string, Kept>()
    scope.set(kept.peerId, kept)
    this.#byScope.set(kept.scope, scope)
    this.nextDeadlineMs = Math.min(this.nextDeadlineMs, kept.untilMs)
    const [oldest] = this.#kept.values()
    if (this.#kept.size > REFUSALS_MAX && oldest !== undefined) this.#drop(oldest)
  }

  #drop(kept: Kept): void {
    this.#kept.delete(`${kept.scope} ${kept.peerId}`)
    const scope = this.#byScope.get(kept.scope)
    scope?.delete(kept.peerId)
    if (scope?.size === 0) this.#byScope.delete(kept.scope)
    const node = this.#core.nodes.get(kept.peerId)
    if (kept.scope === ALL && node !== undefined) this.#core.standing.refresh(node)
  }

  /** Those that a refusal which is over kept from a node stand where they belong now. */
  #requeue(): void {
    for (const job of [...this.#barred]) {
      if (job.phase !== 'waiting' || job.waiters.size === 0) {
        this.#barred.delete(job)
        continue
      }
      const isOver = [...job.refusedBy.keys()].some(
        (peerId) => !this.#scopesOf(job).some((scope) => this.#byScope.get(scope)?.has(peerId)),
      )
      if (isOver) this.#core.waiting.enqueue(job)
    }
  }
}
