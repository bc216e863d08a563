/** What a node is told to do, as the message that says so. Pure; the simulator makes its messages here too. */
import { encodeAction, type Action } from '../../wire/action.ts'
import type { NodeRef } from '../../wire/facts.ts'
import { WORK_FRAME_BYTES_MAX } from '../../wire/frame-channel.ts'
import { ANCESTORS_MAX, type DesiredMessage, type Lease } from '../../wire/work-messages.ts'
import type { Desired, Grant } from '../../scheduler/events.ts'
import { memoryLimitOf } from '../../scheduler/learnt.ts'

/** Of the grants in one message, by a generous guess at what a lease takes beside its action. */
const GRANT_BYTES_MAX = WORK_FRAME_BYTES_MAX / 4
const HINT_BYTES = 64
const PEER_BYTES = 512
const LEASE_BYTES = 4096

/** Where the inputs of the action are likely to be. */
export type HintsFor = (action: Action) => Pick<Lease, 'hints' | 'peers'>

export function desiredMessage(
  desired: Desired,
  seq: number,
  self: NodeRef,
  hintsFor: HintsFor,
): DesiredMessage {
  return {
    type: 'desired',
    seq,
    ackSeq: desired.ackSeq,
    epoch: desired.epoch,
    grants: fitting(
      [
        ...desired.relayed,
        ...desired.grants.map((grant) => leaseOf(grant, desired.epoch, hintsFor)),
      ],
      desired.defer,
    ),
    limits: [...desired.limits],
    cancel: [...desired.cancel],
    ack: [...desired.ack],
    tools: [...desired.tools],
    ...(desired.classes === undefined ? {} : { classes: [...desired.classes] }),
    ancestors: [{ peerId: self.peerId, name: self.name }, ...desired.ancestors].slice(
      0,
      ANCESTORS_MAX,
    ),
    drains: [...desired.drains],
    leaseMs: desired.leaseMs,
    allotments: [...desired.allotments],
    ...desired.slots,
    ...(desired.claims.length === 0 ? {} : { claims: [...desired.claims] }),
  }
}

function leaseOf(
  { attempt, action, limits, name, urls, terms, features, cpusMax = 0 }: Grant,
  epoch: number,
  hintsFor: HintsFor,
): Lease {
  return {
    attempt: attempt.id,
    job: attempt.job.id,
    name,
    action: encodeAction(action),
    jobKey: attempt.job.key,
    userland: attempt.userland,
    isolation: attempt.isolation,
    host: attempt.system,
    ...(features.length === 0 ? {} : { features: [...features] }),
    epoch,
    cpus: attempt.allotted,
    ...(cpusMax > attempt.allotted ? { cpusMax } : {}),
    memoryBytes: attempt.memoryBytes,
    diskBytes: attempt.diskBytes,
    ...memoryLimitOf(attempt),
    limits,
    urls: [...urls],
    ...hintsFor(action),
    ...(terms === undefined ? {} : { terms }),
  }
}

/** As many as fit a message; the rest follow when these are confirmed. */
function fitting(all: readonly Lease[], defer: (attempt: string) => void): Lease[] {
  const leases: Lease[] = []
  let bytes = 0
  for (const [at, lease] of all.entries()) {
    bytes += lease.action.byteLength + LEASE_BYTES
    bytes += lease.hints.length * HINT_BYTES + lease.peers.length * PEER_BYTES
    if (leases.length > 0 && bytes > GRANT_BYTES_MAX) {
      for (const { attempt } of all.slice(at)) defer(attempt)
      break
    }
    leases.push(lease)
  }
  return leases
}
