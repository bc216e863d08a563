/**
 * One build in the executor process: its directory, its walls, its log, its limits, and its end.
 *
 * Ends with SIGKILL whatever it is that ends it: a build has nothing to tidy up, its directory goes.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, openSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { basename, join } from 'node:path'
import type { Clock, Timer } from '../base/clock.ts'
import { hasCode, messageOf } from '../base/errors.ts'
import type { LogStream } from '../wire/log-record.ts'
import type { Usage } from '../wire/result.ts'
import {
  copyInputs,
  makeAttemptDirectory,
  plainPath,
  takeOwnership,
  usedBytes,
  writeJobs,
} from './attempt-directory.ts'
import type {
  BuildEnd,
  BuildLimits,
  BuildOutcome,
  BuildSpec,
  SandboxChoice,
} from './executor-protocol.ts'
import { LogSpool } from './log-spool.ts'
import { openMemoryMeter, type MemoryGroups, type MemoryMeter } from './memory-group.ts'
import type { PipePool } from './pipe-pool.ts'
import { childrenOf, DIRECTORY_VARIABLE, killLeftovers, killProcess } from './process-list.ts'
import { parseReport, sandboxCommand } from './sandbox-command.ts'
import type { HostLayout } from './sandbox-layout.ts'
import { SEARCH_PATH } from './tool-path.ts'

export interface BuildDeps {
  readonly clock: Clock
  readonly pipes: PipePool
  readonly sandbox: SandboxChoice
  readonly layout: HostLayout
  /** Left out where memory need not be measured. */
  readonly groups?: MemoryGroups
}

/** Between two tries to kill what did not end yet. */
const KILL_AGAIN_MS = 100
/** How long a plain build's pipes are read after its end: a process that fled may hold them open. */
const DRAIN_MS = 1000
const REPORT_CHARS_MAX = 64 * 1024
const TAIL_CHARS = 500

interface Ended {
  readonly code: number | null
  readonly signal: string | null
  /** It could not be started. */
  readonly error?: unknown
}

/** A started process: how it ends and what it reported on descriptor 3. */
interface Started {
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  readonly report: () => string
}

export class RunningBuild {
  /** Never rejects. */
  readonly outcome: Promise<BuildOutcome>
  readonly #deps: BuildDeps
  readonly #spec: BuildSpec
  readonly #startedAtMs: number
  readonly #onLog: (sizeBytes: number) => void
  #limits: BuildLimits
  #jobs: number | undefined
  #meter: MemoryMeter | undefined
  #lastOutputAtMs: number
  #limitTimer: Timer | undefined
  #killTimer: Timer | undefined
  #child: ChildProcess | undefined
  #killedBy: BuildEnd | undefined
  #over = false
  #stderrTail = ''

  constructor(deps: BuildDeps, spec: BuildSpec, onLog: (sizeBytes: number) => void) {
    this.#deps = deps
    this.#spec = spec
    this.#limits = spec.limits
    this.#jobs = spec.jobs
    this.#onLog = onLog
    this.#startedAtMs = deps.clock.nowMs()
    this.#lastOutputAtMs = this.#startedAtMs
    this.outcome = this.#run()
  }

  cancel(): void {
    if (!this.#over) this.#kill({ kind: 'cancelled' })
  }

  setLimits(limits: BuildLimits): void {
    this.#limits = limits
    if (this.#child !== undefined) this.#watch()
  }

  setJobs(jobs: number): void {
    if (this.#spec.jobs === undefined) return
    this.#jobs = jobs
    // Before there is a child there may be no directory yet; it is written with the last number then.
    if (this.#child === undefined || this.#over) return
    try {
      writeJobs(this.#spec.directory, jobs)
    } catch (error) {
      this.#kill({
        kind: 'infrastructure',
        message: `telling it how many processors it has: ${messageOf(error)}`,
      })
    }
  }

  async #run(): Promise<BuildOutcome> {
    let spool: LogSpool | undefined
    let end: BuildEnd
    let usage: Pick<Usage, 'cpuMs' | 'maxRssBytes'> = { cpuMs: 0, maxRssBytes: 0 }
    try {
      spool = await LogSpool.open(join(this.#spec.directory, 'log'), {
        elapsedMs: () => this.#elapsedMs(),
        onGrowth: this.#onLog,
      })
      const ran = await this.#execute(spool)
      end = ran.end
      usage = ran.usage
      const why = whyKilled(end, this.#limits)
      if (why !== undefined) await spool.append('mesh', Buffer.from(why))
      await spool.close()
    } catch (error) {
      end = {
        kind: 'infrastructure',
        message: `attempt ${this.#spec.attempt}: ${messageOf(error)}`,
      }
    }
    const wallMs = this.#elapsedMs()
    const logBytes = spool?.sizeBytes ?? 0
    return { end, usage: { wallMs, ...usage }, logBytes, ...(await this.#measure()) }
  }

  /** What it had of memory and disk. That it cannot be told costs nobody the build. */
  async #measure(): Promise<Pick<BuildOutcome, 'memory' | 'diskBytes'>> {
    const meter = this.#meter
    if (meter === undefined) return {}
    try {
      return { memory: await meter.end(), diskBytes: await usedBytes(this.#spec.directory) }
    } catch {
      return {}
    }
  }

  async #execute(
    spool: LogSpool,
  ): Promise<{ end: BuildEnd; usage: Pick<Usage, 'cpuMs' | 'maxRssBytes'> }> {
    const { clock, layout } = this.#deps
    const sealed = this.#spec.isolation === 'namespace'
    makeAttemptDirectory(this.#spec, sealed ? layout : undefined)
    const jobs = this.#jobs
    if (jobs !== undefined) writeJobs(this.#spec.directory, jobs)
    if (!sealed) await copyInputs(this.#spec)
    const [out, err] = [await this.#deps.pipes.take(), await this.#deps.pipes.take()]
    let started: Started | undefined
    const { groups } = this.#deps
    const { attempt, memoryLimitBytes: limitBytes } = this.#spec
    if (groups !== undefined)
      this.#meter = openMemoryMeter({ clock, groups }, { attempt, limitBytes })
    try {
      if (this.#killedBy === undefined)
        started = sealed
          ? await this.#startSealed([out.writer, err.writer])
          : this.#startPlain([out.writer, err.writer])
    } catch (error) {
      this.#killedBy ??= startFailure(sealed, this.#spec, error)
    } finally {
      closeSync(out.writer)
      closeSync(err.writer)
    }
    const reading = [
      this.#read('stdout', out.reader, spool),
      this.#read('stderr', err.reader, spool),
    ]
    if (started === undefined) {
      await Promise.all(reading)
      return { end: this.#killedBy ?? { kind: 'cancelled' }, usage: { cpuMs: 0, maxRssBytes: 0 } }
    }
    this.#child = started.child
    if (this.#jobs !== undefined && this.#jobs !== jobs) this.setJobs(this.#jobs)
    this.#watch()
    if (this.#killedBy !== undefined) this.#killNow()
    const ended = await started.ended
    if (ended.error !== undefined) this.#killedBy ??= startFailure(sealed, this.#spec, ended.error)
    this.#over = true
    this.#limitTimer?.cancel()
    this.#killTimer?.cancel()
    if (!sealed) {
      if (started.child.pid !== undefined) killProcess(-started.child.pid)
      const left = await killLeftovers(clock, this.#spec.directory, 'attempt')
      if (left > 0)
        this.#killedBy ??= {
          kind: 'infrastructure',
          message: `${left} processes of the build cannot be killed`,
        }
    }
    const drain = clock.setTimer(DRAIN_MS, () =>
      [out, err].forEach(({ reader }) => reader.destroy()),
    )
    await Promise.all(reading)
    drain.cancel()
    await takeOwnership(join(this.#spec.directory, 'out'))
    if (!sealed)
      return { end: this.#killedBy ?? plainEnd(ended), usage: { cpuMs: 0, maxRssBytes: 0 } }
    const report = parseReport(started.report())
    const silent: BuildEnd = report.begun
      ? { kind: 'exited', code: ended.code ?? 137 }
      : {
          kind: 'infrastructure',
          message: `sandbox: ended with ${ended.code ?? ended.signal} and no report: ${this.#stderrTail.trim()}`,
        }
    const told = report.end ?? silent
    const end =
      told.kind === 'infrastructure' && this.#stderrTail !== '' && report.end !== undefined
        ? { ...told, message: `${told.message}: ${this.#stderrTail.trim()}` }
        : told
    return { end: this.#killedBy ?? end, usage: report }
  }

  async #startSealed(output: readonly [number, number]): Promise<Started> {
    const { command, args, input, files } = sandboxCommand(
      this.#deps.sandbox,
      this.#deps.layout,
      this.#spec,
    )
    const descriptors: (number | 'ignore')[] = []
    try {
      for (const { name, content, fd } of files) {
        const path = join(this.#spec.directory, name)
        await writeFile(path, content, { mode: 0o644, flag: 'wx' })
        if (fd !== undefined) descriptors[fd - 4] = openSync(path, 'r')
      }
      const child = spawn(command, args, {
        stdio: ['ignore', ...output, 'pipe', ...descriptors],
        // Its own name is all that the build sees of it in /proc/1.
        argv0: basename(command),
        env: { PATH: SEARCH_PATH },
        cwd: '/',
        detached: true,
      })
      const ended = endOf(child)
      let report = ''
      const channel = child.stdio[3]
      if (channel !== null && channel !== undefined && 'write' in channel) {
        channel.on('error', () => {
          // The sandbox ended before it read its specification: its exit tells why.
        })
        channel.on('data', (bytes: Buffer) => {
          if (report.length < REPORT_CHARS_MAX) report += bytes.toString('latin1')
        })
        // A helper has no child before it has read this: all of the build is in the group then.
        this.#weigh(child)
        // Others read nothing. They may be over by now, and a channel that nobody reads any more loses what
        // it still holds when it is written to.
        if (input.length > 0) channel.end(input)
      }
      return { child, ended, report: () => Buffer.from(report, 'latin1').toString() }
    } finally {
      for (const fd of descriptors) if (typeof fd === 'number') closeSync(fd)
    }
  }

  #startPlain(output: readonly [number, number]): Started {
    const spec = this.#spec
    const [builder = '', ...args] = spec.argv
    const env: Record<string, string> = { [DIRECTORY_VARIABLE]: spec.directory }
    for (const [name, value] of Object.entries(spec.env)) env[name] = plainPath(spec, value)
    const child = spawn(plainPath(spec, builder), args, {
      stdio: ['ignore', ...output],
      env,
      cwd: plainPath(spec, spec.cwd),
      detached: true,
    })
    this.#weigh(child)
    return { child, ended: endOf(child), report: () => '' }
  }

  /** Begins to measure its memory. A build that cannot be measured is run all the same. */
  #weigh({ pid }: ChildProcess): void {
    if (pid === undefined) return
    try {
      this.#meter?.add(pid)
    } catch {
      // It may have ended already.
    }
  }

  async #read(stream: LogStream, reader: Socket, spool: LogSpool): Promise<void> {
    try {
      for await (const bytes of reader) {
        this.#lastOutputAtMs = this.#deps.clock.nowMs()
        if (stream === 'stderr')
          this.#stderrTail = (this.#stderrTail + String(bytes)).slice(-TAIL_CHARS)
        // Read to the end also when nothing more is kept, so that no process hangs on a full pipe.
        if (this.#killedBy?.kind === 'limit' && this.#killedBy.limit === 'log') continue
        if (!(await spool.append(stream, bytes, this.#limits.maxLogBytes)))
          this.#kill({ kind: 'limit', limit: 'log' })
      }
    } catch (error) {
      if (hasCode(error, 'ERR_STREAM_PREMATURE_CLOSE')) return // given up after the build's end
      reader.destroy()
      this.#kill({ kind: 'infrastructure', message: `writing the log: ${messageOf(error)}` })
    }
  }

  /** Arms the timer for the limit that comes first. */
  #watch(): void {
    this.#limitTimer?.cancel()
    if (this.#over) return
    const nowMs = this.#deps.clock.nowMs()
    const timeoutInMs = this.#startedAtMs + this.#limits.timeoutMs - nowMs
    const silentInMs = this.#lastOutputAtMs + this.#limits.maxSilentMs - nowMs
    if (timeoutInMs <= 0) return this.#kill({ kind: 'limit', limit: 'timeout' })
    if (silentInMs <= 0) return this.#kill({ kind: 'limit', limit: 'silent' })
    // Longer timers than 2^31 ms would fire at once.
    this.#limitTimer = this.#deps.clock.setTimer(
      Math.min(timeoutInMs, silentInMs, 2 ** 31 - 1),
      () => this.#watch(),
    )
  }

  /** The first reason counts. */
  #kill(end: BuildEnd): void {
    if (this.#killedBy !== undefined) return
    this.#killedBy = end
    this.#killNow()
  }

  #killNow(): void {
    const pid = this.#child?.pid
    if (this.#over || pid === undefined) return
    this.#killTimer = this.#deps.clock.setTimer(KILL_AGAIN_MS, () => this.#killNow())
    if (this.#spec.isolation === 'host') {
      killProcess(-pid)
      return
    }
    // The child of the outermost process is the first of the pid namespace: with it all others die, and
    // only then the outer one ends. Before there is a child, the outer one is all there is.
    const children = childrenOf(pid)
    for (const target of children.length > 0 ? children : [pid]) killProcess(target)
  }

  #elapsedMs(): number {
    return this.#deps.clock.nowMs() - this.#startedAtMs
  }
}

function endOf(child: ChildProcess): Promise<Ended> {
  return new Promise((resolve) => {
    child.once('error', (error) => {
      if (child.pid === undefined) resolve({ code: null, signal: null, error })
    })
    child.once('close', (code, signal) => resolve({ code, signal }))
  })
}

function plainEnd({ code, signal }: Ended): BuildEnd {
  return code === null
    ? { kind: 'signalled', signal: signal ?? 'SIGKILL' }
    : { kind: 'exited', code }
}

function startFailure(sealed: boolean, spec: BuildSpec, error: unknown): BuildEnd {
  if (!sealed && hasCode(error, 'ENOENT', 'EACCES', 'ENOEXEC', 'ENOTDIR', 'E2BIG', 'ELOOP'))
    return { kind: 'builder-not-found', message: `${spec.argv[0]}: ${messageOf(error)}` }
  return { kind: 'infrastructure', message: `starting the build: ${messageOf(error)}` }
}

function whyKilled(end: BuildEnd, limits: BuildLimits): string | undefined {
  if (end.kind === 'cancelled') return 'killed: cancelled\n'
  if (end.kind !== 'limit') return undefined
  switch (end.limit) {
    case 'timeout':
      return `killed: it ran longer than ${limits.timeoutMs / 1000} s (run.timeout)\n`
    case 'silent':
      return `killed: it printed nothing for ${limits.maxSilentMs / 1000} s (run.max-silent)\n`
    case 'log':
      return `killed: it printed more than ${limits.maxLogBytes} bytes (run.max-log)\n`
  }
}
