/**
 * The last line of a log: why the attempt ended as it did, made from its outcome by this one function,
 * whatever noticed the end. A build that succeeded has none.
 */
import { cidOf } from '../wire/digest.ts'
import type { AttemptOutcome } from '../wire/work-messages.ts'

/** One line without its line feed; undefined for success. `reason` is why somebody gave the attempt up. */
export function lastLine(outcome: AttemptOutcome, reason?: string): string | undefined {
  const text = textOf(outcome, reason)
  // Messages quote what builds and disks say.
  return text?.replaceAll(/\s*[\r\n]+\s*/g, '; ').slice(0, LINE_CHARS_MAX)
}

const LINE_CHARS_MAX = 8_192

function textOf(outcome: AttemptOutcome, reason: string | undefined): string | undefined {
  switch (outcome.kind) {
    case 'built':
      return undefined
    case 'failed':
      return `failed: ${outcome.message} (${outcome.code})${keptText(outcome.kept)}`
    case 'missing':
      return `not begun: ${outcome.message} (MESH0501)`
    case 'infrastructure':
      return `broken off: ${outcome.message} (${outcome.code}): this says nothing about the build`
    case 'cancelled':
      return outcome.isHandedBack === true
        ? 'handed back: the node is stopping (MESH0108)'
        : `cancelled: ${reason ?? 'nobody needs it any more'} (MESH0304)`
    case 'refused':
      return `refused: ${outcome.reason}`
    case 'returned':
      return `given back: ${outcome.message}`
  }
}

function keptText(kept: Extract<AttemptOutcome, { kind: 'failed' }>['kept']): string {
  return kept === undefined || kept.kind === 'symlink'
    ? ''
    : `; what it left is kept: mesh get ${cidOf(kept.digest, 'object')} -o DIR`
}
