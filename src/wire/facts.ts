/**
 * The journal of an owner: facts, which are changes of its durable state, in the order in which they
 * became true. Replaying them rebuilds the state and decides nothing.
 *
 * Wall-clock fields are for display. A fact about a request or job that is no longer known is ignored.
 */
import { z } from 'zod'
import { Failure, Priority } from './api.ts'
import { BlobRefWire, DigestBytes } from './digest.ts'
import { GraphWire } from './derivation.ts'
import { Isolation, UserlandWire } from './environment.ts'
import {
  AttemptId,
  DerivationName,
  JobId,
  NodeName,
  OutputName,
  PeerId,
  RequestId,
  System,
  text,
} from './names.ts'
import { Usage } from './result.ts'
import { EntryWire } from './tree.ts'

const wallMs = z.int().min(0)
const count = z.int().min(0)

const NodeRef = z.object({ peerId: PeerId, name: NodeName })
export type NodeRef = z.infer<typeof NodeRef>

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
  submittedAtWall: wallMs,
})
export type RequestWire = z.infer<typeof RequestWire>

export const BytesMoved = z.object({ peer: count, mirror: count, local: count })
export type BytesMoved = z.infer<typeof BytesMoved>

/** Milliseconds spent in each phase of an attempt. */
export const Phases = z.object({ fetch: count, build: count, upload: count }).partial()
export type Phases = z.infer<typeof Phases>

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
    isolation: Isolation,
    label: text(64),
    action: DigestBytes,
    userland: UserlandWire.nullable(),
    cpus: count,
    memoryBytes: count,
    diskBytes: count,
    atWall: wallMs,
  }),
  /** The attempt was found running again after it had been given up. */
  z.object({ type: z.literal('adopted'), attempt: AttemptId }),
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
])
export type Fact = z.infer<typeof Fact>
