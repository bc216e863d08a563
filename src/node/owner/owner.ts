/**
 * The driver of the scheduler: turns what happens into events, and effects into journal writes, messages
 * and stored results.
 *
 * Facts are synced in groups: while one write is under way, events go on being applied, and their effects
 * wait for the next. Nothing that depends on a fact leaves before that fact is on disk.
 */
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'
import { sleep } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { Rate } from '../../base/rate.ts'
import type { ActionCache } from '../../store/action-cache.ts'
import type { Digest } from '../../wire/digest.ts'
import type { Fact, RequestWire } from '../../wire/facts.ts'
import {
  countersignResult,
  openResult,
  type ActionResult,
  type SignedResult,
  type Signer,
} from '../../wire/result.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import type { SyncMessage } from '../../wire/work-messages.ts'
import { checkGraph } from '../../scheduler/check-request.ts'
import { snapshotOf } from '../../scheduler/learnt.ts'
import type { NodeEntry, Step } from '../../scheduler/model.ts'
import type { Ask, Copy, Desired, Effect, Event, Moment } from '../../scheduler/events.ts'
import type { ProvidersOf } from '../../scheduler/reach.ts'
import { Scheduler } from '../../scheduler/scheduler.ts'
import type { ShareOptions } from '../../scheduler/shares.ts'
import type { Journal } from './journal.ts'

/** How long a journal that cannot be written is waited for before the next try. */
const JOURNAL_RETRY_MS = 1_000
/** A journal this long, and this many times longer than what is needed of it, is compacted at start. */
const COMPACT_LENGTH_MIN = 10_000

/** Where the desired state of a node is sent. */
export interface NodePort {
  /** The desired state may have changed: asks for it when it can be sent. */
  requestDesired(): void
}

export interface Watcher {
  /** The step looks different now. */
  onStep(step: Step): void
  onRequest(): void
}

export interface OwnerDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly journal: Journal
  readonly actions: ActionCache
  readonly signer: Signer
  /** Blob bytes that this node has sent and received since its start. */
  readonly ownBlobBytes: () => number
  /** Told of every result that was committed or found, with the node that should have its outputs. */
  readonly onResult: (result: ActionResult, peerId: string) => void
  /** Who has a blob, as far as is known: peer ids. */
  readonly providersOf: ProvidersOf
  /** Moves and looks after blobs for the scheduler; answers with `copied` and `checked`. */
  readonly onCopy: (copy: Copy) => void
  readonly onCheck: (attempt: string, asks: readonly Ask[]) => void
  /** Passes on leases of a parent. */
  readonly hasParents: boolean
  /** False for a node that nobody can dial. */
  readonly takesChildren?: boolean
  /** Of the finished jobs those that are built again on idle nodes, from 0 to 1; none where it is left out. */
  readonly auditShare?: number
  /** Left out: every user has the same share. */
  readonly shares?: ShareOptions
  /** The parent should hear what is here now. */
  readonly onUplink: () => void
  /** Countersigned results of the jobs that are stored above; none where there is nobody above. */
  readonly resultsAbove: (keys: readonly Digest[]) => Promise<readonly SignedResult[]>
  /** Told of every result that this node has countersigned. */
  readonly onCommitted: (signed: SignedResult) => void
}

interface Batch {
  effects: Effect[]
  /** Resolved once the facts of the batch are on disk. */
  waiting: (() => void)[]
}

export class Owner {
  readonly scheduler: Scheduler
  readonly #deps: OwnerDeps
  readonly #ports = new Map<string, NodePort>()
  readonly #watchers = new Map<string, Set<Watcher>>()
  #batch: Batch = { effects: [], waiting: [] }
  #isFlushing = false
  #syncedSeq = 0
  #timer: Timer | undefined
  #timerAtMs = Number.POSITIVE_INFINITY
  #isStopped = false
  /** Attempts that were started and that ended, whoever looks. */
  readonly #started = new Rate()
  readonly #ended = new Rate()
  /** Why the journal cannot be written, while it cannot. */
  problem: string | undefined

  constructor(deps: OwnerDeps) {
    this.#deps = deps
    const { signer, providersOf, hasParents, takesChildren, auditShare = 0, shares } = deps
    this.scheduler = new Scheduler({
      selfId: signer.peerId,
      providersOf,
      hasParents,
      ...(takesChildren === undefined ? {} : { takesChildren }),
      auditShare,
      ...(shares === undefined ? {} : { shares }),
    })
  }

  /** Replays the journal and begins a new epoch. Resolves when that is durable. */
  async start(): Promise<void> {
    const { journal } = this.#deps
    for await (const fact of journal.replay()) this.scheduler.replay(fact)
    await this.#compact()
    this.#take(this.scheduler.recover(this.moment()))
    await this.synced()
  }

  async #compact(): Promise<void> {
    const { journal } = this.#deps
    const { state } = this.scheduler
    const needed = state.requests.size * 4 + state.steps.size * 4 + state.attempts.size * 2
    if (journal.length < COMPACT_LENGTH_MIN || journal.length < 2 * needed) return
    // What the dropped facts taught is kept as one fact after the others.
    const learnt = snapshotOf(state, this.#deps.clock.wallMs())
    await journal.compact((fact) => isNeeded(fact, state), learnt)
  }

  moment(): Moment {
    const { clock, ownBlobBytes } = this.#deps
    return { nowMs: clock.nowMs(), wallMs: clock.wallMs(), ownBlobBytes: ownBlobBytes() }
  }

  /** Accepts the request; resolves when that is durable. Throws MESH0202-0211 or MESH0303. */
  async submit(request: RequestWire): Promise<void> {
    if (!this.scheduler.state.requests.has(request.id)) {
      checkGraph(request.graph)
      if (this.#isStopped) throw new MeshError('MESH0108', 'this node is stopping')
      if (!this.scheduler.hasRoom)
        throw new MeshError('MESH0303', 'too many unfinished requests are kept already')
    }
    this.apply({ type: 'submit', request })
    await this.synced()
  }

  apply(event: Event): void {
    if (this.#isStopped) return
    this.#take(this.scheduler.apply(event, this.moment()))
  }

  /** Applies and resolves when the facts are on disk. */
  async applyDurably(event: Event): Promise<void> {
    this.apply(event)
    await this.synced()
  }

  // ---- nodes

  attach(record: PeerRecord, version: NodeEntry['version'], boot: string, port: NodePort): void {
    this.#ports.set(record.peerId, port)
    this.apply({ type: 'node-up', record, version, boot })
  }

  detach(peerId: string, port: NodePort, note: string): void {
    if (this.#ports.get(peerId) !== port) return
    this.#ports.delete(peerId)
    this.apply({ type: 'node-down', peerId, note })
  }

  sync(peerId: string, message: SyncMessage): void {
    const results = new Map<string, ActionResult>()
    const known = this.scheduler.nodes.get(peerId)?.finished
    for (const { attempt, outcome, runner } of message.finished) {
      // A result is repeated until it is acknowledged; its first coming has told all.
      if (outcome.kind !== 'built' || known?.has(attempt) === true) continue
      // What is passed on is for its owner to judge.
      if (!this.scheduler.state.attempts.has(attempt)) continue
      try {
        const result = openResult(outcome.result, { countersigned: false })
        if (result.builder.peerId === (runner?.peerId ?? peerId)) results.set(attempt, result)
      } catch (error) {
        // The scheduler treats a result that is not in the map as a failure of the node.
        this.#deps.log.warn({ err: error, peer: peerId, attempt }, 'result was refused')
      }
    }
    this.apply({ type: 'sync', peerId, message, results })
  }

  /** What the node should do, as far as it is durable. */
  desiredOf(peerId: string, seq: number): Desired | undefined {
    return this.scheduler.desiredOf(peerId, this.#syncedSeq, seq)
  }

  // ---- watchers

  watch(request: string, watcher: Watcher): Disposable {
    const watchers = this.#watchers.get(request) ?? new Set()
    this.#watchers.set(request, watchers)
    watchers.add(watcher)
    return {
      [Symbol.dispose]: () => {
        watchers.delete(watcher)
        if (watchers.size === 0) this.#watchers.delete(request)
      },
    }
  }

  async stop(): Promise<void> {
    await this.synced()
    this.#isStopped = true
    this.#timer?.cancel()
  }

  // ---- effects

  #take(effects: readonly Effect[]): void {
    this.#batch.effects.push(...effects)
    this.#arm()
    if (this.#batch.effects.length > 0 && !this.#isFlushing) void this.#flush()
  }

  /** Resolves when everything applied so far is on disk. */
  synced(): Promise<void> {
    if (this.#batch.effects.length === 0 && !this.#isFlushing) return Promise.resolve()
    return new Promise((resolve) => {
      this.#batch.waiting.push(resolve)
      if (!this.#isFlushing) void this.#flush()
    })
  }

  async #flush(): Promise<void> {
    this.#isFlushing = true
    // Events of one turn of the event loop share a write.
    await Promise.resolve()
    while (this.#batch.effects.length > 0 || this.#batch.waiting.length > 0) {
      const batch = this.#batch
      this.#batch = { effects: [], waiting: [] }
      const seq = this.scheduler.state.factSeq
      const facts: Fact[] = []
      for (const effect of batch.effects) if (effect.type === 'fact') facts.push(effect.fact)
      this.#count(facts)
      await this.#write(batch.effects, facts)
      this.#syncedSeq = seq
      for (const resolve of batch.waiting) resolve()
      this.#release(batch.effects)
    }
    this.#isFlushing = false
  }

  #count(facts: readonly Fact[]): void {
    const nowMs = this.#deps.clock.nowMs()
    for (const { type } of facts) {
      if (type === 'granted') this.#started.add(nowMs)
      if (type === 'ended') this.#ended.add(nowMs)
    }
  }

  /** Over the last seconds. */
  get perSecond(): { readonly started: number; readonly ended: number } {
    const nowMs = this.#deps.clock.nowMs()
    return { started: this.#started.perSecond(nowMs), ended: this.#ended.perSecond(nowMs) }
  }

  async #write(effects: readonly Effect[], facts: readonly Fact[]): Promise<void> {
    for (;;) {
      try {
        for (const effect of effects) if (effect.type === 'commit') await this.#commit(effect)
        await this.#deps.journal.append(facts)
        this.problem = undefined
        return
      } catch (error) {
        // Nothing leaves meanwhile: the mesh waits for this disk rather than forget what it was told.
        this.problem = `the journal cannot be written: ${error instanceof Error ? error.message : String(error)}`
        this.#deps.log.error({ err: error }, 'journal could not be written')
        await sleep(this.#deps.clock, JOURNAL_RETRY_MS)
      }
    }
  }

  async #commit({ peerId, result, signed }: Extract<Effect, { type: 'commit' }>): Promise<void> {
    const countersigned = countersignResult(signed, this.#deps.signer)
    await this.#deps.actions.keep({ signed: countersigned, result })
    this.#deps.onResult(result, peerId)
    this.#deps.onCommitted(countersigned)
  }

  /** Results that others answered for. Those whose signatures do not hold, or that `isTrusted` refuses, are left out. */
  async take(
    offered: readonly SignedResult[],
    isTrusted: (result: ActionResult, ownerId: string) => boolean,
  ): Promise<readonly SignedResult[]> {
    const taken: SignedResult[] = []
    const results: ActionResult[] = []
    for (const signed of offered) {
      try {
        const result = openResult(signed, { countersigned: true })
        if (!isTrusted(result, signed.owner?.peerId ?? '')) continue
        await this.#deps.actions.keep({ signed, result })
        this.#deps.onResult(result, result.builder.peerId)
        results.push(result)
        taken.push(signed)
      } catch (error) {
        this.#deps.log.warn({ err: error }, 'a result of another owner was refused')
      }
    }
    if (results.length > 0) this.apply({ type: 'found', results })
    return taken
  }

  #release(effects: readonly Effect[]): void {
    const desired = new Set<string>()
    for (const effect of effects) {
      switch (effect.type) {
        case 'fact':
        case 'commit':
          break
        case 'found':
          this.#deps.onResult(effect.result, effect.peerId)
          break
        case 'lookup':
          void this.#lookUp(effect.job, effect.key)
          break
        case 'desired':
          desired.add(effect.peerId)
          break
        case 'uplink':
          this.#deps.onUplink()
          break
        case 'copy':
          this.#deps.onCopy(effect.copy)
          break
        case 'check':
          this.#deps.onCheck(effect.attempt, effect.asks)
          break
        case 'step':
          for (const watcher of this.#watchers.get(effect.step.request.wire.id) ?? [])
            watcher.onStep(effect.step)
          break
        case 'request':
          for (const watcher of this.#watchers.get(effect.request.wire.id) ?? [])
            watcher.onRequest()
          break
      }
    }
    for (const peerId of desired) this.#ports.get(peerId)?.requestDesired()
  }

  async #lookUp(job: string, key: Parameters<ActionCache['actionsOf']>[0]): Promise<void> {
    const results: ActionResult[] = []
    try {
      for (const action of await this.#deps.actions.actionsOf(key)) {
        const cached = await this.#deps.actions.find(action)
        if (cached?.result.jobKey !== key) continue
        results.push(cached.result)
        this.#deps.onResult(cached.result, cached.result.builder.peerId)
      }
    } catch (error) {
      // A cache that cannot be read is an empty one: the job is built.
      this.#deps.log.warn({ err: error, job }, 'stored results could not be read')
    }
    if (results.length === 0) results.push(...(await this.#lookUpAbove(key)))
    this.apply({ type: 'looked-up', job, results })
  }

  /** Those that are told are kept: the next one asks nobody. */
  async #lookUpAbove(key: Digest): Promise<ActionResult[]> {
    const results: ActionResult[] = []
    await this.take(await this.#deps.resultsAbove([key]), (result) => {
      if (result.jobKey !== key) return false
      results.push(result)
      return true
    })
    return results
  }

  #arm(): void {
    const next = this.scheduler.nextDeadlineMs()
    if (next === undefined || this.#isStopped) return
    if (this.#timer !== undefined && this.#timerAtMs <= next) return
    this.#timer?.cancel()
    this.#timerAtMs = next
    this.#timer = this.#deps.clock.setTimer(next - this.#deps.clock.nowMs(), () => {
      this.#timer = undefined
      this.#timerAtMs = Number.POSITIVE_INFINITY
      this.apply({ type: 'tick' })
      this.#arm()
    })
  }
}

/** Whether a fact is about something that the state still knows. */
function isNeeded(fact: Fact, state: Scheduler['state']): boolean {
  switch (fact.type) {
    case 'epoch':
      return fact.epoch === state.epoch
    case 'accepted':
      return state.requests.has(fact.request.id)
    case 'granted':
    case 'raised':
    case 'voted':
      return state.jobs.has(fact.job)
    case 'verified':
      return state.comparisons.agreements.has(fact.action)
    case 'diverged':
      return state.comparisons.divergences.has(fact.job)
    case 'audited':
      return state.comparisons.audited.has(fact.action)
    case 'adopted':
    case 'ended':
      return state.attempts.has(fact.attempt)
    case 'evicted':
    // It is written anew, from all that the journal told.
    case 'learnt':
      return false
    case 'drained':
    case 'undrained':
    case 'slotted':
    case 'unslotted':
    case 'quarantined':
    case 'pardoned':
    case 'killed':
      return state.nodeFacts.needs(fact)
    case 'image-set':
    case 'image-removed':
      return state.images.needs(fact)
    case 'boosted':
    case 'held':
    case 'released':
    case 'cancelled':
    case 'retried':
    case 'sized':
    case 'detachable':
    case 'left':
    case 'bound':
    case 'joined':
    case 'pinned':
    case 'stored':
    case 'failed':
    case 'rewound':
    case 'reopened':
    case 'noticed':
    case 'closed':
      return state.requests.has(fact.request)
  }
}
