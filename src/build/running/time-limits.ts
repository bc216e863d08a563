/**
 * How long a build may run, and how long it may say nothing; one timer, for what comes first. While the build
 * stands still so does its time.
 */
import type { Clock, Timer } from '../../base/clock.ts'
import type { BuildEnd, BuildLimits } from '../executor-protocol.ts'

type Limits = Pick<BuildLimits, 'timeoutMs' | 'maxSilentMs'>
/** Longer timers would fire at once. */
const TIMER_MS_MAX = 2 ** 31 - 1

export class TimeLimits {
  readonly #clock: Clock
  readonly #onReached: (end: BuildEnd) => void
  #limits: Limits
  /** Both moved on by the time that it stood still. */
  #beganAtMs: number
  #heardAtMs: number
  #stoppedAtMs: number | undefined
  #state: 'before' | 'watched' | 'over' = 'before'
  #timer: Timer | undefined

  /** The time runs from now on, the limits hold from `start`. `onReached` may be called again with each change of them. */
  constructor(clock: Clock, limits: Limits, onReached: (end: BuildEnd) => void) {
    this.#clock = clock
    this.#limits = limits
    this.#onReached = onReached
    this.#beganAtMs = clock.nowMs()
    this.#heardAtMs = this.#beganAtMs
  }

  /** What it took where it did not stand still: that is what is learnt from it. */
  get elapsedMs(): number {
    return this.#clock.nowMs() - this.#beganAtMs
  }

  get isStopped(): boolean {
    return this.#stoppedAtMs !== undefined
  }

  /** The build has begun. */
  start(): void {
    this.#state = 'watched'
    this.#watch()
  }

  set(limits: Limits): void {
    this.#limits = limits
    this.#watch()
  }

  /** It said something. Nothing is armed anew: the timer finds out. */
  heard(): void {
    this.#heardAtMs = this.#clock.nowMs()
  }

  stop(): void {
    const nowMs = this.#clock.nowMs()
    this.#stoppedAtMs ??= nowMs
    this.#watch()
  }

  goOn(): void {
    if (this.#stoppedAtMs === undefined) return
    const stoodMs = this.#clock.nowMs() - this.#stoppedAtMs
    this.#beganAtMs += stoodMs
    this.#heardAtMs += stoodMs
    this.#stoppedAtMs = undefined
    this.#watch()
  }

  /** The build is over. */
  end(): void {
    this.#state = 'over'
    this.#timer?.cancel()
  }

  #watch(): void {
    this.#timer?.cancel()
    if (this.#state !== 'watched' || this.#stoppedAtMs !== undefined) return
    const nowMs = this.#clock.nowMs()
    const timeoutInMs = this.#beganAtMs + this.#limits.timeoutMs - nowMs
    const silentInMs = this.#heardAtMs + this.#limits.maxSilentMs - nowMs
    if (timeoutInMs <= 0) return this.#onReached({ kind: 'limit', limit: 'timeout' })
    if (silentInMs <= 0) return this.#onReached({ kind: 'limit', limit: 'silent' })
    this.#timer = this.#clock.setTimer(Math.min(timeoutInMs, silentInMs, TIMER_MS_MAX), () =>
      this.#watch(),
    )
  }
}
