/** A user's submission as the request that travels to its owner. */
import { checkGraph } from '../../scheduler/check-request.ts'
import { Submission } from '../../wire/api.ts'
import { parseWith } from '../../wire/cbor.ts'
import type { RequestWire } from '../../wire/facts.ts'
import { RequestId } from '../../wire/names.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'

/** Throws MESH0202-0211 for what cannot be accepted. */
export function requestFrom(
  id: string,
  body: unknown,
  by: { readonly entry: PeerRecord; readonly user: string; readonly wallMs: number },
): RequestWire {
  const submission = parseWith(Submission, body, 'submission')
  checkGraph(submission.graph)
  return {
    id: parseWith(RequestId, id, 'request id'),
    user: by.user,
    entry: { peerId: by.entry.peerId, name: by.entry.name },
    graph: submission.graph,
    priority: submission.priority,
    keepGoing: submission.keepGoing,
    noWait: submission.noWait,
    takesCopy: submission.takesCopy,
    ...(submission.waitLimitMs === undefined ? {} : { waitLimitMs: submission.waitLimitMs }),
    submittedAtWall: by.wallMs,
  }
}
