/** Calls over one link of a simulated tree: each has one answer, or none within its time. */
import type { Answer, Call } from './messages.ts'
import type { LinkEnd } from './network.ts'
import type { TreeWorld } from './world.ts'

export class Calls {
  readonly #world: TreeWorld
  readonly #end: LinkEnd
  readonly #asked = new Map<number, (answer: Answer) => void>()
  #next = 1

  constructor(world: TreeWorld, end: LinkEnd) {
    this.#world = world
    this.#end = end
  }

  /** `done` is called once. */
  call(call: Call, limitMs: number, done: (answer: Answer) => void): void {
    const id = this.#next
    this.#next += 1
    const limit = this.#world.clock.setTimer(limitMs, () => this.#settle(id, NO_ANSWER))
    this.#asked.set(id, (answer) => {
      limit.cancel()
      done(answer)
    })
    this.#end.send({ type: 'call', id, call })
  }

  answered(id: number, answer: Answer): void {
    this.#settle(id, answer)
  }

  closed(): void {
    for (const id of [...this.#asked.keys()]) this.#settle(id, CLOSED)
  }

  #settle(id: number, answer: Answer): void {
    const done = this.#asked.get(id)
    this.#asked.delete(id)
    done?.(answer)
  }
}

const NO_ANSWER: Answer = { ok: false, reason: 'no answer in time' }
const CLOSED: Answer = { ok: false, reason: 'the link closed' }
