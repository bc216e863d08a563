/** What people said of processors, in the form of the API. Pure. */
import type { SlotsView } from '../wire/slots.ts'
import type { Moment } from './events.ts'
import { isAhead, isLive, type NodeEntry } from './model.ts'
import type { Scheduler } from './scheduler.ts'
import { nodeSlotsMark, slotsMark } from './slots-mark.ts'
import { nodesSelected } from './standing-view.ts'
import { cpusOf } from './subtree-offer.ts'
import { jobState } from './views.ts'

/** Jobs that are named, of the newest requests. */
const JOBS_NAMED_MAX = 1_000

/** All that is set, or of one selector alone. O(nodes * words + steps). */
export function slotsView(scheduler: Scheduler, moment: Moment, selector?: string): SlotsView {
  const orders = scheduler.slots
    .active()
    .filter((order) => selector === undefined || order.selector === selector)
  return {
    nodes: orders.map((order) => ({
      selector: order.selector,
      ...nodeSlotsMark(order, moment),
      nodes: nodesSelected(scheduler, order.selector).map(slotsOf),
    })),
    jobs: selector === undefined ? jobsOf(scheduler) : [],
  }
}

function slotsOf(node: NodeEntry): SlotsView['nodes'][number]['nodes'][number] {
  const { total, busy } = cpusOf(node)
  const { record, peerId, state } = node
  return { name: record.name, peerId, state, cpus: total, busy }
}

function jobsOf({ state }: Scheduler): SlotsView['jobs'] {
  const jobs: SlotsView['jobs'] = []
  for (const request of [...state.requests.values()].toReversed()) {
    if (request.state !== 'active') continue
    for (const step of request.steps.values()) {
      if (step.slots === undefined || !isAhead(step)) continue
      jobs.push({
        job: step.id,
        name: step.derivation.name,
        request: request.wire.id,
        state: jobState(step),
        has: step.job?.attempts.find(isLive)?.allotted ?? null,
        ...slotsMark(step.slots),
      })
      if (jobs.length >= JOBS_NAMED_MAX) return jobs
    }
  }
  return jobs
}
