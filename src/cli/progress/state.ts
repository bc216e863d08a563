/**
 * What is known about a request so far, out of its events; and what each event newly tells a person.
 * Pure: events that come twice (after a lost connection) tell nothing the second time.
 */
import type { AttemptView, Event, Failure, JobView, RequestView } from '../../wire/api.ts'

/** Something that happened, for one line on the screen. */
export type Transition =
  | { readonly kind: 'accepted'; readonly request: RequestView }
  | { readonly kind: 'started'; readonly job: JobView; readonly attempt: AttemptView }
  | { readonly kind: 'lost'; readonly job: JobView; readonly attempt: AttemptView }
  | { readonly kind: 'waiting'; readonly job: JobView; readonly reason: string }
  | { readonly kind: 'done' | 'cached' | 'cancelled'; readonly job: JobView }
  | { readonly kind: 'failed'; readonly failure: Failure; readonly job: JobView | undefined }
  | { readonly kind: 'notice'; readonly text: string }

/** Reasons to wait that are told once; the others are how building goes. */
const TOLD_REASONS: ReadonlySet<string> = new Set([
  'unsatisfiable',
  'away',
  'rebind',
  'recovery',
  'retry',
  'unreachable',
  'missing',
  'held',
  'drain',
  'quarantined',
  'refused',
  'power',
  'version',
  'subtree',
  'votes',
  'other',
])

export class ProgressState {
  /** Undefined before the first event. */
  request: RequestView | undefined
  readonly jobs = new Map<string, JobView>()
  readonly #notices = new Set<string>()
  readonly #failed = new Set<string>()

  apply(event: Event): Transition[] {
    switch (event.type) {
      case 'request':
      case 'end':
        return this.#applyRequest(event.request)
      case 'job':
        return this.#applyJob(event.job)
      case 'notice':
        return this.#notice(event.text)
    }
  }

  #applyRequest(request: RequestView): Transition[] {
    const isFirst = this.request === undefined
    this.request = request
    const failures = request.failures
      .filter(({ job }) => !this.#failed.has(job))
      .map((failure): Transition => {
        this.#failed.add(failure.job)
        return { kind: 'failed', failure, job: this.jobs.get(failure.job) }
      })
    return [
      ...(isFirst ? [{ kind: 'accepted' as const, request }] : []),
      ...request.notices.flatMap((text) => this.#notice(text)),
      ...failures,
    ]
  }

  #notice(text: string): Transition[] {
    if (this.#notices.has(text)) return []
    this.#notices.add(text)
    return [{ kind: 'notice', text }]
  }

  #applyJob(job: JobView): Transition[] {
    const before = this.jobs.get(job.id)
    this.jobs.set(job.id, job)
    const transitions: Transition[] = []
    for (const attempt of job.attempts) {
      const known = before?.attempts.find(({ id }) => id === attempt.id)
      if (
        isStarted(attempt) &&
        (known === undefined || !isStarted(known)) &&
        attempt.endedAt === null
      )
        transitions.push({ kind: 'started', job, attempt })
      if (attempt.state === 'lost' && known?.state !== 'lost')
        transitions.push({ kind: 'lost', job, attempt })
    }
    if (
      job.state === 'waiting' &&
      job.why !== undefined &&
      TOLD_REASONS.has(job.why.class) &&
      (before?.why?.class !== job.why.class || before.why.text !== job.why.text)
    )
      transitions.push({ kind: 'waiting', job, reason: job.why.text })
    if (job.state !== before?.state) {
      if (job.state === 'done') transitions.push({ kind: job.cached ? 'cached' : 'done', job })
      if (job.state === 'cancelled') transitions.push({ kind: 'cancelled', job })
    }
    return transitions
  }
}

const isStarted = ({ state }: AttemptView): boolean => state === 'fetching' || state === 'building'

/** The attempt that made the result, or the latest. */
export function decisiveAttempt(job: JobView): AttemptView | undefined {
  return job.attempts.find(({ state }) => state === 'done') ?? job.attempts.at(-1)
}
