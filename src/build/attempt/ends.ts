/** From how a build or an attempt ended to the outcome that its granter is told. Pure. */
import { constants } from 'node:os'
import { isDiskFull, MeshError, messageOf } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import type { Action } from '../../wire/action.ts'
import type { Measured, Usage } from '../../wire/result.ts'
import type { AttemptOutcome, Lease, Limits } from '../../wire/work-messages.ts'
import type { BuildEnd, BuildOutcome } from '../executor.ts'
import type { MemoryUse } from '../groups/memory-meter.ts'
import { describeLimit } from '../limit-failure.ts'
import { MissingInputs } from './inputs.ts'

const MESSAGE_CHARS_MAX = 4096
const SIGNALS: Readonly<Record<string, number>> = constants.signals

export type Failed = Extract<AttemptOutcome, { kind: 'failed' }>

/** The build itself failed. Its log is put in later. */
export function failed(code: Failed['code'], message: string, exitCode: number): Failed {
  return {
    kind: 'failed',
    code,
    message: message.slice(0, MESSAGE_CHARS_MAX),
    exitCode: Math.min(255, Math.max(0, exitCode)),
    log: null,
    logTail: '',
  }
}

/** Why the action cannot be built anywhere; undefined where it can. */
export function refusalOf({ image = [] }: Action): Failed | undefined {
  const at = image.findIndex(({ kind }) => kind !== 'dir')
  if (at === -1) return undefined
  const what = `layer ${at + 1} of its image is a ${image[at]?.kind}, not a directory`
  return failed('MESH0406', what, 127)
}

/**
 * Undefined for a build that ended with 0, whose outputs are to be looked at. Throws MESH0505 and MESH0503
 * for what says nothing about the build.
 */
export function outcomeOfEnd(
  { end, memory }: Pick<BuildOutcome, 'end' | 'memory'>,
  of: {
    readonly lease: Lease
    readonly limits: Limits
    readonly node: string
    readonly signal: AbortSignal
  },
): AttemptOutcome | undefined {
  const { lease } = of
  if (memory?.isOut === true && !isWell(end))
    return failed('MESH0404', outOfMemory(lease, memory), exitCodeOf(end))
  switch (end.kind) {
    case 'cancelled':
      return cancelled(of.signal)
    case 'infrastructure':
      throw new MeshError('MESH0505', end.message)
    case 'builder-not-found':
      return failed('MESH0406', end.message, 127)
    case 'signalled':
      return failed('MESH0401', `ended by ${end.signal}`, exitCodeOf(end))
    case 'limit': {
      if (end.limit === 'disk' && lease.diskBytes === 0)
        throw new MeshError(
          'MESH0503',
          `the disk of ${of.node} is full, as far as one build may fill it: ${lease.name} took more than ${formatSize(end.value ?? 0)}; say how much it needs in needs.disk`,
        )
      const { message, ...limit } = describeLimit(end, of.limits)
      return { ...failed('MESH0402', message, 1), ...limit }
    }
    case 'exited':
      return end.code === 0 ? undefined : failed('MESH0401', `exit ${end.code}`, end.code)
  }
}

function outOfMemory({ memoryLimitBytes }: Lease, { peakBytes }: MemoryUse): string {
  const limit =
    memoryLimitBytes === undefined
      ? `the machine had no more, and it was seen to have ${formatSize(peakBytes)}`
      : `it may have ${formatSize(memoryLimitBytes)}`
  return `the kernel ended a process of it for want of memory: ${limit}`
}

/** Whoever was looked at too late is known by its largest process, which is told in any case. */
export function measuredOf(
  { memory, diskBytes = 0 }: Pick<BuildOutcome, 'memory' | 'diskBytes'>,
  usage: Usage,
  speed: number | undefined,
): Measured {
  const isSeen = memory !== undefined && memory.peakBytes >= usage.maxRssBytes
  return {
    memoryBytes: isSeen ? memory.peakBytes : usage.maxRssBytes,
    memoryFrom: isSeen ? memory.from : 'largest-process',
    diskBytes,
    ...(speed === undefined ? {} : { speed }),
  }
}

export function outcomeOfError(error: unknown, signal: AbortSignal): AttemptOutcome {
  if (signal.aborted) return cancelled(signal)
  const message = messageOf(error).slice(0, MESSAGE_CHARS_MAX)
  if (error instanceof MissingInputs) return { kind: 'missing', inputs: [...error.inputs], message }
  const isFull = (error instanceof MeshError && error.code === 'MESH0503') || isDiskFull(error)
  return { kind: 'infrastructure', code: isFull ? 'MESH0503' : 'MESH0505', message }
}

function cancelled({ reason }: AbortSignal): AttemptOutcome {
  return reason instanceof MeshError && reason.code === 'MESH0108'
    ? { kind: 'cancelled', isHandedBack: true }
    : { kind: 'cancelled' }
}

/** Nothing that a full disk or want of memory could have caused. */
export function isWell(end: BuildEnd): boolean {
  return (
    end.kind === 'cancelled' || end.kind === 'limit' || (end.kind === 'exited' && end.code === 0)
  )
}

function exitCodeOf(end: BuildEnd): number {
  if (end.kind === 'exited') return end.code
  return end.kind === 'signalled' ? 128 + (SIGNALS[end.signal] ?? 0) : 1
}
