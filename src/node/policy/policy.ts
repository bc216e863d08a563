/**
 * How much of a machine is for builds now. Pure: what was seen, and the time, go in; processors, memory and
 * a reason come out.
 *
 * Less is given at once, more only after a while (FASTBuild's worker modes: up in 5 s, down twice as fast):
 * somebody who sits down waits for nothing, and what comes and goes does not make builds grow and shrink.
 * Our own builds are never the reason: readings leave them out.
 */
import type { Reading } from './reading.ts'
import { windowAt, type LocalTime, type TimeWindow } from './windows.ts'

export const POLICIES = ['dedicated', 'proportional', 'when-idle', 'disabled'] as const
export type PolicyName = (typeof POLICIES)[number]

/** Hours with a policy or a limit of their own. */
export interface PolicyWindow extends TimeWindow {
  /** The most that builds get. */
  readonly cpus: number | undefined
  readonly policy: PolicyName | undefined
}

export interface PolicySettings {
  readonly name: PolicyName
  /** What is left to builds while the machine's owner is there, or while it is busy with other things. */
  readonly owner: {
    readonly cpus: number
    readonly memoryBytes: number | undefined
    /** Without a touch for so long they are away. */
    readonly idleAfterMs: number
    /** Builds go on as ever when the machine runs on its battery. */
    readonly isBatteryFine: boolean
  }
  /** The first that holds counts. */
  readonly windows: readonly PolicyWindow[]
}

/** What a person set with `mesh slots`. */
export interface Override {
  readonly cpus: number
  /** By the clock of the node; null for until it is taken back. */
  readonly untilMs: number | null
}

/** All of the machine that may ever be for builds. */
export interface Machine {
  readonly cpus: number
  readonly memoryBytes: number
}

type Cause =
  | 'all'
  | 'disabled'
  | 'person'
  | 'window'
  | 'owner'
  | 'busy'
  | 'share'
  | 'battery'
  | 'memory'
  | 'unknown'

export interface Decision {
  readonly policy: PolicyName
  /** 0 to the machine's. */
  readonly cpus: number
  readonly memoryBytes: number
  readonly cause: Cause
  /** For people; it may say another number of seconds at each step. */
  readonly reason: string
}

/** What one step remembers for the next. */
export interface PolicyState {
  /** Processors that others use, smoothed; undefined while it is not known. */
  readonly foreignCpus: number | undefined
  /** Processors that are left by others. */
  readonly level: number | undefined
  readonly levelAtMs: number
  readonly steppedAtMs: number
  /** Until then it counts as busy, or as short of memory. */
  readonly busyUntilMs: number
  readonly tightUntilMs: number
  readonly memoryBytes: number | undefined
}

export interface PolicyInput {
  readonly settings: PolicySettings
  readonly machine: Machine
  readonly reading: Reading
  readonly localTime: LocalTime
  readonly override: Override | undefined
  readonly nowMs: number
}

export const FIRST_STATE: PolicyState = {
  foreignCpus: undefined,
  level: undefined,
  levelAtMs: Number.NEGATIVE_INFINITY,
  steppedAtMs: Number.NEGATIVE_INFINITY,
  busyUntilMs: Number.NEGATIVE_INFINITY,
  tightUntilMs: Number.NEGATIVE_INFINITY,
  memoryBytes: undefined,
}

/** From one change of the level to the next that raises it, and that lowers it. */
export const UP_MS = 5000
export const DOWN_MS = 2500
/** Shares of the machine that others use from which it is busy, and below which it is not. */
const BUSY_SHARE = 0.2
const QUIET_SHARE = 0.15
/** How long it stays quiet before it counts as that; no longer than the owner's time of absence. */
const QUIET_MS = 60_000
/** Shares of the time in which everything waits for memory. */
const TIGHT_STALL = 0.1
const EASY_STALL = 0.05
const EASY_MS = 30_000
/** Of the machine's memory: what is told of it changes by no less. */
const MEMORY_STEP = 1 / 16
/** A fraction of a processor that others use, or leave, costs or gives builds no whole one. */
const LESS_BELOW = 0.5
const MORE_FROM = 0.9

export function step(
  before: PolicyState,
  input: PolicyInput,
): { readonly state: PolicyState; readonly decision: Decision } {
  const state = observe(before, input)
  const decision = decide(state, input)
  const { settings, override } = input
  // Whatever is not measured is as it was set.
  const isMeasured = decision.policy === 'when-idle' || decision.policy === 'proportional'
  if (override !== undefined || !isMeasured) return { state, decision }
  const memoryBytes = memoryOf(state, input, decision.cause, settings)
  return { state: { ...state, memoryBytes }, decision: { ...decision, memoryBytes } }
}

function observe(before: PolicyState, input: PolicyInput): PolicyState {
  const { reading, machine, settings, nowMs } = input
  const foreignCpus = smoothed(before, reading.foreignCpus, nowMs)
  const quietMs = Math.min(QUIET_MS, settings.owner.idleAfterMs)
  const cpus = reading.cpus ?? machine.cpus
  const isBusy = foreignCpus !== undefined && foreignCpus >= BUSY_SHARE * cpus
  const wasBusy = nowMs < before.busyUntilMs
  const staysBusy = wasBusy && (foreignCpus ?? 0) >= QUIET_SHARE * cpus
  const stall = reading.memoryStall ?? 0
  const isShort = (reading.memoryBytes ?? 1) <= 0
  const isTight = stall >= TIGHT_STALL || isShort
  const staysTight = nowMs < before.tightUntilMs && stall >= EASY_STALL
  return {
    ...before,
    foreignCpus,
    ...levelled(before, foreignCpus === undefined ? undefined : cpus - foreignCpus, input),
    steppedAtMs: nowMs,
    busyUntilMs: isBusy || staysBusy ? nowMs + quietMs : before.busyUntilMs,
    tightUntilMs: isTight || staysTight ? nowMs + EASY_MS : before.tightUntilMs,
  }
}

/** What rises is believed twice as fast as what falls. */
function smoothed(
  { foreignCpus: before, steppedAtMs }: PolicyState,
  seen: Reading['foreignCpus'],
  nowMs: number,
): number | undefined {
  if (seen === 'soon') return before
  if (seen === undefined || before === undefined) return seen
  const settleMs = seen > before ? DOWN_MS : UP_MS
  return before + (seen - before) * (1 - Math.exp(-Math.max(0, nowMs - steppedAtMs) / settleMs))
}

/** Whole processors for builds, of `left` that others leave of all. */
function levelled(
  { level: before, levelAtMs }: PolicyState,
  left: number | undefined,
  { machine, nowMs }: PolicyInput,
): Pick<PolicyState, 'level' | 'levelAtMs'> {
  if (left === undefined) return { level: undefined, levelAtMs }
  const fit = (level: number): number => Math.min(machine.cpus, Math.max(0, level))
  if (before === undefined) return { level: fit(Math.round(left)), levelAtMs: nowMs }
  const isLess = left < before - LESS_BELOW && nowMs - levelAtMs >= DOWN_MS
  const isMore = left >= before + MORE_FROM && before < machine.cpus && nowMs - levelAtMs >= UP_MS
  if (isLess) return { level: fit(Math.round(left)), levelAtMs: nowMs }
  if (isMore) return { level: fit(Math.floor(left + 1 - MORE_FROM)), levelAtMs: nowMs }
  return { level: fit(before), levelAtMs }
}

function decide(state: PolicyState, input: PolicyInput): Decision {
  const { settings, machine, localTime, override } = input
  const at = windowAt(settings.windows, localTime)
  const window = at === undefined ? undefined : settings.windows[at]
  const policy = window?.policy ?? settings.name
  const whole = { policy, memoryBytes: machine.memoryBytes }
  if (override !== undefined)
    return {
      ...whole,
      cpus: Math.min(machine.cpus, override.cpus),
      cause: 'person',
      reason: 'set with mesh slots',
    }
  const given = byPolicy(policy, state, input)
  const cap = window?.cpus
  if (cap === undefined || cap >= given.cpus) return { ...whole, ...given }
  return { ...whole, cpus: cap, cause: 'window', reason: 'the limit of these hours' }
}

type Given = Pick<Decision, 'cpus' | 'cause' | 'reason'>

function byPolicy(policy: PolicyName, state: PolicyState, input: PolicyInput): Given {
  const { machine } = input
  switch (policy) {
    case 'disabled':
      return { cpus: 0, cause: 'disabled', reason: 'this node takes no builds' }
    case 'dedicated':
      return { cpus: machine.cpus, cause: 'all', reason: 'all of it is for builds' }
    case 'when-idle':
      return restrictionOf(state, input) ?? whenIdle(state, input)
    case 'proportional':
      return restrictionOf(state, input) ?? proportional(state, input)
  }
}

const leastOf = ({ settings, machine }: PolicyInput): number =>
  Math.min(machine.cpus, settings.owner.cpus)

/** What holds for both policies that look at the machine. */
function restrictionOf(state: PolicyState, input: PolicyInput): Given | undefined {
  const cpus = leastOf(input)
  if (input.reading.isOnBattery === true && !input.settings.owner.isBatteryFine)
    return { cpus, cause: 'battery', reason: 'the machine runs on its battery' }
  if (input.nowMs < state.tightUntilMs)
    return { cpus, cause: 'memory', reason: 'the machine is short of memory' }
  return undefined
}

function whenIdle({ foreignCpus, busyUntilMs }: PolicyState, input: PolicyInput): Given {
  const { machine, reading, settings, nowMs } = input
  const { presence } = reading
  const cpus = leastOf(input)
  if (presence.kind === 'unknown')
    return {
      cpus,
      cause: 'unknown',
      reason: `nothing tells whether somebody is there: ${reading.missing.join('; ')}`,
    }
  if (presence.kind === 'somebody') {
    const { who, where, idleMs } = presence
    if (idleMs === undefined)
      return { cpus, cause: 'owner', reason: `${who} is logged in (${where})` }
    if (idleMs < settings.owner.idleAfterMs)
      return {
        cpus,
        cause: 'owner',
        reason: `${who} is at the machine (${where}, idle ${seconds(idleMs)})`,
      }
  }
  if (reading.foreignCpus === 'soon' && foreignCpus === undefined)
    return { cpus, cause: 'unknown', reason: 'what others use of it is being measured' }
  if (nowMs < busyUntilMs)
    return {
      cpus,
      cause: 'busy',
      reason: `the machine is busy with other things (${used(foreignCpus)})`,
    }
  return { cpus: machine.cpus, cause: 'all', reason: 'nobody is there' }
}

function proportional({ level, foreignCpus }: PolicyState, input: PolicyInput): Given {
  const { machine, reading } = input
  const least = leastOf(input)
  if (level === undefined)
    return {
      cpus: least,
      cause: 'unknown',
      reason:
        reading.foreignCpus === 'soon'
          ? 'what others use of it is being measured'
          : `what others use of it cannot be seen: ${reading.missing.join('; ')}`,
    }
  const cpus = Math.max(least, level)
  if (cpus === machine.cpus) return { cpus, cause: 'all', reason: 'others leave all of it' }
  return { cpus, cause: 'share', reason: `what others leave (${used(foreignCpus)})` }
}

/** Of the machine's memory that is free, or the owner's limit; it is told anew only when it is another one by much. */
function memoryOf(
  { memoryBytes: before }: PolicyState,
  { machine, reading }: PolicyInput,
  cause: Cause,
  { owner }: PolicySettings,
): number {
  const isLimited = cause !== 'all' && cause !== 'share' && cause !== 'window'
  const limit = Math.min(
    machine.memoryBytes,
    (isLimited ? owner.memoryBytes : undefined) ?? machine.memoryBytes,
  )
  const stepBytes = Math.max(1, machine.memoryBytes * MEMORY_STEP)
  const left = Math.max(0, reading.memoryBytes ?? machine.memoryBytes)
  const isNew = before === undefined || Math.abs(Math.min(left, limit) - before) >= stepBytes
  const isWhole = left >= limit
  if (isNew || isWhole || before > limit) return Math.round(Math.min(left, limit))
  return before
}

const seconds = (ms: number): string =>
  ms < 60_000 ? `${Math.floor(ms / 1000)} s` : `${Math.floor(ms / 60_000)} min`

const used = (cpus = 0): string => `they use ${cpus.toFixed(1)} cpus`
