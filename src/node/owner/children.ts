/** The owner's side of its nodes: the links of children, this node's own worker, and what they are sent. */
import type { Logger } from 'pino'
import type { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { encodeObject } from '../../wire/cbor.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import { Call, Done, FEATURE_TREE, type DesiredMessage } from '../../wire/work-messages.ts'
import { desiredMessage } from './desired-message.ts'
import type { Locator } from './locator.ts'
import type { NodePort, Owner } from './owner.ts'
import type { LinkHandlers, PeerLink } from '../links/peer-link.ts'

/** Links of children; more are refused. */
const CHILDREN_MAX = 4_000

interface Child {
  readonly link: PeerLink
  readonly port: NodePort
}

interface ChildrenDeps {
  readonly owner: Owner
  readonly locator: Locator
  readonly log: Logger
  readonly self: () => PeerRecord
  /** Nodes below came, went or moved. */
  readonly onBelow: () => void
}

export class Children {
  readonly #deps: ChildrenDeps
  readonly #children = new Map<string, Child>()

  constructor(deps: ChildrenDeps) {
    this.#deps = deps
  }

  link(peerId: string): PeerLink | undefined {
    return this.#children.get(peerId)?.link
  }

  /**
   * Asks a node at any depth below, by way of the child that leads to it; undefined when there is no way.
   * Throws what the node answers.
   */
  async call<T>(
    peerId: string,
    call: Call,
    answer: z.ZodType<T>,
    signal: AbortSignal,
  ): Promise<T | undefined> {
    const direct = this.link(peerId)
    if (direct !== undefined) return direct.call(call, answer, { signal })
    const via = this.#deps.owner.scheduler.members.of(peerId)?.via
    const hop = via === undefined ? undefined : this.link(via)
    return hop?.call({ method: 'down', to: peerId, call: encodeObject(Call, call) }, answer, {
      signal,
    })
  }

  /** Children that answer for a subtree. */
  get subtrees(): PeerLink[] {
    return [...this.#children.values()].flatMap(({ link }) =>
      link.remote.features.includes(FEATURE_TREE) ? [link] : [],
    )
  }

  /** Takes a link in. An older one of the same peer, which has not noticed its end yet, is closed. */
  attach(link: PeerLink, onCall: LinkHandlers['onCall']): LinkHandlers {
    const { owner, locator, log, onBelow } = this.#deps
    if (this.#children.size >= CHILDREN_MAX && !this.#children.has(link.peerId))
      throw new MeshError('MESH0303', `this node has ${CHILDREN_MAX} children already`)
    let seq = 0
    const port: NodePort = {
      requestDesired: () => link.requestDesired(() => this.desired(link.peerId, (seq += 1))),
    }
    this.#children.get(link.peerId)?.link.close('the same node has connected again')
    this.#children.set(link.peerId, { link, port })
    const { record, mesh, protocols, features, boot } = link.remote
    owner.attach(record, { mesh, protocols, features }, boot, port)
    locator.attached(link.peerId)
    onBelow()
    log.info({ peer: link.peerId, node: record.name }, 'node connected')
    void link.closed.then((reason) => {
      if (this.#children.get(link.peerId)?.link === link) {
        this.#children.delete(link.peerId)
        locator.detached(link.peerId)
      }
      owner.detach(link.peerId, port, reason)
      onBelow()
      log.info({ peer: link.peerId, node: record.name, reason }, 'node disconnected')
    })
    return {
      onSync: (message) => owner.sync(link.peerId, message),
      onCall: (call, options) =>
        call.method === 'below'
          ? this.#takeBelow(link.peerId, call)
          : onCall(this.#bySomebodyBelow(link.peerId, call), options),
    }
  }

  async #takeBelow(
    peerId: string,
    below: Extract<Call, { method: 'below' }>,
  ): Promise<Uint8Array<ArrayBuffer>> {
    this.#deps.owner.apply({ type: 'below', peerId, below })
    for (const { record } of below.added) this.#deps.locator.attached(record.peerId)
    this.#deps.onBelow()
    return encodeObject(Done, { ok: true, bytes: 0, message: '' })
  }

  /** A child speaks for itself and for nodes below it, and for nobody else. */
  #bySomebodyBelow(peerId: string, call: Call): Call {
    const isBelow = (other: string): boolean =>
      this.#deps.owner.scheduler.members.of(other)?.via === peerId
    if (call.method === 'locate' && call.asker !== undefined && !isBelow(call.asker))
      return { ...call, asker: peerId }
    if (call.method === 'announce' && call.of !== undefined && !isBelow(call.of))
      throw new MeshError('MESH0603', `${call.of} is not known to be below ${peerId}`)
    return call
  }

  /** What a node is told, with the places of its inputs. Undefined when it is not attached any more. */
  desired(peerId: string, seq: number): DesiredMessage | undefined {
    const { owner, self, locator } = this.#deps
    const desired = owner.desiredOf(peerId, seq)
    return desired && desiredMessage(desired, seq, self(), (action) => locator.hintsFor(action))
  }

  /** Says something to every child, so that leases are renewed and the dead are noticed. */
  heartbeat(): void {
    for (const { port } of this.#children.values()) port.requestDesired()
  }

  close(): void {
    for (const { link } of this.#children.values()) link.close('the node is stopping')
  }
}
