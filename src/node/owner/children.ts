/** The owner's side of its nodes: the links of children, this node's own worker, and what they are sent. */
import type { Logger } from 'pino'
import { MeshError } from '../../base/errors.ts'
import { encodeAction } from '../../wire/action.ts'
import { WORK_FRAME_BYTES_MAX } from '../../wire/frame-channel.ts'
import type { DesiredMessage, Lease } from '../../wire/work-messages.ts'
import type { Grant } from '../../scheduler/events.ts'
import type { Locator } from './locator.ts'
import type { NodePort, Owner } from './owner.ts'
import type { LinkHandlers, PeerLink } from '../links/peer-link.ts'

/** Links of children; more are refused. */
const CHILDREN_MAX = 4_000

/** Of the grants in one message, by a generous guess at what a lease takes beside its action. */
const GRANT_BYTES_MAX = WORK_FRAME_BYTES_MAX / 4
const HINT_BYTES = 64
const PEER_BYTES = 512
const LEASE_BYTES = 4096

interface Child {
  readonly link: PeerLink
  readonly port: NodePort
}

interface ChildrenDeps {
  readonly owner: Owner
  readonly locator: Locator
  readonly log: Logger
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

  /** Takes a link in. An older one of the same peer, which has not noticed its end yet, is closed. */
  attach(link: PeerLink, onCall: LinkHandlers['onCall']): LinkHandlers {
    const { owner, locator, log } = this.#deps
    if (this.#children.size >= CHILDREN_MAX && !this.#children.has(link.peerId))
      throw new MeshError('MESH0303', `this node has ${CHILDREN_MAX} children already`)
    let seq = 0
    const port: NodePort = {
      requestDesired: () => link.requestDesired(() => this.desired(link.peerId, (seq += 1))),
    }
    this.#children.get(link.peerId)?.link.close('the same node has connected again')
    this.#children.set(link.peerId, { link, port })
    const { record, mesh, protocols, boot } = link.remote
    owner.attach(record, { mesh, protocols }, boot, port)
    locator.attached(link.peerId)
    log.info({ peer: link.peerId, node: record.name }, 'node connected')
    void link.closed.then((reason) => {
      if (this.#children.get(link.peerId)?.link === link) {
        this.#children.delete(link.peerId)
        locator.detached(link.peerId)
      }
      owner.detach(link.peerId, port, reason)
      log.info({ peer: link.peerId, node: record.name, reason }, 'node disconnected')
    })
    return { onSync: (message) => owner.sync(link.peerId, message), onCall }
  }

  /** What a node is told, with the places of its inputs. Undefined when it is not attached any more. */
  desired(peerId: string, seq: number): DesiredMessage | undefined {
    const desired = this.#deps.owner.desiredOf(peerId, seq)
    if (desired === undefined) return undefined
    return {
      type: 'desired',
      seq,
      ackSeq: desired.ackSeq,
      epoch: desired.epoch,
      grants: this.#leases(desired.grants, desired.epoch),
      limits: [...desired.limits],
      cancel: [...desired.cancel],
      ack: [...desired.ack],
      tools: [...desired.tools],
    }
  }

  /** As many grants as fit a message; the rest follow when these are confirmed. */
  #leases(grants: readonly Grant[], epoch: number): Lease[] {
    const leases: Lease[] = []
    let bytes = 0
    for (const grant of grants) {
      const lease = this.#lease(grant, epoch)
      bytes += lease.action.byteLength + LEASE_BYTES
      bytes += lease.hints.length * HINT_BYTES + lease.peers.length * PEER_BYTES
      if (leases.length > 0 && bytes > GRANT_BYTES_MAX) break
      leases.push(lease)
    }
    return leases
  }

  #lease({ attempt, action, limits, name, urls }: Grant, epoch: number): Lease {
    return {
      attempt: attempt.id,
      job: attempt.job.id,
      name,
      action: encodeAction(action),
      jobKey: attempt.job.key,
      userland: attempt.userland,
      isolation: attempt.isolation,
      epoch,
      cpus: attempt.cpus,
      memoryBytes: attempt.memoryBytes,
      diskBytes: attempt.diskBytes,
      limits,
      urls: [...urls],
      ...this.#deps.locator.hintsFor(action),
    }
  }

  /** Says something to every child, so that leases are renewed and the dead are noticed. */
  heartbeat(): void {
    for (const { port } of this.#children.values()) port.requestDesired()
  }

  close(): void {
    for (const { link } of this.#children.values()) link.close('the node is stopping')
  }
}
