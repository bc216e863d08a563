/**
 * The worker of a node: holds leases, runs their actions and keeps the outcomes until the granter has
 * them durably.
 *
 * It is told what should be (`take`) and tells what is (`sync`), level-triggered: a lost message of either
 * kind is made up for by the next one.
 */
import { mkdir, readdir, statfs } from 'node:fs/promises'
import { join } from 'node:path'
import type { Timer } from '../base/clock.ts'
import { MeshError } from '../base/errors.ts'
import { inlineFileWorkers, runJob, type FileWorkers } from '../files/workers/file-workers.ts'
import { decodeAction, type Action } from '../wire/action.ts'
import type { Signer, Usage } from '../wire/result.ts'
import type { Entry } from '../wire/tree.ts'
import type {
  AttemptOutcome,
  FinishedAttempt,
  Lease,
  Limits,
  RunningAttempt,
} from '../wire/work-messages.ts'
import type { AcceptanceChecks } from './acceptance-checks.ts'
import type { AttemptRecords } from './attempt-records.ts'
import { Attempt, type LiveLog } from './attempt/attempt.ts'
import { isWell, measuredOf, outcomeOfEnd, outcomeOfError, refusalOf } from './attempt/ends.ts'
import { entriesOfAction, layInputs, obtainInputs, type Obtain } from './attempt/inputs.ts'
import { Remains, type RemainsDeps } from './attempt/remains.ts'
import { signedResult, storeOutputs, type Outputs } from './attempt/results.ts'
import { obtainSource } from './attempt/source.ts'
import type { BuildEnd, BuildSpec, Executor } from './executor.ts'
import { JOBS_FILE } from './executor-protocol.ts'
import { diskLimitOf } from './limit-failure.ts'
import { shareOut, type Share } from './local-share.ts'
import type { MaterialisedTrees } from './materialised.ts'
import type { Runnable } from './probe/systems.ts'

/** With less than this free on its disk a build that fails has failed for want of room. */
const DISK_FULL_BYTES = 256 * 1024
/** Jobs whose outputs are remembered as made lately, and for how long. */
const MADE_MAX = 256
const MADE_MS = 120_000
/** How long a change of phase may wait to be told. */
const TELL_MS = 25
/** Finished outcomes that wait for their granter; beyond it nothing new is begun. */
const FINISHED_MAX = 2048

export interface WorkerDeps extends RemainsDeps {
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

/** How an attempt ended, before it is signed or concluded. */
type Made =
  | { readonly kind: 'stored'; readonly outputs: Outputs; readonly usage: Usage }
  | { readonly kind: 'ended'; readonly outcome: AttemptOutcome; readonly usage: Usage | null }

export class Worker {
  /** When the disk was last found full. */
  #diskFullAtMs = Number.NEGATIVE_INFINITY
  readonly #deps: WorkerDeps
  readonly #options: WorkerOptions
  readonly #remains: Remains
  readonly #running = new Map<string, Attempt>()
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
    this.#remains = new Remains(deps)
  }

  /** Removes what attempts of an earlier process left behind, but for their logs. */
  async start(): Promise<void> {
    const { directory } = this.#options
    await mkdir(directory, { recursive: true, mode: 0o711 })
    for (const name of await readdir(directory)) {
      await this.#remains.salvage(directory, name)
      await this.#remove(join(directory, name))
    }
  }

  /** The logs that this node keeps of attempts that have ended. */
  get records(): AttemptRecords | undefined {
    return this.#deps.records
  }

  #remove(path: string): Promise<void> {
    return runJob(this.#deps.workers ?? inlineFileWorkers(), 'remove-tree', path)
  }

  // ---- processors

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
  get #builds(): Attempt[] {
    return [...this.#running.values()].filter(
      ({ phase, build }) => phase === 'building' && build !== undefined,
    )
  }

  /** Divides the slots among the builds, and `newcomer` as the last of them. */
  #sharesWith(newcomer?: Attempt): Share[] {
    const builds = newcomer === undefined ? this.#builds : [...this.#builds, newcomer]
    return shareOut(
      this.#slots,
      builds.map(({ id, cpus }) => ({ attempt: id, allotted: cpus })),
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

  // ---- what is, and what should be

  get running(): RunningAttempt[] {
    return [...this.#running.values()].map(({ told }) => told)
  }

  get finished(): FinishedAttempt[] {
    return [...this.#finished.values()]
  }

  /** Does what the granter says. False, and nothing done, for one whose epoch is over. */
  take(orders: Orders): boolean {
    if (orders.epoch < this.#epoch) return false
    this.#epoch = orders.epoch
    for (const lease of orders.grants) this.#begin(lease)
    for (const { attempt: id, limits } of orders.limits) {
      const attempt = this.#running.get(id)
      if (attempt === undefined || sameLimits(attempt.limits, limits)) continue
      attempt.limits = limits
      attempt.build?.setLimits(limits)
    }
    for (const { attempt: id, cpus } of orders.allotments ?? []) {
      const attempt = this.#running.get(id)
      if (attempt !== undefined) attempt.cpus = cpus
    }
    this.#share()
    for (const id of orders.cancel)
      this.#running.get(id)?.abort.abort(new MeshError('MESH0304', 'nobody needs it any more'))
    let hasChanged = orders.grants.length > 0
    for (const id of orders.ack) hasChanged = this.#finished.delete(id) || hasChanged
    if (hasChanged) this.#changedSoon()
    return true
  }

  /** The log of an attempt that runs here. */
  liveLog(attempt: string): LiveLog | undefined {
    return this.#running.get(attempt)?.liveLog
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
    for (const { abort } of this.#running.values())
      abort.abort(new MeshError('MESH0108', 'the node is stopping'))
    await this.idle()
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

  // ---- one attempt

  #begin(lease: Lease): void {
    if (this.#running.has(lease.attempt) || this.#finished.has(lease.attempt)) return
    const attempt = new Attempt(
      { clock: this.#deps.clock, onPhase: () => this.#changedSoon() },
      { lease, directory: join(this.#options.directory, lease.attempt) },
    )
    this.#running.set(attempt.id, attempt)
    const task = this.#run(attempt).finally(() => this.#tasks.delete(task))
    this.#tasks.add(task)
  }

  async #run(attempt: Attempt): Promise<void> {
    const { log } = this.#deps
    const { id: attemptId, lease } = attempt
    let outcome: AttemptOutcome
    let usage: Usage | null = null
    try {
      const action = decodeAction(lease.action)
      const made = await this.#make(attempt, action)
      usage = made.usage
      outcome = made.kind === 'ended' ? made.outcome : await this.#resultOf(attempt, action, made)
    } catch (error) {
      outcome = outcomeOfError(error, attempt.signal)
      if (outcome.kind === 'infrastructure')
        log.warn({ err: error, attempt: attemptId, job: lease.job }, 'attempt failed on this node')
    }
    outcome = await this.#remains.conclude(attempt, outcome)
    attempt.enter(attempt.phase)
    const { phases, bytes, measured } = attempt
    this.#finished.set(attemptId, {
      attempt: attemptId,
      outcome,
      usage,
      phases,
      bytes,
      ...(measured === undefined ? {} : { measured }),
    })
    this.#running.delete(attemptId)
    attempt.end()
    this.#changed()
    // Nobody waits for this.
    try {
      await this.#remove(attempt.directory)
    } catch (error) {
      log.warn({ err: error, attempt: attemptId }, 'directory of an attempt could not be removed')
    }
  }

  async #make(attempt: Attempt, action: Action): Promise<Made> {
    const { directory, lease, signal } = attempt
    if (this.#finished.size >= FINISHED_MAX)
      throw new MeshError('MESH0505', `${FINISHED_MAX} outcomes wait for their owner already`)
    await mkdir(directory, { mode: 0o711 })
    const refused = await this.#deps.checks?.ask(lease, action, { directory, signal })
    if (refused !== undefined) return ended(refused)
    if (lease.urls.length === 0 && action.fetch === undefined) return this.#build(attempt, action)
    attempt.enter('fetching')
    const end = await obtainSource(this.#deps, attempt, action, this.#options.mirrors)
    return end.kind === 'stored' ? end : ended(end)
  }

  async #build(attempt: Attempt, action: Action): Promise<Made> {
    const { lease, signal } = attempt
    const { obtain, hold, trees, systems = [], speed, store } = this.#deps
    using holding = hold(entriesOfAction(action))
    void holding
    const refusal = refusalOf(action)
    if (refusal !== undefined) return ended(refusal)
    attempt.enter('fetching')
    await obtainInputs(obtain, action, {
      name: lease.name,
      hints: lease,
      signal,
      onMoved(moved) {
        for (const from of ['peer', 'mirror', 'local'] as const) attempt.bytes[from] += moved[from]
      },
    })
    using laid = await layInputs({ trees, systems }, action, lease.host ?? action.system)
    signal.throwIfAborted()
    attempt.enter('building')
    const { inputs, image } = laid
    const { usage, ...done } = await this.#execute(attempt, action, { inputs, image })
    attempt.measured = measuredOf(done, usage, speed?.())
    attempt.enter('uploading')
    this.#share()
    await this.#checkRoom(attempt, done.end)
    const outcome = outcomeOfEnd(done, {
      lease,
      limits: attempt.limits,
      node: this.#options.name,
      signal,
    })
    if (outcome !== undefined) return ended(outcome, usage)
    const outputs = await storeOutputs(store, action, attempt.directory)
    return outputs.kind === 'stored' ? { ...outputs, usage } : ended(outputs, usage)
  }

  #execute(
    attempt: Attempt,
    action: Action,
    laid: Pick<BuildSpec, 'inputs' | 'image'>,
  ): ReturnType<Executor['start']>['outcome'] {
    const { lease, signal } = attempt
    const jobs = this.#sharesWith(attempt).at(-1)?.jobs ?? attempt.cpus
    const build = this.#deps.executor.start({
      ...laid,
      attempt: attempt.id,
      isolation: lease.isolation,
      directory: attempt.directory,
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
      ...(lease.features?.includes('kvm') === true ? { devices: ['/dev/kvm'] } : {}),
      network: action.network,
      limits: attempt.limits,
      jobs,
      isHard: this.#slots !== undefined,
      jobsMost: lease.terms?.cpusMax ?? lease.cpusMax,
      memoryLimitBytes: lease.memoryLimitBytes,
      diskLimitBytes: diskLimitOf(lease.diskBytes, this.#deps.space?.()),
    })
    attempt.build = build
    this.#share()
    attempt.startedAtMs = this.#deps.clock.nowMs()
    build.onLog((sizeBytes) => attempt.logGrew(sizeBytes))
    const onAbort = (): void => build.cancel()
    signal.addEventListener('abort', onAbort, { once: true })
    return build.outcome.finally(() => signal.removeEventListener('abort', onAbort))
  }

  /** What fails on a full disk says nothing about the build, however it fails. Throws MESH0503. */
  async #checkRoom({ directory, lease, beganAtMs }: Attempt, end: BuildEnd): Promise<void> {
    if (isWell(end)) return
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

  async #resultOf(
    attempt: Attempt,
    action: Action,
    { outputs, usage }: Extract<Made, { kind: 'stored' }>,
  ): Promise<AttemptOutcome> {
    const log = await this.#remains.keepBuilt(attempt)
    this.#made.push({ atMs: this.#deps.clock.nowMs(), entries: Object.values(outputs) })
    if (this.#made.length > MADE_MAX) this.#made.shift()
    const of = { action, outputs, log, usage, node: this.#options.name }
    return { kind: 'built', result: signedResult(this.#deps, attempt.lease, of) }
  }
}

const ended = (outcome: AttemptOutcome, usage: Usage | null = null): Made => ({
  kind: 'ended',
  outcome,
  usage,
})

function sameLimits(a: Limits, b: Limits): boolean {
  return (
    a.timeoutMs === b.timeoutMs &&
    a.maxSilentMs === b.maxSilentMs &&
    a.maxLogBytes === b.maxLogBytes &&
    a.maxOutputBytes === b.maxOutputBytes &&
    a.keepFailed === b.keepFailed
  )
}
