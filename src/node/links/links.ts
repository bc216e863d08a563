/** The node's `/mesh/work/1` links: what it says first, how it dials a parent and takes a child in. */
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import {
  CAS_FRAME_BYTES_MAX,
  LOG_FRAME_BYTES_MAX,
  WORK_FRAME_BYTES_MAX,
  type FrameChannel,
} from '../../wire/frame-channel.ts'
import type { PeerRecord } from '../../wire/peer-record.ts'
import {
  CAS_PROTOCOL,
  FEATURE_ANNOUNCE,
  FEATURE_IMAGES,
  FEATURE_KEEP,
  FEATURE_REFUSE,
  FEATURE_TOKEN,
  FEATURE_TREE,
  LOG_PROTOCOL,
  WORK_PROTOCOL,
  WORK_VERSION,
  type HelloMessage,
} from '../../wire/work-messages.ts'
import type { Authority } from '../authority.ts'
import type { Config } from '../config/config.ts'
import type { Host } from './libp2p-host.ts'
import { openPeerLink, type LinkHandlers, type PeerLink } from './peer-link.ts'

export const PROTOCOLS = [WORK_PROTOCOL, CAS_PROTOCOL, LOG_PROTOCOL]
/** Streams that one peer may open of each protocol. */
const WORK_STREAMS_MAX = 4
const BULK_STREAMS_MAX = 64

export interface LinksDeps {
  readonly clock: Clock
  readonly log: Logger
  readonly host: Host
}

export class Links {
  readonly #deps: LinksDeps
  readonly #hello: () => HelloMessage

  constructor(
    deps: LinksDeps,
    own: {
      readonly mesh: string
      readonly boot: string
      readonly record: () => PeerRecord
      readonly epoch: () => number
    },
  ) {
    this.#deps = deps
    this.#hello = () => ({
      type: 'hello',
      versions: WORK_VERSION,
      features: [
        FEATURE_TOKEN,
        FEATURE_ANNOUNCE,
        FEATURE_KEEP,
        FEATURE_TREE,
        FEATURE_REFUSE,
        FEATURE_IMAGES,
      ],
      mesh: own.mesh,
      protocols: PROTOCOLS,
      record: own.record(),
      boot: own.boot,
      epoch: own.epoch(),
    })
  }

  /** Dials a parent. `address` is a multiaddr, with or without a peer id at its end. */
  async dial(address: string, handlers: LinkHandlers, signal: AbortSignal): Promise<PeerLink> {
    const { host, clock, log } = this.#deps
    const { peerId, transport } = splitAddress(address)
    const channel = await host.open(
      { ...(peerId === undefined ? {} : { peerId }), addresses: [transport] },
      WORK_PROTOCOL,
      { frameBytesMax: WORK_FRAME_BYTES_MAX, signal },
    )
    return openPeerLink(
      { channel, clock, log },
      { hello: this.#hello(), signal, handlers: () => handlers },
    )
  }

  /** Takes children in from now on. */
  async acceptChildren(authority: Authority, signal: AbortSignal): Promise<void> {
    const { host, clock, log } = this.#deps
    await host.handle(
      WORK_PROTOCOL,
      { frameBytesMax: WORK_FRAME_BYTES_MAX, streamsMax: WORK_STREAMS_MAX },
      (channel) => {
        openPeerLink(
          { channel, clock, log },
          { hello: this.#hello(), signal, handlers: (link) => authority.attach(link) },
        ).catch((error: unknown) =>
          log.info({ err: error, peer: channel.remotePeer }, 'peer was not taken in'),
        )
      },
    )
  }

  async acceptBulk(
    acceptCas: (channel: FrameChannel) => void,
    acceptLog: (channel: FrameChannel) => void,
  ): Promise<void> {
    const { host } = this.#deps
    await host.handle(
      CAS_PROTOCOL,
      { frameBytesMax: CAS_FRAME_BYTES_MAX, streamsMax: BULK_STREAMS_MAX },
      acceptCas,
    )
    await host.handle(
      LOG_PROTOCOL,
      { frameBytesMax: LOG_FRAME_BYTES_MAX, streamsMax: BULK_STREAMS_MAX },
      acceptLog,
    )
  }
}

function splitAddress(address: string): {
  readonly peerId: string | undefined
  readonly transport: string
} {
  const match = /^(.*)\/p2p\/([^/]+)$/.exec(address)
  return { peerId: match?.[2], transport: match?.[1] ?? address }
}

/** Who may connect: a parent that is named with its peer id need not be listed again. */
export function admits(config: Config, peerId: string): boolean {
  if (config.allow === 'any' || config.allow === 'loopback') return true
  return (
    config.allow.includes(peerId) ||
    config.parents.some((address) => splitAddress(address).peerId === peerId)
  )
}
