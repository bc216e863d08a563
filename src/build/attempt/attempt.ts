/** One attempt as its worker holds it: the lease, the phase that it is in, and what is known of it so far. */
import { join } from 'node:path'
import type { Clock } from '../../base/clock.ts'
import type { Phases } from '../../wire/facts.ts'
import type { Measured } from '../../wire/result.ts'
import type { Lease, Limits, RunningAttempt } from '../../wire/work-messages.ts'
import type { Build } from '../executor.ts'

/** A live log: the spool file and how much of it is written. */
export interface LiveLog {
  readonly path: string
  sizeBytes(): number
  isOpen(): boolean
  /** Called when it grew or ended. */
  onChange(listener: () => void): Disposable
}

export class Attempt {
  readonly lease: Lease
  readonly abort = new AbortController()
  readonly directory: string
  readonly bytes = { peer: 0, mirror: 0, local: 0 }
  readonly #clock: Clock
  readonly #onPhase: () => void
  readonly #listeners = new Set<() => void>()
  #phase: RunningAttempt['phase'] = 'leased'
  #phases: Phases = {}
  #phaseSinceMs: number
  #logBytes = 0
  #isOver = false
  build: Build | undefined
  limits: Limits
  /** Processors that its granter allots. */
  cpus: number
  measured: Measured | undefined
  /** When its build was started, which the times in its log count from. */
  startedAtMs: number | undefined

  /** `onPhase` hears of each change of phase. */
  constructor(
    { clock, onPhase }: { readonly clock: Clock; readonly onPhase: () => void },
    { lease, directory }: { readonly lease: Lease; readonly directory: string },
  ) {
    this.#clock = clock
    this.#onPhase = onPhase
    this.lease = lease
    this.directory = directory
    this.limits = lease.limits
    this.cpus = Math.max(1, lease.cpus)
    this.#phaseSinceMs = clock.nowMs()
  }

  get id(): string {
    return this.lease.attempt
  }
  get signal(): AbortSignal {
    return this.abort.signal
  }
  get phase(): RunningAttempt['phase'] {
    return this.#phase
  }
  get phases(): Phases {
    return this.#phases
  }
  get logPath(): string {
    return join(this.directory, 'log')
  }
  /** When the phase before this one began: for what follows a build, its start. */
  get beganAtMs(): number {
    return this.#phaseSinceMs - (this.#phases.build ?? 0)
  }
  /** Since its build was started; 0 before. */
  get builtForMs(): number {
    return this.startedAtMs === undefined ? 0 : this.#clock.nowMs() - this.startedAtMs
  }

  /** As its granter is told of it. */
  get told(): RunningAttempt {
    const { attempt, memoryBytes, diskBytes } = this.lease
    const held = { cpus: this.cpus, memoryBytes, diskBytes }
    return { attempt, phase: this.#phase, phases: this.#phases, held }
  }

  /** Ends the phase that it is in and begins another, or the same one again. */
  enter(phase: RunningAttempt['phase']): void {
    const nowMs = this.#clock.nowMs()
    const tookMs = Math.max(0, Math.round(nowMs - this.#phaseSinceMs))
    if (this.#phase === 'fetching') this.#phases = { ...this.#phases, fetch: tookMs }
    if (this.#phase === 'building') this.#phases = { ...this.#phases, build: tookMs }
    if (this.#phase === 'uploading') this.#phases = { ...this.#phases, upload: tookMs }
    if (phase === this.#phase) return
    this.#phase = phase
    this.#phaseSinceMs = nowMs
    this.#onPhase()
  }

  logGrew(sizeBytes: number): void {
    this.#logBytes = sizeBytes
    for (const listener of this.#listeners) listener()
  }

  /** Nothing is written to its log any more. */
  end(): void {
    this.#isOver = true
    for (const listener of this.#listeners) listener()
  }

  get liveLog(): LiveLog {
    return {
      path: this.logPath,
      sizeBytes: () => this.#logBytes,
      isOpen: () => !this.#isOver,
      onChange: (listener) => {
        this.#listeners.add(listener)
        return { [Symbol.dispose]: () => this.#listeners.delete(listener) }
      },
    }
  }
}
