/**
 * One build in the executor process: its directory, its walls, its log, its limits, and its end, each of them
 * a part in `running/`. What is here is their order, and why the build ended: the first reason counts.
 */
import { join } from 'node:path'
import type { Clock } from '../base/clock.ts'
import { messageOf } from '../base/errors.ts'
import { copyInputs, makeAttemptDirectory, takeOwnership } from './attempt-directory.ts'
import type {
  BuildEnd,
  BuildLimits,
  BuildOutcome,
  BuildSpec,
  SandboxChoice,
} from './executor-protocol.ts'
import type { ExecutorGroups } from './groups/executor-groups.ts'
import type { BuildJobs } from './jobs/build-jobs.ts'
import type { PipePool } from './pipe-pool.ts'
import { BuildOutput } from './running/build-output.ts'
import {
  NO_USAGE,
  startFailure,
  type BuildProcess,
  type BuildRun,
} from './running/build-process.ts'
import { BuildSignals } from './running/build-signals.ts'
import { startPlain } from './running/plain-process.ts'
import { Processors } from './running/processors.ts'
import { startSealed } from './running/sealed-process.ts'
import { TimeLimits } from './running/time-limits.ts'
import { Weighing } from './running/weighing.ts'
import type { HostLayout } from './sandbox-layout.ts'

export interface BuildDeps {
  readonly clock: Clock
  readonly pipes: PipePool
  readonly sandbox: SandboxChoice
  readonly layout: HostLayout
  /** Left out where builds are told of no number. */
  readonly jobs?: BuildJobs
  /** Left out where nothing need be measured or limited. */
  readonly groups?: ExecutorGroups
  /** Where it is written down what runs, for whoever comes after us; left out where nobody does. */
  readonly dataDirectory?: string
}

export class RunningBuild {
  /** Never rejects. */
  readonly outcome: Promise<BuildOutcome>
  readonly #deps: BuildDeps
  readonly #spec: BuildSpec
  readonly #onLog: (sizeBytes: number) => void
  readonly #time: TimeLimits
  /** Undefined for a build that is told of no number. */
  readonly #processors: Processors | undefined
  #limits: BuildLimits
  #output: BuildOutput | undefined
  #weighing: Weighing | undefined
  /** From its first process to the end of that. */
  #signals: BuildSignals | undefined
  /** What was asked for last, also before there was anything to stop. */
  #isFrozen = false
  #killedBy: BuildEnd | undefined
  #isOver = false

  constructor(deps: BuildDeps, spec: BuildSpec, onLog: (sizeBytes: number) => void) {
    this.#deps = deps
    this.#spec = spec
    this.#onLog = onLog
    this.#limits = spec.limits
    this.#time = new TimeLimits(deps.clock, spec.limits, (end) => this.#kill(end))
    if (spec.jobs !== undefined)
      this.#processors = new Processors(spec.directory, spec.jobs, { isHard: spec.isHard === true })
    this.outcome = this.#run()
  }

  cancel(): void {
    if (!this.#isOver) this.#kill({ kind: 'cancelled' })
  }

  setLimits(limits: BuildLimits): void {
    this.#limits = limits
    this.#time.set(limits)
  }

  setJobs(jobs: number, isHard?: boolean): void {
    this.#processors?.set(jobs, isHard)
    // Before there is a process there may be no directory yet; it is told the last number then.
    if (this.#signals !== undefined) this.#tellJobs()
  }

  /** Stops all of it where it stands, or lets it go on. Its limits of time stand still meanwhile. */
  freeze(isFrozen: boolean): void {
    this.#isFrozen = isFrozen
    if (this.#signals === undefined || this.#killedBy !== undefined) return
    if (isFrozen === this.#time.isStopped) return
    if (isFrozen) {
      this.#signals.stop()
      this.#output?.note('note: it stands still, for its machine has no processor for it now\n')
      this.#time.stop()
    } else {
      this.#signals.goOn()
      this.#output?.note('note: it goes on\n')
      this.#time.goOn()
    }
  }

  async #run(): Promise<BuildOutcome> {
    let ran: BuildRun
    try {
      ran = await this.#runLogged()
    } catch (error) {
      const message = `attempt ${this.#spec.attempt}: ${messageOf(error)}`
      ran = { end: { kind: 'infrastructure', message }, usage: NO_USAGE }
    }
    const wallMs = this.#time.elapsedMs
    const { memory, diskBytes } = (await this.#weighing?.end()) ?? {}
    return {
      end: ran.end,
      usage: { wallMs, ...ran.usage },
      logBytes: this.#output?.sizeBytes ?? 0,
      memory,
      diskBytes,
    }
  }

  /** With its log closed and its jobserver gone at the end, however that comes. */
  async #runLogged(): Promise<BuildRun> {
    const { clock, pipes } = this.#deps
    await using output = await BuildOutput.open(
      { clock, pipes },
      join(this.#spec.directory, 'log'),
      {
        sizeBytesMax: () => this.#limits.maxLogBytes,
        onOutput: () => this.#time.heard(),
        onGrowth: this.#onLog,
        onEnd: (end) => this.#kill(end),
      },
    )
    this.#output = output
    try {
      await this.#prepare(output)
      return await this.#execute(output)
    } finally {
      await this.#processors?.end()
    }
  }

  async #prepare(output: BuildOutput): Promise<void> {
    const { layout, sandbox, jobs } = this.#deps
    const isPlain = this.#spec.isolation === 'host'
    makeAttemptDirectory(this.#spec, isPlain ? undefined : layout)
    if (isPlain) await copyInputs(this.#spec)
    const isScript = !isPlain && sandbox.method !== 'helper'
    const problem = await this.#processors?.open(jobs, this.#spec, { isScript })
    if (problem !== undefined) output.note(`note: ${problem}\n`)
  }

  async #execute(output: BuildOutput): Promise<BuildRun> {
    const writers = await output.connect()
    this.#weighing = this.#weigh()
    let started: BuildProcess | undefined
    try {
      if (this.#killedBy === undefined) started = await this.#start(writers)
    } catch (error) {
      this.#killedBy ??= startFailure(this.#spec, error)
    } finally {
      output.read()
    }
    if (started === undefined) {
      await output.drain()
      return { end: this.#killedBy ?? { kind: 'cancelled' }, usage: NO_USAGE }
    }
    this.#release(started)
    if (started.pid !== undefined) this.#begin(started.pid, output)
    const ended = await started.ended
    if (ended.error !== undefined) this.#killedBy ??= startFailure(this.#spec, ended.error)
    await this.#clear()
    await output.drain()
    await takeOwnership(join(this.#spec.directory, 'out'))
    const measured = await this.#weighing?.end()
    this.#killedBy ??= measured?.reached
    const { end, usage } = started.judge(ended, output.stderrTail)
    return { end: this.#killedBy ?? end, usage }
  }

  #weigh(): Weighing | undefined {
    const { clock, groups, dataDirectory } = this.#deps
    if (groups === undefined) return undefined
    const weighing = new Weighing({ clock, groups, dataDirectory }, this.#spec, {
      limits: () => this.#limits,
      onEnd: (end) => this.#kill(end),
    })
    this.#processors?.limit(weighing.group)
    return weighing
  }

  async #start(output: readonly [number, number]): Promise<BuildProcess> {
    const { sandbox, layout } = this.#deps
    const control = this.#processors?.control
    if (this.#spec.isolation !== 'host')
      return await startSealed({ sandbox, layout }, this.#spec, { output, control })
    const isGated = this.#weighing !== undefined && this.#weighing.group.paths.length > 0
    return startPlain(this.#spec, { output, control, isGated })
  }

  /** What cannot be limited, or found again after us, does not become the build. */
  #release({ pid, release }: BuildProcess): void {
    try {
      if (pid !== undefined) this.#weighing?.begin(pid)
      release()
    } catch (error) {
      this.#killedBy ??= {
        kind: 'infrastructure',
        message: `starting the build: ${messageOf(error)}`,
      }
    }
  }

  /** It has a process: what was asked for meanwhile is done now. */
  #begin(pid: number, output: BuildOutput): void {
    const { clock } = this.#deps
    this.#signals = new BuildSignals(clock, this.#spec, { pid, group: this.#weighing?.group })
    this.#processors?.begin(pid, (line) => output.note(line))
    this.#tellJobs()
    if (this.#isFrozen) this.freeze(true)
    this.#time.start()
    if (this.#killedBy !== undefined) this.#signals.kill()
  }

  /** Its first process is gone: so is the build. */
  async #clear(): Promise<void> {
    this.#isOver = true
    this.#time.end()
    const signals = this.#signals
    this.#signals = undefined
    const left = (await signals?.killLeft()) ?? 0
    if (left > 0)
      this.#killedBy ??= {
        kind: 'infrastructure',
        message: `${left} processes of the build cannot be killed`,
      }
  }

  #tellJobs(): void {
    try {
      this.#processors?.tell()
    } catch (error) {
      this.#kill({
        kind: 'infrastructure',
        message: `telling it how many processors it has: ${messageOf(error)}`,
      })
    }
  }

  #kill(end: BuildEnd): void {
    if (this.#killedBy !== undefined) return
    this.#killedBy = end
    this.#signals?.kill()
  }
}
