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
import type {
  BytesMoved,
  LostCause,
  NodeRef,
  Phases,
  RequestWire,
  VoteWire,
} from '../wire/facts.ts'
import type { Measured, Usage } from '../wire/result.ts'
import { sameEntry, type Entry } from '../wire/tree.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import type { Fact } from '../wire/machine-fact.ts'
import type { PolicyWire } from '../wire/policy.ts'
import type {
  FinishedAttempt,
  Lease,
  Limits,
  Resources,
  RunningAttempt,
} from '../wire/work-messages.ts'

import type { Requirement } from './match.ts'

/** How often a step's lost output may make it run again within one request. */
export const REWINDS_MAX = 3

/** Somebody's word that nothing more is to be started. */
export interface Hold {
  readonly reason: string
  readonly by: string
  readonly atWall: number
}

/** Somebody's word on how many processors a job has. */
export interface Slots {
  readonly cpus: number
  readonly by: string
  readonly atWall: number
}

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
  /** Volatile: estimated ms from its start to the end of its graph, on machines of speed 1. */
  criticalMs: number
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
  /** Nodes that made just these outputs, where more than one was asked; 0 where not. */
  agreed: number
  action: Digest | undefined
  log: BlobRef | undefined
  exitCode: number
  cached: boolean
  rewinds: number
  /** Set by a rewind: the cache would only repeat the claim whose bytes are lost. */
  rebuild: boolean
  failure: Failure | undefined
  /** Its own priority, where somebody gave it one. */
  boost: number | undefined
  hold: Hold | undefined
  slots: Slots | undefined
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
  /** Steps that ended as cancelled. */
  cancelledCount: number
  /** Replaces the priority that it was submitted with. */
  boost: number | undefined
  hold: Hold | undefined
  /** A part of it was tried again after its end: what had failed before does not end that part. */
  isPartial: boolean
  detachable: boolean
  /** The client keeps a copy of what was asked for. */
  takesCopy: boolean
  /** By system: the one userland that its objects are built with. */
  readonly bindings: Map<string, Userland>
  readonly bytes: { peer: number; mirror: number; local: number }
  /** Volatile: processor ms of its steps that were ahead when that was worked out last, and their number. */
  ahead: { readonly cpuMs: number; readonly count: number }
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
  /** Different nodes that are to build it: the most that any waiter asks for. */
  votesWanted: number
  /** Builds that are compared, in the order in which they became known; each of another node. */
  readonly votes: VoteWire[]
  /** It ran out of memory with less than this; 0 where it did not. */
  memoryFloorBytes: number
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
  /** Volatile: nodes whose own checks would not have it begun, by peer id; as cut off as those of `cut`. */
  refusedBy: ReadonlyMap<string, Refusal>
}

/** A node's word that it would not begin something. */
export interface Refusal {
  /** Its name. */
  readonly node: string
  readonly reason: string
  readonly untilMs: number
}

export interface Attempt {
  readonly id: string
  readonly job: Job
  readonly n: number
  /** Who holds the lease: a node of this scheduler, which may have passed it on. */
  node: NodeRef
  /** Who runs it, where the holder passed it on and has said to whom. */
  runner: NodeRef | undefined
  /** Which start of the holder it was granted to. */
  boot: string
  readonly system: string
  /** The machine's own system, where it emulates the other. */
  readonly machine: string | undefined
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
  measured: Measured | undefined
  bytes: BytesMoved
  error: string | null
  /** Why it is lost; undefined for all others, and for those of older journals. */
  cause: LostCause | undefined
  log: BlobRef | null
  exitCode: number | null
  endedAtWall: number | undefined
  /** Volatile: processors that it has now, between the least and the most that its job asks for. */
  allotted: number
  /** Volatile: the journal's sequence number of its last change; nothing about it is sent before that is synced. */
  factSeq: number
  /** Volatile, monotonic: when exclusivity ends; moved by every exchange with the node. */
  leaseUntilMs: number
  /** Volatile: the node has said that it knows it. */
  confirmed: boolean
  /** Volatile: `seq` of the last message to the node that held the grant; 0 for none on this connection. */
  sentSeq: number
  /** Volatile: the class that its job waited in; undefined for a grant of an earlier life. */
  waitedIn: Requirement | undefined
  /** Volatile: since when the holder has no connection to who runs it; somebody else may tell of it. */
  isAway: boolean
  /** Volatile: its inputs were missing there, and those who should have them are being asked. */
  missing: FinishedAttempt | undefined
}

/** The cut of a job whose inputs every node can get, as far as is known. */
export const NOWHERE: ReadonlySet<string> = new Set()
/** Nobody refuses the job. */
export const NOBODY: ReadonlyMap<string, Refusal> = new Map()

/** Who runs the attempt, as far as is known. */
export function runnerOf(attempt: Attempt): NodeRef {
  return attempt.runner ?? attempt.node
}

/** The priority of the step: its own, else that of its request as it is now. */
export function priorityOf({ boost, request }: Step): number {
  return boost ?? request.boost ?? request.wire.priority
}

/** What holds the step by hand, its own hold before that of its request. */
export function holdOfStep({ hold, request }: Step): Hold | undefined {
  return hold ?? request.hold
}

/** What holds the job: it is held while all that need it are. */
export function holdOf(job: Job): Hold | undefined {
  let found: Hold | undefined
  for (const step of job.waiters) {
    const hold = holdOfStep(step)
    if (hold === undefined) return undefined
    found ??= hold
  }
  return found
}

/** Nodes that the job cannot be granted to, whatever room they have. */
export function barredFrom(job: Job): ReadonlySet<string> {
  const { cut, refusedBy } = job
  if (job.votesWanted > 1) return new Set([...cut, ...refusedBy.keys(), ...buildersOf(job)])
  return refusedBy.size === 0 ? cut : new Set([...cut, ...refusedBy.keys()])
}

/** Of a job that several nodes are to build: those that have, and those that do. Empty for others. */
export function buildersOf(job: Job): ReadonlySet<string> {
  if (job.votesWanted <= 1) return NOWHERE
  const builders = new Set(job.votes.map(({ node }) => node.peerId))
  for (const attempt of job.attempts) if (isLive(attempt)) builders.add(runnerOf(attempt).peerId)
  return builders
}

/** Of a job that several nodes are to build: the system that the first of them builds it for. */
export function comparedFor({ votesWanted, votes, attempts }: Job): string | undefined {
  return votesWanted <= 1 ? undefined : (votes[0]?.system ?? attempts.find(isLive)?.system)
}

/**
 * Of such a job that is made otherwise for one machine than for the next: the system of the machine of the
 * first build. Only equal actions can be compared.
 */
export function comparedMachine({
  votesWanted,
  votes,
  attempts,
  resolved,
}: Job): string | undefined {
  if (votesWanted <= 1 || resolved.variants.every(({ machine }) => machine === undefined))
    return undefined
  const [vote] = votes
  const first = attempts.find((attempt) =>
    vote === undefined ? isLive(attempt) : attempt.id === vote.attempt,
  )
  return first === undefined ? undefined : (first.machine ?? first.system)
}

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

/** What still has to run, or does. */
export function isAhead({ phase }: Pick<Step, 'phase'>): boolean {
  return phase === 'blocked' || phase === 'open'
}

/** A child with its own worker, or the worker of this daemon itself. */
export interface NodeEntry {
  readonly peerId: string
  record: PeerRecord
  version: { mesh: string; protocols: readonly string[]; features?: readonly string[] }
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
  /** What it said of itself last, before drains and quarantine are looked at. */
  told: { readonly state: 'ready' | 'draining' | 'full'; readonly note: string }
  /** It was draining by itself when its connection ended: what it ran it gave up in an orderly way. */
  leftOrderly: boolean
  environments: readonly Environment[]
  /** What nodes below it have that are away and may come back, and the most that one of them has. */
  away: { readonly environments: readonly Environment[]; readonly capacity: Resources } | undefined
  capacity: Resources
  /** Why its capacity is what it is, where it says so. */
  policy?: PolicyWire | undefined
  /** What it told of its machine. */
  facts?: readonly Fact[] | undefined
  /** Reserved by live attempts. */
  readonly allocated: { cpus: number; memoryBytes: number; diskBytes: number }
  /** Attempts that hold a reservation here. */
  readonly attempts: Set<Attempt>
  /** Relative to the reference machine. */
  speed: number
  /** It speaks for a subtree: what that could take, by key of the class. It has no vector of its own then. */
  bundle: BundleOffer | undefined
  /** Until when it may not know all that runs below it. */
  recoveringUntilMs: number
  /** As last reported. */
  running: ReadonlySet<string>
  readonly finished: Map<string, FinishedAttempt>
  /** Leases of this node's parent that were passed on to it. */
  readonly relayed: Map<string, Relayed>
  /** The list of waiting classes that it was told, and in which message. */
  toldClasses: { readonly version: number; readonly seq: number } | undefined
}

/** What a subtree could take now, as it said last. */
export interface BundleOffer {
  readonly slots: number
  readonly cpus: { readonly total: number; readonly busy: number }
  /** By key of the requirement class; for each the environments that it could run in. */
  readonly offers: ReadonlyMap<string, readonly BundleOfferItem[]>
}
export interface BundleOfferItem {
  readonly environment: Environment
  readonly count: number
  readonly speed: number
  readonly freeInMs: number
}

/** A lease of the parent that this node holds and passes on to one of its nodes. Volatile: its owner has it durably. */
export interface Relayed {
  readonly id: string
  /** Undefined for one that a node brought along: it was granted by way of another parent, or before a restart. */
  lease: Lease | undefined
  limits: Limits | undefined
  /** Who has it below; undefined while it is held here. */
  node: NodeEntry | undefined
  /** Which start of that node it was passed on to. */
  boot: string
  runner: NodeRef | undefined
  phase: RunningAttempt['phase']
  phases: Phases
  /** What it reserves at its node. */
  reserved: Resources
  /** How it ended; told to the parent until that acknowledges it. */
  finished: FinishedAttempt | undefined
  /** `open` until the parent wants it ended or has its outcome durably. */
  fate: 'open' | 'cancelled' | 'acknowledged'
  readonly sinceMs: number
  leaseUntilMs: number
  confirmed: boolean
  sentSeq: number
  /** The node has no connection to who runs it; somebody else may tell of it. */
  isAway: boolean
  /** What those above want it to have before others of its machine. */
  claim: Claim | undefined
}

/** Processors that an attempt is to have before others: a person's word, or since it holds up its request. */
export interface Claim {
  readonly cpus: number
  readonly why: 'person' | 'big'
}

/** Why a job waits, in one code and one sentence. */
export interface WaitReason {
  readonly class: WaitClass
  readonly text: string
  /** In a few words, for lists. */
  readonly brief?: string
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
