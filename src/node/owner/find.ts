/** Requests and jobs by what people call them: an id, the beginning of one, or a derivation's name. */
import { MeshError } from '../../base/errors.ts'
import type { Request, Step } from '../../scheduler/model.ts'
import type { State } from '../../scheduler/state.ts'

/** Candidates that an ambiguous name lists. */
const CANDIDATES_MAX = 10
/** Requests whose derivations are looked through for a name. */
const REQUESTS_SEARCHED_MAX = 10_000

export class Find {
  readonly #state: State

  constructor(state: State) {
    this.#state = state
  }

  /** Newest first. Those of audits only where they are asked for: nobody submitted them. */
  requests(options: { readonly ofAudits: boolean } = { ofAudits: false }): Request[] {
    const all = [...this.#state.requests.values()].toReversed()
    return options.ofAudits ? all : all.filter(({ wire }) => wire.audits === undefined)
  }

  /** By id or unique prefix. Throws MESH0601, MESH0602. */
  request(id: string): Request {
    const { requests } = this.#state
    const exact = requests.get(id)
    if (exact !== undefined) return exact
    return onlyOne(
      id,
      [...requests.values()].filter((request) => isPrefix(id, request.wire.id, 'r-')),
      (request) => request.wire.id,
    )
  }

  /** By id, unique prefix of one, the id of an attempt, a request (then what of it waits, runs or failed), or the name of a derivation of the newest request. */
  step(id: string): Step {
    const { steps } = this.#state
    const exact = steps.get(id) ?? this.#stepOfAttempt(id)
    if (exact !== undefined) return exact
    const requests = this.requests().slice(0, REQUESTS_SEARCHED_MAX)
    const asRequest = requests.filter((request) => isPrefix(id, request.wire.id, 'r-'))
    if (asRequest.length === 1 && asRequest[0] !== undefined) return mostInteresting(asRequest[0])
    const found = [...steps.values()].filter((step) => isPrefix(id, step.id, 'j-'))
    if (found.length > 0 || asRequest.length > 0)
      return onlyOne(id, [...found, ...asRequest.map(mostInteresting)], (step) => step.id)
    for (const request of requests) {
      const named = request.steps.get(id)
      if (named !== undefined) return named
    }
    throw new MeshError('MESH0601', `no job or request is called "${id}"`, {
      hints: ['list them: mesh jobs'],
    })
  }

  /** Of those that an attempt was made for, the newest. */
  #stepOfAttempt(id: string): Step | undefined {
    const attempt = this.#state.attempts.get(id)
    return attempt === undefined ? undefined : [...attempt.job.shownBy].at(-1)
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
