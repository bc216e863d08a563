/** The part of the API by which people set how many processors nodes give builds, and jobs have. */
import { MeshError } from '../../base/errors.ts'
import { isAhead } from '../../scheduler/model.ts'
import { slotsView } from '../../scheduler/slots-view.ts'
import { jobView } from '../../scheduler/views.ts'
import type { JobView } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import { JobSlotsOrder, SlotsOrder, type SlotsView } from '../../wire/slots.ts'
import { SLOT_ORDERS_MAX } from '../../wire/work-messages.ts'
import type { ApiCall } from '../authority.ts'
import type { Find } from './find.ts'
import { bodyOf, byOf, normalSelector } from './lever-api.ts'
import type { Owner } from './owner.ts'

export class SlotsApi {
  readonly #owner: Owner
  readonly #find: Find

  constructor({ owner, find }: { readonly owner: Owner; readonly find: Find }) {
    this.#owner = owner
    this.#find = find
  }

  view(selector?: string): SlotsView {
    return slotsView(this.#owner.scheduler, this.#owner.moment(), selector)
  }

  /** What holds for the selector afterwards. Throws MESH0002, MESH0211, MESH0604. */
  async ofNodes(call: ApiCall): Promise<SlotsView> {
    const order = parseWith(SlotsOrder, bodyOf(call), 'slots')
    const selector = normalSelector(order.selector)
    const { slots } = this.#owner.scheduler.state.nodeFacts
    if (order.cpus === null) this.#checkSet(selector)
    else if (!slots.has(selector) && slots.size >= SLOT_ORDERS_MAX)
      throw new MeshError(
        'MESH0211',
        `the processors of nodes are set ${SLOT_ORDERS_MAX} times, and that is the limit`,
        { hints: ['see them: mesh slots', 'end one: mesh slots SELECTOR auto'] },
      )
    await this.#owner.applyDurably({
      type: 'lever',
      lever: { kind: 'slots', order: { ...order, selector } },
      by: byOf(call),
    })
    return this.view(selector)
  }

  async ofJob(id: string, call: ApiCall): Promise<JobView> {
    const { cpus } = parseWith(JobSlotsOrder, bodyOf(call), 'slots of a job')
    const step = this.#find.step(id)
    const { derivation, request, phase } = step
    if (!isAhead(step))
      throw new MeshError(
        'MESH0604',
        `${derivation.name} (${step.id}) is ${phase}: it neither waits nor runs`,
        { hints: ['those that do: mesh jobs --state waiting,running'] },
      )
    const target = { request: request.wire.id, derivation: derivation.name }
    await this.#owner.applyDurably({
      type: 'lever',
      lever: { kind: 'size', target, cpus },
      by: byOf(call),
    })
    return jobView(this.#owner.scheduler, step, this.#owner.moment())
  }

  /** Who lets go of what another selector holds is told so. */
  #checkSet(selector: string): void {
    const { scheduler } = this.#owner
    const active = scheduler.slots.active()
    if (active.some((order) => order.selector === selector)) return
    const named = [...scheduler.nodes.values()].find(({ record }) => record.name === selector)
    const other = named === undefined ? undefined : scheduler.slots.of(named)
    if (other === undefined) return
    throw new MeshError(
      'MESH0604',
      `no processors are set for "${selector}" itself; those of that node are by "${other.selector}"`,
      { hints: [`mesh slots '${other.selector}' auto`] },
    )
  }
}
