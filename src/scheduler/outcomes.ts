/** How attempts end, and what follows: results pinned, failures told, lost inputs made again, another try. */
import { entriesOf, inputsOf, jobKey, resolveDerivation } from '../wire/derivation.ts'
import { cidOf, type BlobRef, type Digest } from '../wire/digest.ts'
import type { BytesMoved, LostCause } from '../wire/facts.ts'
import type { ActionResult } from '../wire/result.ts'
import type { Entry } from '../wire/tree.ts'
import type { AttemptOutcome, FinishedAttempt } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { fitsStep } from './match.ts'
import {
  failureOf,
  isLive,
  runnerOf,
  sameOutputs,
  type Attempt,
  type Job,
  type NodeEntry,
  type Step,
} from './model.ts'
import { causeOfLoss } from './poison.ts'
import { voteOf, voteOfAttempt } from './votes.ts'

/** Waits after the first, second ... failure of the infrastructure. */
const RETRY_MS = [250, 1_000, 4_000, 15_000] as const
/** What a subtree had no room for is granted again after this: it has told of its room anew by then. */
const RETURNED_MS = 100
/** Missing inputs of one attempt that are asked about; further ones are met by the next attempt. */
const ASKS_MAX = 64
type Missing = Extract<FinishedAttempt['outcome'], { kind: 'missing' }>

/** Failures of the infrastructure that have a code of their own. */
const TOLD_AS_IS = ['MESH0501', 'MESH0503', 'MESH0504'] as const

const NO_BYTES: BytesMoved = { peer: 0, mirror: 0, local: 0 }

export class Outcomes {
  readonly #core: Core
  /** No lease ends before that. */
  #nextLeaseMs = Number.POSITIVE_INFINITY

  constructor(core: Core) {
    this.#core = core
  }

  /** When a lease may end next; infinity for never. Leases are mostly renewed before that. */
  nextDeadlineMs(): number {
    return this.#nextLeaseMs
  }

  /** A lease runs until then, if it is not renewed. */
  leaseEndsAt(atMs: number): void {
    this.#nextLeaseMs = Math.min(this.#nextLeaseMs, atMs)
  }

  tick(): void {
    if (this.#core.moment.nowMs < this.#nextLeaseMs) return
    this.#nextLeaseMs = Number.POSITIVE_INFINITY
    for (const node of this.#core.nodes.values())
      for (const attempt of [...node.attempts]) this.#expire(node.record.name, attempt)
    const { moment, recoveringUntilMs } = this.#core
    if (moment.nowMs < recoveringUntilMs) this.leaseEndsAt(recoveringUntilMs)
    else for (const attempt of this.#orphans()) this.#expire(attempt.node.name, attempt)
  }

  /** Whether the attempt's userland is that of all who wait for the job now; a late one was begun for others. */
  fitsWaiters(attempt: Attempt): boolean {
    return [...attempt.job.waiters].every((step) =>
      fitsStep(attempt.userland, attempt.system, step),
    )
  }

  endAttempt(
    attempt: Attempt,
    state: 'done' | 'failed' | 'lost' | 'cancelled' | 'superseded',
    error: string | null,
    finished?: FinishedAttempt,
    cause?: LostCause,
  ): void {
    this.#core.fact({
      type: 'ended',
      attempt: attempt.id,
      state,
      error: error?.slice(0, 4096) ?? null,
      usage: finished?.usage ?? null,
      phases: finished?.phases ?? attempt.phases,
      bytes: finished?.bytes ?? NO_BYTES,
      log: logOf(finished?.outcome),
      exitCode: exitCodeOf(finished?.outcome),
      ...(attempt.runner === undefined ? {} : { runner: attempt.runner }),
      ...this.#core.learning.ending(attempt, state, finished),
      ...(cause === undefined ? {} : { cause }),
      atWall: this.#core.moment.wallMs,
    })
    this.#core.poison.ended(attempt, cause)
    this.#core.quarantine.ended(attempt, cause)
    const node = this.#core.nodes.get(attempt.node.peerId)
    if (node !== undefined) {
      this.#core.attendance.release(node, attempt)
      this.#core.effects.push({ type: 'desired', peerId: node.peerId })
    }
    const { job } = attempt
    for (const step of job.waiters) this.#core.effects.push({ type: 'step', step })
    if (state === 'lost') this.#retry(job, error ?? '', cause)
  }

  finish(node: NodeEntry, finished: FinishedAttempt, result: ActionResult | undefined): void {
    const attempt = this.#core.state.attempts.get(finished.attempt)
    if (attempt === undefined) return
    const { outcome } = finished
    if (attempt.node.peerId !== node.peerId) {
      // It came back by way of another node. That it was lost on its old way is no news.
      if (outcome.kind !== 'built' && outcome.kind !== 'failed') return
      if (runnerOf(attempt).peerId !== (finished.runner?.peerId ?? node.peerId)) return
    }
    // An attempt never changes who runs it. A result is signed, whatever else is said must be from who runs it.
    const known = attempt.runner?.peerId
    const told = finished.runner?.peerId
    if (result === undefined && known !== undefined && told !== undefined && told !== known) {
      // Where nobody says any more that he runs it, two have spoken for it, and one of them is wrong.
      if (isLive(attempt) && !node.running.has(attempt.id))
        this.endAttempt(attempt, 'lost', `${node.record.name} told of two who ran it`)
      return
    }
    if (finished.runner !== undefined) attempt.runner = finished.runner
    attempt.confirmed = true
    const isLate = !isLive(attempt)
    if (
      isLate &&
      (attempt.state !== 'lost' || attempt.job.phase === 'closed' || !this.fitsWaiters(attempt))
    ) {
      if (result !== undefined && outcome.kind === 'built') this.#compare(attempt, result)
      return
    }
    // A result is worth keeping even when nobody waits for it any more.
    if (attempt.job.waiters.size === 0 && outcome.kind !== 'built') {
      if (!isLate) this.endAttempt(attempt, 'cancelled', 'nobody needs it any more', finished)
      return
    }
    switch (outcome.kind) {
      case 'built':
        this.#built(attempt, finished, result)
        return
      case 'failed':
        this.#buildFailed(attempt, finished, outcome)
        return
      case 'missing':
        if (!isLate) this.#ask(attempt, finished, outcome)
        return
      case 'infrastructure':
        if (!isLate)
          this.endAttempt(
            attempt,
            'lost',
            `${outcome.code}: ${outcome.message}`,
            finished,
            causeOfFailure(outcome),
          )
        return
      case 'cancelled':
        if (isLate) return
        if (outcome.isHandedBack === true)
          this.endAttempt(
            attempt,
            'lost',
            `${runnerOf(attempt).name} stopped and handed it back`,
            finished,
            'drained',
          )
        else this.endAttempt(attempt, 'lost', `${node.record.name} gave it up`, finished, 'unheard')
        return
      case 'refused':
        if (isLate) return
        this.#core.refusals.add(attempt, node, outcome)
        this.endAttempt(
          attempt,
          'lost',
          `${runnerOf(attempt).name} would not begin it: ${outcome.reason}`,
          finished,
          'refused',
        )
        return
      case 'returned':
        if (!isLate) this.#returned(attempt, finished, outcome.message)
        return
    }
  }

  /** Nobody began it: that is no failure of anybody. */
  #returned(attempt: Attempt, finished: FinishedAttempt, message: string): void {
    const { job } = attempt
    this.endAttempt(attempt, 'cancelled', `${attempt.node.name} gave it back: ${message}`, finished)
    if (job.phase !== 'waiting') return
    job.notBeforeMs = this.#core.moment.nowMs + RETURNED_MS
    this.#core.waiting.enqueue(job)
  }

  #built(attempt: Attempt, finished: FinishedAttempt, result: ActionResult | undefined): void {
    const { job } = attempt
    const expected = job.resolved.outputs
    const isHonest =
      result !== undefined &&
      result.action === attempt.action &&
      result.attempt === attempt.id &&
      result.jobKey === job.key &&
      expected.every((name) => result.outputs[name] !== undefined) &&
      Object.keys(result.outputs).length === expected.length
    if (!isHonest) {
      if (isLive(attempt))
        this.endAttempt(
          attempt,
          'lost',
          `${attempt.node.name} sent a result that is not valid for this attempt`,
          finished,
          'broken',
        )
      return
    }
    // One that nobody waits for any more is kept as what it is: the result of one node.
    if (job.votesWanted > 1 && job.waiters.size > 0) {
      this.#core.verify.built(attempt, finished, result)
      return
    }
    if (finished.outcome.kind === 'built')
      this.#core.effects.push({
        type: 'commit',
        peerId: runnerOf(attempt).peerId,
        result,
        signed: finished.outcome.result,
      })
    this.endAttempt(attempt, 'done', null, finished)
    for (const other of job.attempts)
      if (isLive(other)) this.endAttempt(other, 'superseded', `${attempt.node.name} was first`)
    this.#core.steps.pinAll(job, [...job.waiters], result, false)
    this.#core.audit.finished(job)
  }

  /** A result that came second: equal ones are ignored, a different one is told. */
  #compare(attempt: Attempt, result: ActionResult): void {
    for (const step of attempt.job.shownBy)
      if (
        step.outputs !== undefined &&
        step.action === result.action &&
        !sameOutputs(step.outputs, result.outputs)
      ) {
        const { attempts } = attempt.job
        this.#core.verify.differ(
          'late',
          step,
          voteOfAttempt(
            attempts.findLast(({ state }) => state === 'done'),
            step.outputs,
          ),
          voteOf(runnerOf(attempt), result),
        )
        this.#core.requests.notice(
          step.request,
          `${step.derivation.name} is not reproducible: ${attempt.node.name} got other outputs than those that are used`,
        )
      }
  }

  #buildFailed(
    attempt: Attempt,
    finished: FinishedAttempt,
    told: Extract<FinishedAttempt['outcome'], { kind: 'failed' }>,
  ): void {
    const outcome = this.#core.learning.failed(attempt, finished, told)
    if (outcome === undefined) return
    if (this.#core.verify.failed(attempt, finished, outcome)) return
    const { job } = attempt
    const waiters = [...job.waiters]
    const built = this.#core.verify.otherBuilders(job)
    this.endAttempt(attempt, 'failed', `${outcome.code}: ${outcome.message}`, finished)
    for (const other of job.attempts)
      if (isLive(other)) this.endAttempt(other, 'superseded', `${attempt.node.name} was first`)
    for (const step of waiters) {
      const { limit, exceeded, code } = outcome
      // Whose own limit was not reached waits for another run.
      if (limit !== undefined && ownLimit(step, limit.name) > limit.value) continue
      if (exceeded?.name === 'output' && ownOutputMax(step) > exceeded.value) continue
      if (code === 'MESH0404' && step.derivation.needs.memoryBytes > attempt.memoryBytes) continue
      this.#core.requests.failStep(step, {
        job: step.id,
        name: step.derivation.name,
        code: outcome.code,
        message: `${outcome.message}${built}`,
        node: runnerOf(attempt).name,
        logTail: outcome.logTail,
        ...keptOf(outcome),
      })
    }
    if (job.phase !== 'closed' && job.waiters.size > 0 && !job.attempts.some(isLive))
      this.#core.waiting.enqueue(job)
  }

  /** Whoever is there and should have what was missing is asked first: it may be there and have no way. */
  #ask(attempt: Attempt, finished: FinishedAttempt, outcome: Missing): void {
    if (attempt.missing !== undefined) return
    const asks = outcome.inputs.slice(0, ASKS_MAX).flatMap((digest) => {
      const peers = this.#core.reach.presentHolders(attempt.job, digest, runnerOf(attempt).peerId)
      const entry = entryOf(attempt.job, digest)
      return peers.length === 0 || entry === undefined ? [] : [{ entry, peers }]
    })
    if (asks.length === 0) {
      this.#missing(attempt, finished, outcome, new Map())
      return
    }
    // Its node repeats the outcome until it is acknowledged, and keeps the lease.
    attempt.missing = finished
    this.#core.effects.push({ type: 'check', attempt: attempt.id, asks })
  }

  checked(id: string, held: ReadonlyMap<Digest, readonly string[]>): void {
    const attempt = this.#core.state.attempts.get(id)
    const finished = attempt?.missing
    if (attempt === undefined || finished?.outcome.kind !== 'missing') return
    attempt.missing = undefined
    if (!isLive(attempt)) return
    if (attempt.job.waiters.size === 0)
      this.endAttempt(attempt, 'cancelled', 'nobody needs it any more', finished)
    else this.#missing(attempt, finished, finished.outcome, held)
  }

  /** `held` are the inputs that others have all the same. */
  #missing(
    attempt: Attempt,
    finished: FinishedAttempt,
    outcome: Missing,
    held: ReadonlyMap<Digest, readonly string[]>,
  ): void {
    const { job } = attempt
    for (const holders of held.values())
      for (const holder of holders) this.#core.reach.addNoWay(holder, runnerOf(attempt).peerId)
    const lost = new Set<Digest>()
    for (const digest of outcome.inputs.slice(0, ASKS_MAX))
      if (!held.has(digest) && !this.#core.reach.addAbsent(job, digest)) lost.add(digest)
    // What is there, or away with its node, is not lost: the job waits for a way to it.
    if (lost.size === 0) {
      this.endAttempt(attempt, 'failed', `MESH0501: ${outcome.message}`, finished)
      if (job.phase === 'waiting') this.#core.waiting.enqueue(job)
      return
    }
    const rewinds: { readonly step: Step; readonly producers: readonly Step[] }[] = []
    let isSource = false
    for (const step of job.waiters) {
      // A producer that was run again since may have given another output: then this step is merely late.
      const producers = isResolvedTo(step, job.key) ? producersOf(step, lost) : []
      if (producers === undefined) isSource = true
      else rewinds.push({ step, producers })
    }
    if (!isSource) this.endAttempt(attempt, 'failed', `MESH0501: ${outcome.message}`, finished)
    for (const { step, producers } of rewinds) {
      this.#core.steps.reopen(step)
      if (step.phase !== 'blocked') continue
      const hopeless = producers.find(
        (producer) =>
          producer.phase === 'done' && !this.#core.steps.rewind(producer, outcome.message),
      )
      if (hopeless === undefined) this.#core.steps.open(step)
      else
        this.#core.requests.failStep(
          step,
          failureOf(
            step,
            'MESH0506',
            `${outcome.message}; ${hopeless.derivation.name} was built again ${hopeless.rewinds} times`,
          ),
        )
    }
    if (isSource)
      this.endAttempt(attempt, 'lost', `MESH0501: ${outcome.message}`, finished, 'inputs')
  }

  /** Queues the job again after a failure of the infrastructure, or fails it after too many. */
  #retry(job: Job, error: string, cause: LostCause | undefined): void {
    if (job.phase === 'closed' || job.attempts.some(isLive)) return
    if (this.#core.poison.stop(job)) return
    const code = TOLD_AS_IS.find((known) => error.startsWith(known)) ?? 'MESH0505'
    for (const step of [...job.waiters]) {
      if (job.infraFailures <= step.derivation.run.retries) continue
      const tried = `${job.infraFailures} attempts failed, the last one: ${error}`
      this.#core.requests.failStep(
        step,
        failureOf(step, code, `${step.derivation.name} could not be run: ${tried}`),
      )
    }
    if (job.waiters.size === 0) return
    // Nobody has failed: it runs elsewhere at once, and the time that it was refused is time that it waited.
    if (cause === 'refused' || cause === 'drained') {
      if (cause === 'drained') job.waitingSinceMs = this.#core.moment.nowMs
      this.#core.waiting.enqueue(job)
      return
    }
    job.notBeforeMs =
      this.#core.moment.nowMs + (RETRY_MS[Math.min(job.infraFailures, RETRY_MS.length) - 1] ?? 0)
    job.waitingSinceMs = this.#core.moment.nowMs
    this.#core.waiting.enqueue(job)
  }

  #expire(nodeName: string, attempt: Attempt): void {
    if (!isLive(attempt)) return
    if (attempt.leaseUntilMs > this.#core.moment.nowMs) {
      this.leaseEndsAt(attempt.leaseUntilMs)
      return
    }
    const leftOrderly = this.#core.nodes.get(attempt.node.peerId)?.leftOrderly ?? true
    this.endAttempt(
      attempt,
      'lost',
      `${nodeName} was not heard of before its lease ended`,
      undefined,
      causeOfLoss(attempt, leftOrderly),
    )
  }

  /** Live attempts on nodes that have not come back since the restart. */
  #orphans(): Attempt[] {
    const orphans: Attempt[] = []
    for (const jobs of this.#core.state.openJobs.values())
      for (const job of jobs)
        for (const attempt of job.attempts)
          if (isLive(attempt) && !this.#core.nodes.has(attempt.node.peerId)) orphans.push(attempt)
    return orphans
  }
}

/** A source that no mirror has says nothing about the node that looked for it. */
function causeOfFailure({
  code,
  died,
}: Extract<AttemptOutcome, { kind: 'infrastructure' }>): LostCause {
  if (died === true) return 'died'
  return code === 'MESH0504' ? 'inputs' : 'broken'
}

function ownLimit(step: Step, name: 'timeout' | 'silent' | 'log'): number {
  const { run } = step.derivation
  return name === 'timeout' ? run.timeoutMs : name === 'silent' ? run.maxSilentMs : run.maxLogBytes
}

/** The log of an attempt that was begun and gave no result. */
function logOf(outcome: FinishedAttempt['outcome'] | undefined): BlobRef | null {
  const hasLog =
    outcome?.kind === 'failed' ||
    outcome?.kind === 'infrastructure' ||
    outcome?.kind === 'cancelled'
  return hasLog ? (outcome.log ?? null) : null
}

const ownOutputMax = ({ derivation }: Step): number => derivation.run.maxOutputBytes ?? Infinity

function keptOf({ kept }: Extract<AttemptOutcome, { kind: 'failed' }>): { kept?: string } {
  return kept === undefined || kept.kind === 'symlink' ? {} : { kept: cidOf(kept.digest, 'object') }
}

function exitCodeOf(outcome: FinishedAttempt['outcome'] | undefined): number | null {
  if (outcome?.kind === 'built') return 0
  return outcome?.kind === 'failed' ? outcome.exitCode : null
}

/** An input of the job by its digest. */
function entryOf({ resolved }: Job, digest: Digest): Entry | undefined {
  return entriesOf(resolved).find((entry) => entry.kind !== 'symlink' && entry.digest === digest)
}

/** Whether the step, as its inputs are now, is still what `key` stands for. */
function isResolvedTo(step: Step, key: Digest): boolean {
  const resolved = resolveDerivation(
    step.derivation,
    (name, output) => step.request.steps.get(name)?.outputs?.[output],
  )
  return resolved !== undefined && jobKey(resolved) === key
}

/** The steps whose outputs are the lost inputs of `step`; undefined when one of them is a source. */
function producersOf(step: Step, lost: ReadonlySet<Digest>): Step[] | undefined {
  const producers = new Set<Step>()
  for (const input of inputsOf(step.derivation)) {
    if (input.kind === 'entry') {
      if (input.entry.kind !== 'symlink' && lost.has(input.entry.digest)) return undefined
      continue
    }
    const producer = step.request.steps.get(input.derivation)
    const output = producer?.outputs?.[input.output]
    if (
      producer !== undefined &&
      output !== undefined &&
      output.kind !== 'symlink' &&
      lost.has(output.digest)
    )
      producers.add(producer)
  }
  return producers.size === 0 ? undefined : [...producers]
}
