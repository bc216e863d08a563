/**
 * What is remembered of builds that were compared: the votes of a job, actions that several nodes agree on,
 * divergences, and which finished jobs were audited. Durable: changed by facts alone, through `State.evolve`.
 */
import { BUILTIN_FETCH } from '../wire/derivation.ts'
import type { Digest } from '../wire/digest.ts'
import type { Fact, NodeRef, VoteWire } from '../wire/facts.ts'
import type { ActionResult } from '../wire/result.ts'
import type { Entry } from '../wire/tree.ts'
import { runnerOf, sameOutputs, type Attempt, type Job, type Step } from './model.ts'

/** Divergences that are kept; of more the oldest are forgotten. */
const DIVERGENCES_MAX = 1_000
/** Actions whose agreement is remembered; one that is forgotten is compared anew when somebody asks for that. */
const AGREEMENTS_MAX = 10_000
/** Audited actions that are remembered; one that is forgotten may be audited again. */
const AUDITED_MAX = 10_000

type FactOf<T extends Fact['type']> = Extract<Fact, { type: T }>
export type Divergence = FactOf<'diverged'>
export type Audited = FactOf<'audited'>

/** Different nodes that the step is to be built by. A source has the declared digest, whoever fetches it. */
export function votesWantedBy({ derivation }: Step): number {
  return derivation.builder === BUILTIN_FETCH ? 1 : (derivation.run.verify ?? 1)
}

/** Whether it is the owner's own request to build something again. */
export function isAudit({ request }: Step): boolean {
  return request.wire.audits !== undefined
}

/** Whether it is an audit that the job is run for: nobody else waits for one. */
export function isAuditJob({ waiters }: Job): boolean {
  for (const step of waiters) return isAudit(step)
  return false
}

/** The vote that is not like the first one; undefined while all agree. A failure is not like a success. */
export function dissenterOf(votes: readonly VoteWire[]): VoteWire | undefined {
  const [first] = votes
  return first === undefined ? undefined : votes.find((vote) => !sameVote(first, vote))
}

function sameVote(a: VoteWire, b: VoteWire): boolean {
  if (a.outputs === null || b.outputs === null) return a.outputs === b.outputs
  return sameOutputs(a.outputs, b.outputs)
}

/** Names of the outputs in which the two differ, sorted. */
export function differingOutputs(
  a: Readonly<Record<string, Entry>>,
  b: Readonly<Record<string, Entry>>,
): string[] {
  const names = new Set([...Object.keys(a), ...Object.keys(b)])
  const only = (from: typeof a, name: string): Record<string, Entry> => {
    const entry = from[name]
    return entry === undefined ? {} : { [name]: entry }
  }
  return [...names].filter((name) => !sameOutputs(only(a, name), only(b, name))).toSorted()
}

/** What a result says, as a vote of the node that made it. */
export function voteOf(
  { peerId, name }: NodeRef,
  result: Pick<ActionResult, 'attempt' | 'action' | 'builder' | 'userland' | 'outputs' | 'log'>,
): VoteWire {
  const { attempt, action, builder, userland, outputs, log } = result
  return {
    attempt,
    node: { peerId, name },
    action,
    system: builder.system,
    userland,
    outputs,
    error: null,
    log,
  }
}

/** A run that ended well and gave these outputs, as a vote; undefined for one that is not there. */
export function voteOfAttempt(
  attempt: Attempt | undefined,
  outputs: VoteWire['outputs'] | undefined,
): VoteWire | undefined {
  if (attempt === undefined || outputs === undefined || outputs === null) return undefined
  const { id, action, system, userland, log } = attempt
  const node = runnerOf(attempt)
  return { attempt: id, node, action, system, userland, outputs, error: null, log }
}

/** A node votes once, and so does an attempt. */
export function hasVoted(job: Job, { attempt, node }: Pick<VoteWire, 'attempt' | 'node'>): boolean {
  return job.votes.some((vote) => vote.attempt === attempt || vote.node.peerId === node.peerId)
}

export class Comparisons {
  /** By id of the job that people know; the oldest comes first. */
  readonly divergences = new Map<string, Divergence>()
  /** By action; what was confirmed longest ago comes first. */
  readonly agreements = new Map<Digest, readonly VoteWire[]>()
  /** By action; the oldest comes first. */
  readonly audited = new Map<Digest, Audited>()

  evolve(fact: Divergence | Audited | FactOf<'verified'>): void {
    switch (fact.type) {
      case 'diverged':
        put(this.divergences, fact.job, fact, DIVERGENCES_MAX)
        // Those who agreed have been contradicted.
        for (const { action } of fact.votes) this.agreements.delete(action)
        return
      case 'verified':
        put(this.agreements, fact.action, fact.votes, AGREEMENTS_MAX)
        return
      case 'audited':
        put(this.audited, fact.action, fact, AUDITED_MAX)
        return
    }
  }
}

function put<K, V>(map: Map<K, V>, key: K, value: V, sizeMax: number): void {
  map.delete(key)
  map.set(key, value)
  if (map.size <= sizeMax) return
  const [oldest] = map.keys()
  if (oldest !== undefined) map.delete(oldest)
}
