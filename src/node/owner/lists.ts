/** Lists of jobs and requests, narrowed down by what people ask for; always bounded. */
import { MeshError } from '../../base/errors.ts'
import { matchesGlob } from '../../base/glob.ts'
import { AUDIT_USER } from '../../scheduler/audit.ts'
import type { Moment } from '../../scheduler/events.ts'
import { runnerOf, type Request, type Step } from '../../scheduler/model.ts'
import type { Scheduler } from '../../scheduler/scheduler.ts'
import { attemptsOf, jobState, jobView, requestView } from '../../scheduler/views.ts'
import { JobState, RequestState, type JobView, type RequestView } from '../../wire/api.ts'
import type { Find } from './find.ts'

/** Rows of a list. */
const LIST_MAX = 10_000
/** Names and patterns in a question. */
const PATTERN_CHARS_MAX = 256

export interface Lists {
  readonly scheduler: Scheduler
  readonly find: Find
  readonly ownerName: string
  readonly moment: Moment
}

/** `request`, `state`, `user`, `node`, `name` and `limit` of the query; newest request first. Throws MESH0002, MESH0601, MESH0602. */
export function listJobs({ scheduler, find, moment }: Lists, query: URLSearchParams): JobView[] {
  const only = query.get('request')
  const states = statesOf(query, JobState.options)
  const isUser = patternOf(query, 'user')
  const isNode = patternOf(query, 'node')
  const isName = patternOf(query, 'name')
  const limit = limitOf(query)
  const isMeant = (step: Step): boolean =>
    isName(step.derivation.name) &&
    (states === undefined || states.has(jobState(step))) &&
    (!query.has('node') ||
      attemptsOf(step).some(
        (attempt) => isNode(runnerOf(attempt).name) || isNode(attempt.node.name),
      ))
  const views: JobView[] = []
  for (const request of only === null ? find.requests(askedFor(query)) : [find.request(only)]) {
    if (!isUser(request.wire.user)) continue
    for (const step of request.steps.values()) {
      if (views.length >= limit) return views
      if (isMeant(step)) views.push(jobView(scheduler, step, moment))
    }
  }
  return views
}

/** `state`, `user` and `limit` of the query; newest first. Throws MESH0002. */
export function listRequests(
  { scheduler, find, ownerName, moment }: Lists,
  query: URLSearchParams,
): RequestView[] {
  const states = statesOf(query, RequestState.options)
  const isUser = patternOf(query, 'user')
  const limit = limitOf(query)
  const isActiveMeant = states === undefined || states.has('waiting') || states.has('running')
  const mayBeMeant = (request: Request): boolean =>
    request.state === 'active' ? isActiveMeant : states === undefined || states.has(request.state)
  const views: RequestView[] = []
  for (const request of find.requests(askedFor(query))) {
    if (views.length >= limit) break
    if (!isUser(request.wire.user) || !mayBeMeant(request)) continue
    const view = requestView(scheduler, request, ownerName, moment)
    if (states === undefined || states.has(view.state)) views.push(view)
  }
  return views
}

/** Audits are listed to who names their user. */
const askedFor = (query: URLSearchParams): { readonly ofAudits: boolean } => ({
  ofAudits: query.get('user') === AUDIT_USER,
})

function statesOf<T extends string>(
  query: URLSearchParams,
  known: readonly T[],
): ReadonlySet<T> | undefined {
  const text = query.get('state')
  if (text === null || text === '') return undefined
  const states = new Set<T>()
  for (const word of text.split(',')) {
    const state = known.find((candidate) => candidate === word.trim())
    if (state === undefined)
      throw new MeshError('MESH0002', `there is no state "${word.trim()}"`, {
        hints: [`states: ${known.join(', ')}`],
      })
    states.add(state)
  }
  return states
}

function patternOf(query: URLSearchParams, key: string): (text: string) => boolean {
  const pattern = query.get(key)
  if (pattern === null || pattern === '') return () => true
  if (pattern.length > PATTERN_CHARS_MAX)
    throw new MeshError(
      'MESH0211',
      `${key} has ${pattern.length} characters, the limit is ${PATTERN_CHARS_MAX}`,
    )
  return (text) => matchesGlob(pattern, text)
}

function limitOf(query: URLSearchParams): number {
  const text = query.get('limit')
  if (text === null || text === '') return LIST_MAX
  if (!/^\d{1,9}$/.test(text))
    throw new MeshError('MESH0002', `limit "${text}" is no whole number from 0 to ${LIST_MAX}`)
  return Math.min(LIST_MAX, Number(text))
}
