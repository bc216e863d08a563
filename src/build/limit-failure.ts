/** What is said of a build that had too much of something, and how much disk one may have that did not say. */
import { formatSize } from '../base/units.ts'
import type { AttemptOutcome, Limits } from '../wire/work-messages.ts'
import type { BuildEnd } from './executor-protocol.ts'

type Failed = Extract<AttemptOutcome, { kind: 'failed' }>
/** The limit in the outcome; `message` says it to people, after the name of the build. */
interface LimitFailure extends Pick<Failed, 'limit' | 'exceeded'> {
  readonly message: string
}

export function describeLimit(
  { limit, value = 0 }: Extract<BuildEnd, { kind: 'limit' }>,
  { timeoutMs, maxSilentMs, maxLogBytes }: Limits,
): LimitFailure {
  switch (limit) {
    case 'timeout':
      return {
        message: `ran longer than run.timeout (${timeoutMs / 1000} s) and was killed`,
        limit: { name: limit, value: timeoutMs },
      }
    case 'silent':
      return {
        message: `printed nothing for run.max-silent (${maxSilentMs / 1000} s) and was killed`,
        limit: { name: limit, value: maxSilentMs },
      }
    case 'log':
      return {
        message: `printed more than run.max-log (${formatSize(maxLogBytes)}) and was killed`,
        limit: { name: limit, value: maxLogBytes },
      }
    case 'output':
      return {
        message: `made more outputs than run.max-output (${formatSize(value)}) and was killed`,
        exceeded: { name: limit, value },
      }
    case 'disk':
      return {
        message: `took more of the disk than needs.disk (${formatSize(value)}) and was killed`,
        exceeded: { name: limit, value },
      }
    case 'processes':
      return {
        message: `tried to have more than ${value} processes and was killed`,
        exceeded: { name: limit, value },
      }
  }
}

/**
 * What a build may take of the disk: what it said that it needs; else what leaves free what the store wants
 * free, but at least half of what there is, so that a node that is nearly full still builds small things.
 */
export function diskLimitOf(
  declaredBytes: number,
  space: { readonly freeBytes: number; readonly floorBytes: number } | undefined,
): number | undefined {
  if (declaredBytes > 0) return declaredBytes
  if (space === undefined) return undefined
  const { freeBytes, floorBytes } = space
  return Math.floor(Math.max(freeBytes - floorBytes, freeBytes / 2))
}
