/**
 * `/mesh/work/1`: one long-lived framed stream between a node and its parent.
 *
 * The child says what is (`sync`), the parent answers what should be (`desired`); both are idempotent and
 * may be repeated. What needs an answer is a `call`; its answers carry the same id, the last one `done`.
 */
import { z } from 'zod'
import { TOKEN_TEXT_MAX } from './access-token.ts'
import { Announcement } from './announcement.ts'
import { BlobRefWire, DigestBytes, Size } from './digest.ts'
import { RunLimits, VERIFY_MAX } from './derivation.ts'
import { EnvironmentWire, Isolation, UserlandWire } from './environment.ts'
import { BytesMoved, NodeRef, Phases, RequestWire } from './facts.ts'
import {
  AttemptId,
  Feature,
  ImageName,
  JobId,
  NodeName,
  PeerId,
  System,
  text,
  ToolName,
} from './names.ts'
import { IMAGES_MAX } from './images.ts'
import { PeerRecord } from './peer-record.ts'
import { Fact, FACTS_MAX } from './machine-fact.ts'
import { PolicyWire } from './policy.ts'
import { Measured, SignedResult, Usage } from './result.ts'
import { SLOTS_MAX } from './slots.ts'
import { EntryWire } from './tree.ts'

export const WORK_PROTOCOL = '/mesh/work/1'
export const CAS_PROTOCOL = '/mesh/cas/1'
export const LOG_PROTOCOL = '/mesh/log/1'
/** The range of versions of the messages below that this program speaks. */
export const WORK_VERSION = { min: 1, max: 1 } as const
/** In the hello of a node that answers `token`. */
export const FEATURE_TOKEN = 'token'
/** In the hello of a node that answers `announce`. */
export const FEATURE_ANNOUNCE = 'announce'
/** In the hello of a node that answers `check` and `keep`. */
export const FEATURE_KEEP = 'keep'
/** In the hello of a node that passes leases on: it knows `classes`, `bundle`, `below` and `down`. */
export const FEATURE_TREE = 'tree'
/** In the hello of a node that knows the outcome `refused`. */
export const FEATURE_REFUSE = 'refuse'
/** In the hello of a node that answers `images`. */
export const FEATURE_IMAGES = 'images'

/** A lease runs this long after the last exchange; both sides count on their own monotonic clock. */
export const LEASE_MS = 20_000
/** What the granter waits beyond LEASE_MS before it ends exclusivity. */
export const LEASE_SLACK_MS = 5_000
/** How often each side says something when nothing changes. */
export const HEARTBEAT_MS = 4_000
const ACTION_INLINE_BYTES_MAX = 1024 * 1024
export const RUNNING_MAX = 4096
export const TOOLS_WANTED_MAX = 256
/** The largest JSON body that travels inside one message. */
export const API_BODY_BYTES_MAX = 12 * 1024 * 1024

const count = z.int().min(0)

export const Resources = z.object({ cpus: count, memoryBytes: count, diskBytes: count })
export type Resources = z.infer<typeof Resources>

export const Limits = RunLimits.omit({ retries: true, verify: true })
export type Limits = z.infer<typeof Limits>

/** Requirement classes that a parent names as waiting; the first ones are those that wait for longest. */
export const CLASSES_MAX = 256
/** Jobs of one class that a subtree offers to take at once. */
export const OFFER_COUNT_MAX = 1024
/** Levels of a tree. */
export const ANCESTORS_MAX = 64
/** Nodes that one message tells of as being, or no longer being, below a child. */
export const BELOW_ITEMS_MAX = 1024

/** Systems of one job, and machines for which it does otherwise there. */
const PLACES_MAX = 160

/** What a node must have to run a job: what matching looks at. */
export const RequirementWire = z.object({
  hosts: z.array(System).max(64),
  isFetch: z.boolean(),
  sealed: z.boolean(),
  features: z.array(Feature).max(64),
  tools: z.array(ToolName).max(257),
  cpusMin: count,
  cpusMax: count,
  memoryBytes: count,
  diskBytes: count,
  /** By system: the userland that the jobs must be built with. */
  bindings: z.array(z.tuple([System, UserlandWire])).max(64),
  /** Where they are built in images, of all their systems; left out where they never are. */
  places: z
    .array(z.object({ system: System, machine: System.optional(), image: z.boolean() }))
    .max(PLACES_MAX)
    .optional(),
  /** Only on machines of this system: builds that are compared, of a job that is made otherwise elsewhere. */
  machine: System.optional(),
})
export type RequirementWire = z.infer<typeof RequirementWire>

/** What only a node that passes the lease on needs: it chooses who runs the action. */
const LeaseTerms = z.object({
  /** System of the environment that the action is for. */
  host: System,
  /** System of its machine, which is another where that emulates it; left out by older versions: any machine. */
  machine: System.optional(),
  features: z.array(Feature).max(64),
  cpusMin: count,
  cpusMax: count,
  priority: z.int().min(0).max(100),
  /** Expected duration on a node of speed 1; 0 where nothing is known. */
  estimateMs: count,
  /** Nodes that failed it before. */
  avoid: z.array(PeerId).max(64),
  /** Nodes that must not run it: they have built it, and another one's outputs are to be compared with theirs. */
  barred: z.array(PeerId).max(VERIFY_MAX).optional(),
  /** Key of its requirement class. */
  class: text(64),
})

/** The right to run an action until a deadline. */
export const Lease = z.object({
  attempt: AttemptId,
  job: JobId,
  /** Name of the derivation, for people. */
  name: text(128),
  /** Canonical action bytes. */
  action: z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength <= ACTION_INLINE_BYTES_MAX),
  jobKey: DigestBytes,
  userland: UserlandWire.nullable(),
  isolation: Isolation,
  /** System of the environment; that of the action where it is left out. */
  host: System.optional(),
  /** What the job needs of its environment beyond that. */
  features: z.array(Feature).max(64).optional(),
  epoch: count,
  cpus: count,
  /** It can use so many, where that is more. */
  cpusMax: count.optional(),
  memoryBytes: count,
  diskBytes: count,
  /** The most that it may have, where its user said how much it needs; else there is no limit. */
  memoryLimitBytes: z.int().min(1).optional(),
  limits: Limits,
  /** Where the inputs are likely to be: digest of an input entry → indexes into `peers`. */
  hints: z.array(z.tuple([DigestBytes, z.array(count).max(8)])).max(10_000),
  peers: z.array(PeerRecord).max(256),
  /** Only for `builtin:fetch`. */
  urls: z.array(text(4096)).max(16),
  terms: LeaseTerms.optional(),
})
export type Lease = z.infer<typeof Lease>

/** The longest that a node may refuse something; it may do so again. */
export const REFUSAL_MS_MAX = 24 * 3600 * 1000
/** Drains that an owner keeps. */
export const DRAINS_MAX = 1_000

/** Nodes that match take nothing new and are emptied. */
export const DrainWire = z.object({
  id: text(64),
  selector: text(256),
  reason: text(512),
  by: text(256),
  atWall: count,
  /** Until what still runs is taken back; null for never. */
  leftMs: count.nullable(),
})
export type DrainWire = z.infer<typeof DrainWire>

/** Words of people on the processors of nodes that an owner keeps. */
export const SLOT_ORDERS_MAX = 1_000

/** Nodes that match give builds so many processors. */
export const SlotOrderWire = z.object({
  id: text(64),
  selector: text(256),
  cpus: count.max(SLOTS_MAX),
  reason: text(512),
  by: text(256),
  atWall: count,
  /** How much longer; null for ever. */
  leftMs: count.nullable(),
})
export type SlotOrderWire = z.infer<typeof SlotOrderWire>

/** How an attempt ended at its worker. */
export const AttemptOutcome = z.discriminatedUnion('kind', [
  z.object({ kind: z.literal('built'), result: SignedResult }),
  /** The build itself failed: never retried. */
  z.object({
    kind: z.literal('failed'),
    code: z.enum([
      'MESH0401',
      'MESH0402',
      'MESH0403',
      'MESH0404',
      'MESH0406',
      'MESH0407',
      'MESH0408',
    ]),
    message: text(4096),
    exitCode: z.int().min(0).max(255),
    /** Set for MESH0402: the limit and the value at which it was enforced. */
    limit: z.object({ name: z.enum(['timeout', 'silent', 'log']), value: count }).optional(),
    /** The same for limits that came later, apart from those for the sake of peers that do not know them. */
    exceeded: z.object({ name: z.enum(['output', 'disk', 'processes']), value: count }).optional(),
    log: BlobRefWire.nullable(),
    logTail: text(16 * 1024),
    /** With `keepFailed`: what the attempt left, kept at its node for a while. */
    kept: EntryWire.optional(),
  }),
  /** An input could not be had: the digests of the input entries. */
  z.object({
    kind: z.literal('missing'),
    inputs: z.array(DigestBytes).max(10_000),
    message: text(4096),
  }),
  /** Something other than the build failed: retried elsewhere. */
  z.object({
    kind: z.literal('infrastructure'),
    code: z.enum(['MESH0503', 'MESH0504', 'MESH0505']),
    message: text(4096),
    /** The node that ran it died of it, or at it: told by the one above that node. */
    died: z.boolean().optional(),
    log: BlobRefWire.optional(),
  }),
  z.object({
    kind: z.literal('cancelled'),
    /** Its node is stopping in order and hands it back: it runs elsewhere at once, and nobody has failed. */
    isHandedBack: z.boolean().optional(),
    log: BlobRefWire.optional(),
  }),
  /** With FEATURE_REFUSE: a check of the node itself would not have it begun; nothing of it was run. */
  z.object({
    kind: z.literal('refused'),
    /** This job, all of its derivation's name, or whatever comes. */
    scope: z.enum(['job', 'name', 'all']),
    reason: text(1024),
    /** How long that holds. */
    forMs: z.int().min(0).max(REFUSAL_MS_MAX),
  }),
  /** With FEATURE_TREE: a node that passes leases on had no room for it after all; nobody began it. */
  z.object({ kind: z.literal('returned'), message: text(4096) }),
])
export type AttemptOutcome = z.infer<typeof AttemptOutcome>

export const FinishedAttempt = z.object({
  attempt: AttemptId,
  outcome: AttemptOutcome,
  usage: Usage.nullable(),
  phases: Phases,
  bytes: BytesMoved,
  /** Who ran it, where that is not the sender. */
  runner: NodeRef.optional(),
  measured: Measured.optional(),
})
export type FinishedAttempt = z.infer<typeof FinishedAttempt>

export const RunningAttempt = z.object({
  attempt: AttemptId,
  phase: z.enum(['leased', 'fetching', 'building', 'uploading']),
  phases: Phases,
  /** Who runs it, where that is not the sender. */
  runner: NodeRef.optional(),
  /** Since when the sender has no connection to who runs it; it may be told of by another. */
  awayMs: count.optional(),
  /** What it holds where it runs. */
  held: Resources.optional(),
})
export type RunningAttempt = z.infer<typeof RunningAttempt>

/** First message of both sides. */
const Hello = z.object({
  type: z.literal('hello'),
  versions: z.object({ min: count, max: count }),
  features: z.array(text(64)).max(64),
  /** Version of the program, for people. */
  mesh: text(64),
  protocols: z.array(text(64)).max(32),
  record: PeerRecord,
  /** Random at each start of the process: a changed one means that its running attempts are gone. */
  boot: text(64),
  /** Of the granting side; 0 from a node that grants nothing. */
  epoch: count,
})

/** What a whole subtree could take, by requirement class. */
const Bundle = z.object({
  /** Jobs of all classes together that could start now. */
  slots: count,
  /** Processors of all of it, for display. */
  cpus: z.object({ total: count, busy: count }),
  offers: z
    .array(
      z.object({
        /** Key of the class, as the parent named it. */
        class: text(64),
        /** Index into the environments of the same message. */
        environment: count,
        /** Jobs of the class that could start now; overlaps with those of others. */
        count,
        /** Of the fastest node that could take one now, or takes one next. */
        speed: z.number().min(0.01).max(100),
        /** When one could start; 0 where `count` is not. */
        freeInMs: count,
      }),
    )
    .max(2 * CLASSES_MAX),
})
export type Bundle = z.infer<typeof Bundle>

/** Child to parent: the whole state. Outcomes are repeated until they are acknowledged. */
const Sync = z.object({
  type: z.literal('sync'),
  seq: count,
  /** `seq` of the last `desired` that was taken in; 0 for none on this connection. */
  ackSeq: count,
  /** `full`: no room for another job; the note says how much there is. */
  state: z.enum(['ready', 'draining', 'full']),
  note: text(1024),
  environments: z.array(EnvironmentWire).max(64),
  capacity: Resources,
  running: z.array(RunningAttempt).max(RUNNING_MAX),
  finished: z.array(FinishedAttempt).max(RUNNING_MAX),
  /** With FEATURE_TREE: the sender speaks for a subtree; its capacity is for display. */
  bundle: Bundle.optional(),
  /** With FEATURE_TREE: what nodes below have that are away and may come back, and the most that one of them has. */
  away: z
    .object({ environments: z.array(EnvironmentWire).max(64), capacity: Resources })
    .optional(),
  /** With FEATURE_TREE: who runs what below is not all known yet, for so long at most. */
  recoveringMs: count.optional(),
  /** How fast its processors are, as it measured: 1 is the reference machine. */
  speed: z.number().optional(),
  /** Why its capacity is what it is; of a node with a worker. */
  policy: PolicyWire.optional(),
  /** What it tells people of its machine; left out where the receiver has heard it. */
  facts: z.array(Fact).max(FACTS_MAX).optional(),
})
export type SyncMessage = z.infer<typeof Sync>

/** Parent to child: what should be. */
const Desired = z.object({
  type: z.literal('desired'),
  seq: count,
  /** `seq` of the last sync that was taken in; 0 for none. */
  ackSeq: count,
  epoch: count,
  grants: z.array(Lease).max(RUNNING_MAX),
  limits: z.array(z.object({ attempt: AttemptId, limits: Limits })).max(RUNNING_MAX),
  cancel: z.array(AttemptId).max(RUNNING_MAX),
  /** Finished attempts whose outcome is durable here. */
  ack: z.array(AttemptId).max(RUNNING_MAX),
  /** Programs whose contents the child should hash. */
  tools: z.array(ToolName).max(TOOLS_WANTED_MAX),
  /** With FEATURE_TREE: the classes that wait here or above. */
  classes: z
    .array(z.object({ key: text(64), requirement: RequirementWire }))
    .max(CLASSES_MAX)
    .optional(),
  /** With FEATURE_TREE: the sender, its parent, and so on up to the root. */
  ancestors: z.array(NodeRef).max(ANCESTORS_MAX).optional(),
  /** Drains that the receiver, or a node below it, may match. */
  drains: z.array(DrainWire).max(DRAINS_MAX).optional(),
  /** The same of processors; the receiver tells its own worker by `slots`. */
  slotOrders: z.array(SlotOrderWire).max(SLOT_ORDERS_MAX).optional(),
  /** How long leases run from the sending of the sync that `ackSeq` names; LEASE_MS where it is left out. */
  leaseMs: count.optional(),
  /** What a person set for the builds of the receiver: so many processors, for so long (null: until told otherwise). */
  slots: z.object({ cpus: count.max(4096), leftMs: count.nullable() }).optional(),
  /** Processors that running attempts should use now; those that are not named go on with what they have. */
  allotments: z
    .array(z.object({ attempt: AttemptId, cpus: z.int().min(1).max(4096) }))
    .max(RUNNING_MAX)
    .optional(),
  /**
   * With FEATURE_TREE: attempts below the receiver that come before others of their machine, as far as that has
   * so many processors: because a person said so, or since they hold up their request.
   */
  claims: z
    .array(
      z.object({
        attempt: AttemptId,
        cpus: z.int().min(1).max(SLOTS_MAX),
        why: z.enum(['person', 'big']),
      }),
    )
    .max(RUNNING_MAX)
    .optional(),
})
export type DesiredMessage = z.infer<typeof Desired>

export const CHECK_ENTRIES_MAX = 64
export const KEEP_CHANGES_MAX = 4096
const KeptEntryWire = z.object({ digest: DigestBytes, size: Size, kind: z.enum(['file', 'dir']) })

export const LOCATE_ITEMS_MAX = 1024
export const RESULT_KEYS_MAX = 64
export const OFFERED_RESULTS_MAX = 64
const DOWN_BYTES_MAX = 8 * 1024 * 1024
export const ABSENT_ITEMS_MAX = 1024

export const Question = z.object({
  /** Asking for a blob that is fetched in parts is joining its swarm. */
  refs: z.array(BlobRefWire).max(LOCATE_ITEMS_MAX),
  /** Whole trees that are wanted although `failed` could not be used: a store node gets them first. */
  entries: z.array(EntryWire).max(1024),
  failed: z.array(PeerId).max(64),
  /** The asker asks store nodes itself: they are named apart, not as providers of what is unknown. */
  asksStores: z.boolean().optional(),
  /** Of `refs`: the asker wants to be told (`appeared`) when somebody has what nobody has yet. */
  watch: z.array(DigestBytes).max(LOCATE_ITEMS_MAX).optional(),
  /** Peers that did not have what they were said to have. */
  absent: z
    .array(z.tuple([DigestBytes, PeerId]))
    .max(ABSENT_ITEMS_MAX)
    .optional(),
})
export type Question = z.infer<typeof Question>

/** Calls that a node makes to its parent (up) or to a child (down). */
export const Call = z.discriminatedUnion('method', [
  /** Up: take this request over. Answer: Owner. */
  z.object({
    method: z.literal('submit'),
    request: RequestWire,
    /** How many nodes passed it on. */
    hops: z.int().min(0).max(64).optional(),
  }),
  /** Up: an API request of a user of `node`, answered by the owner: ApiAnswer. */
  z.object({
    method: z.literal('api'),
    verb: z.enum(['GET', 'POST']),
    path: text(4096),
    body: z.string().max(API_BODY_BYTES_MAX),
    user: text(256),
    hops: z.int().min(0).max(16),
  }),
  /** Up: the events of a request, as a stream of ApiAnswer. */
  z.object({ method: z.literal('events'), request: text(64), hops: z.int().min(0).max(16) }),
  /** Up: who has these? Asked for itself, or for a node below. Answer: Located. */
  Question.extend({ method: z.literal('locate'), asker: PeerId.optional() }),
  /** Up, with FEATURE_ANNOUNCE: what this node has, or one below it. Answer: Announced. */
  Announcement.extend({ method: z.literal('announce'), of: PeerId.optional() }),
  /** Down: somebody has these, which the child wanted to be told. Answer: Done. */
  z.object({
    method: z.literal('appeared'),
    digests: z.array(DigestBytes).max(LOCATE_ITEMS_MAX),
  }),
  /** Up, with FEATURE_TOKEN: a token for a node at or below the asker, who answers for it. Answer: Token. */
  z.object({ method: z.literal('token'), holder: PeerId, certificate: DigestBytes }),
  /** Up, with FEATURE_TREE: results of jobs that are stored above. Answer: Results. */
  z.object({ method: z.literal('results'), keys: z.array(DigestBytes).max(RESULT_KEYS_MAX) }),
  /** Up, with FEATURE_TREE: results that the sender, or a node below it, answered for. Answer: Done. */
  z.object({
    method: z.literal('offer'),
    results: z.array(SignedResult).max(OFFERED_RESULTS_MAX),
  }),
  /** Up, with FEATURE_TREE: the nodes below the sender; `isWhole` begins anew. Answer: Done. */
  z.object({
    method: z.literal('below'),
    isWhole: z.boolean(),
    added: z.array(z.object({ record: PeerRecord, parent: PeerId })).max(BELOW_ITEMS_MAX),
    gone: z.array(PeerId).max(BELOW_ITEMS_MAX),
  }),
  /** Down, with FEATURE_TREE: a call for a node below, in dag-cbor. Answer: that of the call. */
  z.object({
    method: z.literal('down'),
    to: PeerId,
    call: z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength <= DOWN_BYTES_MAX),
  }),
  /** Down, with FEATURE_TREE: a question of the API about the nodes below. Answer: ApiAnswer. */
  z.object({
    method: z.literal('survey'),
    path: text(4096),
    requirement: RequirementWire.optional(),
    /** Levels above that wait for the answer too. */
    depth: z.int().min(0).max(ANCESTORS_MAX),
  }),
  /** Down: fetch these from the peers. Answer: Done. */
  z.object({
    method: z.literal('pull'),
    entries: z.array(EntryWire).max(10_000),
    from: z.array(PeerRecord).max(16),
  }),
  /** Down: offer these to a store node. Answer: Done. */
  z.object({ method: z.literal('push'), entries: z.array(EntryWire).max(10_000), to: PeerRecord }),
  /** Down, with FEATURE_KEEP: which of these are here whole and undamaged? Answer: Checked. */
  z.object({ method: z.literal('check'), entries: z.array(EntryWire).max(CHECK_ENTRIES_MAX) }),
  /**
   * Down, with FEATURE_KEEP: a change of the set that is not to be evicted for the caller's sake, which
   * also renews it. Answer: Done; not ok where the set is another than `base`.
   */
  z.object({
    method: z.literal('keep'),
    /** Digest of the set before the change; null to begin anew. */
    base: DigestBytes.nullable(),
    add: z.array(KeptEntryWire).max(KEEP_CHANGES_MAX),
    remove: z.array(DigestBytes).max(KEEP_CHANGES_MAX),
  }),
  /** Down, with FEATURE_IMAGES: all images that the node keeps for the caller; others it lets go. Answer: Done. */
  z.object({
    method: z.literal('images'),
    owner: PeerId,
    images: z.array(z.object({ name: ImageName, digest: DigestBytes, size: Size })).max(IMAGES_MAX),
  }),
])
export type Call = z.infer<typeof Call>

export const Owner = z.object({ name: NodeName, peerId: PeerId })
export type Owner = z.infer<typeof Owner>
export const Token = z.object({ token: text(TOKEN_TEXT_MAX) })
export const ApiAnswer = z.object({ status: z.int(), body: z.string().max(API_BODY_BYTES_MAX) })
export type ApiAnswer = z.infer<typeof ApiAnswer>
export const Located = z.object({
  peers: z.array(PeerRecord).max(256),
  /** For each asked digest the indexes of the peers that should have it. */
  providers: z.array(z.tuple([DigestBytes, z.array(count).max(8)])).max(2048),
  /** Others that are fetching the digest and have parts of it. */
  swarm: z
    .array(z.tuple([DigestBytes, z.array(count).max(16)]))
    .max(LOCATE_ITEMS_MAX)
    .optional(),
  /** Indexes of store nodes, which may have what has no providers. */
  stores: z.array(count).max(8).optional(),
  /** Those of `watch` of which the asker will be told. */
  watching: z.array(DigestBytes).max(LOCATE_ITEMS_MAX).optional(),
})
export type Located = z.infer<typeof Located>
/** Countersigned results, several for a key where it was built in several environments. */
export const Results = z.object({ results: z.array(SignedResult).max(4 * RESULT_KEYS_MAX) })
export type Results = z.infer<typeof Results>
export const Done = z.object({ ok: z.boolean(), bytes: Size, message: text(4096) })
export type Done = z.infer<typeof Done>
export const Checked = z.object({ held: z.array(DigestBytes).max(CHECK_ENTRIES_MAX) })
export type Checked = z.infer<typeof Checked>

export const WorkMessage = z.discriminatedUnion('type', [
  Hello,
  Sync,
  Desired,
  z.object({ type: z.literal('call'), id: count, call: Call }),
  z.object({
    type: z.literal('answer'),
    id: count,
    /** dag-cbor of the answer's schema; null in the last message of a stream. */
    body: z.instanceof(Uint8Array).nullable(),
    error: z
      .object({ code: text(16), message: text(16 * 1024), hints: z.array(text(1024)).max(16) })
      .optional(),
    done: z.boolean(),
  }),
  /** The asker no longer wants the answers of `id`. */
  z.object({ type: z.literal('abort'), id: count }),
])
export type WorkMessage = z.infer<typeof WorkMessage>
export type HelloMessage = z.infer<typeof Hello>
