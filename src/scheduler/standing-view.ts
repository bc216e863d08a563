/** How nodes stand, as people see it: what runs on them, who drained them, why they are in quarantine. Pure. */
import type { DrainView, NodeView } from '../wire/api.ts'
import type { Moment } from './events.ts'
import { isLive, type Attempt, type NodeEntry } from './model.ts'
import type { ActiveDrain } from './drains.ts'
import type { Scheduler } from './scheduler.ts'
import { iso, nodeSlotsMark } from './slots-mark.ts'
import { isSelected, readSelector } from './selector.ts'

/** Attempts that are named of one node. */
const RUNNING_NAMED_MAX = 20
/** Nodes that are named of one selector. */
const NODES_NAMED_MAX = 1_000

export type StandingView = Pick<NodeView, 'speed' | 'running' | 'drain' | 'quarantine' | 'slots'>

export function standingView(scheduler: Scheduler, node: NodeEntry, moment: Moment): StandingView {
  const drain = scheduler.drains.of(node)
  const quarantined = scheduler.quarantine.of(node)
  const slots = scheduler.slots.of(node)
  return {
    speed: node.speed,
    running: runningCountOf(node),
    ...(slots === undefined ? {} : { slots: nodeSlotsMark(slots, moment) }),
    ...(drain === undefined
      ? {}
      : {
          drain: {
            by: drain.by,
            reason: drain.reason,
            at: iso(drain.atWall),
            deadline: deadlineOf(drain, moment),
          },
        }),
    ...(quarantined === undefined
      ? {}
      : {
          quarantine: {
            reason: quarantined.reason,
            until: iso(moment.wallMs + Math.max(0, quarantined.untilMs - moment.nowMs)),
          },
        }),
  }
}

export function drainView(scheduler: Scheduler, drain: ActiveDrain, moment: Moment): DrainView {
  return {
    id: drain.id,
    selector: drain.selector,
    reason: drain.reason,
    by: drain.by,
    at: iso(drain.atWall),
    deadline: deadlineOf(drain, moment),
    nodes: nodesSelected(scheduler, drain.selector).map((node) => {
      const running = runningOn(node)
      return {
        name: node.record.name,
        peerId: node.peerId,
        state: node.state,
        running: running.slice(0, RUNNING_NAMED_MAX).map((attempt) => ({
          ...jobOf(attempt),
          forMs: Math.max(0, moment.wallMs - attempt.startedAtWall),
        })),
        runningCount: runningCountOf(node),
      }
    }),
  }
}

/** The nodes seen from here that the selector names, as many of them as are told. */
export function nodesSelected({ nodes }: Scheduler, selector: string): NodeEntry[] {
  const terms = readSelector(selector)
  if (terms === undefined) return []
  return [...nodes.values()]
    .filter((node) => node.bundle === undefined && isSelected(terms, node))
    .slice(0, NODES_NAMED_MAX)
}

/** The oldest first. */
function runningOn(node: NodeEntry): Attempt[] {
  return [...node.attempts].filter(isLive).toSorted((a, b) => a.startedAtWall - b.startedAtWall)
}

/** Attempts that run there, those for this node's own parent too. */
export function runningCountOf(node: NodeEntry): number {
  let count = 0
  for (const attempt of node.attempts) if (isLive(attempt)) count += 1
  for (const { finished } of node.relayed.values()) if (finished === undefined) count += 1
  return count
}

function jobOf({ job }: Attempt): { job: string; name: string } {
  for (const step of [...job.waiters, ...job.shownBy])
    return { job: step.id, name: step.derivation.name }
  return { job: job.id, name: '' }
}

function deadlineOf({ endMs }: ActiveDrain, moment: Moment): string | null {
  return Number.isFinite(endMs) ? iso(moment.wallMs + (endMs - moment.nowMs)) : null
}
