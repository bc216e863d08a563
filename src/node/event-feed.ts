/** The events of one request for one watcher: everything that is, then what changes, until it has ended. */
import { sleep, type Clock } from '../base/clock.ts'
import type { Request, Step } from '../scheduler/model.ts'
import { jobView, requestView } from '../scheduler/views.ts'
import type { Event, RequestView } from '../wire/api.ts'
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

/** The event as it travels: one line of JSON whose first key is the type. */
export const eventLine = (event: Event): string => JSON.stringify(event)
export const isLastLine = (line: string): boolean => line.startsWith('{"type":"end",')

/** Ends after `end`, or when the signal aborts. */
export async function* eventsOf(
  deps: { readonly owner: Owner; readonly clock: Clock; readonly ownerName: string },
  request: Request,
  signal: AbortSignal,
): AsyncIterable<Event> {
  const { owner, clock, ownerName } = deps
  const changed = new Set<Step>(request.steps.values())
  const told = new Map<Step, string>()
  let noticeCount = 0
  let wake: (() => void) | undefined
  let isRequestChanged = true
  let toldRequestMs = Number.NEGATIVE_INFINITY
  const onChange = (): void => {
    isRequestChanged = true
    wake?.()
  }
  using watching = owner.watch(request.wire.id, {
    onStep(step) {
      changed.add(step)
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
      const moment = owner.moment()
      const at = new Date(moment.wallMs).toISOString()
      isRequestChanged = false
      const dueInMs = hasEnded ? 0 : toldRequestMs + REQUEST_MS - moment.nowMs
      if (dueInMs <= 0) {
        toldRequestMs = moment.nowMs
        yield { type: 'request', at, request: counts(requestView(request, ownerName, moment)) }
      }
      const steps = [...changed]
      changed.clear()
      for (const step of steps) {
        const job = jobView(owner.scheduler, step, moment)
        const text = JSON.stringify(job)
        // Jobs that look the same as last time are not told again.
        if (told.get(step) === text) continue
        told.set(step, text)
        yield { type: 'job', at, job }
      }
      for (; noticeCount < request.notices.length; noticeCount += 1)
        yield { type: 'notice', at, text: request.notices[noticeCount] ?? '' }
      if (hasEnded) {
        yield { type: 'end', at, request: requestView(request, ownerName, owner.moment()) }
        return
      }
      if (!isRequestChanged && !signal.aborted) {
        const { promise, resolve } = Promise.withResolvers<void>()
        wake = resolve
        // Reasons to wait change with the nodes, without an event of the job itself.
        const timer = clock.setTimer(dueInMs > 0 ? dueInMs : REASONS_MS, () => {
          for (const step of waitingOf(request)) changed.add(step)
          resolve()
        })
        await promise
        timer.cancel()
      }
      wake = undefined
      if (request.state === 'active') await sleep(clock, GATHER_MS)
    }
  } finally {
    signal.removeEventListener('abort', onChange)
  }
}
