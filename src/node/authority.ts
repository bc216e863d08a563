/**
 * Who answers for requests: this node itself (it has no parent), or somebody up the tree. The rest of the
 * daemon does not know which.
 */
import {
  Announced as AnnouncedSchema,
  type Announced,
  type Announcement,
} from '../wire/announcement.ts'
import type { Digest } from '../wire/digest.ts'
import type { RequestWire } from '../wire/facts.ts'
import type { SignedResult } from '../wire/result.ts'
import type { PeerRecord } from '../wire/peer-record.ts'
import type { ApiAnswer, Call, Located, Owner, Question } from '../wire/work-messages.ts'
import {
  ApiAnswer as ApiAnswerSchema,
  Done as DoneSchema,
  Located as LocatedSchema,
  Owner as OwnerSchema,
  Results as ResultsSchema,
  Token as TokenSchema,
} from '../wire/work-messages.ts'
import { MeshError } from '../base/errors.ts'
import type { TokenHolder } from '../wire/access-token.ts'
import { encodeObject } from '../wire/cbor.ts'
import type { Finding } from './finding.ts'
import type { LinkHandlers, PeerLink } from './links/peer-link.ts'
import type { ParentStatus } from './links/parents.ts'

/** Hops that a question may take up the tree: beyond it two nodes name each other as parents. */
const HOPS_MAX = 16

/** A question of the API as it travels to the owner. */
export interface ApiCall {
  readonly verb: 'GET' | 'POST'
  /** Path and query, such as `/api/jobs?request=r-…`. */
  readonly path: string
  readonly body: string
  /** Who asks, for the record. */
  readonly user: string
  /** Nodes that it went through. */
  readonly hops: number
}

export interface Authority extends AsyncDisposable {
  /** For users of this node: resolves when the request is durable here or at its owner. */
  submit(request: RequestWire): Promise<void>
  /** For children: resolves when the owner has it. */
  handOver(request: RequestWire, signal: AbortSignal, hops: number): Promise<Owner>
  /** Never throws: errors are answers. */
  answer(call: ApiCall): Promise<ApiAnswer>
  /** Lines of JSON, each an Event; the last one is its `end`. */
  events(request: string, hops: number, signal: AbortSignal): AsyncIterable<string>
  /** For children: who has what. */
  locate(question: Question, asker: string, signal: AbortSignal): Promise<Located>
  /** For children: takes in what they have. Throws MESH0603 where no index is kept. */
  announce(announcement: Announcement, from: string, signal: AbortSignal): Promise<Announced>
  /** For this node itself: who has what, and the blobs that it tells others of. */
  readonly finding: Finding
  /** For children: stored results of these jobs, here or above. */
  results(keys: readonly Digest[], signal: AbortSignal): Promise<readonly SignedResult[]>
  /** For children: takes in results that they, or nodes below them, answered for. */
  offer(results: readonly SignedResult[], child: string): Promise<void>
  /** For nodes at and below this one: a token of the owner. Throws MESH0120 without one to ask. */
  token(holder: TokenHolder, signal: AbortSignal): Promise<string>
  /** Requests that the owner does not have yet. */
  readonly waiting: ReadonlyMap<string, RequestWire>
  parents(): readonly ParentStatus[]
  /** The peer that leads to a node that this one is not connected to: a child, else the parent. */
  hopTo(peerId: string): string | undefined
  /** What is wrong, for people. */
  problems(): string[]
  /** Takes a child in. */
  attach(link: PeerLink): LinkHandlers
  /** Begins to serve; called once all else is ready. */
  start(self: PeerRecord): void
  /** Once per heartbeat. */
  beat(): void
}

/** What a child may ask of any node. */
export function answerChild(authority: Authority): LinkHandlers['onCall'] {
  return (call: Call, { signal, peerId }) => {
    switch (call.method) {
      case 'submit':
        return authority
          .handOver(call.request, signal, nextHop(call.hops ?? 0))
          .then((owner) => encodeObject(OwnerSchema, owner))
      case 'api':
        return authority
          .answer({ ...call, hops: nextHop(call.hops) })
          .then((answer) => encodeObject(ApiAnswerSchema, answer))
      case 'locate':
        return authority
          .locate(call, call.asker ?? peerId, signal)
          .then((located) => encodeObject(LocatedSchema, located))
      case 'announce':
        return authority
          .announce(call, call.of ?? peerId, signal)
          .then((announced) => encodeObject(AnnouncedSchema, announced))
      case 'results':
        return authority
          .results(call.keys, signal)
          .then((results) => encodeObject(ResultsSchema, { results: [...results] }))
      case 'token':
        return authority.token(call, signal).then((token) => encodeObject(TokenSchema, { token }))
      case 'offer':
        return authority
          .offer(call.results, peerId)
          .then(() => encodeObject(DoneSchema, { ok: true, bytes: 0, message: '' }))
      case 'events':
        return encodeEvents(authority.events(call.request, nextHop(call.hops), signal))
      case 'pull':
      case 'push':
      case 'check':
      case 'keep':
      case 'images':
      case 'appeared':
      case 'down':
      case 'survey':
      case 'below':
        throw new MeshError('MESH0603', `${call.method} is the word of a parent only`)
    }
  }
}

async function* encodeEvents(lines: AsyncIterable<string>): AsyncIterable<Uint8Array<ArrayBuffer>> {
  for await (const body of lines) yield encodeObject(ApiAnswerSchema, { status: 200, body })
}

function nextHop(hops: number): number {
  if (hops < HOPS_MAX) return hops + 1
  throw new MeshError(
    'MESH0505',
    `a question went through ${HOPS_MAX} nodes without reaching a root: do two of them name each other as parents?`,
  )
}
