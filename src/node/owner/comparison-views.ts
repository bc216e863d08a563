/** Builds that were compared, as people see them: those of one job, and all that differ. */
import { MeshError } from '../../base/errors.ts'
import type { Moment } from '../../scheduler/events.ts'
import type { Step } from '../../scheduler/model.ts'
import type { Scheduler } from '../../scheduler/scheduler.ts'
import { attemptsOf } from '../../scheduler/views.ts'
import { differingOutputs, dissenterOf, type Divergence } from '../../scheduler/votes.ts'
import type { VoteWire } from '../../wire/facts.ts'
import { DIVERGED_LISTED_MAX, type Audits, type JobDiff } from '../../wire/comparisons.ts'
import type { Find } from './find.ts'

/**
 * The builds of a job that were compared. A divergence outlives its request, and is then found by the id of
 * the job alone. Throws MESH0601 for a job that was built once, MESH0602.
 */
export function jobDiff(scheduler: Scheduler, find: Find, id: string): JobDiff {
  const { divergences } = scheduler.state.comparisons
  const forgotten = scheduler.state.steps.has(id) ? undefined : divergences.get(id)
  if (forgotten !== undefined) return diffOf(forgotten.votes, forgotten, undefined)
  const step = find.step(id)
  const jobs = step.job === undefined ? step.earlier : [...step.earlier, step.job]
  for (const job of jobs.toReversed()) {
    const divergence = divergences.get(job.id)
    if (divergence !== undefined) return diffOf(divergence.votes, divergence, step)
    if (job.votes.length > 1) return diffOf(job.votes, undefined, step)
  }
  throw new MeshError(
    'MESH0601',
    `there is nothing to compare ${step.derivation.name} (${step.id}) with: ${step.phase === 'done' ? 'one node built it' : 'fewer than two builds of it have ended'}`,
    { hints: ['have it built by two nodes: mesh submit --verify 2'] },
  )
}

function diffOf(
  votes: readonly VoteWire[],
  divergence: Divergence | undefined,
  step: Step | undefined,
): JobDiff {
  const attempts = step === undefined ? [] : attemptsOf(step)
  return {
    v: 1,
    job: step?.id ?? divergence?.job ?? '',
    name: step?.derivation.name ?? divergence?.name ?? '',
    request: step?.request.wire.id ?? divergence?.request ?? '',
    found: divergence?.found ?? null,
    agree: dissenterOf(votes) === undefined,
    votes: votes.map(({ attempt, node, outputs, error }) => {
      const at = attempts.findIndex((candidate) => candidate.id === attempt)
      return {
        node: node.name,
        peerId: node.peerId,
        attempt,
        n: at === -1 ? null : at + 1,
        outputs,
        error,
      }
    }),
  }
}

export function auditsView(scheduler: Scheduler, { wallMs }: Moment): Audits {
  const { audit, state } = scheduler
  const audited = { equal: 0, different: 0, failed: 0 }
  for (const { outcome } of state.comparisons.audited.values()) audited[outcome] += 1
  return {
    v: 1,
    share: audit.share,
    candidates: audit.candidateCount,
    running: [...audit.running].map(({ request, of, name, vote, job }) => ({
      job: of,
      name,
      node: job.attempts.at(-1)?.node.name ?? '',
      builtBy: vote.node.name,
      forMs: Math.max(0, wallMs - request.wire.submittedAtWall),
    })),
    audited,
    diverged: [...state.comparisons.divergences.values()]
      .toReversed()
      .slice(0, DIVERGED_LISTED_MAX)
      .map((divergence) => ({
        job: divergence.job,
        name: divergence.name,
        request: divergence.request,
        found: divergence.found,
        at: new Date(divergence.atWall).toISOString(),
        nodes: divergence.votes.map(({ node }) => node.name),
        outputs: differing(divergence.votes),
      })),
  }
}

function differing(votes: readonly VoteWire[]): string[] {
  const [first] = votes
  const dissenter = dissenterOf(votes)
  const [a, b] = [first?.outputs ?? null, dissenter?.outputs ?? null]
  return a === null || b === null ? [] : differingOutputs(a, b)
}
