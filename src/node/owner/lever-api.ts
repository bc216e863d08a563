/** The part of the API by which people drain nodes, and make requests and jobs wait, hurry, stop or run again. */
import { MeshError } from '../../base/errors.ts'
import type { Lever, Target } from '../../scheduler/levers.ts'
import { holdOfStep, type Request, type Step } from '../../scheduler/model.ts'
import { isSelected, parseSelector } from '../../scheduler/selector.ts'
import { drainView } from '../../scheduler/standing-view.ts'
import { stepsToTryAgain } from '../../scheduler/try-again.ts'
import { jobView, requestView } from '../../scheduler/views.ts'
import {
  BoostOrder,
  DrainOrder,
  HoldOrder,
  RetryOrder,
  UndrainOrder,
  type DrainView,
  type JobView,
  type RequestView,
  type Undrained,
} from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import { DRAINS_MAX } from '../../wire/work-messages.ts'
import type { ApiCall } from '../authority.ts'
import type { Find } from './find.ts'
import type { Owner } from './owner.ts'

/** What a user may say of a request or a job. */
const VERBS = ['boost', 'hold', 'release', 'retry', 'cancel'] as const
type Verb = (typeof VERBS)[number]

export function leverVerb(action: string): Verb | undefined {
  return VERBS.find((verb) => verb === action)
}

export interface LeverApiDeps {
  readonly owner: Owner
  readonly find: Find
  readonly selfName: () => string
}

export class LeverApi {
  readonly #deps: LeverApiDeps

  constructor(deps: LeverApiDeps) {
    this.#deps = deps
  }

  drains(): DrainView[] {
    const { scheduler } = this.#deps.owner
    const moment = this.#deps.owner.moment()
    return scheduler.drains.active().map((drain) => drainView(scheduler, drain, moment))
  }

  async drain(call: ApiCall): Promise<DrainView> {
    const { owner } = this.#deps
    const order = parseWith(DrainOrder, bodyOf(call), 'drain')
    const selector = normalSelector(order.selector)
    const { drains } = owner.scheduler.state.nodeFacts
    const isNew = ![...drains.values()].some((drain) => drain.selector === selector)
    if (isNew && drains.size >= DRAINS_MAX)
      throw new MeshError('MESH0211', `${DRAINS_MAX} drains are in force, and that is the limit`, {
        hints: ['see them: mesh drain --list', 'end one: mesh undrain SELECTOR'],
      })
    await this.#pull({ kind: 'drain', order: { ...order, selector } }, call)
    const view = this.drains().find((drain) => drain.selector === selector)
    if (view === undefined) throw new MeshError('MESH0001', `${selector} was not drained`)
    return view
  }

  async undrain(call: ApiCall): Promise<Undrained> {
    const { scheduler } = this.#deps.owner
    const selector = normalSelector(parseWith(UndrainOrder, bodyOf(call), 'undrain').selector)
    const terms = parseSelector(selector)
    const ended = scheduler.drains
      .active()
      .filter((drain) => drain.selector === selector)
      .map(({ id }) => ({ id, selector }))
    const meant = [...scheduler.nodes.values()].filter((node) => isSelected(terms, node))
    const before = meant.filter(({ state }) => isKeptBack(state))
    await this.#pull({ kind: 'undrain', selector }, call)
    const freed = before.filter(({ state }) => !isKeptBack(state))
    const still = meant.flatMap((node) => {
      const drain = scheduler.drains.of(node)
      return drain === undefined ? [] : [{ node: node.record.name, by: drain.selector }]
    })
    const [first] = still
    if (ended.length === 0 && freed.length === 0 && first !== undefined)
      throw new MeshError(
        'MESH0604',
        `no drain has the selector "${selector}"; ${first.node} is drained by "${first.by}"`,
        { hints: [`mesh undrain '${first.by}'`] },
      )
    return { drains: ended, nodes: freed.map(({ record }) => record.name) }
  }

  async ofRequest(id: string, verb: Verb, call: ApiCall): Promise<RequestView> {
    const request = this.#found(() => this.#deps.find.request(id), id, verb)
    const target = { request: request.wire.id, derivation: undefined }
    if (verb === 'cancel')
      await this.#deps.owner.applyDurably({ type: 'cancel', request: request.wire.id })
    else {
      if (verb === 'retry') this.#checkRoom(request)
      else checkActive(request)
      const lever = leverOf(verb, target, call)
      if (lever.kind === 'retry') checkRetryOfAll(request, lever.rebind)
      await this.#pull(lever, call)
    }
    const { owner, selfName } = this.#deps
    return requestView(owner.scheduler, request, selfName(), owner.moment())
  }

  async ofJob(id: string, verb: Verb, call: ApiCall): Promise<JobView> {
    const step = this.#found(() => this.#deps.find.step(id), id, verb)
    const { request, derivation } = step
    checkStep(step, verb)
    if (verb === 'retry') this.#checkRoom(request)
    const target = { request: request.wire.id, derivation: derivation.name }
    const lever = leverOf(verb, target, call)
    if (lever.kind === 'retry') checkRetry(step, lever.rebind)
    await this.#pull(lever, call)
    const { owner } = this.#deps
    return jobView(owner.scheduler, step, owner.moment())
  }

  async #pull(lever: Lever, call: ApiCall): Promise<void> {
    await this.#deps.owner.applyDurably({ type: 'lever', lever, by: byOf(call) })
  }

  #checkRoom(request: Request): void {
    if (request.state !== 'active' && !this.#deps.owner.scheduler.hasRoom)
      throw new MeshError('MESH0303', 'too many unfinished requests are kept already')
  }

  /** Something that is to be tried again may have been forgotten, which is to be told. */
  #found<T>(find: () => T, id: string, verb: Verb): T {
    try {
      return find()
    } catch (error) {
      if (verb !== 'retry' || !(error instanceof MeshError) || error.code !== 'MESH0601')
        throw error
      throw new MeshError(
        'MESH0601',
        `"${id}" is not known, or no longer: only the newest finished requests are kept`,
        { hints: ['list those that are: mesh requests', 'submit it again: mesh submit FILE'] },
      )
    }
  }
}

/** Draining a node twice with other blanks is draining it once. Throws MESH0002. */
export function normalSelector(text: string): string {
  parseSelector(text)
  return text
    .split(',')
    .map((term) => term.trim().replace(/\s*=\s*/, '='))
    .join(',')
}

function isKeptBack(state: string): boolean {
  return state === 'draining' || state === 'drained' || state === 'quarantined'
}

/** Who gives the order, as it is journaled. */
export const byOf = ({ user }: ApiCall): string => user.slice(0, 256)

export function bodyOf({ body }: ApiCall): unknown {
  try {
    return body === '' ? {} : JSON.parse(body)
  } catch {
    throw new MeshError('MESH0210', 'the body is not JSON')
  }
}

function leverOf(verb: Verb, target: Target, call: ApiCall): Lever {
  switch (verb) {
    case 'boost':
      return { kind: 'boost', target, ...parseWith(BoostOrder, bodyOf(call), 'boost') }
    case 'hold':
      return { kind: 'hold', target, ...parseWith(HoldOrder, bodyOf(call), 'hold') }
    case 'release':
      return { kind: 'release', target }
    case 'retry':
      return { kind: 'retry', target, ...parseWith(RetryOrder, bodyOf(call), 'retry') }
    case 'cancel':
      return { kind: 'cancel', target }
  }
}

/** Throws MESH0604 for a request that is over. */
function checkActive({ wire, state }: Request): void {
  if (state === 'active') return
  throw new MeshError('MESH0604', `request ${wire.id} is ${state}: nothing of it waits any more`)
}

/** Throws MESH0604 where the lever would do nothing, or not what it says. */
function checkStep(step: Step, verb: Verb): void {
  const { derivation, request, phase } = step
  const name = `${derivation.name} (${step.id})`
  if (verb === 'boost' || verb === 'hold') {
    if (phase === 'open' || phase === 'blocked') return
    throw new MeshError('MESH0604', `${name} is ${phase}: it does not wait any more`)
  }
  if (verb === 'release' && step.hold === undefined && holdOfStep(step) !== undefined)
    throw new MeshError('MESH0604', `${name} is held with all of its request`, {
      hints: [`mesh release ${request.wire.id}`],
    })
  if (verb === 'cancel' && (phase === 'done' || phase === 'failed'))
    throw new MeshError('MESH0604', `${name} is ${phase} already`)
}

/** Throws MESH0604 for a request of which all is done. */
function checkRetryOfAll(request: Request, rebind: boolean): void {
  if (request.state === 'active' || stepsToTryAgain(request, undefined, rebind).length > 0) return
  throw new MeshError(
    'MESH0604',
    `request ${request.wire.id} is ${request.state}: nothing to retry`,
    {
      hints: [`build it with other userlands: mesh retry ${request.wire.id} --rebind`],
    },
  )
}

/** Throws MESH0604 for what has nothing that could be tried again. */
function checkRetry(step: Step, rebind: boolean): void {
  const { derivation, request, phase } = step
  if (stepsToTryAgain(request, derivation.name, rebind).length > 0) return
  if (phase === 'open' || phase === 'blocked') return
  throw new MeshError('MESH0604', `${derivation.name} (${step.id}) is ${phase}: nothing to retry`, {
    hints: [
      'build it with other userlands: mesh retry --rebind',
      'build it anew: mesh submit FILE',
    ],
  })
}
