/**
 * Audits: a share of the finished jobs is built again on idle nodes, at the lowest priority, and compared.
 *
 * An audit is a request of the owner itself with one derivation, whose job has the vote of the first build
 * from the start and wants one more (`verify.ts` does the rest). It never stands in a queue: it is granted
 * when its node is idle, or not made; it is given up as soon as something waits that the node could do; and
 * nothing of it is used. What came of it is journaled, then the request is forgotten.
 */
import { derivedId } from '../base/random.ts'
import type { Derivation } from '../wire/derivation.ts'
import { sha256 } from '../wire/digest.ts'
import type { RequestWire, VoteWire } from '../wire/facts.ts'
import type { Entry } from '../wire/tree.ts'
import type { Core } from './core.ts'
import { makeRequest } from './make-request.ts'
import { canStart, environmentFor, requirementOf } from './match.ts'
import { isLive, type Attempt, type Job, type NodeEntry, type Request } from './model.ts'
import { isAudit, isAuditJob, voteOfAttempt, type Audited } from './votes.ts'

/** Who asks for audits, in lists and shares. */
export const AUDIT_USER = 'audit'
/** How often it is looked whether nodes are idle. */
const LOOK_MS = 5_000
/** Finished jobs that are remembered to be audited; of more the oldest are not. */
const CANDIDATES_MAX = 1_000
/** Of them those that are looked at in one go. */
const LOOKED_AT_MAX = 16
/** Nodes per audit at a time, but one audit at least; and audits at a time whatever the number of nodes. */
const NODES_PER_AUDIT = 20
const AUDITS_MAX = 64
/** How often an audit of one job is begun: it is given up for whatever else there is to do. */
const TRIES_MAX = 5

interface Candidate {
  readonly job: Job
  readonly vote: VoteWire
  /** How often an audit of it was begun and given up. */
  readonly tries: number
}

/** An audit that runs. */
export interface Running {
  readonly request: Request
  /** The job that is audited. */
  readonly of: string
  readonly name: string
  readonly vote: VoteWire
  readonly job: Job
  readonly candidate: Candidate
}

export class Audit {
  readonly #core: Core
  /** Of the finished jobs, from 0 to 1; 0 for no audits. */
  readonly share: number
  /** By action; what finished last is last, and comes first. */
  readonly #candidates = new Map<string, Candidate>()
  /** By id of the request. */
  readonly #running = new Map<string, Running>()
  #lookAtMs = 0

  constructor(core: Core, share: number) {
    this.#core = core
    this.share = share
  }

  get running(): IterableIterator<Running> {
    return this.#running.values()
  }
  get candidateCount(): number {
    return this.#candidates.size
  }

  /** After the replay: audits that ran are given up, and what was finished before may be audited. */
  recover(): void {
    const { requests, finished } = this.#core.state
    for (const request of requests.values())
      if (request.wire.audits !== undefined) this.#drop(request, 'the owner was restarted')
    if (this.share === 0) return
    for (const { steps } of finished)
      for (const { job } of steps.values()) if (job !== undefined) this.finished(job)
  }

  /** The job has a result that is used. */
  finished(job: Job): void {
    if (this.share === 0) return
    const { resolved } = job
    if (!resolved.sealed || resolved.network || resolved.fetch !== undefined) return
    const attempt = job.attempts.findLast(({ state }) => state === 'done')
    const user = [...job.shownBy].find((step) => step.action === attempt?.action)
    const vote = voteOfAttempt(attempt, user?.outputs)
    if (attempt === undefined || vote === undefined || user === undefined || isAudit(user)) return
    const { audited, agreements } = this.#core.state.comparisons
    // What was compared once is not compared again.
    if (audited.has(vote.action) || agreements.has(vote.action)) return
    if (!isDrawn(attempt, this.share)) return
    this.#remember({ job, vote, tries: 0 })
  }

  #remember(candidate: Candidate): void {
    const { action } = candidate.vote
    this.#candidates.delete(action)
    this.#candidates.set(action, candidate)
    if (this.#candidates.size <= CANDIDATES_MAX) return
    const [oldest] = this.#candidates.keys()
    if (oldest !== undefined) this.#candidates.delete(oldest)
  }

  /** Whether the waiting job is an audit's, and none of the queues. */
  keeps(job: Job): boolean {
    return this.#running.size > 0 && isAuditJob(job)
  }

  /** Infinity for never. */
  nextDeadlineMs(): number {
    return this.#candidates.size === 0 ? Number.POSITIVE_INFINITY : this.#lookAtMs
  }

  tick(): void {
    const { nowMs } = this.#core.moment
    if (this.#candidates.size === 0 || nowMs < this.#lookAtMs) return
    this.#lookAtMs = nowMs + LOOK_MS
    const nodes = [...this.#core.nodes.values()].filter(({ connected }) => connected)
    const countMax = Math.min(AUDITS_MAX, Math.max(1, Math.floor(nodes.length / NODES_PER_AUDIT)))
    const idle = nodes.filter((node) => isIdle(node) && !this.#isWanted(node))
    for (const [action, candidate] of [...this.#candidates].slice(-LOOKED_AT_MAX).toReversed()) {
      if (this.#running.size >= countMax || idle.length === 0) return
      if (this.#begin(candidate, idle)) this.#candidates.delete(action)
    }
  }

  /** Gives up what stands in the way of work, and what has ended otherwise than by a comparison. */
  plan(): void {
    for (const { request, job } of [...this.#running.values()]) {
      const attempt = job.attempts.find(isLive)
      const node = attempt === undefined ? undefined : this.#core.nodes.get(attempt.node.peerId)
      if (attempt === undefined || request.state !== 'active')
        this.#giveUp(request, 'it could not be run')
      else if (node !== undefined && this.#isWanted(node))
        this.#giveUp(request, 'its node has work to do')
    }
  }

  /** It is tried again some time, a few times. */
  #giveUp(request: Request, why: string): void {
    const candidate = this.#running.get(request.wire.id)?.candidate
    this.#drop(request, why)
    if (candidate === undefined || candidate.tries + 1 >= TRIES_MAX) return
    this.#remember({ ...candidate, tries: candidate.tries + 1 })
  }

  /** Whether something waits that the node could do if it had room. */
  #isWanted(node: NodeEntry): boolean {
    const seat = this.#core.profiles.seatOf(node)
    return seat !== undefined && this.#core.stragglers.isWanted(seat)
  }

  /** False when none of the idle nodes will do. */
  #begin(candidate: Candidate, idle: NodeEntry[]): boolean {
    const { job: audited, vote } = candidate
    const { moment } = this.#core
    const [user] = audited.shownBy
    // Forgotten meanwhile, or audited under another job of the same action.
    if (user === undefined || this.#core.state.comparisons.audited.has(vote.action)) return true
    const derivation = derivationOf(audited, user.derivation)
    const id = derivedId('r', `audit/${audited.id}/${moment.wallMs}`)
    const wire: RequestWire = {
      id,
      user: AUDIT_USER,
      // Who built it has what it was built from.
      entry: vote.node,
      graph: {
        v: 1,
        name: `audit of ${derivation.name}`,
        derivations: [derivation],
        wanted: [derivation.name],
      },
      priority: 0,
      keepGoing: false,
      noWait: false,
      audits: { job: audited.id, vote },
      submittedAtWall: moment.wallMs,
    }
    const node = this.#choose(audited, wire, vote, idle)
    if (node === undefined) return false
    this.#core.fact({ type: 'accepted', request: wire })
    this.#core.fact({ type: 'detachable', request: id })
    const request = this.#core.state.requests.get(id)
    const step = request?.steps.get(derivation.name)
    if (request === undefined || step === undefined) return true
    this.#core.fact({
      type: 'joined',
      request: id,
      derivation: derivation.name,
      job: step.id,
      key: audited.key,
    })
    const { job } = step
    if (job === undefined) return true
    this.#core.fact({ type: 'voted', job: job.id, vote })
    idle.splice(idle.indexOf(node), 1)
    this.#running.set(id, { request, of: audited.id, name: derivation.name, vote, job, candidate })
    this.#core.waiting.grant(job, node, requirementOf(job.waiters))
    return true
  }

  /** An idle node that can build it just as it was built, on another machine than that was if there is one. */
  #choose(
    audited: Job,
    wire: RequestWire,
    vote: VoteWire,
    idle: readonly NodeEntry[],
  ): NodeEntry | undefined {
    const requirement = requirementOf(makeRequest(wire, 0).steps.values())
    const { builders, reach } = this.#core
    const fitting = idle.filter(
      (node) =>
        node.peerId !== vote.node.peerId &&
        canStart(requirement, node) &&
        environmentFor(requirement, node)?.system === vote.system &&
        reach.obstacle(audited, node, vote) === undefined,
    )
    return fitting.find((node) => !builders.areNear(vote.node.peerId, node)) ?? fitting[0]
  }

  /** The comparison is made. */
  ended(job: Job, outcome: Audited['outcome']): void {
    const [step] = job.waiters
    const audits = step?.request.wire.audits
    const last = job.votes.at(-1)
    if (step === undefined || audits === undefined || last === undefined) return
    const { moment, state } = this.#core
    const { name } = step.derivation
    if (outcome !== 'equal') {
      const of = state.jobs.get(audits.job)
      const [user] = of?.shownBy ?? []
      this.#core.fact({
        type: 'diverged',
        job: audits.job,
        name,
        request: user?.request.wire.id ?? step.request.wire.id,
        found: 'audit',
        votes: [...job.votes],
        atWall: moment.wallMs,
      })
      this.#core.verify.keep(job.votes)
    }
    const { action } = audits.vote
    const { node } = last
    this.#core.fact({
      type: 'audited',
      job: audits.job,
      name,
      action,
      node,
      outcome,
      atWall: moment.wallMs,
    })
    this.#drop(step.request, 'it is compared')
  }

  /** Ends what of it runs, and forgets it. */
  #drop(request: Request, why: string): void {
    const { id } = request.wire
    this.#running.delete(id)
    for (const { job } of request.steps.values())
      for (const attempt of job?.attempts ?? [])
        if (isLive(attempt))
          this.#core.outcomes.endAttempt(attempt, 'cancelled', `the audit is over: ${why}`)
    if (request.state === 'active')
      this.#core.fact({
        type: 'closed',
        request: id,
        state: 'done',
        rootBytes: 0,
        atWall: this.#core.moment.wallMs,
      })
    this.#core.fact({ type: 'evicted', request: id })
  }
}

/** It does nothing, and speaks for itself alone: who of a subtree is idle is not known here. */
function isIdle({ state, attempts, relayed, bundle, environments }: NodeEntry): boolean {
  return (
    state === 'ready' &&
    bundle === undefined &&
    environments.length > 0 &&
    attempts.size === 0 &&
    relayed.size === 0
  )
}

/** Chosen by lot, which nobody can know before the end of the attempt, and which falls alike in a replay. */
function isDrawn({ id, endedAtWall }: Attempt, share: number): boolean {
  const lot = Number.parseInt(sha256(`audit ${id} ${endedAtWall ?? 0}`).slice(0, 8), 16)
  return lot < share * 2 ** 32
}

/** What gives the same key, with every input as it was resolved. */
function derivationOf({ resolved }: Job, { name, needs, run }: Derivation): Derivation {
  const entries = (inputs: Readonly<Record<string, Entry>>): Derivation['inputs'] =>
    Object.fromEntries(
      Object.entries(inputs).map(([variable, entry]) => [variable, { kind: 'entry', entry }]),
    )
  const layers = (image: readonly Entry[] | undefined): Pick<Derivation, 'image'> =>
    image === undefined ? {} : { image: image.map((entry) => ({ kind: 'entry', entry })) }
  const { builder, args, env, outputs, system, hosts, network, sealed, tools } = resolved
  return {
    name,
    builder,
    args,
    env,
    inputs: entries(resolved.inputs),
    outputs,
    system,
    hosts,
    ...layers(resolved.image),
    variants: resolved.variants.map(({ inputs, image, ...variant }) => ({
      ...variant,
      inputs: entries(inputs),
      ...layers(image),
    })),
    network,
    sealed,
    tools,
    needs,
    run: { ...run, verify: 2 },
  }
}
