/**
 * The data of the scheduler: requests with their steps, jobs with their attempts, and nodes.
 *
 * Requests, steps, jobs and attempts are durable: only `State.evolve` changes them, by facts. Nodes are
 * volatile: they tell their state anew whenever they connect.
 */
import type { AttemptState, Failure, NodeState, WaitClass } from '../wire/api.ts'
import type { BlobRef, Digest } from '../wire/digest.ts'
import type { Derivation, ResolvedDerivation } from '../wire/derivation.ts'
import type { Environment, Isolation, Userland } from '../wire/environment.ts'
import type { BytesMoved, Phases, RequestWire } from '../wire/facts.ts'
import type { Usage } from '../wire/result.ts'
import { sameEntry, type Entry } from '../wire/tree.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import type { FinishedAttempt, Resources } from '../wire/work-messages.ts'

/** How often a step's lost output may make it run again within one request. */
export const REWINDS_MAX = 3

/** One derivation of one request. */
export interface Step {
  /** What people see as the job's id; derived from request and derivation. */
  readonly id: string
  readonly request: Request
  readonly derivation: Derivation
  readonly index: number
  /** Its outputs were asked for. */
  readonly isWanted: boolean
  /** Steps that take an output of this one. */
  readonly dependents: Step[]
  readonly dependencies: Step[]
  /** Steps on the longest way from here to a wanted output: what holds up most goes first. */
  height: number
  /**
   * `blocked`: waits for inputs. `open`: waits at `job`. `skipped`: something it needs has failed.
   */
  phase: 'blocked' | 'open' | 'done' | 'failed' | 'skipped' | 'cancelled'
  job: Job | undefined
  /** Jobs of earlier runs, before a rewind. */
  readonly earlier: Job[]
  key: Digest | undefined
  outputs: Readonly<Record<string, Entry>> | undefined
  /** Store nodes that have all of its outputs, by peer id; kept for wanted steps. */
  readonly stores: Map<string, string>
  /** Another run gave other outputs. */
  hasDiverged: boolean
  action: Digest | undefined
  log: BlobRef | undefined
  exitCode: number
  cached: boolean
  rewinds: number
  /** Set by a rewind: the cache would only repeat the claim whose bytes are lost. */
  rebuild: boolean
  failure: Failure | undefined
}

export interface Request {
  readonly wire: RequestWire
  /** Order of acceptance. */
  readonly seq: number
  readonly steps: ReadonlyMap<string, Step>
  state: 'active' | 'done' | 'failed' | 'cancelled'
  /** Steps that are blocked or open. */
  unsettledCount: number
  failedCount: number
  detachable: boolean
  /** The client keeps a copy of what was asked for. */
  takesCopy: boolean
  /** By system: the one userland that its objects are built with. */
  readonly bindings: Map<string, Userland>
  readonly bytes: { peer: number; mirror: number; local: number }
  /** Volatile: the owner's counter when the request was accepted or recovered. */
  rootBytesBefore: number
  /** Bytes through the owner while the request ran; known at its end. */
  rootBytes: number
  endedAtWall: number | undefined
  /** Replicas when it was done; undefined before, and for requests of journals that did not count them. */
  replicasAtEnd: number | undefined
  readonly notices: string[]
}

/** One resolved derivation that some step needs, from waiting to done. */
export interface Job {
  readonly id: string
  readonly key: Digest
  readonly resolved: ResolvedDerivation
  /** Its cache look-up is passed over: the output was lost before. */
  readonly rebuild: boolean
  /** Steps that it is run for. */
  readonly waiters: Set<Step>
  /** Steps that show it, also after their end. */
  readonly shownBy: Set<Step>
  readonly attempts: Attempt[]
  phase: 'lookup' | 'waiting' | 'leased' | 'closed'
  /** Failures of the infrastructure so far. */
  infraFailures: number
  /** Nodes that failed it; passed over while others match. */
  readonly avoid: Set<string>
  /** Volatile: not granted before this time. */
  notBeforeMs: number
  /** Volatile: since when nobody needs it. */
  abandonedAtMs: number | undefined
  /** Volatile: since when it waits. */
  waitingSinceMs: number
  /** Volatile: the queue that it waits in. */
  queue: string | undefined
  /** Volatile: nodes that an input has no way to. */
  cut: ReadonlySet<string>
}

export interface Attempt {
  readonly id: string
  readonly job: Job
  readonly n: number
  readonly node: { readonly peerId: string; readonly name: string }
  /** Which start of the node it was granted to. */
  readonly boot: string
  readonly system: string
  readonly isolation: Isolation
  readonly label: string
  readonly action: Digest
  readonly userland: Userland | null
  readonly cpus: number
  readonly memoryBytes: number
  readonly diskBytes: number
  readonly startedAtWall: number
  state: AttemptState
  phases: Phases
  usage: Usage | null
  bytes: BytesMoved
  error: string | null
  log: BlobRef | null
  exitCode: number | null
  endedAtWall: number | undefined
  /** Volatile: the journal's sequence number of its last change; nothing about it is sent before that is synced. */
  factSeq: number
  /** Volatile, monotonic: when exclusivity ends; moved by every exchange with the node. */
  leaseUntilMs: number
  /** Volatile: the node has said that it knows it. */
  confirmed: boolean
  /** Volatile: `seq` of the last message to the node that held the grant; 0 for none on this connection. */
  sentSeq: number
  /** Volatile: its inputs were missing there, and those who should have them are being asked. */
  missing: FinishedAttempt | undefined
}

/** The cut of a job whose inputs every node can get, as far as is known. */
export const NOWHERE: ReadonlySet<string> = new Set()

/** What is live of an attempt: it holds a lease. */
export function isLive(attempt: Attempt): boolean {
  switch (attempt.state) {
    case 'leased':
    case 'fetching':
    case 'building':
    case 'uploading':
      return true
    case 'done':
    case 'failed':
    case 'lost':
    case 'cancelled':
    case 'superseded':
      return false
  }
}

/** A child with its own worker, or the worker of this daemon itself. */
export interface NodeEntry {
  readonly peerId: string
  record: PeerRecord
  version: { mesh: string; protocols: readonly string[] }
  boot: string
  state: NodeState
  connected: boolean
  disconnectedAtMs: number
  lastSyncMs: number
  lastSeenWall: number
  /** `seq` of its last message on this connection; 0 before the first. */
  ackSeq: number
  /** `seq` of the last message to it that it has taken in. */
  heardSeq: number
  note: string
  environments: readonly Environment[]
  capacity: Resources
  /** Reserved by live attempts. */
  readonly allocated: { cpus: number; memoryBytes: number; diskBytes: number }
  /** Attempts that hold a reservation here. */
  readonly attempts: Set<Attempt>
  /** As last reported. */
  running: ReadonlySet<string>
  readonly finished: Map<string, FinishedAttempt>
}

/** Why a job waits, in one code and one sentence. */
export interface WaitReason {
  readonly class: WaitClass
  readonly text: string
}

/** Whether two runs gave the same. */
export function sameOutputs(
  a: Readonly<Record<string, Entry>>,
  b: Readonly<Record<string, Entry>>,
): boolean {
  const names = Object.keys(a)
  return (
    names.length === Object.keys(b).length &&
    names.every((name) => {
      const left = a[name]
      const right = b[name]
      return left !== undefined && right !== undefined && sameEntry(left, right)
    })
  )
}

/** A failure that no node is to blame for. */
export function failureOf(step: Step, code: string, message: string): Failure {
  return { job: step.id, name: step.derivation.name, code, message, node: null, logTail: '' }
}
