/** Which of a node's own nodes a lease is passed on to. The grant says in which environment it runs. */
import { LEASE_MS, type Lease } from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import { canStart, environmentFor, type Requirement } from './match.ts'
import type { NodeEntry } from './model.ts'
import { offeredBy } from './subtree-offer.ts'

/** Of the nodes that could start it now the fastest, of equal ones the one with the largest free share. */
export function chooseNode(
  { nodes, moment, allotments }: Core,
  lease: Lease,
  requirement: Requirement,
): NodeEntry | undefined {
  let best: { readonly node: NodeEntry; readonly score: number } | undefined
  for (const node of nodes.values()) {
    // What was given up there may still run, as long as nobody has heard otherwise.
    if (moment.nowMs - node.lastSyncMs > LEASE_MS || !mayTake(node, lease, requirement)) continue
    const freeCpus = allotments.freeOn(node).cpus
    if (node.bundle === undefined && freeCpus < requirement.cpusMin) continue
    const share = freeCpus / Math.max(1, node.capacity.cpus)
    const isAvoided = lease.terms?.avoid.includes(node.peerId) === true
    const score = (isAvoided ? -1e6 : 0) + node.speed * 10 + share
    if (best === undefined || score > best.score) best = { node, score }
  }
  return best?.node
}

function mayTake(node: NodeEntry, lease: Lease, requirement: Requirement): boolean {
  if (!node.connected || node.ackSeq === 0) return false
  if (node.bundle === undefined) return !isBarred(node, lease) && canStart(requirement, node)
  return offeredBy(node, lease.terms?.class ?? '').some(
    ({ environment, count }) =>
      count > 0 &&
      environmentFor(requirement, { ...node, environments: [environment] }) !== undefined,
  )
}

/** Of a job that several nodes are to build: whether this one builds it or has built it. It would only agree with itself. */
function isBarred(node: NodeEntry, { job, attempt, terms }: Lease): boolean {
  if (terms?.barred === undefined) return false
  if (terms.barred.includes(node.peerId)) return true
  for (const { id, lease, finished } of node.relayed.values())
    if (id !== attempt && lease?.job === job && finished === undefined) return true
  return false
}
