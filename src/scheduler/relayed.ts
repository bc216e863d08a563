/** Leases that are passed on, one by one: how one begins, and who is believed of those that tell of it. */
import type { Lease, Limits, Resources, RunningAttempt } from '../wire/work-messages.ts'
import type { NodeEntry, Relayed } from './model.ts'

/** Reserved for what takes no room, or none any more. */
export const NOTHING: Resources = { cpus: 0, memoryBytes: 0, diskBytes: 0 }

/** The node is there and says that it has it, or knows who has. */
export function isHeldBy(node: NodeEntry | undefined, { id, isAway }: Relayed): boolean {
  return node?.connected === true && !isAway && node.running.has(id)
}

/** Whoever runs it may come back by way of another node; until its old one notices that, both tell of it. */
export function hasMoved(
  relayed: Relayed,
  node: NodeEntry,
  { awayMs, runner }: RunningAttempt,
): boolean {
  if (relayed.node === undefined) return true
  if (awayMs !== undefined) return !relayed.node.connected
  if (!isHeldBy(relayed.node, relayed)) return true
  // The one who runs it says so itself.
  return runner === undefined && (relayed.runner?.peerId ?? node.peerId) === node.peerId
}

export function leaseResources(lease: Lease | undefined): Resources {
  if (lease === undefined) return NOTHING
  const { cpus, memoryBytes, diskBytes } = lease
  return { cpus, memoryBytes, diskBytes }
}

export function sameLimits(a: Limits | undefined, b: Limits): boolean {
  return (
    a?.timeoutMs === b.timeoutMs &&
    a.maxSilentMs === b.maxSilentMs &&
    a.maxLogBytes === b.maxLogBytes &&
    a.maxOutputBytes === b.maxOutputBytes &&
    a.keepFailed === b.keepFailed
  )
}

/** A lease that has just come, or an attempt that was told of without one. */
export function newRelayed(id: string, nowMs: number, lease?: Lease): Relayed {
  return {
    id,
    lease,
    limits: lease?.limits,
    node: undefined,
    boot: '',
    runner: undefined,
    phase: 'leased',
    phases: {},
    reserved: NOTHING,
    finished: undefined,
    fate: 'open',
    sinceMs: nowMs,
    leaseUntilMs: Number.POSITIVE_INFINITY,
    isAway: false,
    claim: undefined,
    confirmed: false,
    sentSeq: 0,
  }
}
