/**
 * The daemon's side of the executor: starts builds in a separate small process and follows them.
 *
 * When that process dies its builds end as failures of the infrastructure, what they left running is
 * killed, and it is started again.
 */
import { spawn, type ChildProcessByStdio } from 'node:child_process'
import { extname, join } from 'node:path'
import type { Readable, Writable } from 'node:stream'
import type { Clock, Timer } from '../base/clock.ts'
import { MeshError, messageOf } from '../base/errors.ts'
import {
  BUILDS_MAX,
  decodeReport,
  encodeLine,
  findProblem,
  LineDecoder,
  type BuildLimits,
  type BuildOutcome,
  type BuildSpec,
  type Controls,
  type Order,
  type Report,
  type SandboxChoice,
  type SandboxForbid,
} from './executor-protocol.ts'
import { endOrphans } from './orphans.ts'
import { SEARCH_PATH } from './tool-path.ts'

export type {
  BuildEnd,
  BuildInput,
  BuildOutcome,
  BuildSpec,
  SandboxChoice,
} from './executor-protocol.ts'

/** What the executor logs with: a child of the daemon's pino logger. */
export interface ExecutorLog {
  info(fields: object, message: string): void
  warn(fields: object, message: string): void
}

export interface Build {
  /** Never rejects. Then outputs are at `<directory>/out/NAME`, ours, and no process of the build is alive. */
  readonly outcome: Promise<BuildOutcome>
  cancel(): void
  setLimits(limits: BuildLimits): void
  /** Processors that it should use from now on. */
  setJobs(jobs: number, options?: { readonly isHard: boolean }): void
  /** Stops it where it stands, or lets it go on;its limits of time stand still meanwhile. */
  freeze(isFrozen: boolean): void
  /** Called when the spool file grew to `sizeBytes`. */
  onLog(listener: (sizeBytes: number) => void): void
}

export interface Executor extends AsyncDisposable {
  readonly sandbox: SandboxChoice
  readonly controls: Controls
  start(spec: BuildSpec): Build
}

const RESTART_FIRST_MS = 100
const RESTART_MAX_MS = 10_000
/** How long the process may take to kill its builds after it was told to stop. */
const STOP_MS = 10_000
const STDERR_CHARS_MAX = 2000

/** Starts the executor process and waits for it to have found its sandbox. Throws MESH0505. */
export async function openExecutor(
  deps: { readonly clock: Clock; readonly log: ExecutorLog },
  options: { readonly directory: string; readonly forbid?: SandboxForbid },
): Promise<Executor> {
  const executor = new ProcessExecutor(deps, options)
  await executor.ready
  return executor
}

class ActiveBuild implements Build {
  readonly spec: BuildSpec
  readonly outcome: Promise<BuildOutcome>
  readonly finish: (outcome: BuildOutcome) => void
  readonly #order: (order: Order) => void
  readonly #listeners: ((sizeBytes: number) => void)[] = []
  isSent = false
  limits: BuildLimits
  jobs: number | undefined
  isHard: boolean | undefined
  isFrozen = false
  logBytes = 0

  constructor(spec: BuildSpec, order: (order: Order) => void) {
    const { promise, resolve } = Promise.withResolvers<BuildOutcome>()
    this.spec = spec
    this.limits = spec.limits
    this.jobs = spec.jobs
    this.isHard = spec.isHard
    this.outcome = promise
    this.finish = resolve
    this.#order = order
  }

  cancel(): void {
    if (this.isSent) this.#order({ type: 'cancel', attempt: this.spec.attempt })
    else this.finish(ended(this, { kind: 'cancelled' }))
  }

  setLimits(limits: BuildLimits): void {
    this.limits = limits
    if (this.isSent) this.#order({ type: 'limits', attempt: this.spec.attempt, limits })
  }

  setJobs(jobs: number, { isHard } = { isHard: this.isHard === true }): void {
    if (jobs === this.jobs && isHard === (this.isHard === true)) return
    this.jobs = jobs
    this.isHard = isHard
    if (this.isSent) this.#order({ type: 'jobs', attempt: this.spec.attempt, jobs, isHard })
  }

  freeze(isFrozen: boolean): void {
    if (isFrozen === this.isFrozen) return
    this.isFrozen = isFrozen
    if (this.isSent) this.sendFreeze()
  }

  sendFreeze(): void {
    this.#order({ type: 'freeze', attempt: this.spec.attempt, isFrozen: this.isFrozen })
  }

  onLog(listener: (sizeBytes: number) => void): void {
    this.#listeners.push(listener)
  }

  grew(sizeBytes: number): void {
    this.logBytes = sizeBytes
    for (const listener of this.#listeners) listener(sizeBytes)
  }
}

class ProcessExecutor implements Executor {
  readonly ready: Promise<void>
  readonly #clock: Clock
  readonly #log: ExecutorLog
  readonly #argument: string
  readonly #directory: string
  readonly #builds = new Map<string, ActiveBuild>()
  readonly #firstReady = Promise.withResolvers<void>()
  #child: ChildProcessByStdio<Writable, Readable, Readable> | undefined
  #sandbox: SandboxChoice | undefined
  #controls: Controls = { of: {}, reasons: [], isSecure: false }
  #isReady = false
  #isClosing = false
  #failures = 0
  #restart: Timer | undefined
  #exited: Promise<void> = Promise.resolve()

  constructor(
    deps: { readonly clock: Clock; readonly log: ExecutorLog },
    options: { readonly directory: string; readonly forbid?: SandboxForbid },
  ) {
    this.#clock = deps.clock
    this.#log = deps.log
    this.#directory = options.directory
    this.#argument = JSON.stringify({ directory: options.directory, forbid: options.forbid ?? [] })
    this.ready = this.#firstReady.promise
    this.#launch()
  }

  get sandbox(): SandboxChoice {
    if (this.#sandbox === undefined)
      throw new MeshError('MESH0001', 'the executor is used before it is ready')
    return this.#sandbox
  }

  get controls(): Controls {
    return this.#controls
  }

  start(spec: BuildSpec): Build {
    const build = new ActiveBuild(spec, (order) => this.#send(order))
    const { attempt } = spec
    const refusal = this.#isClosing
      ? 'the executor is stopping'
      : this.#builds.has(attempt)
        ? `attempt ${attempt} runs already`
        : this.#builds.size >= BUILDS_MAX
          ? `${BUILDS_MAX} builds run already`
          : findProblem(spec)
    if (refusal !== undefined) {
      build.finish(
        ended(build, { kind: 'infrastructure', message: `attempt ${attempt}: ${refusal}` }),
      )
      return build
    }
    this.#builds.set(attempt, build)
    void build.outcome.then(() => this.#builds.delete(attempt))
    if (this.#isReady) this.#sendStart(build)
    return build
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true
    this.#restart?.cancel()
    const child = this.#child
    child?.stdin.end()
    const deadline = this.#clock.setTimer(STOP_MS, () => child?.kill('SIGKILL'))
    await this.#exited
    deadline.cancel()
  }

  #launch(): void {
    // The same name with the extension of this file: sources run as they are, packages from dist/.
    const program = join(import.meta.dirname, `executor-process${extname(import.meta.filename)}`)
    const child = spawn(process.execPath, [program, this.#argument], {
      stdio: ['pipe', 'pipe', 'pipe'],
      env: { PATH: SEARCH_PATH },
      // A ^C at the daemon's terminal is the daemon's to handle.
      detached: true,
    })
    this.#child = child
    const lines = new LineDecoder()
    let stderr = ''
    child.stdin.on('error', () => {
      // It is gone: `close` follows and tells.
    })
    child.stderr.setEncoding('utf8').on('data', (piece: string) => {
      stderr = (stderr + piece).slice(-STDERR_CHARS_MAX)
    })
    child.stdout.setEncoding('utf8').on('data', (piece: string) => {
      try {
        for (const line of lines.push(piece)) this.#handle(decodeReport(line))
      } catch (error) {
        stderr += messageOf(error)
        child.kill('SIGKILL')
      }
    })
    this.#exited = new Promise((resolve) => {
      child.once('error', (error) => {
        stderr += messageOf(error)
      })
      child.once('close', (code, signal) => {
        resolve(
          this.#onExit(
            `the executor process ended with ${code ?? signal}${stderr === '' ? '' : `: ${stderr.trim()}`}`,
          ),
        )
      })
    })
  }

  #handle(report: Report): void {
    switch (report.type) {
      case 'ready':
        this.#sandbox = report.sandbox
        this.#controls = report.controls
        this.#isReady = true
        this.#failures = 0
        this.#firstReady.resolve()
        for (const build of this.#builds.values()) this.#sendStart(build)
        return
      case 'log':
        this.#builds.get(report.attempt)?.grew(report.sizeBytes)
        return
      case 'end':
        this.#builds.get(report.attempt)?.finish(report.outcome)
    }
  }

  async #onExit(message: string): Promise<void> {
    this.#isReady = false
    this.#child = undefined
    const lost = [...this.#builds.values()].filter((build) => build.isSent)
    for (const build of lost) {
      const left = await endOrphans(this.#clock, this.#directory, build.spec)
      if (left > 0)
        this.#log.warn(
          { attempt: build.spec.attempt, left },
          'processes of a build could not be killed',
        )
      build.finish(ended(build, { kind: 'infrastructure', message }))
    }
    if (this.#sandbox === undefined) {
      this.#isClosing = true
      this.#firstReady.reject(new MeshError('MESH0505', message))
    }
    if (this.#isClosing) {
      for (const build of this.#builds.values())
        build.finish(ended(build, { kind: 'infrastructure', message: 'the executor is stopping' }))
      return
    }
    const delayMs = Math.min(RESTART_FIRST_MS * 2 ** this.#failures, RESTART_MAX_MS)
    this.#failures = Math.min(this.#failures + 1, 20)
    this.#log.warn({ message, lost: lost.length, delayMs }, 'executor process died')
    this.#restart = this.#clock.setTimer(delayMs, () => this.#launch())
  }

  #sendStart(build: ActiveBuild): void {
    build.isSent = true
    const { limits, jobs, isHard } = build
    this.#send({ type: 'start', spec: { ...build.spec, limits, jobs, isHard } })
    if (build.isFrozen) build.sendFreeze()
  }

  #send(order: Order): void {
    this.#child?.stdin.write(encodeLine(order))
  }
}

function ended(build: ActiveBuild, end: BuildOutcome['end']): BuildOutcome {
  return { end, usage: { wallMs: 0, cpuMs: 0, maxRssBytes: 0 }, logBytes: build.logBytes }
}
