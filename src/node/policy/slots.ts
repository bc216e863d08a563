/**
 * Divides a machine among the builds of the mesh and those that run beside it, and lets the node offer no
 * more than what is left.
 *
 * A policy keeps the machine for its owner, whose own builds (`mesh jobserver`) it therefore does not limit;
 * what a person sets with `mesh slots` is for both.
 */
import type { Worker } from '../../build/worker.ts'
import type { PolicyWire } from '../../wire/policy.ts'
import type { Offer } from '../offer.ts'
import type { PolicyKeeper } from './keeper.ts'
import { TakerPool, type LocalTakers } from './local-takers.ts'

export interface SlotsDeps {
  readonly keeper: Pick<PolicyKeeper, 'decision' | 'note'>
  readonly offer: Pick<Offer, 'capacity' | 'limit'>
  readonly worker: Pick<Worker, 'setSlots' | 'buildCount'>
  /** The node offers another share than before, or for another reason. */
  readonly onChange: () => void
}

export class Slots {
  readonly #deps: SlotsDeps
  readonly #pool: TakerPool

  constructor(deps: SlotsDeps) {
    this.#deps = deps
    this.#pool = new TakerPool(this.#whole, () => this.#divide())
    this.refresh()
  }

  get takers(): LocalTakers {
    return this.#pool
  }

  /** Processes of builds beside the mesh. */
  get pids(): readonly number[] {
    return this.#pool.pids
  }

  /** Why the node offers what it does. */
  get note(): PolicyWire {
    const { note } = this.#deps.keeper
    const { taken } = this.#pool
    if (taken === 0) return note
    const reason = `${note.reason}; builds beside the mesh have ${taken}`
    return { ...note, cpus: this.#left, reason: reason.slice(0, 512) }
  }

  /** The policy decided anew, or a build of the mesh began or ended. */
  refresh(): void {
    const { keeper, worker } = this.#deps
    this.#pool.setPool(this.#whole, Math.min(worker.buildCount, keeper.decision.cpus))
    this.#divide()
  }

  /** For builds of either kind. */
  get #whole(): number {
    const { decision } = this.#deps.keeper
    return decision.cause === 'person' ? decision.cpus : this.#deps.offer.capacity.cpus
  }

  /** For builds of the mesh. */
  get #left(): number {
    const free = Math.max(0, this.#whole - this.#pool.taken)
    return Math.min(this.#deps.keeper.decision.cpus, free)
  }

  #divide(): void {
    const { keeper, offer, worker, onChange } = this.#deps
    const { memoryBytes } = keeper.decision
    const cpus = this.#left
    const isWhole = cpus >= offer.capacity.cpus
    // Where all of it is for builds the scheduler's word is the last one.
    worker.setSlots(isWhole ? undefined : cpus)
    const before = offer.limit
    if (before?.cpus === cpus && before.memoryBytes === memoryBytes) return
    offer.limit = { cpus, memoryBytes }
    onChange()
  }
}
