/** Nodes as they come, report and go, what they hold for attempts, and what each is told to do. */
import { makeAction, type Action } from '../wire/action.ts'
import { DEFAULT_LIMITS } from '../wire/derivation.ts'
import { sha256 } from '../wire/digest.ts'
import { fingerprintOf, toolOf } from '../wire/environment.ts'
import type { ActionResult } from '../wire/result.ts'
import {
  LEASE_MS,
  LEASE_SLACK_MS,
  TOOLS_WANTED_MAX,
  type Limits,
  type SyncMessage,
} from '../wire/work-messages.ts'
import type { Core } from './core.ts'
import type { Desired, Event, Grant } from './events.ts'
import { isLive, type Attempt, type Job, type NodeEntry } from './model.ts'

/** Nodes that are remembered; over it the one away for longest goes. */
export const NODES_MAX = 10_000
/** What a node that has gone silent gets before its leases end, since it may only be reconnecting. */
export const DISCONNECT_GRACE_MS = 10_000

/** The fingerprint of fetches: they depend on no userland. */
export const FETCH_FINGERPRINT = sha256('mesh builtin:fetch v1')

export class Nodes {
  readonly #core: Core

  constructor(core: Core) {
    this.#core = core
  }

  #actionOf(attempt: Attempt): Action {
    const { userland, job, system } = attempt
    const fingerprint =
      userland === null
        ? FETCH_FINGERPRINT
        : (fingerprintOf({ system, ...userland }, Object.keys(userland.tools).toSorted()) ??
          FETCH_FINGERPRINT)
    return makeAction(job.resolved, system, fingerprint)
  }

  reserve(node: NodeEntry, attempt: Attempt): void {
    if (node.attempts.has(attempt)) return
    node.attempts.add(attempt)
    node.allocated.cpus += attempt.cpus
    node.allocated.memoryBytes += attempt.memoryBytes
    node.allocated.diskBytes += attempt.diskBytes
  }

  /** Gives the reservation back once the attempt holds no lease, and the node neither runs it nor may be about to. */
  release(node: NodeEntry, attempt: Attempt): void {
    if (isLive(attempt)) return
    if (
      node.connected &&
      (node.running.has(attempt.id) || (!attempt.confirmed && attempt.sentSeq > node.heardSeq))
    )
      return
    if (!node.attempts.delete(attempt)) return
    node.allocated.cpus -= attempt.cpus
    node.allocated.memoryBytes -= attempt.memoryBytes
    node.allocated.diskBytes -= attempt.diskBytes
  }

  nodeUp(event: Extract<Event, { type: 'node-up' }>): void {
    const { record, version, boot } = event
    let node = this.#core.nodes.get(record.peerId)
    if (node === undefined) {
      this.#forgetNodes()
      node = {
        peerId: record.peerId,
        record,
        version,
        boot,
        state: 'ready',
        connected: true,
        disconnectedAtMs: 0,
        lastSyncMs: this.#core.moment.nowMs,
        lastSeenWall: this.#core.moment.wallMs,
        ackSeq: 0,
        heardSeq: 0,
        note: '',
        environments: [],
        capacity: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
        allocated: { cpus: 0, memoryBytes: 0, diskBytes: 0 },
        attempts: new Set(),
        running: new Set(),
        finished: new Map(),
      }
      this.#core.nodes.set(record.peerId, node)
    }
    node.record = record
    node.version = version
    node.boot = boot
    node.connected = true
    node.state = 'ready'
    node.note = ''
    // Nothing is granted before its first sync tells what it has and what it runs.
    node.ackSeq = 0
    node.heardSeq = 0
    node.running = new Set()
    node.finished.clear()
    node.lastSyncMs = this.#core.moment.nowMs
    node.lastSeenWall = this.#core.moment.wallMs
    this.#core.replicas.nodeUp(node)
    this.#core.reach.nodeUp(node)
    for (const attempt of node.attempts) attempt.sentSeq = 0
    for (const attempt of this.#core.state.attempts.values())
      if (attempt.node.peerId === record.peerId && isLive(attempt)) this.reserve(node, attempt)
    for (const attempt of [...node.attempts]) this.release(node, attempt)
  }

  #forgetNodes(): void {
    if (this.#core.nodes.size < NODES_MAX) return
    let longest: NodeEntry | undefined
    for (const node of this.#core.nodes.values())
      if (
        !node.connected &&
        node.attempts.size === 0 &&
        node.disconnectedAtMs < (longest?.disconnectedAtMs ?? Number.POSITIVE_INFINITY)
      )
        longest = node
    if (longest !== undefined) this.#core.nodes.delete(longest.peerId)
  }

  nodeDown(peerId: string, note: string): void {
    const node = this.#core.nodes.get(peerId)
    if (node === undefined || !node.connected) return
    node.connected = false
    node.state = 'lost'
    node.note = note
    node.disconnectedAtMs = this.#core.moment.nowMs
    this.#core.replicas.nodeDown(node)
    for (const attempt of node.attempts) {
      attempt.leaseUntilMs = Math.min(
        attempt.leaseUntilMs,
        this.#core.moment.nowMs + DISCONNECT_GRACE_MS,
      )
      this.release(node, attempt)
    }
    this.#core.waiting.refreshWaiting()
  }

  sync(peerId: string, message: SyncMessage, results: ReadonlyMap<string, ActionResult>): void {
    const node = this.#core.nodes.get(peerId)
    if (node === undefined || !node.connected || message.seq <= node.ackSeq) return
    const { nowMs } = this.#core.moment
    const hadEnvironments = node.environments.length
    node.ackSeq = message.seq
    node.heardSeq = message.ackSeq
    node.lastSyncMs = nowMs
    node.lastSeenWall = this.#core.moment.wallMs
    const wasState = node.state
    node.state = message.state
    node.note = message.note
    node.environments = message.environments
    node.capacity = message.capacity
    node.running = new Set(message.running.map((running) => running.attempt))
    node.finished.clear()
    for (const finished of message.finished) node.finished.set(finished.attempt, finished)

    for (const finished of message.finished)
      this.#core.outcomes.finish(node, finished, results.get(finished.attempt))
    for (const running of message.running) this.#stillRuns(node, running)
    for (const attempt of [...node.attempts]) {
      if (isLive(attempt)) {
        attempt.leaseUntilMs = nowMs + LEASE_MS + LEASE_SLACK_MS
        const isTold = node.running.has(attempt.id) || node.finished.has(attempt.id)
        // It was told of the grant and does not know it, or was told in an earlier life, for all that is
        // known: the process that held it is gone.
        const wasTold =
          attempt.confirmed ||
          attempt.boot !== node.boot ||
          (attempt.sentSeq > 0 && attempt.sentSeq <= message.ackSeq)
        if (!isTold && wasTold)
          this.#core.outcomes.endAttempt(
            attempt,
            'lost',
            `${node.record.name} was restarted and no longer runs it`,
          )
      }
      this.release(node, attempt)
    }
    this.#core.effects.push({ type: 'desired', peerId })
    if (wasState !== node.state) this.#core.replicas.nodeChanged()
    if (wasState !== node.state || hadEnvironments !== node.environments.length)
      this.#core.waiting.refreshWaiting()
  }

  #stillRuns(node: NodeEntry, running: SyncMessage['running'][number]): void {
    const attempt = this.#core.state.attempts.get(running.attempt)
    if (attempt === undefined || attempt.node.peerId !== node.peerId) return
    const { job } = attempt
    // Whatever became of it here, it takes room there.
    this.reserve(node, attempt)
    if (
      attempt.state === 'lost' &&
      job.waiters.size > 0 &&
      this.#core.outcomes.fitsWaiters(attempt)
    ) {
      // Given up and found again: of two runs the one that began first is expected to end first.
      for (const other of job.attempts)
        if (isLive(other))
          this.#core.outcomes.endAttempt(
            other,
            'superseded',
            `${node.record.name} was found to run it already`,
          )
      this.#core.fact({ type: 'adopted', attempt: attempt.id })
      this.#core.steps.bind(job.waiters, attempt.system, attempt.userland)
      for (const step of job.waiters) this.#core.effects.push({ type: 'step', step })
    }
    if (!isLive(attempt)) return
    const isChanged = attempt.state !== running.phase || !attempt.confirmed
    attempt.state = running.phase
    attempt.phases = running.phases
    attempt.confirmed = true
    if (isChanged) for (const step of job.waiters) this.#core.effects.push({ type: 'step', step })
  }

  /** What the node should do, as far as the facts behind it are synced. Marks the grants as sent in `seq`. */
  desiredOf(peerId: string, syncedSeq: number, seq: number): Desired | undefined {
    const node = this.#core.nodes.get(peerId)
    // Two lives of this node must not grant under one epoch.
    if (node === undefined || !node.connected || this.#core.state.epochSeq > syncedSeq)
      return undefined
    const grants: Grant[] = []
    const limits: { attempt: string; limits: Limits }[] = []
    const tools = new Set<string>()
    for (const attempt of node.attempts) {
      if (!isLive(attempt) || attempt.factSeq > syncedSeq) continue
      const jobLimits = limitsOf(attempt.job)
      if (attempt.confirmed) {
        limits.push({ attempt: attempt.id, limits: jobLimits })
        continue
      }
      attempt.sentSeq = seq
      grants.push({
        attempt,
        action: this.#actionOf(attempt),
        limits: jobLimits,
        name: nameOf(attempt.job),
        urls: urlsOf(attempt.job),
      })
    }
    for (const { requirement } of this.#core.queues.all)
      for (const environment of node.environments)
        for (const tool of [
          ...requirement.tools,
          ...Object.keys(requirement.bindings.get(environment.system)?.tools ?? {}),
        ])
          if (toolOf(environment, tool) === undefined && tools.size < TOOLS_WANTED_MAX)
            tools.add(tool)
    const known = (id: string): Attempt | undefined => this.#core.state.attempts.get(id)
    const isOver = (id: string): boolean => {
      const attempt = known(id)
      return attempt === undefined || (!isLive(attempt) && attempt.factSeq <= syncedSeq)
    }
    return {
      ackSeq: node.ackSeq,
      epoch: this.#core.state.epoch,
      grants,
      limits,
      cancel: [...node.running].filter(isOver),
      ack: [...node.finished.keys()].filter(isOver),
      tools: [...tools],
    }
  }
}

/** Limits are the largest of the waiters'. */
export function limitsOf(job: Job): Limits {
  const { timeoutMs, maxSilentMs, maxLogBytes } = DEFAULT_LIMITS
  const limits = { timeoutMs: 0, maxSilentMs: 0, maxLogBytes: 0 }
  for (const { derivation } of job.waiters) {
    limits.timeoutMs = Math.max(limits.timeoutMs, derivation.run.timeoutMs)
    limits.maxSilentMs = Math.max(limits.maxSilentMs, derivation.run.maxSilentMs)
    limits.maxLogBytes = Math.max(limits.maxLogBytes, derivation.run.maxLogBytes)
  }
  return job.waiters.size === 0 ? { timeoutMs, maxSilentMs, maxLogBytes } : limits
}

function nameOf(job: Job): string {
  for (const step of job.waiters) return step.derivation.name
  return ''
}

function urlsOf(job: Job): string[] {
  const urls = new Set<string>()
  for (const step of job.waiters) for (const url of step.derivation.fetch?.urls ?? []) urls.add(url)
  return [...urls].slice(0, 16)
}
