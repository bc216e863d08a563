/** Jobs that the nodes themselves would not begin, as their own checks said. */
import { formatDuration } from '../../base/units.ts'
import type { Job, NodeEntry, Refusal, WaitReason } from '../model.ts'
import { listSome } from './words.ts'

/** Undefined unless every present node refuses the job. */
export function refusalReason(
  { refusedBy }: Job,
  present: readonly NodeEntry[],
  nowMs: number,
): WaitReason | undefined {
  if (refusedBy.size === 0) return undefined
  const refusals: Refusal[] = []
  for (const { peerId } of present) {
    const refusal = refusedBy.get(peerId)
    if (refusal === undefined) return undefined
    refusals.push(refusal)
  }
  const nextMs = Math.min(...refusals.map(({ untilMs }) => untilMs))
  const named = refusals.map(({ node, reason }) => (reason === '' ? node : `${node} (${reason})`))
  const which =
    refusals.length === 1
      ? 'the 1 matching node refuses it'
      : `all ${refusals.length} matching nodes refuse it`
  return {
    class: 'refused',
    text: `${which}: ${listSome(named)}; asked again in ${formatDuration(Math.max(1_000, nextMs - nowMs))}`,
  }
}
