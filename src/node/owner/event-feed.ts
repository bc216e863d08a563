/** The events of one request for one watcher: everything that is, then what changes, until it has ended. */
import { sleep, type Clock } from '../../base/clock.ts'
import type { Request, Step } from '../../scheduler/model.ts'
import { jobView, requestView } from '../../scheduler/views.ts'
import type { Event, RequestView } from '../../wire/api.ts'
import type { Owner } from './owner.ts'

/** Changes within this time are told together, each job once. */
const GATHER_MS = 40
/** The counts of a request that goes on are told at most this often. */
const REQUEST_MS = 200

/** How often the reasons of waiting jobs are looked at again, and of how many. */
const REASONS_MS = 2_000
const REASONS_MAX = 50

/** What changes all the time; the outputs come with `end`. */
const counts = (view: RequestView): RequestView => ({ ...view, outputs: {} })

function waitingOf(request: Request): Step[] {
  const waiting: Step[] = []
  for (const step of request.steps.values())
    if (step.phase === 'open' && step.job?.phase === 'waiting' && waiting.length < REASONS_MAX)
      waiting.push(step)
  return waiting
}

/** Events as they travel: lines of JSON, each of which begins with the type. */
export const linesOf = (events: readonly Event[]): string =>
  events.map((event) => JSON.stringify(event)).join('\n')
export const holdsEnd = (lines: string): boolean =>
  lines.startsWith('{"type":"end",', lines.lastIndexOf('\n') + 1)

/** Events told in one message. */
const TOGETHER_MAX = 256

/** What one watcher has been told of a request. */
class Told {
  readonly #owner: Owner
  readonly #request: Request
  readonly #ownerName: string
  readonly #changed: Set<Step>
  readonly #jobs = new Map<Step, string>()
  #notices = 0
  #requestMs = Number.NEGATIVE_INFINITY

  constructor(owner: Owner, request: Request, ownerName: string) {
    this.#owner = owner
    this.#request = request
    this.#ownerName = ownerName
    this.#changed = new Set(request.steps.values())
  }

  mark(steps: Iterable<Step>): void {
    for (const step of steps) this.#changed.add(step)
  }

  /** All that has not been told yet; the counts of the request only when they are due. */
  news(hasEnded: boolean): Event[] {
    const request = this.#request
    const moment = this.#owner.moment()
    const at = new Date(moment.wallMs).toISOString()
    const events: Event[] = []
    if (hasEnded || this.dueInMs(moment.nowMs) <= 0) {
      this.#requestMs = moment.nowMs
      events.push({
        type: 'request',
        at,
        request: counts(requestView(this.#owner.scheduler, request, this.#ownerName, moment)),
      })
    }
    for (const step of this.#changed) {
      const job = jobView(this.#owner.scheduler, step, moment)
      const text = JSON.stringify(job)
      // Jobs that look the same as last time are not told again.
      if (this.#jobs.get(step) === text) continue
      this.#jobs.set(step, text)
      events.push({ type: 'job', at, job })
    }
    this.#changed.clear()
    for (const text of request.notices.slice(this.#notices))
      events.push({ type: 'notice', at, text })
    this.#notices = request.notices.length
    if (hasEnded)
      events.push({
        type: 'end',
        at,
        request: requestView(this.#owner.scheduler, request, this.#ownerName, moment),
      })
    return events
  }

  dueInMs(nowMs: number): number {
    return this.#requestMs + REQUEST_MS - nowMs
  }
}

/** What changed, gathered; ends after `end`, or when the signal aborts. */
export async function* eventsOf(
  deps: { readonly owner: Owner; readonly clock: Clock; readonly ownerName: string },
  request: Request,
  signal: AbortSignal,
): AsyncIterable<readonly Event[]> {
  const { owner, clock, ownerName } = deps
  const told = new Told(owner, request, ownerName)
  let wake: (() => void) | undefined
  let isChanged = true
  const onChange = (): void => {
    isChanged = true
    wake?.()
  }
  using watching = owner.watch(request.wire.id, {
    onStep(step) {
      told.mark([step])
      onChange()
    },
    onRequest: onChange,
  })
  void watching
  signal.addEventListener('abort', onChange, { once: true })
  try {
    while (!signal.aborted) {
      const hasEnded = request.state !== 'active'
      // Whoever hears of the end may rely on it.
      if (hasEnded) await owner.synced()
      isChanged = false
      const news = told.news(hasEnded)
      for (let at = 0; at < news.length; at += TOGETHER_MAX) yield news.slice(at, at + TOGETHER_MAX)
      if (hasEnded) return
      if (!isChanged && !signal.aborted) {
        const { promise, resolve } = Promise.withResolvers<void>()
        wake = resolve
        const dueInMs = told.dueInMs(clock.nowMs())
        // Reasons to wait change with the nodes, without an event of the job itself.
        const timer = clock.setTimer(dueInMs > 0 ? dueInMs : REASONS_MS, () => {
          told.mark(waitingOf(request))
          resolve()
        })
        await promise
        timer.cancel()
        wake = undefined
      }
      if (request.state === 'active') await sleep(clock, GATHER_MS)
    }
  } finally {
    signal.removeEventListener('abort', onChange)
  }
}
