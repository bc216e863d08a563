/** What travels between the nodes of a simulated tree: the messages of `/mesh/work/1`, with the few calls that matter here. */
import type { Below } from '../../../src/scheduler/members.ts'
import type { Digest } from '../../../src/wire/digest.ts'
import type { RequestWire } from '../../../src/wire/facts.ts'
import type { SignedResult } from '../../../src/wire/result.ts'
import type { DesiredMessage, SyncMessage } from '../../../src/wire/work-messages.ts'

/** What a child asks. */
export type Question =
  | { readonly method: 'submit'; readonly request: RequestWire; readonly hops: number }
  | {
      readonly method: 'cancel'
      readonly request: string
      /** Who says so: a user, or a node that answers for the request itself. */
      readonly by: 'user' | 'node'
      readonly hops: number
    }
  | { readonly method: 'results'; readonly key: Digest; readonly hops: number }

export type Call = Question | { readonly method: 'below'; readonly below: Below }

/** `results` is empty for calls that ask for none. */
export type Answer =
  | { readonly ok: true; readonly results: readonly SignedResult[] }
  | { readonly ok: false; readonly reason: string }

export type Message =
  | SyncMessage
  | DesiredMessage
  | { readonly type: 'call'; readonly id: number; readonly call: Call }
  | { readonly type: 'answer'; readonly id: number; readonly answer: Answer }
