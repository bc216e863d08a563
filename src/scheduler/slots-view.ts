/** What people said of processors, in the form of the API. Pure. */
import type { SlotsView } from '../wire/slots.ts'
import type { Moment } from './events.ts'
import { isLive, type Step } from './model.ts'
import type { ActiveSlots } from './node-slots.ts'
import type { Scheduler } from './scheduler.ts'
import { isSelected, readSelector } from './selector.ts'
import { nodeSlotsMark, slotsMark } from './slots-mark.ts'
import { cpusOf } from './subtree-offer.ts'
import { jobState } from './views.ts'

/** Nodes that are named of one selector. */
const NODES_NAMED_MAX = 1_000
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
      nodes: nodesOf(scheduler, order),
    })),
    jobs: selector === undefined ? jobsOf(scheduler) : [],
  }
}

function nodesOf(scheduler: Scheduler, order: ActiveSlots): SlotsView['nodes'][number]['nodes'] {
  const terms = readSelector(order.selector)
  if (terms === undefined) return []
  return [...scheduler.nodes.values()]
    .filter((node) => node.bundle === undefined && isSelected(terms, node))
    .slice(0, NODES_NAMED_MAX)
    .map((node) => ({
      name: node.record.name,
      peerId: node.peerId,
      state: node.state,
      cpus: cpusOf(node).total,
      busy: cpusOf(node).busy,
    }))
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

/** It waits or runs. */
export function isAhead({ phase }: Pick<Step, 'phase'>): boolean {
  return phase === 'open' || phase === 'blocked'
}
