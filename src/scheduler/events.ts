/** What the scheduler takes in and gives out: events and effects, and what a node is told to do. */
import type { Action } from '../wire/action.ts'
import type { Digest } from '../wire/digest.ts'
import type { Fact, RequestWire } from '../wire/facts.ts'
import type { ActionResult, SignedResult } from '../wire/result.ts'
import type { Entry } from '../wire/tree.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import type { Limits, SyncMessage } from '../wire/work-messages.ts'
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
  | { type: 'tick' }

export type Effect =
  | { type: 'fact'; fact: Fact }
  /** Look the key up in the cache; answer with `looked-up`. */
  | { type: 'lookup'; job: string; key: Digest }
  /** Countersign and store the result of the attempt, before the facts of this batch. */
  | { type: 'commit'; peerId: string; result: ActionResult; signed: SignedResult }
  /** The desired state of the node changed. */
  | { type: 'desired'; peerId: string }
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
}

export interface Desired {
  readonly ackSeq: number
  readonly epoch: number
  readonly grants: readonly Grant[]
  readonly limits: readonly { readonly attempt: string; readonly limits: Limits }[]
  readonly cancel: readonly string[]
  readonly ack: readonly string[]
  readonly tools: readonly string[]
}
