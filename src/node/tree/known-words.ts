/** What a parent of an earlier version does not know is told in words that it knows; one it cannot read would end the link. */
import {
  FEATURE_REFUSE,
  FEATURE_TREE,
  type AttemptOutcome,
  type SyncMessage,
} from '../../wire/work-messages.ts'

/** `features` are those of the parent's hello. */
export function inKnownWords(message: SyncMessage, features: readonly string[]): SyncMessage {
  if (features.includes(FEATURE_REFUSE) && features.includes(FEATURE_TREE)) return message
  const finished = message.finished.map((each) => ({
    ...each,
    outcome: knownOutcome(each.outcome, features),
  }))
  return { ...message, finished }
}

/** As a failure of the infrastructure: the job is tried elsewhere. */
function knownOutcome(outcome: AttemptOutcome, features: readonly string[]): AttemptOutcome {
  switch (outcome.kind) {
    case 'refused':
      return features.includes(FEATURE_REFUSE)
        ? outcome
        : { kind: 'infrastructure', code: 'MESH0505', message: `refused: ${outcome.reason}` }
    case 'returned':
      return features.includes(FEATURE_TREE)
        ? outcome
        : { kind: 'infrastructure', code: 'MESH0505', message: outcome.message }
    case 'built':
    case 'failed':
    case 'missing':
    case 'infrastructure':
    case 'cancelled':
      return outcome
  }
}
