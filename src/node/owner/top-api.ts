/** `GET /api/top`. Those who watch ask each second, and all of them get one answer. */
import { topView } from '../../scheduler/top.ts'
import type { Top } from '../../wire/api.ts'
import type { Owner } from './owner.ts'

/** How old an answer may be. */
const FRESH_MS = 500

export interface TopApiDeps {
  readonly owner: Owner
  readonly selfName: () => string
}

export class TopApi {
  readonly #deps: TopApiDeps
  #last: { readonly atMs: number; readonly top: Top } | undefined

  constructor(deps: TopApiDeps) {
    this.#deps = deps
  }

  view(): Top {
    const { owner, selfName } = this.#deps
    const moment = owner.moment()
    if (this.#last !== undefined && moment.nowMs - this.#last.atMs < FRESH_MS) return this.#last.top
    const top = topView(owner.scheduler, moment, { name: selfName(), perSecond: owner.perSecond })
    this.#last = { atMs: moment.nowMs, top }
    return top
  }
}
