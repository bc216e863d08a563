/**
 * Builds that several different nodes are to make, and that are compared (`run.verify`).
 *
 * Each result is a vote. The first build is granted like any other; further ones begin at once on nodes that
 * nothing else wants (builders.ts), or else when the job's turn in its queue comes again. With enough equal
 * votes one result is committed; the first that differs ends the job for all who asked for a comparison.
 * Whoever waits for the same job and asked for one build takes the first vote.
 */
import { VERIFY_MAX } from '../wire/derivation.ts'
import type { VoteWire } from '../wire/facts.ts'
import type { ActionResult } from '../wire/result.ts'
import { blobOf, type Entry } from '../wire/tree.ts'
import type { FinishedAttempt } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { fitsStep } from './match.ts'
import {
  failureOf,
  isLive,
  runnerOf,
  sameOutputs,
  type Attempt,
  type Job,
  type Step,
} from './model.ts'
import {
  differingOutputs,
  dissenterOf,
  hasVoted,
  isAuditJob,
  voteOf,
  votesWantedBy,
} from './votes.ts'

type Failed = Extract<FinishedAttempt['outcome'], { kind: 'failed' }>

/**
 * Failures of the build's own making: one beside a success says that the build is not reproducible. Limits,
 * memory and programs that are not there say something of the node.
 */
const OWN_FAILURES: readonly Failed['code'][] = ['MESH0401', 'MESH0403', 'MESH0408']

export class Verify {
  readonly #core: Core
  #copyCount = 0

  constructor(core: Core) {
    this.#core = core
  }

  // ---- joining

  /** Whether something that the job's votes were built with may be mixed into the step's request. */
  fits(step: Step, job: Job): boolean {
    return job.votes.every(({ userland, system }) => fitsStep(userland, system, step))
  }

  /** A step has begun to wait at the job: what it asks for may be there already, or be more than before. */
  joined(step: Step, job: Job): void {
    const [first] = job.votes
    if (first !== undefined) {
      this.#core.steps.bind([step], first.system, first.userland)
      this.settle(job)
    }
    this.#core.builders.watch(job)
  }

  /** A result that is stored: with enough votes it is all it takes, else it counts for those who made it. */
  lookedUp(job: Job, takers: ReadonlySet<Step>, result: ActionResult): void {
    if (job.votesWanted <= 1 || job.waiters.size === 0 || job.votes.length > 0) return
    // What is built for all of them together is built in one environment.
    if ([...job.waiters].some((step) => !takers.has(step))) return
    const votes = this.#storedVotes(result)
    // With too few nodes that could add to them, others may still do all of it in another environment.
    const isStuck = !this.#couldGoOn(job, result, votes)
    if (isStuck && this.#core.builders.areEnough([...job.waiters], undefined)) return
    for (const vote of votes.slice(0, job.votesWanted))
      this.#core.fact({ type: 'voted', job: job.id, vote })
    const enough = [...job.waiters].filter((step) => votesWantedBy(step) <= job.votes.length)
    this.#core.steps.pinAll(job, enough, result, true, job.votes.length)
    this.#core.steps.bind(job.waiters, result.builder.system, result.userland)
  }

  /** Who made the stored result: one node, or all that are known to have agreed on it. */
  #storedVotes(result: ActionResult): readonly VoteWire[] {
    const agreed = this.#core.state.comparisons.agreements.get(result.action)
    const [first] = agreed ?? []
    const isSame =
      first?.outputs !== undefined &&
      first.outputs !== null &&
      sameOutputs(first.outputs, result.outputs)
    return agreed !== undefined && isSame ? agreed : [voteOf(result.builder, result)]
  }

  /** Whether enough other nodes have the userland of the stored result, for more builds that are comparable. */
  #couldGoOn(job: Job, { builder, userland }: ActionResult, votes: readonly VoteWire[]): boolean {
    const missing = job.votesWanted - votes.length
    if (missing <= 0) return true
    if (userland === null && builder.isolation !== 'image') return false
    const builders = new Set(votes.map(({ node }) => node.peerId))
    const { system } = builder
    return this.#core.builders.couldAdd([...job.waiters], missing, { system, userland, builders })
  }

  // ---- outcomes

  /** Takes an honest result of an attempt of a job that several nodes are to build. */
  built(attempt: Attempt, finished: FinishedAttempt, result: ActionResult): void {
    const { job } = attempt
    const { outcomes } = this.#core
    const runner = runnerOf(attempt)
    const vote = voteOf(runner, result)
    const [first] = job.votes
    if (hasVoted(job, vote) || (first !== undefined && first.action !== vote.action)) {
      if (isLive(attempt))
        outcomes.endAttempt(
          attempt,
          'lost',
          `${runner.name} gave a result that cannot be compared: ${hasVoted(job, vote) ? 'it has built it before' : 'it was built in another environment'}`,
          finished,
        )
      return
    }
    this.#core.fact({ type: 'voted', job: job.id, vote })
    this.#core.effects.push({ type: 'found', peerId: runner.peerId, result })
    outcomes.endAttempt(attempt, 'done', null, finished)
    const isComplete = job.votes.length >= job.votesWanted && dissenterOf(job.votes) === undefined
    if (isComplete && finished.outcome.kind === 'built' && !isAuditJob(job))
      this.#core.effects.push({
        type: 'commit',
        peerId: runner.peerId,
        result,
        signed: finished.outcome.result,
      })
    this.settle(job)
    if (job.phase === 'waiting' && job.waiters.size > 0) this.#core.waiting.enqueue(job)
  }

  /** The build failed on one node: true when another has built it, so that the two do not agree. */
  failed(attempt: Attempt, finished: FinishedAttempt, outcome: Failed): boolean {
    const { job } = attempt
    if (job.votesWanted <= 1 || job.votes.length === 0) return false
    const node = runnerOf(attempt)
    if (!OWN_FAILURES.includes(outcome.code)) return false
    const { action, system, userland } = attempt
    const { code, message, log } = outcome
    const error = `${code}: ${message}`.slice(0, 1024)
    const vote: VoteWire = {
      attempt: attempt.id,
      node,
      action,
      system,
      userland,
      outputs: null,
      error,
      log,
    }
    this.#core.fact({ type: 'voted', job: job.id, vote })
    this.#core.outcomes.endAttempt(attempt, 'failed', error, finished)
    this.#diverge(job, outcome.logTail)
    return true
  }

  /** Who has built what fails elsewhere, in words; empty where nobody has. */
  otherBuilders(job: Job): string {
    const names = job.votes.map(({ node }) => node.name)
    return names.length === 0 ? '' : ` (it was built on ${names.join(', ')})`
  }

  /** After the replay: a crash may have come between a vote and what follows from it. */
  recover(job: Job): void {
    this.settle(job)
    if (job.phase === 'leased') this.#core.builders.watch(job)
  }

  /** Gives the result to those whose votes are there, or tells that there is no such thing as the result. */
  settle(job: Job): void {
    const { votes } = job
    const [first] = votes
    if (job.phase === 'closed' || first === undefined) return
    if (dissenterOf(votes) !== undefined) {
      this.#diverge(job, '')
      return
    }
    const takers = [...job.waiters].filter((step) => votesWantedBy(step) <= votes.length)
    if (takers.length === 0 || first.outputs === null) return
    if (isAuditJob(job)) {
      this.#core.audit.ended(job, 'equal')
      return
    }
    if (votes.length > 1)
      this.#core.fact({ type: 'verified', action: first.action, votes: [...votes] })
    const { action, outputs, userland, log, node, system } = first
    const made = { action, outputs, userland, exitCode: 0, log, builder: { ...node, system } }
    this.#core.steps.pinAll(job, takers, made, false, votes.length)
    if (job.waiters.size === 0) this.#endOthers(job, 'enough nodes have built it')
  }

  #endOthers(job: Job, why: string): void {
    for (const attempt of job.attempts)
      if (isLive(attempt)) this.#core.outcomes.endAttempt(attempt, 'superseded', why)
  }

  #diverge(job: Job, logTail: string): void {
    const { votes } = job
    const [first] = votes
    const dissenter = dissenterOf(votes)
    const [waiter] = job.waiters
    if (first === undefined || dissenter === undefined || waiter === undefined) return
    const waiters = [...job.waiters]
    if (isAuditJob(job)) {
      this.#core.audit.ended(job, dissenter.outputs === null ? 'failed' : 'different')
      return
    }
    this.#core.fact({
      type: 'diverged',
      job: job.id,
      name: waiter.derivation.name,
      request: waiter.request.wire.id,
      found: 'verify',
      votes: [...votes],
      atWall: this.#core.moment.wallMs,
    })
    this.keep([first, dissenter])
    for (const step of waiters)
      this.#core.requests.failStep(step, {
        ...failureOf(step, 'MESH0405', messageOf(step, first, dissenter)),
        logTail,
      })
    this.#endOthers(job, 'the outputs differ already')
  }

  /** Two runs of one action gave different outputs, and nobody had asked for a comparison. */
  differ(
    found: 'late' | 'rebuilt',
    step: Step,
    used: VoteWire | undefined,
    other: VoteWire | undefined,
  ): void {
    const { job } = step
    if (job === undefined || used === undefined || other === undefined) return
    if (used.action !== other.action || used.attempt === other.attempt) return
    const before = this.#core.state.comparisons.divergences.get(job.id)?.votes ?? [used]
    if (before.some(({ attempt }) => attempt === other.attempt)) return
    this.#core.fact({
      type: 'diverged',
      job: job.id,
      name: step.derivation.name,
      request: step.request.wire.id,
      found,
      votes: [...before, other].slice(0, VERIFY_MAX),
      atWall: this.#core.moment.wallMs,
    })
    this.keep([used, other])
  }

  /** Both results stay: what no store node has is copied to one, as well as that can be done. */
  keep(votes: readonly VoteWire[]): void {
    const stores = [...this.#core.nodes.values()].filter(
      ({ connected, record, state }) =>
        connected && record.roles.includes('store') && state !== 'full',
    )
    for (const { node, outputs } of votes) {
      if (this.#core.recordOf(node.peerId)?.roles.includes('store') === true) continue
      const [store] = stores
      const entries = Object.values(outputs ?? {}).filter((entry: Entry) => blobOf(entry))
      if (store === undefined || entries.length === 0) continue
      this.#copyCount += 1
      this.#core.effects.push({
        type: 'copy',
        copy: { id: `v-${this.#copyCount}`, entries, from: [node.peerId], to: store.peerId },
      })
    }
  }
}

function messageOf(step: Step, first: VoteWire, dissenter: VoteWire): string {
  const head = `verify=${votesWantedBy(step)}`
  const attempts = [...step.earlier, ...(step.job === undefined ? [] : [step.job])].flatMap(
    (job) => job.attempts,
  )
  const logs = [first, dissenter].flatMap(({ attempt }) => {
    const at = attempts.findIndex(({ id }) => id === attempt)
    return at === -1 ? [] : [`mesh logs ${step.id} --attempt ${at + 1}`]
  })
  if (first.outputs === null || dissenter.outputs === null) {
    const [good, bad] = first.outputs === null ? [dissenter, first] : [first, dissenter]
    return `${head}: ${good.node.name} built it, and on ${bad.node.name} it failed (${bad.error ?? ''}); logs: ${logs.join(', ')}`
  }
  const names = differingOutputs(first.outputs, dissenter.outputs).map((name) => `"${name}"`)
  return `${head}: ${first.node.name} and ${dissenter.node.name} produced different ${names.join(', ')}; both are kept: mesh jobs diff ${step.id}`
}
