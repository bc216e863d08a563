/**
 * The journal of an owner: facts, which are changes of its durable state, in the order in which they
 * became true. Replaying them rebuilds the state and decides nothing.
 *
 * Wall-clock fields are for display. A fact about a request or job that is no longer known is ignored.
 */
import { z } from 'zod'
import { Failure, Priority, WaitLimitMs } from './api.ts'
import { BlobRefWire, DigestBytes } from './digest.ts'
import { NamedImage } from './images.ts'
import { GraphWire, VERIFY_MAX } from './derivation.ts'
import { Isolation, UserlandWire } from './environment.ts'
import {
  AttemptId,
  DerivationName,
  ImageName,
  JobId,
  NodeName,
  OutputName,
  PeerId,
  RequestId,
  System,
  text,
} from './names.ts'
import { Measured, Usage } from './result.ts'
import { SLOTS_MAX } from './slots.ts'
import { EntryWire } from './tree.ts'

const wallMs = z.int().min(0)
const count = z.int().min(0)

export const NodeRef = z.object({ peerId: PeerId, name: NodeName })
export type NodeRef = z.infer<typeof NodeRef>

/** One build of a job that is compared with others. */
export const VoteWire = z.object({
  attempt: AttemptId,
  /** Who built it. */
  node: NodeRef,
  action: DigestBytes,
  system: System,
  userland: UserlandWire.nullable(),
  /** Null where it failed. */
  outputs: z.record(OutputName, EntryWire).nullable(),
  /** Why it failed. */
  error: text(1024).nullable(),
  log: BlobRefWire.nullable(),
})
export type VoteWire = z.infer<typeof VoteWire>

/** A request as it travels to its owner. */
export const RequestWire = z.object({
  id: RequestId,
  user: text(256),
  /** The node that was asked: it has the sources. */
  entry: NodeRef,
  graph: GraphWire,
  priority: Priority,
  keepGoing: z.boolean(),
  noWait: z.boolean(),
  /** The client keeps a copy of what it asked for: one replica. */
  takesCopy: z.boolean().optional(),
  /** How long a job of it may wait for a node; WAIT_MS_DEFAULT where it is left out. */
  waitLimitMs: WaitLimitMs.optional(),
  /** The owner's own request to build a finished job again elsewhere; whose result this is compared with. */
  audits: z.object({ job: JobId, vote: VoteWire }).optional(),
  submittedAtWall: wallMs,
})
export type RequestWire = z.infer<typeof RequestWire>

/**
 * Why an attempt was lost. `died`: its node went away or was restarted while it was known to run it.
 * `unheard`: the node went away before it said that it has it, or in an orderly way. `broken`: the node says
 * that it cannot run it, or gave a result that is not valid. `inputs`: an input or a source could not be had.
 * `refused` and `drained` are no failures: the node would not begin it, or is being emptied.
 */
const LOST_CAUSES = ['died', 'unheard', 'broken', 'inputs', 'refused', 'drained'] as const
export const LostCause = z.enum(LOST_CAUSES)
export type LostCause = z.infer<typeof LostCause>

/** Journals of the first versions have `process` for `host`. */
const StoredIsolation = z.codec(z.enum([...Isolation.options, 'process']), Isolation, {
  decode: (stored) => (stored === 'process' ? 'host' : stored),
  encode: (isolation) => isolation,
})

/** What an operator's or user's word is about: a whole request, or one derivation of it. */
const lever = {
  request: RequestId,
  derivation: DerivationName.optional(),
  by: text(256),
  atWall: wallMs,
}

export const BytesMoved = z.object({ peer: count, mirror: count, local: count })
export type BytesMoved = z.infer<typeof BytesMoved>

/** Milliseconds spent in each phase of an attempt. */
export const Phases = z.object({ fetch: count, build: count, upload: count }).partial()
export type Phases = z.infer<typeof Phases>

/** How fast a node computes, 1 being the reference machine; what says otherwise is clamped. */
export const SPEED_MIN = 0.05
export const SPEED_MAX = 20

/** Ends that something can be learnt from: success, and running out of memory or into a limit of time. */
const OUTCOME_KINDS = ['done', 'memory', 'limit'] as const
export type OutcomeKind = (typeof OUTCOME_KINDS)[number]
/** One outcome in a snapshot: kind, ms at speed 1, memory, disk, processor ms per ms. */
const OutcomeWire = z.tuple([z.enum(OUTCOME_KINDS), count, count, count, z.number().min(0)])
export const OUTCOMES_MAX = 32
/** Of one `learnt` fact, so that no fact is large. */
export const LEARNT_ITEMS_MAX = 256

export const Fact = z.discriminatedUnion('type', [
  /** The node began to grant anew; lower epochs are fenced off. */
  z.object({ type: z.literal('epoch'), epoch: count }),
  z.object({ type: z.literal('accepted'), request: RequestWire }),
  /** No further byte is needed from the submitter. */
  z.object({ type: z.literal('detachable'), request: RequestId }),
  /** The client takes no copy after all. */
  z.object({ type: z.literal('left'), request: RequestId }),
  /** The request builds for `system` with this userland from now on. */
  z.object({
    type: z.literal('bound'),
    request: RequestId,
    system: System,
    userland: UserlandWire,
  }),
  /** The step of `derivation` is resolved and waits at `job`, its own or that of an equal step. */
  z.object({
    type: z.literal('joined'),
    request: RequestId,
    derivation: DerivationName,
    job: JobId,
    key: DigestBytes,
  }),
  z.object({
    type: z.literal('granted'),
    job: JobId,
    attempt: AttemptId,
    node: NodeRef,
    /** Which start of the node it was granted to. */
    boot: text(64),
    system: System,
    /** The machine's own system, where it emulates that one. */
    machine: System.optional(),
    isolation: StoredIsolation,
    label: text(64),
    action: DigestBytes,
    userland: UserlandWire.nullable(),
    cpus: count,
    memoryBytes: count,
    diskBytes: count,
    atWall: wallMs,
  }),
  /** The attempt was found running again after it had been given up. */
  z.object({
    type: z.literal('adopted'),
    attempt: AttemptId,
    /** Where it was found, when that is not where it was granted to. */
    node: NodeRef.optional(),
    boot: text(64).optional(),
  }),
  z.object({
    type: z.literal('ended'),
    attempt: AttemptId,
    state: z.enum(['done', 'failed', 'lost', 'cancelled', 'superseded']),
    error: text(4096).nullable(),
    usage: Usage.nullable(),
    phases: Phases,
    bytes: BytesMoved,
    log: BlobRefWire.nullable(),
    /** Of the command, 128 + N for signal N; 1 for a failure that is not the command's own. */
    exitCode: z.int().min(0).max(255).nullable(),
    /** Who ran it, where that is not whom it was granted to. */
    runner: NodeRef.optional(),
    /** Why it is lost; left out by older versions. */
    cause: LostCause.optional(),
    measured: Measured.optional(),
    /** Of the machine that ran it, as this owner has come to know it. */
    speed: z.number().min(SPEED_MIN).max(SPEED_MAX).optional(),
    atWall: wallMs,
  }),
  /** The job ran out of memory: it is only granted where it gets this much. */
  z.object({ type: z.literal('raised'), job: JobId, memoryBytes: count }),
  /** What was learnt from facts that a compaction dropped. The first one takes the place of all that was learnt before. */
  z.object({
    type: z.literal('learnt'),
    isFirst: z.boolean(),
    /** By key; the one learnt longest ago comes first. */
    estimates: z
      .array(z.tuple([text(200), z.array(OutcomeWire).max(OUTCOMES_MAX)]))
      .max(LEARNT_ITEMS_MAX),
    /** By user: processor ms, decayed up to `atWall`. */
    usage: z.array(z.tuple([text(256), z.number().min(0)])).max(LEARNT_ITEMS_MAX),
    atWall: wallMs,
  }),
  /** The outputs of the step are pinned for this request. */
  z.object({
    type: z.literal('pinned'),
    request: RequestId,
    derivation: DerivationName,
    action: DigestBytes,
    outputs: z.record(OutputName, EntryWire),
    cached: z.boolean(),
    /** Log of the run that made them. */
    log: BlobRefWire.nullable(),
    exitCode: z.int().min(0).max(255),
    /** The store node that has them from the start: where they were made. */
    store: NodeRef.optional(),
    /** Nodes that made just these, where more than one was asked. */
    agreed: z.int().min(1).max(VERIFY_MAX).optional(),
  }),
  /** The store node has all that the step's outputs hold. */
  z.object({
    type: z.literal('stored'),
    request: RequestId,
    derivation: DerivationName,
    node: NodeRef,
  }),
  z.object({
    type: z.literal('failed'),
    request: RequestId,
    derivation: DerivationName,
    failure: Failure,
  }),
  /** An output of the step was lost; its producer runs again. */
  z.object({ type: z.literal('rewound'), request: RequestId, derivation: DerivationName }),
  /** The step waits for its inputs again, because one of them was lost. */
  z.object({ type: z.literal('reopened'), request: RequestId, derivation: DerivationName }),
  z.object({ type: z.literal('noticed'), request: RequestId, text: text(4096) }),
  z.object({
    type: z.literal('closed'),
    request: RequestId,
    state: z.enum(['done', 'failed', 'cancelled']),
    rootBytes: count,
    /** Copies of what was asked for at its end; left out where it is not known. */
    replicas: count.optional(),
    atWall: wallMs,
  }),
  z.object({ type: z.literal('evicted'), request: RequestId }),
  /** One of several builds of the job that are compared has ended, or is known from an earlier request. */
  z.object({ type: z.literal('voted'), job: JobId, vote: VoteWire }),
  /** Several nodes made the same of the action: a later request need not ask as many again. */
  z.object({
    type: z.literal('verified'),
    action: DigestBytes,
    votes: z.array(VoteWire).min(2).max(VERIFY_MAX),
  }),
  /** Builds of one action gave different outputs. `job` is the one that people know. */
  z.object({
    type: z.literal('diverged'),
    job: JobId,
    name: DerivationName,
    request: RequestId,
    /** By a comparison that was asked for, a result that came late, a rebuild of what was lost, or an audit. */
    found: z.enum(['verify', 'late', 'rebuilt', 'audit']),
    votes: z.array(VoteWire).min(2).max(VERIFY_MAX),
    atWall: wallMs,
  }),
  /** A finished job was built again elsewhere, to see whether it gives the same. */
  z.object({
    type: z.literal('audited'),
    job: JobId,
    name: DerivationName,
    action: DigestBytes,
    node: NodeRef,
    outcome: z.enum(['equal', 'different', 'failed']),
    atWall: wallMs,
  }),
  /** It goes before what has a lower priority; said of one derivation it holds for that alone. */
  z.object({ type: z.literal('boosted'), ...lever, priority: Priority }),
  /** Nothing more of it is granted until it is released. */
  z.object({ type: z.literal('held'), ...lever, reason: text(512) }),
  z.object({ type: z.literal('released'), ...lever }),
  /** The derivation is not built for this request, nor what needs it. */
  z.object({ type: z.literal('cancelled'), ...lever, derivation: DerivationName }),
  /** What failed, was cancelled or skipped is tried again: all of it, or what `derivation` is tied to. */
  z.object({
    type: z.literal('retried'),
    ...lever,
    /** What was built with the userlands that the request was bound to is built anew as well. */
    rebind: z.boolean(),
  }),
  /** Nodes that match take nothing new. Said again for a selector it replaces what was said before. */
  z.object({
    type: z.literal('drained'),
    id: text(64),
    selector: text(256),
    reason: text(512),
    by: text(256),
    atWall: wallMs,
    deadlineWall: wallMs.nullable(),
  }),
  z.object({ type: z.literal('undrained'), selector: text(256) }),
  /** Nodes that match give builds so many processors. Said again for a selector it replaces what was said before. */
  z.object({
    type: z.literal('slotted'),
    id: text(64),
    selector: text(256),
    cpus: count.max(SLOTS_MAX),
    reason: text(512),
    by: text(256),
    atWall: wallMs,
    untilWall: wallMs.nullable(),
  }),
  /** They give what they give by themselves again. */
  z.object({ type: z.literal('unslotted'), selector: text(256), by: text(256), atWall: wallMs }),
  /** The job of the derivation has so many processors, whatever it asks for; null: what it asks for. */
  z.object({
    type: z.literal('sized'),
    ...lever,
    derivation: DerivationName,
    cpus: z.int().min(1).max(SLOTS_MAX).nullable(),
  }),
  /** A node failed different jobs in a row and gets none for a time, longer each time it happens again. */
  z.object({
    type: z.literal('quarantined'),
    node: NodeRef,
    reason: text(1024),
    times: count,
    forMs: count,
    atWall: wallMs,
  }),
  /** The node did well, or a person vouches for it. */
  z.object({ type: z.literal('pardoned'), node: PeerId }),
  /** The name means this image from now on. */
  NamedImage.extend({ type: z.literal('image-set') }),
  z.object({
    type: z.literal('image-removed'),
    name: ImageName,
    by: text(256),
    atWall: wallMs,
  }),
  /** A node died while it ran an attempt of the job with this key. */
  z.object({
    type: z.literal('killed'),
    key: DigestBytes,
    attempt: AttemptId,
    node: NodeRef,
    atWall: wallMs,
  }),
])
export type Fact = z.infer<typeof Fact>
