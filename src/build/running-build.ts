/**
 * One build in the executor process: its directory, its walls, its log, its limits, and its end.
 *
 * Ends with SIGKILL whatever it is that ends it: a build has nothing to tidy up, its directory goes.
 */
import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, constants, openSync, writeFileSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import type { Socket } from 'node:net'
import { basename, join } from 'node:path'
import type { Clock, Timer } from '../base/clock.ts'
import { hasCode, messageOf } from '../base/errors.ts'
import { writeJobsFile } from '../jobs/jobs-file.ts'
import type { LogStream } from '../wire/log-record.ts'
import type { Usage } from '../wire/result.ts'
import { copyInputs, makeAttemptDirectory, plainPath, takeOwnership } from './attempt-directory.ts'
import { removeBuildRecord, writeBuildRecord } from './build-records.ts'
import { BuildWatch } from './build-watch.ts'
import type {
  BuildEnd,
  BuildLimits,
  BuildOutcome,
  BuildSpec,
  SandboxChoice,
} from './executor-protocol.ts'
import { BuildGroup } from './groups/build-group.ts'
import { kernelControlFiles } from './groups/control-files.ts'
import type { ExecutorGroups } from './groups/executor-groups.ts'
import { MemoryMeter } from './groups/memory-meter.ts'
import {
  DESCRIPTORS,
  SCRIPT_DESCRIPTORS,
  type BuildJobs,
  type JobControl,
} from './jobs/build-jobs.ts'
import { LogSpool } from './log-spool.ts'
import type { PipePool } from './pipe-pool.ts'
import {
  childrenOf,
  descendantsOf,
  DIRECTORY_VARIABLE,
  killLeftovers,
  killProcess,
} from './process-list.ts'
import { gatedCommand } from './plain-command.ts'
import { parseReport, sandboxCommand } from './sandbox-command.ts'
import { CONTROL, type HostLayout } from './sandbox-layout.ts'
import { signalTree } from './stopped-processes.ts'
import { SEARCH_PATH } from './tool-path.ts'

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

/** What is told of a build at its end, and the limit that nobody had seen it reach. */
type Measured = Pick<BuildOutcome, 'memory' | 'diskBytes'> & {
  readonly reached?: BuildEnd | undefined
}

export class RunningBuild {
  /** Never rejects. */
  readonly outcome: Promise<BuildOutcome>
  readonly #deps: BuildDeps
  readonly #spec: BuildSpec
  /** Moved on by the time that it stood still. */
  #limitsFromMs: number
  readonly #startedAtMs: number
  readonly #onLog: (sizeBytes: number) => void
  #limits: BuildLimits
  #jobs: number | undefined
  #isHard: boolean
  #group: BuildGroup
  #meter: MemoryMeter | undefined
  #looks: BuildWatch | undefined
  #measured: Measured | undefined
  #isFrozen = false
  #frozenAtMs: number | undefined
  /** Writes a line of ours in its log, once there is one. */
  #note: (line: string) => void = () => undefined
  #lastOutputAtMs: number
  #limitTimer: Timer | undefined
  #killTimer: Timer | undefined
  #child: ChildProcess | undefined
  #control: JobControl | undefined
  #killedBy: BuildEnd | undefined
  #over = false
  #stderrTail = ''

  constructor(deps: BuildDeps, spec: BuildSpec, onLog: (sizeBytes: number) => void) {
    this.#deps = deps
    this.#spec = spec
    this.#limits = spec.limits
    this.#jobs = spec.jobs
    this.#isHard = spec.isHard === true
    this.#group = new BuildGroup(kernelControlFiles, {})
    this.#onLog = onLog
    this.#startedAtMs = deps.clock.nowMs()
    this.#limitsFromMs = this.#startedAtMs
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

  setJobs(jobs: number, isHard = this.#isHard): void {
    if (this.#spec.jobs === undefined) return
    this.#jobs = jobs
    this.#isHard = isHard
    this.#group.setCpus(jobs, { hard: isHard })
    // Before there is a child there may be no directory yet; it is written with the last number then.
    if (this.#child === undefined || this.#over) return
    try {
      writeJobsFile(join(this.#spec.directory, CONTROL), jobs)
      this.#control?.setJobs(jobs)
    } catch (error) {
      this.#kill({
        kind: 'infrastructure',
        message: `telling it how many processors it has: ${messageOf(error)}`,
      })
    }
  }

  /** Stops all of it where it stands, or lets it go on. Its limits of time stand still meanwhile. */
  freeze(isFrozen: boolean): void {
    this.#isFrozen = isFrozen
    if (this.#child === undefined || this.#over || this.#killedBy !== undefined) return
    const nowMs = this.#deps.clock.nowMs()
    if (isFrozen === (this.#frozenAtMs !== undefined)) return
    if (!this.#group.freeze(isFrozen)) this.#signalStop(isFrozen)
    if (this.#frozenAtMs !== undefined) {
      this.#limitsFromMs += nowMs - this.#frozenAtMs
      this.#lastOutputAtMs += nowMs - this.#frozenAtMs
    }
    this.#frozenAtMs = isFrozen ? nowMs : undefined
    this.#note(
      isFrozen
        ? 'note: it stands still, for its machine has no processor for it now\n'
        : 'note: it goes on\n',
    )
    this.#watch()
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
      const log = spool
      this.#note = (line) => noteIn(log, line)
      const ran = await this.#executeControlled(spool)
      end = ran.end
      usage = ran.usage
      await spool.close()
    } catch (error) {
      end = {
        kind: 'infrastructure',
        message: `attempt ${this.#spec.attempt}: ${messageOf(error)}`,
      }
    }
    // What is learnt from it is how long it takes where it does not stand still.
    const wallMs = this.#deps.clock.nowMs() - this.#limitsFromMs
    const logBytes = spool?.sizeBytes ?? 0
    const { memory, diskBytes } = await this.#measure()
    return { end, usage: { wallMs, ...usage }, logBytes, memory, diskBytes }
  }

  /** What it had of memory and disk. That it cannot be told costs nobody the build. */
  async #measure(): Promise<Measured> {
    const { clock, dataDirectory } = this.#deps
    if (this.#measured !== undefined || this.#meter === undefined) return this.#measured ?? {}
    this.#measured = { memory: this.#meter.end() }
    try {
      const last = await this.#looks?.finish()
      this.#measured = { ...this.#measured, diskBytes: last?.use.bytes, reached: last?.end }
      await this.#group.remove(clock)
      if (dataDirectory !== undefined) removeBuildRecord(dataDirectory, this.#spec.attempt)
    } catch {
      // A directory that cannot be looked at, a group that is not empty: it is found at the next start.
    }
    return this.#measured
  }

  /** With its jobserver gone at the end, however that comes. */
  async #executeControlled(
    spool: LogSpool,
  ): Promise<{ end: BuildEnd; usage: Pick<Usage, 'cpuMs' | 'maxRssBytes'> }> {
    try {
      return await this.#execute(spool)
    } finally {
      await this.#control?.end()
    }
  }

  async #execute(
    spool: LogSpool,
  ): Promise<{ end: BuildEnd; usage: Pick<Usage, 'cpuMs' | 'maxRssBytes'> }> {
    const { clock, layout } = this.#deps
    const sealed = this.#spec.isolation !== 'host'
    makeAttemptDirectory(this.#spec, sealed ? layout : undefined)
    const jobs = this.#jobs
    if (!sealed) await copyInputs(this.#spec)
    if (jobs !== undefined) await this.#openControl(jobs, spool)
    const [out, err] = [await this.#deps.pipes.take(), await this.#deps.pipes.take()]
    let started: Started | undefined
    this.#openGroup()
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
    if (started.child.pid !== undefined)
      this.#control?.begun(started.child.pid, (line) => noteIn(spool, line))
    if (this.#jobs !== undefined && this.#jobs !== jobs) this.setJobs(this.#jobs)
    if (this.#isFrozen) this.freeze(true)
    this.#watch()
    if (this.#killedBy !== undefined) this.#killNow()
    const ended = await started.ended
    if (ended.error !== undefined) this.#killedBy ??= startFailure(sealed, this.#spec, ended.error)
    this.#over = true
    this.#limitTimer?.cancel()
    this.#killTimer?.cancel()
    if (!sealed && started.child.pid !== undefined) killProcess(-started.child.pid)
    const left =
      (await this.#group.kill(clock)) +
      (sealed ? 0 : await killLeftovers(clock, this.#spec.directory, 'attempt'))
    if (left > 0)
      this.#killedBy ??= {
        kind: 'infrastructure',
        message: `${left} processes of the build cannot be killed`,
      }
    const drain = clock.setTimer(DRAIN_MS, () =>
      [out, err].forEach(({ reader }) => reader.destroy()),
    )
    await Promise.all(reading)
    drain.cancel()
    await takeOwnership(join(this.#spec.directory, 'out'))
    const { reached } = await this.#measure()
    this.#killedBy ??= reached
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

  /** That its tools cannot be told of a number costs nobody the build: it has the one it began with. */
  async #openControl(jobs: number, spool: LogSpool): Promise<void> {
    writeJobsFile(join(this.#spec.directory, CONTROL), jobs)
    const { sandbox, jobs: control } = this.#deps
    const isScript = this.#spec.isolation !== 'host' && sandbox.method !== 'helper'
    try {
      this.#control = await control?.open(
        this.#spec,
        jobs,
        isScript ? SCRIPT_DESCRIPTORS : DESCRIPTORS,
      )
    } catch (error) {
      noteIn(spool, `note: it has no jobserver: ${messageOf(error)}\n`)
    }
  }

  async #startSealed(output: readonly [number, number]): Promise<Started> {
    const { command, args, input, files } = sandboxCommand(
      this.#deps.sandbox,
      this.#deps.layout,
      { ...this.#spec, env: { ...this.#control?.env, ...this.#spec.env } },
      this.#control?.inherited,
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
    const env: Record<string, string> = {
      [DIRECTORY_VARIABLE]: spec.directory,
      ...this.#control?.env,
    }
    for (const [name, value] of Object.entries(spec.env)) env[name] = plainPath(spec, value)
    const plain = { builder: plainPath(spec, builder), args, env, cwd: plainPath(spec, spec.cwd) }
    const gated = this.#group.paths.length > 0 ? gatedCommand(plain) : undefined
    const stdio: (number | 'ignore' | 'pipe')[] = ['ignore', ...output]
    if (gated !== undefined) stdio.push('pipe')
    const fifo = this.#control?.inherited
    if (fifo !== undefined)
      for (let fd = stdio.length; fd <= DESCRIPTORS[1]; fd++)
        stdio.push(fd < DESCRIPTORS[0] ? 'ignore' : openSync(fifo, constants.O_RDWR))
    const child = spawn(gated?.command ?? plain.builder, gated?.args ?? args, {
      stdio,
      env,
      cwd: plain.cwd,
      detached: true,
    })
    for (const fd of stdio.slice(DESCRIPTORS[0])) if (typeof fd === 'number') closeSync(fd)
    this.#weigh(child)
    const gate = gated === undefined ? undefined : child.stdio[3]
    if (gate !== null && gate !== undefined && 'write' in gate) {
      gate.on('error', () => {
        // It was killed before it read: its end tells.
      })
      gate.end('go\n')
    }
    return { child, ended: endOf(child), report: () => '' }
  }

  /** Makes its control groups, as far as this machine lets us. */
  #openGroup(): void {
    const { clock, groups } = this.#deps
    if (groups === undefined) return
    const { attempt, directory, memoryLimitBytes: memoryBytes, processesMax } = this.#spec
    this.#group = groups.open({ attempt, memoryBytes, processesMax })
    if (this.#jobs !== undefined) this.#group.setCpus(this.#jobs, { hard: this.#isHard })
    this.#meter = new MemoryMeter(clock, this.#group)
    this.#looks = new BuildWatch(
      { clock, group: this.#group },
      directory,
      () => ({
        ...this.#limits,
        diskBytes: this.#spec.diskLimitBytes,
        processesMax: processesMax ?? groups.processesMax,
      }),
      (end) => this.#kill(end),
    )
  }

  /** Puts it in its groups, writes it down, and begins to look at it. */
  #weigh({ pid }: ChildProcess): void {
    const { dataDirectory } = this.#deps
    if (pid === undefined || this.#meter === undefined) return
    const { attempt, directory } = this.#spec
    preferToEnd(pid)
    // What it began before it was in is taken in after it, until nobody new is found: those that come later are in.
    const known = new Set<number>()
    for (let found = [pid]; found.length > 0;) {
      for (const each of found) this.#group.add(each)
      for (const each of found) known.add(each)
      found = descendantsOf(pid).filter((each) => !known.has(each))
    }
    if (dataDirectory !== undefined)
      writeBuildRecord(dataDirectory, { attempt, directory, pid, groups: this.#group.at })
    this.#meter.start(pid)
    this.#looks?.start()
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
    if (this.#over || this.#frozenAtMs !== undefined) return
    const nowMs = this.#deps.clock.nowMs()
    const timeoutInMs = this.#limitsFromMs + this.#limits.timeoutMs - nowMs
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
      this.#group.killOnce()
      return
    }
    // What stands still may not die before it goes on.
    if (this.#frozenAtMs !== undefined) this.#group.freeze(false)
    // The child of the outermost process is the first of the pid namespace: with it all others die, and
    // only then the outer one ends. Before there is a child, the outer one is all there is.
    const children = childrenOf(pid)
    for (const target of children.length > 0 ? children : [pid]) killProcess(target)
  }

  /** Where there is no freezer. What waits for it outside of its walls goes on in any case. */
  #signalStop(isFrozen: boolean): void {
    const pid = this.#child?.pid
    if (pid === undefined) return
    const isRootIncluded = !isFrozen || this.#spec.isolation === 'host'
    signalTree(pid, isFrozen ? 'SIGSTOP' : 'SIGCONT', { isRootIncluded })
  }

  #elapsedMs(): number {
    return this.#deps.clock.nowMs() - this.#startedAtMs
  }
}

/** A line of our own in its log; on a full disk it is lost, and what the build says next tells of that. */
function noteIn(spool: LogSpool, line: string): void {
  spool.append('mesh', Buffer.from(line)).catch(() => {})
}

/** Out of memory, the kernel ends rather a build than its daemon. */
function preferToEnd(pid: number): void {
  try {
    writeFileSync(`/proc/${pid}/oom_score_adj`, '500')
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ESRCH', 'EACCES', 'EPERM')) throw error
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
