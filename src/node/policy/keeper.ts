/**
 * Holds a node to its policy: looks at the machine again and again, where the policy asks for that, and
 * tells how much of it is for builds.
 *
 * What a person sets (`mesh slots`) comes before the policy and its hours, until it ends or is taken back.
 */
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import type { PolicyWire } from '../../wire/policy.ts'
import {
  FIRST_STATE,
  step,
  type Decision,
  type Machine,
  type Override,
  type PolicySettings,
  type PolicyState,
} from './policy.ts'
import { NOTHING_READ, type Reading } from './reading.ts'
import type { ReadSensors } from './sensors/sensors.ts'
import { localTimeIn, nextChangeMs, windowAt, WEEKDAYS, type LocalTimeOf } from './windows.ts'

/** Somebody who comes home has their processors within two seconds, in which builds have to hear of it, too. */
export const SAMPLE_MS = 1500
const DAY_MS = 24 * 3600 * 1000
const REASON_CHARS_MAX = 512

export interface KeeperDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly read: ReadSensors
  /** All that may ever be for builds; asked at each step, as a machine may change. */
  readonly machine: () => Machine
  readonly localTimeOf?: LocalTimeOf
  /** Builds get another share than before, or for another reason. */
  readonly onChange: () => void
}

export class PolicyKeeper implements Disposable {
  readonly #deps: KeeperDeps
  readonly #localTimeOf: LocalTimeOf
  #settings: PolicySettings
  #state: PolicyState = FIRST_STATE
  #reading: Reading = NOTHING_READ
  #decision: Decision
  #override: Override | undefined
  #timer: Timer | undefined
  #isOver = false
  #missing = ''
  /** When another window holds; undefined where that never happens. */
  #edge: { readonly window: number | undefined; readonly atWallMs: number | undefined } | undefined

  constructor(deps: KeeperDeps, settings: PolicySettings) {
    this.#deps = deps
    this.#localTimeOf = deps.localTimeOf ?? localTimeIn()
    this.#settings = settings
    // Nothing has been seen yet: what needs to be looked at gives the least.
    this.#decision = this.#step()
  }

  /** Resolves when the machine was looked at once, where its policy asks for that. */
  async start(): Promise<void> {
    await this.#sample()
  }

  [Symbol.dispose](): void {
    this.#isOver = true
    this.#timer?.cancel()
  }

  get decision(): Decision {
    return this.#decision
  }

  /** Other settings than before, as after a change of the configuration file. */
  setPolicy(settings: PolicySettings): void {
    // What was seen for another policy may not be what this one has to see.
    if (settings.name !== this.#settings.name) this.#reading = NOTHING_READ
    this.#settings = settings
    this.#edge = undefined
    this.#apply()
    this.#soon(0)
  }

  /** The machine has become larger or smaller. */
  resized(): void {
    this.#apply()
  }

  /** As a person wants it, for so long; null is for ever, undefined is what nobody wants any more. */
  setSlots(slots: { readonly cpus: number; readonly leftMs: number | null } | undefined): void {
    const { clock } = this.#deps
    const before = this.#override
    this.#override =
      slots === undefined || (slots.leftMs !== null && slots.leftMs <= 0)
        ? undefined
        : {
            cpus: slots.cpus,
            untilMs: slots.leftMs === null ? null : clock.nowMs() + slots.leftMs,
          }
    if (before === undefined && this.#override === undefined) return
    if (before?.cpus !== this.#override?.cpus) this.#apply()
    this.#arm()
  }

  /** What others are told, with the time that it holds until where that is known. */
  get note(): PolicyWire {
    const { policy: name, cpus, reason, cause } = this.#decision
    const untilWall = this.#untilWall()
    const until =
      untilWall === undefined
        ? ''
        : cause === 'person' || cause === 'window'
          ? `; until ${this.#clockTime(untilWall)}`
          : `; other hours from ${this.#clockTime(untilWall)}`
    return {
      name,
      cpus,
      of: this.#deps.machine().cpus,
      wholeMemoryBytes: this.#deps.machine().memoryBytes,
      reason: `${reason}${until}`.slice(0, REASON_CHARS_MAX),
      ...(untilWall === undefined ? {} : { untilWall }),
    }
  }

  async #sample(): Promise<void> {
    const { read, log } = this.#deps
    try {
      this.#reading = await read(this.#decision.policy)
    } catch (error) {
      this.#reading = { ...NOTHING_READ, missing: [messageOf(error)] }
    }
    if (this.#isOver) return
    const missing = this.#reading.missing.join('; ')
    if (missing !== this.#missing && missing !== '')
      log.info({ missing: this.#reading.missing }, 'some of the machine cannot be seen')
    this.#missing = missing
    this.#apply()
    this.#arm()
  }

  #step(): Decision {
    const { clock, machine } = this.#deps
    const nowMs = clock.nowMs()
    const { untilMs = null } = this.#override ?? {}
    if (untilMs !== null && untilMs <= nowMs) this.#override = undefined
    const { state, decision } = step(this.#state, {
      settings: this.#settings,
      machine: machine(),
      reading: this.#reading,
      localTime: this.#localTimeOf(clock.wallMs()),
      override: this.#override,
      nowMs,
    })
    this.#state = state
    return decision
  }

  #apply(): void {
    const before = this.#decision
    const now = this.#step()
    this.#decision = now
    if (
      before.cpus === now.cpus &&
      before.memoryBytes === now.memoryBytes &&
      before.cause === now.cause &&
      before.policy === now.policy
    )
      return
    const { policy, cpus, memoryBytes, reason } = now
    this.#deps.log.info({ policy, cpus, memoryBytes, reason }, 'another share is for builds')
    this.#deps.onChange()
  }

  #arm(): void {
    const { policy } = this.#decision
    const isMeasured = policy === 'when-idle' || policy === 'proportional'
    const { untilMs = null } = this.#override ?? {}
    if (isMeasured || this.#settings.windows.length > 0) this.#soon(SAMPLE_MS)
    else if (untilMs !== null)
      this.#soon(Math.min(2 ** 31 - 1, Math.max(0, untilMs - this.#deps.clock.nowMs())))
    else this.#timer?.cancel()
  }

  #soon(delayMs: number): void {
    if (this.#isOver) return
    this.#timer?.cancel()
    this.#timer = this.#deps.clock.setTimer(delayMs, () => void this.#sample())
  }

  /** When what a person set ends, else when other hours begin. */
  #untilWall(): number | undefined {
    const { clock } = this.#deps
    const wallMs = clock.wallMs()
    const { untilMs } = this.#override ?? {}
    if (untilMs === null) return undefined
    if (untilMs !== undefined) return Math.round(wallMs + untilMs - clock.nowMs())
    const { windows } = this.#settings
    if (windows.length === 0) return undefined
    const window = windowAt(windows, this.#localTimeOf(wallMs))
    const edge = this.#edge
    const isOver = (edge?.atWallMs ?? Number.POSITIVE_INFINITY) <= wallMs
    if (edge === undefined || edge.window !== window || isOver)
      this.#edge = { window, atWallMs: nextChangeMs(windows, wallMs, this.#localTimeOf) }
    return this.#edge?.atWallMs
  }

  /** `18:00` within a day, else `mon 18:00`: by the clock of this node. */
  #clockTime(atWallMs: number): string {
    const { day, minute } = this.#localTimeOf(atWallMs)
    const two = (value: number): string => String(value).padStart(2, '0')
    const time = `${two(Math.floor(minute / 60))}:${two(minute % 60)}`
    return atWallMs - this.#deps.clock.wallMs() < DAY_MS ? time : `${WEEKDAYS[day]} ${time}`
  }
}
