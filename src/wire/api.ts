/**
 * The HTTP API between a daemon and its users: `mesh`, the dashboard, scripts. JSON, on the unix socket;
 * the reads also on TCP.
 *
 * | method and path | body → answer |
 * |---|---|
 * | GET /api/status | → Status |
 * | GET /api/nodes | → NodeView[] |
 * | POST /api/nodes/drain | DrainOrder → DrainView: also nodes that come later are drained |
 * | POST /api/nodes/undrain | UndrainOrder → Undrained |
 * | GET /api/drains | → DrainView[] |
 * | GET /api/slots | → SlotsView (wire/slots.ts): what people said of processors |
 * | POST /api/nodes/slots | SlotsOrder → SlotsView: also of nodes that come later |
 * | POST /api/jobs/ID/slots | JobSlotsOrder → JobView |
 * | GET /api/top | → Top |
 * | GET /api/jobs?request=ID&state=A,B&user=&node=&name=GLOB&limit=N | → JobView[], newest first |
 * | GET /api/requests?state=A,B&user=&limit=N | → RequestView[], newest first |
 * | GET /api/requests/ID | → RequestView |
 * | PUT /api/requests/ID | Submission → RequestView (the same again for the same id) |
 * | GET /api/requests/ID/events | → NDJSON of Event: all that is so far, then what changes, up to `end` |
 * | POST /api/requests/ID/cancel | → RequestView |
 * | POST /api/requests/ID/boost, hold, release, retry | BoostOrder, HoldOrder, nothing, RetryOrder → RequestView |
 * | POST /api/jobs/ID/boost, hold, release, retry, cancel | the same → JobView |
 * | POST /api/requests/ID/leave | → RequestView: the client takes no copy of the outputs after all |
 * | POST /api/dry-run | Submission → DryRun |
 * | GET /api/jobs/ID | → JobView |
 * | GET /api/jobs/ID/why?node=NAME | → Why, of that node alone where one is named |
 * | GET /api/requests/ID/outlook | → DryRun of what was submitted: what of it no node can build |
 * | GET /api/jobs/ID/diff | → JobDiff (wire/comparisons.ts): the builds of it that were compared |
 * | GET /api/audits | → Audits (wire/comparisons.ts): jobs that are built again, and all that differ |
 * | GET /api/jobs/ID/log?offset=N&follow=1&attempt=N&stream=A,B&since=MS&grep=RE&ignoreCase=1&tail=N | → log records (wire/log-record.ts); `attempt` is a number or an id |
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
import { DerivationName, NodeName, PeerId, RequestId, text } from './names.ts'
import { Fact } from './machine-fact.ts'
import { PolicyView } from './policy.ts'
import { Measured, Usage } from './result.ts'
import { SlotsMark } from './slots.ts'
import { EntryJson } from './tree.ts'

/** A blob batch: repeated [32-byte digest, u64 big-endian size, bytes]. */
export const BATCH_CONTENT_TYPE = 'application/x-mesh-blobs'
/** Before each blob of a batch, in either direction: the digest and the size. */
export const BATCH_HEAD_BYTES = 40
export const BATCH_BYTES_MAX = 16 * 1024 * 1024

export const PRIORITY_DEFAULT = 50
export const Priority = z.int().min(0).max(100)
/** How long a job waits for a node where its request says nothing else; the longest that it may say. */
export const WAIT_MS_DEFAULT = 24 * 3600 * 1000
const WAIT_MS_MAX = 30 * 24 * 3600 * 1000
export const WaitLimitMs = z.int().min(0).max(WAIT_MS_MAX)
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
  /** A job that no node took for so long fails. */
  waitLimitMs: WaitLimitMs.optional(),
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
  /** By hand. */
  'held',
  /** Others are served first, who have had less. */
  'share',
  /** For a busy node that is expected to finish it sooner than a free one would. */
  'faster',
  /** The nodes that have room keep it for a big job. */
  'reserved',
  /** For a node that has its inputs already. */
  'locality',
  'drain',
  'quarantined',
  /** By the check scripts of the nodes. */
  'refused',
  /** For a node that sleeps or wakes up. */
  'power',
  /** The nodes speak too old a protocol. */
  'version',
  /** Whether a part of the mesh could build it is not known. */
  'subtree',
  /** For as many different nodes as are to build it. */
  'votes',
  /** One of a newer version; the text says what. */
  'other',
] as const
export const WaitClass = z.enum(WAIT_CLASSES).catch('other')
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
  /** Of the node: two may have one name. */
  peerId: z.string().optional(),
  host: z.string(),
  arch: z.string(),
  platform: z.string(),
  /** The isolation, with the label of the userland where it is the host's: `namespace debian-12`, `image`. */
  environment: z.string(),
  /** System of the machine, where it emulates the other. */
  machine: z.string().optional(),
  action: DigestHex,
  state: AttemptState,
  startedAt: iso,
  endedAt: iso.nullable(),
  /** Milliseconds spent in each phase. */
  phases: z.object({ fetch: count, build: count, upload: count }).partial(),
  /** Processors that it has now, or had at its end; older nodes do not tell. */
  cpus: count.optional(),
  usage: Usage.nullable(),
  /** What its node measured of it. */
  measured: Measured.optional(),
  /** Why it ended without a result. */
  error: z.string().nullable(),
  /** Of the command, 128 + N for signal N; 1 for a failure that is not the command's own. */
  exitCode: z.int().min(0).max(255).nullable(),
})
export type AttemptView = z.infer<typeof AttemptView>

const HeldView = z.object({ by: z.string(), reason: z.string(), at: iso })

export const JobView = z.object({
  id: z.string(),
  request: z.string(),
  /** Name of the derivation. */
  name: z.string(),
  key: DigestHex.nullable(),
  state: JobState,
  cached: z.boolean(),
  why: z.object({ class: WaitClass, text: z.string(), brief: z.string().optional() }).optional(),
  attempts: z.array(AttemptView),
  /** How often a lost output made it run again. */
  rewinds: count,
  /** Of a job that several nodes are to build: how many, those that have, and whether they agree so far. */
  verify: z
    .object({ wanted: count, builders: z.array(z.string()), isEqual: z.boolean() })
    .optional(),
  /** Its own or that of its request, as boosted. */
  priority: Priority.optional(),
  /** Held by hand: not started until it is released. */
  held: HeldView.optional(),
  /** How many processors somebody wants it to have. */
  slots: SlotsMark.optional(),
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
  /** CID of the build directory, where it was kept (`--keep-failed`). */
  kept: z.string().max(200).optional(),
})
export type Failure = z.infer<typeof Failure>

const REQUEST_STATES = ['waiting', 'running', 'done', 'failed', 'cancelled'] as const
export const RequestState = z.enum(REQUEST_STATES)
export type RequestState = z.infer<typeof RequestState>

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
  priority: Priority.optional(),
  /** Why what waits of it waits, when nothing of it runs. */
  why: z.object({ class: WaitClass, text: z.string(), brief: z.string().optional() }).optional(),
  /** Held by hand: none of its jobs is started until it is released. */
  held: HeldView.optional(),
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

const NODE_STATES = [
  'ready',
  'draining',
  'drained',
  'quarantined',
  'full',
  'lost',
  'sleeping',
  'waking',
  'broken',
] as const
export const NodeState = z.enum(NODE_STATES)
export type NodeState = z.infer<typeof NodeState>

const DrainMark = z.object({
  by: z.string(),
  reason: z.string(),
  at: iso,
  deadline: iso.nullable(),
})

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
  /** Relative to the reference machine. */
  speed: z.number().positive().optional(),
  policy: PolicyView.optional(),
  /** What it tells of its machine. */
  facts: z.array(Fact).optional(),
  /** Attempts that run there. */
  running: count.optional(),
  /** Who drained it, and why. */
  drain: DrainMark.optional(),
  quarantine: z.object({ reason: z.string(), until: iso }).optional(),
  /** How many processors somebody wants it to give builds. */
  slots: SlotsMark.extend({ reason: z.string(), until: iso.nullable() }).optional(),
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
  nodes: z.partialRecord(NodeState, count),
  cpus: z.object({ total: count, busy: count }),
  jobs: z.object({ waiting: count, running: count }),
  requests: z.object({ active: count, local: count }),
  store: z.object({ blobs: count, bytes: count, freeBytes: count }),
  draining: z.boolean(),
  /** Who drained this node, and why; left out where nobody did. */
  drain: DrainMark.optional(),
  problems: z.array(z.string()),
})
export type Status = z.infer<typeof Status>

/** One requirement against one node, or against several that are alike in it. */
const Verdict = z.object({
  requirement: z.string(),
  /** The requirement with what is wanted, as a row is called: `memory >= 32 GiB`. */
  req: z.string().optional(),
  want: z.string(),
  have: z.string(),
  /** `have` in a few letters, for a cell of the matrix. */
  brief: z.string().optional(),
  /** Of an amount: what the node has in all. */
  total: z.number().min(0).optional(),
  ok: z.boolean(),
  /** Whether waiting cannot change it. */
  permanent: z.boolean(),
  /** It would be ok if the derivation had a block "when" for this system. */
  cross: z.string().optional(),
})
export type Verdict = z.infer<typeof Verdict>
/** Rows of nodes in one answer; over it they are told of in groups alone. */
export const WHY_NODES_MAX = 1_000
/** Groups of nodes in one answer; those left over share the last one. */
export const WHY_GROUPS_MAX = 64
export const WhyNode = z.object({
  node: z.string(),
  peerId: z.string().optional(),
  /** The node that spoke for it, where that is not the owner. */
  by: z.string().optional(),
  state: NodeState,
  /** Of its processors: in all, and those that are taken. */
  cpus: z.object({ total: count, busy: count }).optional(),
  verdicts: z.array(Verdict),
})
export type WhyNode = z.infer<typeof WhyNode>
/** Nodes whose verdicts are alike. */
export const WhyGroup = z.object({
  /** What they have in common, as a person would call them: `x86_64`, `ci-*`. */
  title: z.string(),
  count,
  /** The names of the first of them. */
  nodes: z.array(z.string()),
  /** Of all of them together. */
  cpus: z.object({ total: count, busy: count }).optional(),
  verdicts: z.array(Verdict),
})
export type WhyGroup = z.infer<typeof WhyGroup>
/** What one node answers for itself and those below it. */
export const WhyPart = z.object({
  /** Who answers, and when by its clock. */
  by: z.string(),
  asOf: iso,
  nodes: z.array(WhyNode).max(WHY_NODES_MAX),
  groups: z.array(WhyGroup).max(WHY_GROUPS_MAX),
  /** Of all nodes. */
  count,
  /** Parts of the mesh that did not answer in time. */
  unknown: z.array(z.string()),
})
export type WhyPart = z.infer<typeof WhyPart>
export const Why = z.object({
  v: z.literal(1),
  job: z.string(),
  name: z.string(),
  request: z.string(),
  state: JobState,
  class: WaitClass.nullable(),
  /** One sentence with the observed values. */
  summary: z.string(),
  /** In a few words, for lists: `1/35 building, 3/4 away could build this`. */
  brief: z.string().optional(),
  waitedMs: count,
  /** The first WHY_NODES_MAX. */
  nodes: z.array(WhyNode),
  /** All nodes, those that are alike together. */
  groups: z.array(WhyGroup).optional(),
  nodeCount: count.optional(),
  /** The requirements that are worth a row, in their order. */
  rows: z.array(z.string()).optional(),
  /** What the marks in the matrix mean. */
  notes: z.array(z.string()).optional(),
  /** The node that lacks least, where none has all. */
  closest: z.string().nullable().optional(),
  /** Its place among those that wait for the same nodes. */
  position: z.object({ n: count, of: count }).nullable().optional(),
  etaMs: count.nullable(),
  /** When it is expected to start; null where nothing was learnt that would tell. */
  eta: iso.nullable().optional(),
  /** How many measured durations the expectation hangs on. */
  etaSamples: count.optional(),
  /** When it fails by itself, and the limit that says so. */
  failsAt: iso.nullable().optional(),
  waitLimitMs: count.optional(),
  fixes: z.array(z.string()),
  /** The fixes, each with the place or the command apart. */
  advice: z.array(z.object({ text: z.string(), how: z.string() })).optional(),
  asOf: iso,
  /** The parts of the mesh that answered for themselves. */
  parts: z.array(z.object({ by: z.string(), asOf: iso, count })).optional(),
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
      /** How many match, where `nodes` names only the first of them. */
      nodeCount: count.optional(),
      inputBytes: count,
      run: RunLimits,
      /** What it will take, as learnt; null while nothing was. */
      estimateMs: count.nullable().optional(),
      /** Why no node can build it. */
      reason: z.string().optional(),
    }),
  ),
  criticalPath: z.array(z.string()),
  criticalPathMs: count.nullable().optional(),
  /** Until all is built, as far as estimates tell. */
  estimateMs: count.nullable().optional(),
  /** Declared sources that would be fetched; `bytes` is null where a size is not known. */
  toFetch: z.object({ count, bytes: count.nullable() }).optional(),
  /** Names of derivations that no node, not even a busy or absent one, can build. */
  unsatisfiable: z.array(z.string()).optional(),
})
export type DryRun = z.infer<typeof DryRun>

/** A node name, a glob (`ci-*`), or `key=value` with the key role, system, feature or label; a comma means and. */
const Selector = text(256).min(1)
export const DrainOrder = z.object({
  selector: Selector,
  reason: text(512).default(''),
  /** What still runs then is taken back and started elsewhere; null: it may take its time. */
  deadlineMs: z
    .int()
    .min(0)
    .max(30 * 86_400_000)
    .nullable()
    .default(null),
})
export type DrainOrder = z.infer<typeof DrainOrder>
export const UndrainOrder = z.object({ selector: Selector })
export const BoostOrder = z.object({ priority: Priority })
export const HoldOrder = z.object({ reason: text(512).default('') })
export const RetryOrder = z.object({ rebind: z.boolean().default(false) })

export const DrainView = z.object({
  id: z.string(),
  selector: z.string(),
  reason: z.string(),
  by: z.string(),
  at: iso,
  deadline: iso.nullable(),
  /** The nodes that it matches now; others may come. */
  nodes: z.array(
    z.object({
      name: z.string(),
      peerId: z.string(),
      state: NodeState,
      /** What still runs there, the oldest first, at most 20. */
      running: z.array(z.object({ job: z.string(), name: z.string(), forMs: count })),
      runningCount: count,
    }),
  ),
})
export type DrainView = z.infer<typeof DrainView>
export const Undrained = z.object({
  /** The drains that were ended. */
  drains: z.array(z.object({ id: z.string(), selector: z.string() })),
  /** Names of the nodes that may take jobs again, also those let out of quarantine. */
  nodes: z.array(z.string()),
})
export type Undrained = z.infer<typeof Undrained>

/** One look at everything that moves, for `mesh top` and the dashboard. Every list is bounded. */
export const Top = z.object({
  v: z.literal(1),
  at: iso,
  /** The node that answers. */
  name: z.string(),
  totals: z.object({
    nodes: z.partialRecord(NodeState, count),
    cpus: z.object({ total: count, busy: count }),
    jobs: z.object({ waiting: count, running: count }),
    requests: z.object({ active: count }),
    /** Over the last seconds. */
    perSecond: z.object({ started: z.number().min(0), ended: z.number().min(0) }).optional(),
  }),
  nodes: z.array(
    z.object({
      name: z.string(),
      peerId: z.string(),
      state: NodeState,
      cpus: count,
      busy: count,
      /** Attempts that run there. */
      running: count,
      /** Why it is not ready. */
      note: z.string(),
      policy: PolicyView.optional(),
    }),
  ),
  /** The longest first. */
  running: z.array(
    z.object({
      job: z.string(),
      name: z.string(),
      request: z.string(),
      user: z.string(),
      node: z.string(),
      phase: AttemptState,
      forMs: count,
      /** What it will take in all, as learnt; null while nothing was. */
      estimateMs: count.nullable(),
    }),
  ),
  /** Why jobs wait, the commonest first. */
  waiting: z.array(z.object({ class: WaitClass, text: z.string(), count, oldestMs: count })),
  /** Whoever is served next comes first. */
  users: z.array(
    z.object({
      user: z.string(),
      group: z.string(),
      weight: z.number(),
      score: z.number(),
      runningCpus: z.number(),
      usedCpuMs: z.number(),
    }),
  ),
})
export type Top = z.infer<typeof Top>

/** Where a job ran, for whoever opens that place once more. */
export const ShellTarget = z.object({
  job: z.string(),
  name: z.string(),
  /** Canonical bytes of the action, in base64. */
  action: z.string(),
  /** System of its environment. */
  host: z.string(),
  /** Of the attempt; null where there was none. */
  ran: z.object({ node: z.string(), label: z.string(), base: DigestHex.nullable() }).nullable(),
})
export type ShellTarget = z.infer<typeof ShellTarget>

/** Arguments of a command in the place of a shell. */
const SHELL_ARGS_MAX = 1000
export const ShellQuery = z.object({
  /** Of the client, which starts the sandbox and lives longer. */
  pid: z.coerce.number().int().min(1),
  argv: z
    .string()
    .max(128 * 1024)
    .default('[]')
    .transform((words): unknown => JSON.parse(words))
    .pipe(z.array(z.string()).max(SHELL_ARGS_MAX)),
  attempt: z.coerce.number().int().min(0).default(0),
})
/** How the client starts it: `program` reads `input` from descriptor 3, a socket, and reports there. */
export const ShellReady = z.object({
  program: z.string(),
  input: z.string(),
  /** Only this user can start it. */
  uid: z.int(),
  name: z.string(),
  /** In what it differs from where the job ran. */
  warning: z.string().nullable(),
})
export type ShellReady = z.infer<typeof ShellReady>

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
