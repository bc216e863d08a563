/**
 * The HTTP API between a daemon and its users: `mesh`, the dashboard, scripts. JSON, on the unix socket;
 * the reads also on TCP.
 *
 * | method and path | body → answer |
 * |---|---|
 * | GET /api/status | → Status |
 * | GET /api/nodes | → NodeView[] |
 * | GET /api/jobs?request=ID | → JobView[], newest first |
 * | GET /api/requests | → RequestView[], newest first |
 * | GET /api/requests/ID | → RequestView |
 * | PUT /api/requests/ID | Submission → RequestView (the same again for the same id) |
 * | GET /api/requests/ID/events | → NDJSON of Event: all that is so far, then what changes, up to `end` |
 * | POST /api/requests/ID/cancel | → RequestView |
 * | POST /api/requests/ID/leave | → RequestView: the client takes no copy of the outputs after all |
 * | POST /api/dry-run | Submission → DryRun |
 * | GET /api/jobs/ID | → JobView |
 * | GET /api/jobs/ID/why | → Why |
 * | GET /api/jobs/ID/log?offset=N&follow=1&attempt=N | → log records (wire/log-record.ts) |
 * | POST /api/blobs/missing | BlobRef[] → Digest[] |
 * | POST /api/blobs | blob batch → BatchAnswer |
 * | POST /api/blobs/fetch | Entries → FetchAnswer, once all of them are in this node's store |
 * | PUT /cas/HEX | bytes → BatchAnswer |
 * | GET /cas/HEX?fetch=1&size=N&tree=1 | → bytes, fetched from the mesh where this node lacks them; `tree`: with all that is in it |
 *
 * ID is a full id or any unique prefix of one. Errors are RFC 9457 problem documents with a MESH code.
 */
import { z } from 'zod'
import { BlobRefJson, DigestHex } from './digest.ts'
import { GraphJson, RunLimits } from './derivation.ts'
import { EnvironmentJson } from './environment.ts'
import { DerivationName, NodeName, PeerId, RequestId } from './names.ts'
import { Usage } from './result.ts'
import { EntryJson } from './tree.ts'

/** A blob batch: repeated [32-byte digest, u64 big-endian size, bytes]. */
export const BATCH_CONTENT_TYPE = 'application/x-mesh-blobs'
/** Before each blob of a batch, in either direction: the digest and the size. */
export const BATCH_HEAD_BYTES = 40
export const BATCH_BYTES_MAX = 16 * 1024 * 1024

export const PRIORITY_DEFAULT = 50
export const Priority = z.int().min(0).max(100)
export const ROLES = ['root', 'worker', 'store', 'mirror', 'client'] as const
export const Role = z.enum(ROLES)
export type Role = z.infer<typeof Role>

export const Submission = z.object({
  graph: GraphJson,
  priority: Priority.default(PRIORITY_DEFAULT),
  /** Go on with what can still be built after a failure. */
  keepGoing: z.boolean().default(false),
  /** Fail at once when no node can build a derivation, instead of waiting. */
  noWait: z.boolean().default(false),
  /** The client itself keeps a copy of the outputs, which counts as a replica. */
  takesCopy: z.boolean().default(false),
})
export type Submission = z.infer<typeof Submission>

const count = z.int().min(0)
const iso = z.string()

const JOB_STATES = ['waiting', 'leased', 'running', 'done', 'failed', 'cancelled'] as const
export const JobState = z.enum(JOB_STATES)
export type JobState = z.infer<typeof JobState>

/** Why a job waits, in one code. */
const WAIT_CLASSES = [
  'inputs',
  'lookup',
  'busy',
  'unsatisfiable',
  'away',
  'rebind',
  'recovery',
  'retry',
  'unreachable',
  'missing',
] as const
export const WaitClass = z.enum(WAIT_CLASSES)
export type WaitClass = z.infer<typeof WaitClass>

const ATTEMPT_STATES = [
  'leased',
  'fetching',
  'building',
  'uploading',
  'done',
  'failed',
  'lost',
  'cancelled',
  'superseded',
] as const
export const AttemptState = z.enum(ATTEMPT_STATES)
export type AttemptState = z.infer<typeof AttemptState>

export const AttemptView = z.object({
  id: z.string(),
  n: count,
  node: z.string(),
  host: z.string(),
  arch: z.string(),
  platform: z.string(),
  /** `namespace` or `process`, with the label of the userland: `namespace debian-12`. */
  environment: z.string(),
  action: DigestHex,
  state: AttemptState,
  startedAt: iso,
  endedAt: iso.nullable(),
  /** Milliseconds spent in each phase. */
  phases: z.object({ fetch: count, build: count, upload: count }).partial(),
  usage: Usage.nullable(),
  /** Why it ended without a result. */
  error: z.string().nullable(),
  /** Of the command, 128 + N for signal N; 1 for a failure that is not the command's own. */
  exitCode: z.int().min(0).max(255).nullable(),
})
export type AttemptView = z.infer<typeof AttemptView>

export const JobView = z.object({
  id: z.string(),
  request: z.string(),
  /** Name of the derivation. */
  name: z.string(),
  key: DigestHex.nullable(),
  state: JobState,
  cached: z.boolean(),
  why: z.object({ class: WaitClass, text: z.string() }).optional(),
  attempts: z.array(AttemptView),
  /** How often a lost output made it run again. */
  rewinds: count,
})
export type JobView = z.infer<typeof JobView>

export const Failure = z.object({
  job: z.string(),
  name: z.string(),
  code: z.string(),
  message: z.string(),
  node: z.string().nullable(),
  /** The last lines of its log, at most 8 KiB. */
  logTail: z.string(),
})
export type Failure = z.infer<typeof Failure>

const REQUEST_STATES = ['waiting', 'running', 'done', 'failed', 'cancelled'] as const
const RequestState = z.enum(REQUEST_STATES)
type RequestState = z.infer<typeof RequestState>

export const Bytes = z.object({ peer: count, mirror: count, local: count, root: count })
export type Bytes = z.infer<typeof Bytes>

export const RequestView = z.object({
  id: RequestId,
  name: z.string(),
  user: z.string(),
  state: RequestState,
  /** `local`: journaled by the node that was asked; `owned`: by the node that answers for it. */
  accepted: z.enum(['local', 'owned']),
  owner: z.string(),
  /** True once no further byte is needed from the submitter. */
  detachable: z.boolean(),
  submittedAt: iso,
  endedAt: iso.nullable(),
  counts: z.object({
    total: count,
    built: count,
    cached: count,
    failed: count,
    cancelled: count,
    running: count,
    waiting: count,
  }),
  /** Of the derivations that were asked for, once they are known. */
  outputs: z.record(DerivationName, z.record(z.string(), EntryJson)),
  bytes: Bytes,
  wallMs: count,
  /** What the built jobs took one after the other. */
  serialMs: count,
  /** Jobs that ran on the node that was asked. */
  ranLocally: count,
  failures: z.array(Failure),
  /** The exit code that `mesh submit` ends with once the request has ended. */
  exit: z.int().min(0).max(255),
  /** Copies of what was asked for, each on a store node or with the client; null before they are known. */
  replicas: count.nullable(),
  notices: z.array(z.string()),
})
export type RequestView = z.infer<typeof RequestView>

/** One stream of facts about a request, for the progress display, `--progress=json` and the dashboard. */
export const Event = z.discriminatedUnion('type', [
  /** Also the first event of each stream, and sent again when its counts change (at most 10 a second). */
  z.object({ type: z.literal('request'), at: iso, request: RequestView }),
  /** A job changed its state, phase, node or reason to wait. */
  z.object({ type: z.literal('job'), at: iso, job: JobView }),
  /** Something a person should see once. */
  z.object({ type: z.literal('notice'), at: iso, text: z.string() }),
  /** The last one of a stream. */
  z.object({ type: z.literal('end'), at: iso, request: RequestView }),
])
export type Event = z.infer<typeof Event>

const ResourcesJson = z.object({ cpus: count, memoryBytes: count, diskBytes: count })

const NODE_STATES = ['ready', 'draining', 'full', 'lost', 'sleeping', 'waking', 'broken'] as const
export const NodeState = z.enum(NODE_STATES)
export type NodeState = z.infer<typeof NodeState>

export const NodeView = z.object({
  name: NodeName,
  peerId: PeerId,
  state: NodeState,
  roles: z.array(Role),
  parent: z.string().nullable(),
  environments: z.array(EnvironmentJson),
  capacity: ResourcesJson,
  allocated: ResourcesJson,
  /** Program version and protocol ids. */
  versions: z.object({ mesh: z.string(), protocols: z.array(z.string()) }),
  http: z.string().nullable(),
  lastSeenAt: iso,
  note: z.string(),
})
export type NodeView = z.infer<typeof NodeView>

export const Status = z.object({
  v: z.literal(1),
  name: NodeName,
  peerId: PeerId,
  roles: z.array(Role),
  version: z.string(),
  root: z.object({
    name: z.string().nullable(),
    peerId: z.string().nullable(),
    connected: z.boolean(),
  }),
  parents: z.array(
    z.object({ address: z.string(), connected: z.boolean(), error: z.string().nullable() }),
  ),
  nodes: z.record(NodeState, count),
  cpus: z.object({ total: count, busy: count }),
  jobs: z.object({ waiting: count, running: count }),
  requests: z.object({ active: count, local: count }),
  store: z.object({ blobs: count, bytes: count, freeBytes: count }),
  draining: z.boolean(),
  problems: z.array(z.string()),
})
export type Status = z.infer<typeof Status>

const Verdict = z.object({
  requirement: z.string(),
  want: z.string(),
  have: z.string(),
  ok: z.boolean(),
  /** Whether waiting cannot change it. */
  permanent: z.boolean(),
})
export const Why = z.object({
  v: z.literal(1),
  job: z.string(),
  name: z.string(),
  request: z.string(),
  state: JobState,
  class: WaitClass.nullable(),
  /** One sentence with the observed values. */
  summary: z.string(),
  waitedMs: count,
  nodes: z.array(z.object({ node: z.string(), state: NodeState, verdicts: z.array(Verdict) })),
  etaMs: count.nullable(),
  fixes: z.array(z.string()),
  asOf: iso,
  /** Nodes whose state could not be learnt in time. */
  unknown: z.array(z.string()),
})
export type Why = z.infer<typeof Why>

export const DryRun = z.object({
  derivations: z.array(
    z.object({
      name: z.string(),
      /** `unknown`: hangs on outputs that are not built yet. */
      state: z.enum(['cached', 'build', 'unknown']),
      /** Names of the nodes that match. */
      nodes: z.array(z.string()),
      inputBytes: count,
      run: RunLimits,
    }),
  ),
  criticalPath: z.array(z.string()),
})
export type DryRun = z.infer<typeof DryRun>

export const BlobRefs = z.array(BlobRefJson).max(20_000)
export const Entries = z.array(EntryJson).max(20_000)
export const FetchAnswer = z.object({ fetched: count })
export const Digests = z.array(DigestHex).max(20_000)
export const BatchAnswer = z.object({ stored: count })

/** RFC 9457 problem document. */
export const Problem = z.object({
  status: z.int(),
  code: z.string(),
  title: z.string(),
  detail: z.string(),
  where: z.string().optional(),
  hints: z.array(z.string()).default([]),
})
export type Problem = z.infer<typeof Problem>
