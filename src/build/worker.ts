/**
 * The worker of a node: holds leases, runs their actions and keeps the outcomes until the granter has
 * them durably.
 *
 * It is told what should be (`take`) and tells what is (`sync`), level-triggered: a lost message of either
 * kind is made up for by the next one.
 */
import { existsSync } from 'node:fs'
import { mkdir, open, readdir, statfs } from 'node:fs/promises'
import { constants } from 'node:os'
import { join } from 'node:path'
import type { Logger } from 'pino'
import type { Clock, Timer } from '../base/clock.ts'
import { hasCode, MeshError, messageOf } from '../base/errors.ts'
import { formatSize } from '../base/units.ts'
import { mapLimited } from '../files/map-limited.ts'
import { inlineFileWorkers, runJob, type FileWorkers } from '../files/workers/file-workers.ts'
import type { BlobStore } from '../store/blob-store.ts'
import { BUILD_ROOT, decodeAction, type Action } from '../wire/action.ts'
import { sha256, type BlobRef, type Digest } from '../wire/digest.ts'
import type { BytesMoved, Phases } from '../wire/facts.ts'
import { encodeLogRecord } from '../wire/log-record.ts'
import {
  signResult,
  type ActionResult,
  type Measured,
  type Signer,
  type Usage,
} from '../wire/result.ts'
import { AttemptId } from '../wire/names.ts'
import { blobOf, type Entry } from '../wire/tree.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import type {
  AttemptOutcome,
  FinishedAttempt,
  Lease,
  Limits,
  RunningAttempt,
} from '../wire/work-messages.ts'
import type { AcceptanceChecks } from './acceptance-checks.ts'
import { closeLog, tailOf } from './attempt-log.ts'
import type { AttemptRecord, AttemptRecords } from './attempt-records.ts'
import { fetchSource } from './builtin-fetch.ts'
import type { Build, BuildEnd, BuildInput, Executor } from './executor.ts'
import { imageRootOf } from './image-root.ts'
import type { Runnable } from './probe/systems.ts'
import { JOBS_FILE } from './executor-protocol.ts'
import { NotKept, prepareKept } from './kept-directory.ts'
import { lastLine } from './last-line.ts'
import { shareOut, type Share } from './local-share.ts'
import { describeLimit, diskLimitOf } from './limit-failure.ts'
import type { Materialised, MaterialisedTrees } from './materialised.ts'
import type { MemoryUse } from './groups/memory-meter.ts'

/** Inputs that are fetched and laid out at once per attempt. */
const INPUTS_AT_ONCE = 8
/** What a failure sends along of its log. */
const LOG_TAIL_BYTES = 8 * 1024
/** With less than this free on its disk a build that fails has failed for want of room. */
const DISK_FULL_BYTES = 256 * 1024
const STOPPING = 'the node is stopping'
/** Jobs whose outputs are remembered as made lately, and for how long. */
const MADE_MAX = 256
const MADE_MS = 120_000
/** How long a change of phase may wait to be told. */
const TELL_MS = 25
/** Finished outcomes that wait for their granter; beyond it nothing new is begun. */
const FINISHED_MAX = 2048

/** Brings an input into the store, from wherever it can be had. Throws MESH0501. */
type Obtain = (
  entry: Entry,
  options: { readonly peers: readonly PeerRecord[]; readonly signal: AbortSignal },
) => Promise<BytesMoved>

export interface WorkerDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly store: BlobStore
  readonly trees: MaterialisedTrees
  readonly executor: Executor
  /** Without them attempts are cleared away on the main thread. */
  readonly workers?: FileWorkers
  readonly obtain: Obtain
  /** Whose programs this machine runs, for images of them. */
  readonly systems?: readonly Runnable[]
  /** Asked before an attempt begins. */
  readonly checks?: AcceptanceChecks
  /** Keeps blobs, directories with all that is in them, in the store until it is disposed of. */
  readonly hold: (entries: readonly Entry[]) => Disposable
  readonly signer: Signer
  /** How much of the disk is free, and how much of it the store wants free. */
  readonly space?: () => { readonly freeBytes: number; readonly floorBytes: number }
  /** Where it is noted which logs and directories are kept. */
  readonly records?: AttemptRecords
  /** How fast this machine is, as far as it is known. */
  readonly speed?: () => number
  /** Called whenever `running` or `finished` have changed. */
  readonly onChange: () => void
}

export interface WorkerOptions {
  readonly name: string
  /** For the attempts' own directories; on the file system of the store. */
  readonly directory: string
  readonly mirrors: readonly string[]
}

/** What the granter says in one message. */
export interface Orders {
  readonly epoch: number
  readonly grants: readonly Lease[]
  readonly limits: readonly { readonly attempt: string; readonly limits: Limits }[]
  readonly cancel: readonly string[]
  readonly ack: readonly string[]
  /** Processors for attempts that run; those that are not named go on with what they have. */
  readonly allotments?: readonly { readonly attempt: string; readonly cpus: number }[] | undefined
}

/** What of an action has to be in the store before it begins, by what people know it as. */
function entriesOfAction({ inputs, image = [] }: Action): [string, Entry][] {
  return [...inputs, ...image.map((layer, at): [string, Entry] => [`image ${at + 1}`, layer])]
}

interface Running {
  readonly lease: Lease
  readonly abort: AbortController
  readonly directory: string
  readonly bytes: { peer: number; mirror: number; local: number }
  readonly listeners: Set<() => void>
  phase: RunningAttempt['phase']
  phases: Phases
  phaseSinceMs: number
  build: Build | undefined
  limits: Limits
  /** Processors that it should use now. */
  cpus: number
  measured: Measured | undefined
  logBytes: number
  /** When its build was started, which the times in its log count from. */
  startedAtMs: number | undefined
}

/** A live log: the spool file and how much of it is written. */
export interface LiveLog {
  readonly path: string
  sizeBytes(): number
  isOpen(): boolean
  /** Called when it grew or ended. */
  onChange(listener: () => void): Disposable
}

export class Worker {
  /** When the disk was last found full. */
  #diskFullAtMs = Number.NEGATIVE_INFINITY
  readonly #deps: WorkerDeps
  readonly #options: WorkerOptions
  readonly #running = new Map<string, Running>()
  readonly #finished = new Map<string, FinishedAttempt>()
  readonly #tasks = new Set<Promise<void>>()
  /** Oldest first. */
  readonly #made: { readonly atMs: number; readonly entries: readonly Entry[] }[] = []
  #epoch = 0
  #slots: number | undefined
  #telling: Timer | undefined

  constructor(deps: WorkerDeps, options: WorkerOptions) {
    this.#deps = deps
    this.#options = options
  }

  /** Removes what attempts of an earlier process left behind. */
  async start(): Promise<void> {
    await mkdir(this.#options.directory, { recursive: true, mode: 0o711 })
    for (const name of await readdir(this.#options.directory)) {
      await this.#salvage(name)
      await this.#remove(join(this.#options.directory, name))
    }
  }

  /** The logs that this node keeps of attempts that have ended. */
  get records(): AttemptRecords | undefined {
    return this.#deps.records
  }

  /** Keeps the log of an attempt that was cut short with the node. */
  async #salvage(attempt: string): Promise<void> {
    const { records, store, log, clock } = this.#deps
    const path = join(this.#options.directory, attempt, 'log')
    if (records === undefined || !AttemptId.safeParse(attempt).success || !existsSync(path)) return
    try {
      const line = 'lost: its node was killed or restarted while it ran (MESH0505)'
      await closeLog(path, line, { atMs: 0, isWhole: false })
      const ref = await store.putFile(path, { move: true })
      const endedAtWall = clock.wallMs()
      const known = { job: '' as const, name: '', system: '', isolation: '' }
      const what = { end: 'lost', lastLine: line, log: ref, kept: null }
      records.add({ v: 1, attempt, ...known, endedAtWall, ...what })
    } catch (error) {
      log.warn({ err: error, attempt }, 'log of a lost attempt was not kept')
    }
  }

  #remove(path: string): Promise<void> {
    return runJob(this.#deps.workers ?? inlineFileWorkers(), 'remove-tree', path)
  }

  /** Processors that all builds of this node have together, whatever their granters say; undefined for no limit. */
  setSlots(slots: number | undefined): void {
    this.#slots = slots
    this.#share()
  }

  /** Builds that run, paused ones included. */
  get buildCount(): number {
    return this.#builds.length
  }

  /** In the order in which they were begun. */
  get #builds(): Running[] {
    return [...this.#running.values()].filter(
      ({ phase, build }) => phase === 'building' && build !== undefined,
    )
  }

  /** Divides the slots among the builds, and `newcomer` as the last of them. */
  #sharesWith(newcomer?: Running): Share[] {
    const builds = newcomer === undefined ? this.#builds : [...this.#builds, newcomer]
    return shareOut(
      this.#slots,
      builds.map(({ lease, cpus }) => ({ attempt: lease.attempt, allotted: cpus })),
    )
  }

  /** Where the machine is not all for builds, none may use what others leave idle for a moment. */
  #share(): void {
    for (const { attempt, jobs, isPaused } of this.#sharesWith()) {
      const build = this.#running.get(attempt)?.build
      build?.setJobs(jobs, { isHard: this.#slots !== undefined })
      build?.freeze(isPaused)
    }
  }

  get running(): RunningAttempt[] {
    return [...this.#running.values()].map(({ lease, phase, phases, cpus }) => ({
      attempt: lease.attempt,
      phase,
      phases,
      held: { cpus, memoryBytes: lease.memoryBytes, diskBytes: lease.diskBytes },
    }))
  }

  get finished(): FinishedAttempt[] {
    return [...this.#finished.values()]
  }

  /** Does what the granter says. False, and nothing done, for one whose epoch is over. */
  take(orders: Orders): boolean {
    if (orders.epoch < this.#epoch) return false
    this.#epoch = orders.epoch
    for (const lease of orders.grants) this.#begin(lease)
    for (const { attempt, limits } of orders.limits) {
      const running = this.#running.get(attempt)
      if (running === undefined || sameLimits(running.limits, limits)) continue
      running.limits = limits
      running.build?.setLimits(limits)
    }
    for (const { attempt, cpus } of orders.allotments ?? []) {
      const running = this.#running.get(attempt)
      if (running === undefined || running.cpus === cpus) continue
      running.cpus = cpus
    }
    this.#share()
    for (const attempt of orders.cancel)
      this.#running.get(attempt)?.abort.abort(new MeshError('MESH0304', 'nobody needs it any more'))
    let hasChanged = orders.grants.length > 0
    for (const attempt of orders.ack) hasChanged = this.#finished.delete(attempt) || hasChanged
    if (hasChanged) this.#changedSoon()
    return true
  }

  /** The log of an attempt that runs here. */
  liveLog(attempt: string): LiveLog | undefined {
    const running = this.#running.get(attempt)
    if (running === undefined) return undefined
    return {
      path: join(running.directory, 'log'),
      sizeBytes: () => running.logBytes,
      isOpen: () => this.#running.has(attempt),
      onChange(listener) {
        running.listeners.add(listener)
        return { [Symbol.dispose]: () => running.listeners.delete(listener) }
      },
    }
  }

  /** Outputs made lately: it may be that nobody else has them yet. */
  get recentOutputs(): readonly Entry[] {
    const sinceMs = this.#deps.clock.nowMs() - MADE_MS
    return this.#made.flatMap(({ atMs, entries }) => (atMs >= sinceMs ? entries : []))
  }

  /** Resolves when nothing runs. Nothing new is asked for once the node drains. */
  async idle(): Promise<void> {
    while (this.#tasks.size > 0) await Promise.all(this.#tasks)
  }

  /** Ends everything that runs. */
  async stop(): Promise<void> {
    for (const running of this.#running.values())
      running.abort.abort(new MeshError('MESH0108', STOPPING))
    await this.idle()
  }

  #begin(lease: Lease): void {
    if (this.#running.has(lease.attempt) || this.#finished.has(lease.attempt)) return
    const running: Running = {
      lease,
      abort: new AbortController(),
      directory: join(this.#options.directory, lease.attempt),
      bytes: { peer: 0, mirror: 0, local: 0 },
      listeners: new Set(),
      phase: 'leased',
      phases: {},
      phaseSinceMs: this.#deps.clock.nowMs(),
      build: undefined,
      limits: lease.limits,
      cpus: Math.max(1, lease.cpus),
      measured: undefined,
      logBytes: 0,
      startedAtMs: undefined,
    }
    this.#running.set(lease.attempt, running)
    const task = this.#run(running).finally(() => this.#tasks.delete(task))
    this.#tasks.add(task)
  }

  async #run(running: Running): Promise<void> {
    const { lease } = running
    const { log } = this.#deps
    let outcome: AttemptOutcome
    let usage: Usage | null = null
    let action: Action | undefined
    try {
      if (this.#finished.size >= FINISHED_MAX)
        throw new MeshError('MESH0505', `${FINISHED_MAX} outcomes wait for their owner already`)
      action = decodeAction(lease.action)
      await mkdir(running.directory, { mode: 0o711 })
      const { directory, abort } = running
      const refused = await this.#deps.checks?.ask(lease, action, {
        directory,
        signal: abort.signal,
      })
      if (refused !== undefined) outcome = refused
      else
        ({ outcome, usage } =
          lease.urls.length > 0 || action.fetch !== undefined
            ? await this.#fetch(running, action)
            : await this.#build(running, action))
    } catch (error) {
      outcome = outcomeOfError(error, running.abort.signal)
      if (outcome.kind === 'infrastructure')
        log.warn(
          { err: error, attempt: lease.attempt, job: lease.job },
          'attempt failed on this node',
        )
    }
    outcome = await this.#conclude(running, action, outcome)
    this.#enter(running, running.phase)
    this.#finished.set(lease.attempt, {
      attempt: lease.attempt,
      outcome,
      usage,
      phases: running.phases,
      bytes: running.bytes,
      ...(running.measured === undefined ? {} : { measured: running.measured }),
    })
    this.#running.delete(lease.attempt)
    for (const listener of running.listeners) listener()
    this.#changed()
    // Nobody waits for this.
    try {
      await this.#remove(running.directory)
    } catch (error) {
      log.warn(
        { err: error, attempt: lease.attempt },
        'directory of an attempt could not be removed',
      )
    }
  }

  #changed(): void {
    this.#telling?.cancel()
    this.#telling = undefined
    this.#deps.onChange()
  }

  /** What a short job goes through is not told step by step: its end tells it all. */
  #changedSoon(): void {
    this.#telling ??= this.#deps.clock.setTimer(TELL_MS, () => this.#changed())
  }

  /** Ends the phase that it is in and begins another. */
  #enter(running: Running, phase: Running['phase']): void {
    const nowMs = this.#deps.clock.nowMs()
    const tookMs = Math.max(0, Math.round(nowMs - running.phaseSinceMs))
    if (running.phase === 'fetching') running.phases = { ...running.phases, fetch: tookMs }
    if (running.phase === 'building') running.phases = { ...running.phases, build: tookMs }
    if (running.phase === 'uploading') running.phases = { ...running.phases, upload: tookMs }
    if (phase === running.phase) return
    running.phase = phase
    running.phaseSinceMs = nowMs
    this.#changedSoon()
  }

  async #build(
    running: Running,
    action: Action,
  ): Promise<{ outcome: AttemptOutcome; usage: Usage | null }> {
    const { lease, abort } = running
    const { executor, hold } = this.#deps
    using holding = new DisposableStack()
    holding.use(hold(entriesOfAction(action).map(([, entry]) => entry)))
    const layer = action.image?.findIndex(({ kind }) => kind !== 'dir') ?? -1
    if (layer !== -1) {
      const what = `layer ${layer + 1} of its image is a ${action.image?.[layer]?.kind}, not a directory`
      return { outcome: this.#failed('MESH0406', what, 127), usage: null }
    }
    this.#enter(running, 'fetching')
    await this.#obtainInputs(running, action)
    const held: Materialised[] = []
    try {
      const inputs: BuildInput[] = []
      for (const [path, entry] of action.inputs)
        inputs.push({ path, source: await this.#place(entry, held) })
      const image = await imageRootOf(action, lease.host ?? action.system, {
        trees: this.#deps.trees,
        systems: this.#deps.systems ?? [],
        held,
      })
      abort.signal.throwIfAborted()
      this.#enter(running, 'building')
      const jobs = this.#sharesWith(running).at(-1)?.jobs ?? running.cpus
      const build = executor.start({
        attempt: lease.attempt,
        isolation: lease.isolation,
        directory: running.directory,
        argv: action.argv,
        env: {
          ...action.env,
          MESH_JOBS: String(jobs),
          MESH_JOBS_FILE: JOBS_FILE,
          MESH_JOB: lease.job,
          MESH_NODE: this.#options.name,
          MESH_SYSTEM: action.system,
        },
        cwd: action.cwd,
        inputs,
        image,
        ...(lease.features?.includes('kvm') === true ? { devices: ['/dev/kvm'] } : {}),
        network: action.network,
        limits: running.limits,
        jobs,
        jobsMost: lease.terms?.cpusMax ?? lease.cpusMax,
        memoryLimitBytes: lease.memoryLimitBytes,
        diskLimitBytes: diskLimitOf(lease.diskBytes, this.#deps.space?.()),
      })
      running.build = build
      this.#share()
      running.startedAtMs = this.#deps.clock.nowMs()
      build.onLog((sizeBytes) => {
        running.logBytes = sizeBytes
        for (const listener of running.listeners) listener()
      })
      const onAbort = (): void => build.cancel()
      abort.signal.addEventListener('abort', onAbort, { once: true })
      const { end, usage, memory, diskBytes = 0 } = await build.outcome
      abort.signal.removeEventListener('abort', onAbort)
      running.measured = this.#measured(usage, memory, diskBytes)
      this.#enter(running, 'uploading')
      this.#share()
      if (memory?.isOut === true && !isWell(end))
        return { outcome: await this.#outOfMemory(running, end, memory), usage }
      return { outcome: await this.#outcomeOf(running, action, end, usage), usage }
    } finally {
      for (const materialised of held) materialised.release()
    }
  }

  #measured(usage: Usage, memory: MemoryUse | undefined, diskBytes: number): Measured {
    const { speed } = this.#deps
    // Whoever was looked at too late is known by its largest process, which is told in any case.
    const isSeen = memory !== undefined && memory.peakBytes >= usage.maxRssBytes
    return {
      memoryBytes: isSeen ? memory.peakBytes : usage.maxRssBytes,
      memoryFrom: isSeen ? memory.from : 'largest-process',
      diskBytes,
      ...(speed === undefined ? {} : { speed: speed() }),
    }
  }

  async #outOfMemory(running: Running, end: BuildEnd, memory: MemoryUse): Promise<AttemptOutcome> {
    const { memoryLimitBytes } = running.lease
    const limit =
      memoryLimitBytes === undefined
        ? `the machine had no more, and it was seen to have ${formatSize(memory.peakBytes)}`
        : `it may have ${formatSize(memoryLimitBytes)}`
    return this.#failed(
      'MESH0404',
      `the kernel ended a process of it for want of memory: ${limit}`,
      exitCodeOf(end),
    )
  }

  async #obtainInputs(running: Running, action: Action): Promise<void> {
    const { lease, abort, bytes } = running
    const hints = new Map(lease.hints)
    const missing: Digest[] = []
    let message = ''
    await mapLimited(entriesOfAction(action), INPUTS_AT_ONCE, async ([path, entry]) => {
      const blob = blobOf(entry)
      if (blob === undefined) return
      const peers = (hints.get(blob.digest) ?? []).flatMap((at) => lease.peers[at] ?? [])
      try {
        const moved = await this.#deps.obtain(entry, { peers, signal: abort.signal })
        for (const source of ['peer', 'mirror', 'local'] as const) bytes[source] += moved[source]
      } catch (error) {
        if (!(error instanceof MeshError) || error.code !== 'MESH0501') throw error
        missing.push(blob.digest)
        message ||= `input ${path.slice(path.lastIndexOf('/') + 1)} of ${lease.name}: ${error.message}`
      }
    })
    if (missing.length > 0) throw new MissingInputs(missing, message)
  }

  async #place(entry: Entry, held: Materialised[]): Promise<BuildInput['source']> {
    if (entry.kind === 'symlink') return { kind: 'symlink', target: entry.target }
    const materialised = await this.#deps.trees.acquire(entry)
    held.push(materialised)
    return { kind: entry.kind, hostPath: materialised.path }
  }

  async #outcomeOf(
    running: Running,
    action: Action,
    end: BuildEnd,
    usage: Usage,
  ): Promise<AttemptOutcome> {
    await this.#checkRoom(running, end)
    switch (end.kind) {
      case 'cancelled':
        return cancelled(running.abort.signal)
      case 'infrastructure':
        throw new MeshError('MESH0505', end.message)
      case 'builder-not-found':
        return this.#failed('MESH0406', end.message, 127)
      case 'signalled':
        return this.#failed('MESH0401', `ended by ${end.signal}`, 128 + (SIGNALS[end.signal] ?? 0))
      case 'limit': {
        if (end.limit === 'disk' && running.lease.diskBytes === 0)
          throw new MeshError(
            'MESH0503',
            `the disk of ${this.#options.name} is full, as far as one build may fill it: ${running.lease.name} took more than ${formatSize(end.value ?? 0)}; say how much it needs in needs.disk`,
          )
        const { message, ...limit } = describeLimit(end, running.limits)
        return { ...this.#failed('MESH0402', message, 1), ...limit }
      }
      case 'exited':
        if (end.code !== 0) return this.#failed('MESH0401', `exit ${end.code}`, end.code)
        return this.#succeeded(running, action, usage)
    }
  }

  /** What fails on a full disk says nothing about the build, however it fails. Throws MESH0503. */
  async #checkRoom(running: Running, end: BuildEnd): Promise<void> {
    if (end.kind === 'cancelled' || end.kind === 'limit') return
    if (end.kind === 'exited' && end.code === 0) return
    const { directory, lease, phases, phaseSinceMs } = running
    const beganAtMs = phaseSinceMs - (phases.build ?? 0)
    const { bavail, bsize } = await statfs(directory)
    if (bavail * bsize < DISK_FULL_BYTES) this.#diskFullAtMs = this.#deps.clock.nowMs()
    // Another build may have filled it and be cleared away by now.
    else if (this.#diskFullAtMs < beganAtMs) return
    const told = end.kind === 'infrastructure' ? `: ${end.message}` : ''
    throw new MeshError(
      'MESH0503',
      `the disk of ${this.#options.name} is full, ${bavail * bsize} bytes are free after ${lease.name} ran${told}`,
    )
  }

  async #succeeded(running: Running, action: Action, usage: Usage): Promise<AttemptOutcome> {
    const outputs: Record<string, Entry> = {}
    const made = await readdir(join(running.directory, 'out'))
    for (const [name] of action.outputs) {
      if (!made.includes(name)) {
        const others =
          made.length === 0 ? 'it created no output' : `it created: ${made.slice(0, 20).join(', ')}`
        return this.#failed(
          'MESH0403',
          `the builder ended with 0 but did not create $${name}; ${others}`,
          1,
        )
      }
      try {
        outputs[name] = await this.#deps.store.putTree(join(running.directory, 'out', name))
      } catch (error) {
        if (
          error instanceof MeshError &&
          (error.code === 'MESH0207' || error.code === 'MESH0211' || error.code === 'MESH0210')
        )
          return this.#failed(
            'MESH0408',
            `output ${name}: ${error.message.replaceAll(running.directory, BUILD_ROOT)}`,
            1,
          )
        throw error
      }
    }
    const log = await this.#keepLog(running)
    this.#made.push({ atMs: this.#deps.clock.nowMs(), entries: Object.values(outputs) })
    if (this.#made.length > MADE_MAX) this.#made.shift()
    return { kind: 'built', result: this.#sign(running, action, outputs, log, usage) }
  }

  #sign(
    running: Running,
    action: Action,
    outputs: Record<string, Entry>,
    log: BlobRef,
    usage: Usage,
  ) {
    const { lease } = running
    const result: ActionResult = {
      v: 1,
      action: sha256(lease.action),
      jobKey: lease.jobKey,
      attempt: lease.attempt,
      exitCode: 0,
      outputs,
      log,
      usage,
      userland: lease.userland,
      builder: {
        peerId: this.#deps.signer.peerId,
        name: this.#options.name,
        // Of the environment that it ran in, which for a cross build is not what its outputs are for.
        system: lease.host ?? action.system,
        isolation: lease.isolation,
      },
      endedAtWallMs: this.#deps.clock.wallMs(),
    }
    this.#note(running, { end: 'built', lastLine: null, log, kept: null })
    return signResult(result, this.#deps.signer)
  }

  async #keepLog(running: Running): Promise<BlobRef> {
    const path = join(running.directory, 'log')
    try {
      return await this.#deps.store.putFile(path, { move: true })
    } catch (error) {
      if (!(error instanceof MeshError) && !hasCode(error, 'ENOENT')) throw error
      if (error instanceof MeshError && error.code !== 'MESH0207') throw error
      return this.#deps.store.put(new Uint8Array())
    }
  }

  #failed(code: Failed['code'], message: string, exitCode: number): Failed {
    return {
      kind: 'failed',
      code,
      message: message.slice(0, 4096),
      exitCode: Math.min(255, Math.max(0, exitCode)),
      log: null,
      logTail: '',
    }
  }

  /** Keeps what the attempt leaves: of a failure its directory, where that is wanted, and of all the log. */
  async #conclude(
    running: Running,
    action: Action | undefined,
    ended: AttemptOutcome,
  ): Promise<AttemptOutcome> {
    const { lease, directory } = running
    try {
      if (ended.kind === 'built') return ended
      const kept =
        ended.kind === 'failed' && running.limits.keepFailed === true && action !== undefined
          ? await this.#keepDirectory(running, action)
          : null
      const outcome: AttemptOutcome =
        ended.kind === 'failed' && kept !== null
          ? { ...ended, kept: { kind: 'dir', digest: kept.digest, size: kept.size } }
          : ended
      const line = lastLine(outcome, messageOf(running.abort.signal.reason)) ?? null
      if (line === null || outcome.kind === 'returned' || outcome.kind === 'refused') return outcome
      const path = join(directory, 'log')
      running.logBytes = await closeLog(path, line, {
        atMs:
          running.startedAtMs === undefined ? 0 : this.#deps.clock.nowMs() - running.startedAtMs,
        isWhole: outcome.kind === 'failed',
      })
      for (const listener of running.listeners) listener()
      const logTail = outcome.kind === 'failed' ? await tailOf(path, LOG_TAIL_BYTES) : ''
      const log = await this.#keepLog(running)
      this.#note(running, { end: outcome.kind, lastLine: line, log, kept })
      if (outcome.kind === 'failed') return { ...outcome, log, logTail }
      return outcome.kind === 'missing' ? outcome : { ...outcome, log }
    } catch (error) {
      this.#deps.log.warn({ err: error, attempt: lease.attempt }, 'log of an attempt was not kept')
      return ended
    }
  }

  #note({ lease }: Running, what: Pick<AttemptRecord, 'end' | 'lastLine' | 'log' | 'kept'>): void {
    const { attempt, job, name, isolation } = lease
    const endedAtWall = this.#deps.clock.wallMs()
    const system = lease.terms?.host ?? ''
    this.#deps.records?.add({ v: 1, attempt, job, name, system, isolation, endedAtWall, ...what })
  }

  /** Null where it cannot be kept: the build has failed for its own reason, which is told all the same. */
  async #keepDirectory(
    { directory, lease }: Running,
    action: Action,
  ): Promise<AttemptRecord['kept']> {
    const { records, store, log } = this.#deps
    if (records === undefined) return null
    const { attempt: id, job, name } = lease
    try {
      const { path, sizeBytes } = await prepareKept(directory, { id, job, name }, action, {
        sizeBytesMax: records.treeBytesMax,
      })
      const entry = await store.putTree(path)
      if (entry.kind !== 'dir') return null
      return { digest: entry.digest, size: entry.size, treeBytes: sizeBytes }
    } catch (error) {
      const line = `its directory is not kept: ${messageOf(error)}`
      if (!(error instanceof NotKept))
        log.warn({ err: error, attempt: id }, 'directory of a failed attempt was not kept')
      await closeLog(join(directory, 'log'), line, { atMs: 0, isWhole: true })
      return null
    }
  }

  async #fetch(
    running: Running,
    action: Action,
  ): Promise<{ outcome: AttemptOutcome; usage: Usage | null }> {
    const { lease, abort } = running
    const { clock, store } = this.#deps
    const startedMs = clock.nowMs()
    this.#enter(running, 'fetching')
    const spool = await open(join(running.directory, 'log'), 'a')
    const lines: string[] = []
    let end
    try {
      if (action.fetch === undefined) throw new MeshError('MESH0210', 'a fetch without a sha256')
      const path = join(running.directory, 'source')
      end = await fetchSource(
        {
          urls: lease.urls,
          mirrors: this.#options.mirrors,
          sha256: action.fetch,
          path,
          signal: abort.signal,
        },
        (line) => lines.push(`${line}\n`),
      )
      for (const line of lines)
        await spool.write(
          encodeLogRecord({
            stream: 'mesh',
            atMs: Math.round(clock.nowMs() - startedMs),
            bytes: Buffer.from(line),
          }),
        )
      if (end.kind === 'fetched') {
        const ref = await store.putFile(path, { move: true })
        running.bytes.mirror += ref.size
        const usage = { wallMs: Math.round(clock.nowMs() - startedMs), cpuMs: 0, maxRssBytes: 0 }
        const outputs: Record<string, Entry> = { out: { kind: 'file', ...ref, executable: false } }
        const log = await this.#keepLog(running)
        return {
          outcome: { kind: 'built', result: this.#sign(running, action, outputs, log, usage) },
          usage,
        }
      }
    } finally {
      await spool.close()
    }
    if (end.kind === 'wrong')
      return { outcome: this.#failed('MESH0407', end.message, 1), usage: null }
    return {
      outcome: { kind: 'infrastructure', code: 'MESH0504', message: end.message.slice(0, 4096) },
      usage: null,
    }
  }
}

type Failed = Extract<AttemptOutcome, { kind: 'failed' }>

/** Inputs that no peer and no mirror has. */
class MissingInputs extends Error {
  readonly inputs: readonly Digest[]
  constructor(inputs: readonly Digest[], message: string) {
    super(message)
    this.inputs = inputs
  }
}

function outcomeOfError(error: unknown, signal: AbortSignal): AttemptOutcome {
  if (signal.aborted) return cancelled(signal)
  if (error instanceof MissingInputs)
    return { kind: 'missing', inputs: [...error.inputs], message: error.message.slice(0, 4096) }
  const isFull =
    (error instanceof MeshError && error.code === 'MESH0503') || hasCode(error, 'ENOSPC', 'EDQUOT')
  return {
    kind: 'infrastructure',
    code: isFull ? 'MESH0503' : 'MESH0505',
    message: messageOf(error).slice(0, 4096),
  }
}

function cancelled({ reason }: AbortSignal): AttemptOutcome {
  return reason instanceof MeshError && reason.code === 'MESH0108'
    ? { kind: 'cancelled', isHandedBack: true }
    : { kind: 'cancelled' }
}

function isWell(end: BuildEnd): boolean {
  return (
    end.kind === 'cancelled' || end.kind === 'limit' || (end.kind === 'exited' && end.code === 0)
  )
}

function exitCodeOf(end: BuildEnd): number {
  if (end.kind === 'exited') return end.code
  return end.kind === 'signalled' ? 128 + (SIGNALS[end.signal] ?? 0) : 1
}

function sameLimits(a: Limits, b: Limits): boolean {
  return (
    a.timeoutMs === b.timeoutMs &&
    a.maxSilentMs === b.maxSilentMs &&
    a.maxLogBytes === b.maxLogBytes &&
    a.maxOutputBytes === b.maxOutputBytes &&
    a.keepFailed === b.keepFailed
  )
}

const SIGNALS: Readonly<Record<string, number>> = constants.signals
