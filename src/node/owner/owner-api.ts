/** The part of the API that only the owner of requests can answer. Any node may ask, on behalf of its users. */
import { MeshError } from '../../base/errors.ts'
import { runnerOf, type Request, type Step } from '../../scheduler/model.ts'
import { checkGraph } from '../../scheduler/check-request.ts'
import { attemptsOf, jobView, requestView, totals } from '../../scheduler/views.ts'
import type { ActionCache } from '../../store/action-cache.ts'
import { Submission } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import type { ApiAnswer } from '../../wire/work-messages.ts'
import type { ApiCall } from '../authority.ts'
import { auditsView, jobDiff } from './comparison-views.ts'
import type { ImageApi } from '../images/image-api.ts'
import { dryRun } from './dry-run.ts'
import { Find } from './find.ts'
import { LeverApi, leverVerb } from './lever-api.ts'
import { listJobs, listRequests } from './lists.ts'
import type { LogTarget } from '../doors/logs.ts'
import type { Owner } from './owner.ts'
import { shellTarget } from './shell-target.ts'
import type { Survey } from './survey.ts'
import { SlotsApi } from './slots-api.ts'
import { TopApi } from './top-api.ts'
import { problemAnswer } from '../doors/problem.ts'

export interface OwnerApiDeps {
  readonly owner: Owner
  readonly actions: ActionCache
  readonly self: () => PeerRecord
  /** For what only nodes further below can say. */
  readonly survey: Survey
  readonly images: ImageApi
  /** Ends with the node. */
  readonly signal: AbortSignal
}

export class OwnerApi {
  readonly #deps: OwnerApiDeps
  readonly #find: Find
  readonly #levers: LeverApi
  readonly #slots: SlotsApi
  readonly #top: TopApi

  constructor(deps: OwnerApiDeps) {
    const { owner } = deps
    this.#deps = deps
    this.#find = new Find(owner.scheduler.state)
    this.#levers = new LeverApi({ owner, find: this.#find, selfName: () => deps.self().name })
    this.#slots = new SlotsApi({ owner, find: this.#find })
    this.#top = new TopApi({ owner, selfName: () => deps.self().name })
  }

  /** Never throws: errors are answers. */
  async answer(call: ApiCall): Promise<ApiAnswer> {
    try {
      return { status: 200, body: JSON.stringify(await this.#answer(call)) }
    } catch (error) {
      return problemAnswer(error)
    }
  }

  async #answer(call: ApiCall): Promise<unknown> {
    const url = new URL(call.path, 'http://mesh')
    const [, , collection = '', id = '', action = ''] = url.pathname
      .split('/')
      .map(decodeURIComponent)
    const { owner } = this.#deps
    const { scheduler } = owner
    const moment = owner.moment()
    const selfName = this.#deps.self().name
    const key = `${call.verb} ${collection}${id === '' ? '' : '/ID'}${action === '' ? '' : `/${action}`}`
    const lists = { scheduler, find: this.#find, ownerName: selfName, moment }
    const lever = call.verb === 'POST' ? leverVerb(action) : undefined
    if (lever !== undefined && collection === 'requests')
      return this.#levers.ofRequest(id, lever, call)
    if (lever !== undefined && collection === 'jobs') return this.#levers.ofJob(id, lever, call)
    switch (key) {
      case 'GET top':
        return this.#top.view()
      case 'GET drains':
        return this.#levers.drains()
      case 'GET slots':
        return this.#slots.view()
      case 'POST jobs/ID/slots':
        return this.#slots.ofJob(id, call)
      case 'POST nodes/ID':
        if (id === 'drain') return this.#levers.drain(call)
        if (id === 'undrain') return this.#levers.undrain(call)
        if (id === 'slots') return this.#slots.ofNodes(call)
        throw new MeshError('MESH0601', `the API has no ${call.verb} ${url.pathname}`)
      case 'GET totals':
        return { ...totals(scheduler), root: { name: selfName, peerId: this.#deps.self().peerId } }
      case 'GET nodes':
        return this.#deps.survey.nodes({ depth: 0, signal: this.#deps.signal })
      case 'GET images':
        return this.#deps.images.list()
      case 'GET images/ID':
        return this.#deps.images.find(id)
      case 'POST images/ID':
        return this.#deps.images.put(id, call)
      case 'POST images/ID/remove':
        return this.#deps.images.remove(id, call)
      case 'GET requests':
        return listRequests(lists, url.searchParams)
      case 'GET requests/ID':
        return requestView(scheduler, this.findRequest(id), selfName, moment)
      case 'POST requests/ID/leave': {
        const request = this.findRequest(id)
        await owner.applyDurably({ type: 'left', request: request.wire.id })
        return requestView(scheduler, request, selfName, owner.moment())
      }
      case 'POST requests/ID/lost': {
        const request = this.findRequest(id)
        const derivation = url.searchParams.get('derivation') ?? ''
        await owner.applyDurably({ type: 'lost', request: request.wire.id, derivation })
        return requestView(scheduler, request, selfName, owner.moment())
      }
      case 'GET requests/ID/outlook':
        return dryRun(scheduler, this.findRequest(id).wire.graph, this.#deps.actions)
      case 'GET requests/ID/graph':
        return this.findRequest(id).wire.graph
      case 'GET jobs':
        return listJobs(lists, url.searchParams)
      case 'GET jobs/ID':
        return jobView(scheduler, this.findStep(id), moment)
      case 'GET jobs/ID/why':
        return this.#deps.survey.why(this.findStep(id), url.searchParams.get('node') ?? undefined, {
          depth: 0,
          signal: this.#deps.signal,
        })
      case 'GET jobs/ID/diff':
        return jobDiff(scheduler, this.#find, id)
      case 'GET audits':
        return auditsView(scheduler, moment)
      case 'GET jobs/ID/shell-target':
        return shellTarget(this.findStep(id), Number(url.searchParams.get('attempt') ?? 0))
      case 'GET jobs/ID/log-target':
        return this.logTarget(id, url.searchParams.get('attempt') ?? '0')
      case 'POST dry-run': {
        const submission = parseWith(Submission, JSON.parse(call.body), 'submission')
        checkGraph(submission.graph)
        return dryRun(scheduler, submission.graph, this.#deps.actions)
      }
      default:
        throw new MeshError('MESH0601', `the API has no ${call.verb} ${url.pathname}`)
    }
  }

  /** By id or unique prefix. Throws MESH0601, MESH0602. */
  findRequest(id: string): Request {
    return this.#find.request(id)
  }

  /** By id, unique prefix of one, a request, or the name of a derivation of the newest request. */
  findStep(id: string): Step {
    return this.#find.step(id)
  }

  /** The log of an attempt by its id or number, of the last one for "0". Throws MESH0601 while there is none. */
  logTarget(id: string, which: string): LogTarget {
    const step = this.findStep(id)
    const attempts = attemptsOf(step)
    const isLast = which === '0'
    const attempt = isLast
      ? attempts.at(-1)
      : attempts.find((candidate, at) => candidate.id === which || String(at + 1) === which)
    if (attempt === undefined) {
      if (isLast && step.log !== undefined)
        return { attempt: '', peerId: '', blob: step.log, isLive: false }
      throw new MeshError(
        'MESH0601',
        `${step.derivation.name} (${step.id}) has ${attempts.length === 0 ? 'no attempt yet' : `${attempts.length} attempts, not ${which}`}`,
        {
          hints: [`see why: mesh why ${step.id}`],
        },
      )
    }
    const isLive = attempt.endedAtWall === undefined
    const vote = attempt.job.votes.find((candidate) => candidate.attempt === attempt.id)
    const blob = attempt.log ?? vote?.log ?? (attempt.state === 'done' ? step.log : undefined)
    const at = attempts.indexOf(attempt) + 1
    return {
      attempt: attempt.id,
      peerId: runnerOf(attempt).peerId,
      ...(blob === undefined ? {} : { blob }),
      isLive,
      ...(isLive
        ? {}
        : {
            ended: `attempt ${at} on ${runnerOf(attempt).name}: ${attempt.state}${attempt.error === null ? '' : `, ${attempt.error}`}`,
          }),
    }
  }
}
