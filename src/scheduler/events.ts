/** What the scheduler takes in and gives out: events and effects, and what a node is told to do. */
import type { Action } from '../wire/action.ts'
import type { Digest } from '../wire/digest.ts'
import type { Fact, NodeRef, RequestWire } from '../wire/facts.ts'
import type { ActionResult, SignedResult } from '../wire/result.ts'
import type { Entry } from '../wire/tree.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import type {
  DesiredMessage,
  DrainWire,
  Lease,
  Limits,
  SyncMessage,
} from '../wire/work-messages.ts'
import type { ImageFact } from './images.ts'
import type { Lever } from './levers.ts'
import type { Below } from './members.ts'
import type { NamedClass } from './waiting-classes.ts'
import type { Attempt, NodeEntry, Request, Step } from './model.ts'

/** When something happens: the machine's two clocks, and the owner's count of blob bytes moved. */
export interface Moment {
  readonly nowMs: number
  readonly wallMs: number
  readonly ownBlobBytes: number
}

export type Event =
  | { type: 'submit'; request: RequestWire }
  | { type: 'cancel'; request: string }
  | { type: 'detachable'; request: string }
  /** The client does not wait for the outputs any more: it takes no copy of them. */
  | { type: 'left'; request: string }
  /** A wanted output of a finished request could not be had: it is to be made again. */
  | { type: 'lost'; request: string; derivation: string }
  | { type: 'node-up'; record: PeerRecord; version: NodeEntry['version']; boot: string }
  | { type: 'node-down'; peerId: string; note: string }
  /** `results` are the opened results of `message.finished` whose signatures hold. */
  | {
      type: 'sync'
      peerId: string
      message: SyncMessage
      results: ReadonlyMap<string, ActionResult>
    }
  /** The answer to `copy`. */
  | { type: 'copied'; copy: string; ok: boolean; message: string }
  /** The answer to `check`: by digest of an input, those of the asked who have it whole. */
  | { type: 'checked'; attempt: string; held: ReadonlyMap<Digest, readonly string[]> }
  | { type: 'looked-up'; job: string; results: readonly ActionResult[] }
  /** Results that others answered for: who waits for the same takes them. */
  | { type: 'found'; results: readonly ActionResult[] }
  /** A child tells of the nodes below it. */
  | { type: 'below'; peerId: string; below: Below }
  /** The connection to the parent. */
  | { type: 'uplink-up'; peerId: string }
  /** `isRing`: it was left because it led back to this node. */
  | { type: 'uplink-down'; isRing: boolean }
  /** What the parent says; `sentAtMs` is when the sync that it answers was sent. */
  | { type: 'orders'; peerId: string; message: DesiredMessage; sentAtMs: number }
  /** Somebody pulls a lever; it was checked before. */
  | { type: 'lever'; lever: Lever; by: string }
  /** Somebody names an image, or takes the name away; it was checked before. */
  | { type: 'image'; fact: ImageFact }
  | { type: 'tick' }

export type Effect =
  | { type: 'fact'; fact: Fact }
  /** Look the key up in the cache; answer with `looked-up`. */
  | { type: 'lookup'; job: string; key: Digest }
  /** Countersign and store the result of the attempt, before the facts of this batch. */
  | { type: 'commit'; peerId: string; result: ActionResult; signed: SignedResult }
  /** The node has the outputs of a result that is not committed: it is one of several that are compared. */
  | { type: 'found'; peerId: string; result: ActionResult }
  /** The desired state of the node changed. */
  | { type: 'desired'; peerId: string }
  /** What the parent should hear changed. */
  | { type: 'uplink' }
  /** People who watch the request should see this step anew. */
  | { type: 'step'; step: Step }
  | { type: 'request'; request: Request }
  /** Get the entries to a store node; answer with `copied`. */
  | { type: 'copy'; copy: Copy }
  /** Ask the peers whether they have the entries whole; answer with `checked`. */
  | { type: 'check'; attempt: string; asks: readonly Ask[] }

/** Outputs on their way to a store node. */
export interface Copy {
  readonly id: string
  readonly entries: readonly Entry[]
  /** Peers that should have them. */
  readonly from: readonly string[]
  readonly to: string
}

export interface Ask {
  readonly entry: Entry
  readonly peers: readonly string[]
}

/** A grant as it goes to its node; the driver adds where the inputs are. */
export interface Grant {
  readonly attempt: Attempt
  readonly action: Action
  readonly limits: Limits
  readonly name: string
  readonly urls: readonly string[]
  /** For a node that passes it on. */
  readonly terms: Lease['terms']
  /** What the job needs of its environment. */
  readonly features: readonly string[]
  /** Processors that the job can use; undefined where that is not known any more. */
  readonly cpusMax?: number | undefined
}

export interface Desired {
  readonly ackSeq: number
  readonly epoch: number
  readonly grants: readonly Grant[]
  /** Leases of this node's own parent. */
  readonly relayed: readonly Lease[]
  /** To be called with each attempt whose grant does not fit the message: it counts as not sent. */
  readonly defer: (attempt: string) => void
  readonly limits: readonly { readonly attempt: string; readonly limits: Limits }[]
  readonly cancel: readonly string[]
  readonly ack: readonly string[]
  readonly tools: readonly string[]
  /** Undefined where the node knows them. */
  readonly classes: readonly NamedClass[] | undefined
  /** This node's parent, and so on up to the root. */
  readonly ancestors: readonly NodeRef[]
  readonly leaseMs: number
  /** Processors for attempts that leave their number open. */
  readonly allotments: readonly { readonly attempt: string; readonly cpus: number }[]
  readonly drains: readonly DrainWire[]
  /** What people said of the processors of the node, or of those below it. */
  readonly slots: Pick<DesiredMessage, 'slots' | 'slotOrders'>
  /** What comes before others of its machine below the node. */
  readonly claims: NonNullable<DesiredMessage['claims']>
}
