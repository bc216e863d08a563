/** What a CAS link and the swarms of a node (store/swarm/swarms.ts) want of each other. */
import type { CasMessage } from '../../wire/cas-messages.ts'
import type { Digest } from '../../wire/digest.ts'
import type { BlobSource } from '../blob-source.ts'

export type SwarmMessage = Extract<CasMessage, { type: 'join' | 'bits' | 'leave' }>

/** A link as swarms see it. */
export interface SwarmLink {
  /** The authenticated peer at the other end. */
  readonly peerId: string
  /** The other end as a source. */
  readonly source: BlobSource
  /** Queues a message; nothing happens once the link has ended. */
  tell(message: SwarmMessage): void
}

export interface SwarmDoor {
  /** Never throws for what a peer may have made of a message; MESH0210 ends the link. */
  receive(message: SwarmMessage, from: SwarmLink): void
  linkEnded(link: SwarmLink): void
  /** The peer asked for these bytes. */
  asked(peerId: string, digest: Digest, offset: number, length: number): void
  /** False for a member of the swarm that is to have these bytes elsewhere, or later. */
  mayGive(peerId: string, digest: Digest, offset: number, length: number): boolean
  /** Bytes of a blob that is not in the store but being fetched: of chunks that were checked. */
  read(digest: Digest, offset: number, length: number): Promise<Uint8Array | undefined>
  /** These bytes went to the peer. */
  sent(peerId: string, digest: Digest, offset: number, length: number): void
}
