/** The part of the API that only the owner of requests can answer. Any node may ask, on behalf of its users. */
import { MeshError } from '../../base/errors.ts'
import type { Request, Step } from '../../scheduler/model.ts'
import { checkGraph } from '../../scheduler/check-request.ts'
import {
  attemptsOf,
  jobView,
  nodeView,
  requestView,
  totals,
  whyView,
} from '../../scheduler/views.ts'
import type { ActionCache } from '../../store/action-cache.ts'
import { Submission } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import type { ApiAnswer } from '../../wire/work-messages.ts'
import type { ApiCall } from '../authority.ts'
import { dryRun } from './dry-run.ts'
import type { LogTarget } from '../doors/logs.ts'
import type { Owner } from './owner.ts'
import { problemAnswer } from '../doors/problem.ts'

/** Rows of a list. */
const LIST_MAX = 10_000
/** Candidates that an ambiguous name lists. */
const CANDIDATES_MAX = 10

export interface OwnerApiDeps {
  readonly owner: Owner
  readonly actions: ActionCache
  readonly self: () => PeerRecord
}

export class OwnerApi {
  readonly #deps: OwnerApiDeps

  constructor(deps: OwnerApiDeps) {
    this.#deps = deps
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
    switch (key) {
      case 'GET totals':
        return { ...totals(scheduler), root: { name: selfName, peerId: this.#deps.self().peerId } }
      case 'GET nodes':
        return [...scheduler.nodes.values()]
          .map((node) => nodeView(node, node.peerId === this.#deps.self().peerId ? '' : selfName))
          .map((view) => (view.parent === '' ? { ...view, parent: null } : view))
      case 'GET requests':
        return this.#requests().map((request) => requestView(scheduler, request, selfName, moment))
      case 'GET requests/ID':
        return requestView(scheduler, this.findRequest(id), selfName, moment)
      case 'POST requests/ID/cancel': {
        const request = this.findRequest(id)
        await owner.applyDurably({ type: 'cancel', request: request.wire.id })
        return requestView(scheduler, request, selfName, owner.moment())
      }
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
      case 'GET requests/ID/graph':
        return this.findRequest(id).wire.graph
      case 'GET jobs':
        return this.#jobs(url.searchParams.get('request'))
      case 'GET jobs/ID':
        return jobView(scheduler, this.findStep(id), moment)
      case 'GET jobs/ID/why':
        return whyView(
          scheduler,
          this.findStep(id),
          moment,
          url.searchParams.get('node') ?? undefined,
        )
      case 'GET jobs/ID/log-target':
        return this.logTarget(id, Number(url.searchParams.get('attempt') ?? 0))
      case 'POST dry-run': {
        const submission = parseWith(Submission, JSON.parse(call.body), 'submission')
        checkGraph(submission.graph)
        return dryRun(scheduler, submission.graph, this.#deps.actions)
      }
      default:
        throw new MeshError('MESH0601', `the API has no ${call.verb} ${url.pathname}`)
    }
  }

  #requests(): Request[] {
    return [...this.#deps.owner.scheduler.state.requests.values()].toReversed().slice(0, LIST_MAX)
  }

  #jobs(requestId: string | null): unknown[] {
    const { owner } = this.#deps
    const moment = owner.moment()
    const views: unknown[] = []
    const requests = requestId === null ? this.#requests() : [this.findRequest(requestId)]
    for (const request of requests)
      for (const step of request.steps.values()) {
        if (views.length >= LIST_MAX) return views
        views.push(jobView(owner.scheduler, step, moment))
      }
    return views
  }

  /** By id or unique prefix. Throws MESH0601, MESH0602. */
  findRequest(id: string): Request {
    const { requests } = this.#deps.owner.scheduler.state
    const exact = requests.get(id)
    if (exact !== undefined) return exact
    return onlyOne(
      id,
      [...requests.values()].filter((request) => isPrefix(id, request.wire.id, 'r-')),
      (request) => request.wire.id,
    )
  }

  /** By id, unique prefix of one, a request (then what of it waits, runs or failed), or the name of a derivation of the newest request. */
  findStep(id: string): Step {
    const { state } = this.#deps.owner.scheduler
    const exact = state.steps.get(id)
    if (exact !== undefined) return exact
    const requests = this.#requests()
    const asRequest = requests.filter((request) => isPrefix(id, request.wire.id, 'r-'))
    if (asRequest.length === 1 && asRequest[0] !== undefined) return mostInteresting(asRequest[0])
    const steps = [...state.steps.values()].filter((step) => isPrefix(id, step.id, 'j-'))
    if (steps.length > 0 || asRequest.length > 0)
      return onlyOne(id, [...steps, ...asRequest.map(mostInteresting)], (step) => step.id)
    for (const request of requests) {
      const named = request.steps.get(id)
      if (named !== undefined) return named
    }
    throw new MeshError('MESH0601', `no job or request is called "${id}"`, {
      hints: ['list them: mesh jobs'],
    })
  }

  /** The log of the `n`-th attempt, of the last one for 0. Throws MESH0601 while there is none. */
  logTarget(id: string, n: number): LogTarget {
    const step = this.findStep(id)
    const attempts = attemptsOf(step)
    const attempt = n > 0 ? attempts[n - 1] : attempts.at(-1)
    if (attempt === undefined) {
      if (n === 0 && step.log !== undefined)
        return { attempt: '', peerId: '', blob: step.log, isLive: false }
      throw new MeshError(
        'MESH0601',
        `${step.derivation.name} (${step.id}) has ${attempts.length === 0 ? 'no attempt yet' : `${attempts.length} attempts, not ${n}`}`,
        {
          hints: [`see why: mesh why ${step.id}`],
        },
      )
    }
    const isLive = attempt.endedAtWall === undefined
    const blob = attempt.log ?? (attempt.state === 'done' ? step.log : undefined)
    return {
      attempt: attempt.id,
      peerId: attempt.node.peerId,
      ...(blob === undefined ? {} : { blob }),
      isLive,
    }
  }
}

function isPrefix(text: string, id: string, head: string): boolean {
  return text.length > 0 && (id.startsWith(text) || id.startsWith(`${head}${text}`))
}

function onlyOne<T>(id: string, found: readonly T[], name: (item: T) => string): T {
  const [first] = found
  if (first === undefined)
    throw new MeshError('MESH0601', `nothing is called "${id}"`, {
      hints: ['list what there is: mesh jobs --requests'],
    })
  if (found.length === 1) return first
  throw new MeshError(
    'MESH0602',
    `"${id}" may be any of ${found.slice(0, CANDIDATES_MAX).map(name).join(', ')}`,
  )
}

/** What people mean by a request when they ask about one job: what failed, then what waits, then what runs. */
function mostInteresting(request: Request): Step {
  const steps = [...request.steps.values()]
  const found =
    steps.find((step) => step.phase === 'failed') ??
    steps.find((step) => step.phase === 'open' && step.job?.phase === 'waiting') ??
    steps.find((step) => step.phase === 'open') ??
    steps.find((step) => step.phase === 'blocked') ??
    steps.at(-1)
  if (found === undefined) throw new MeshError('MESH0601', `request ${request.wire.id} has no jobs`)
  return found
}
