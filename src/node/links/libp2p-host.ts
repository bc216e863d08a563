/**
 * The only user of libp2p: listens, dials, admits peers, and turns streams into frame channels.
 *
 * libp2p gives authenticated, encrypted, multiplexed connections and nothing else: no discovery, no
 * identify, no monitor. Its import costs most of a second, so openHost loads it and nothing else does.
 */
import { existsSync, readdirSync, readFileSync, readlinkSync } from 'node:fs'
import type { Connection, Libp2p, Listener, PeerId, Stream } from '@libp2p/interface'
import type { Multiaddr } from '@multiformats/multiaddr'
import type { Logger } from 'pino'
import { deadline, type Clock } from '../../base/clock.ts'
import { hasCode, MeshError, messageOf } from '../../base/errors.ts'
import type { FrameChannel } from '../../wire/frame-channel.ts'
import { frameStream } from './frame-stream.ts'

/** One address gets this long: TCP, noise, muxer. */
const DIAL_MS_MAX = 5_000
/** A stream on an existing connection that takes longer means that the connection is dead. */
const STREAM_MS_MAX = 5_000
const HANG_UP_MS_MAX = 1_000
/** Streams of one protocol that this end opens on one connection. libp2p resets those over a limit silently. */
const OUTBOUND_STREAMS_MAX = 64
/** libp2p takes 5 new connections a second from one host, which resets the nodes behind one NAT after a restart. */
const INBOUND_PER_HOST_PER_SECOND_MAX = 200
const INBOUND_PENDING_MAX = 200
/**
 * Windows grow up to this, from the 256 KiB that yamux fixes. It must stay below the read buffer, else a
 * paused stream is reset. A stream moves at most one window per round trip: 20 MB/s at 50 ms.
 */
const STREAM_WINDOW_BYTES_MAX = 1024 * 1024
const READ_BUFFER_BYTES_MAX = 4 * 1024 * 1024

export interface Host extends AsyncDisposable {
  readonly peerId: string
  /** Multiaddrs with /p2p/<id> at the end; empty when it does not listen. */
  listenAddresses(): string[]
  /** Every accepted stream of the protocol as a channel; `accept` owns it. */
  handle(
    protocol: string,
    options: { readonly frameBytesMax: number; readonly streamsMax: number },
    accept: (channel: FrameChannel) => void,
  ): Promise<void>
  /**
   * Opens a channel to a peer: over an existing connection, whoever dialled it, else by dialling the
   * addresses in turn. Throws MESH0123 when this node does not admit the peer or the peer hangs up on this
   * node, else MESH0120 with each address and its own result.
   *
   * An open channel does not mean admitted: a peer that refuses this node hangs up after the handshake,
   * which may show only when the channel ends before its first frame.
   */
  open(
    target: { readonly peerId?: string; readonly addresses: readonly string[] },
    protocol: string,
    options: { readonly frameBytesMax: number; readonly signal: AbortSignal },
  ): Promise<FrameChannel>
  isConnected(peerId: string): boolean
  /** Closes all connections with the peer. */
  hangUp(peerId: string): Promise<void>
}

export interface HostOptions {
  /** 32-byte seed of the Ed25519 key that is the node's identity. */
  readonly privateKeySeed: Uint8Array
  /** Multiaddrs; empty for a node that only dials. */
  readonly listen: readonly string[]
  /** Asked after each handshake, for dialled peers as well. */
  readonly admits: (peerId: string) => boolean
  readonly connectionsMax: number
}

interface HostDeps {
  readonly log: Logger
  readonly clock: Clock
}

/** Throws MESH0103 when an address is taken, MESH0104 for one that cannot be listened on. */
export async function openHost(deps: HostDeps, options: HostOptions): Promise<Host> {
  const [
    { createLibp2p },
    { tcp },
    { noise },
    { yamux },
    { generateKeyPairFromSeed },
    { peerIdFromString },
    { multiaddr },
  ] = await Promise.all([
    import('libp2p'),
    import('@libp2p/tcp'),
    import('@chainsafe/libp2p-noise'),
    import('@libp2p/yamux'),
    import('@libp2p/crypto/keys'),
    import('@libp2p/peer-id'),
    import('@multiformats/multiaddr'),
  ])
  const log = deps.log.child({ part: 'host' })
  const denies = (peerId: { toString(): string }): boolean => {
    const isDenied = !options.admits(peerId.toString())
    if (isDenied) log.info({ peer: peerId.toString() }, 'peer refused')
    return isDenied
  }
  const listen = options.listen.map((address) => parse(multiaddr, address, 'MESH0104'))
  const node = await createLibp2p({
    start: false,
    privateKey: await generateKeyPairFromSeed('Ed25519', options.privateKeySeed),
    addresses: { listen: listen.map(String) },
    transports: [tcp()],
    connectionEncrypters: [noise()],
    streamMuxers: [
      yamux({
        streamOptions: {
          maxStreamWindowSize: STREAM_WINDOW_BYTES_MAX,
          maxReadBufferLength: READ_BUFFER_BYTES_MAX,
        },
      }),
    ],
    connectionGater: {
      denyInboundEncryptedConnection: denies,
      denyOutboundEncryptedConnection: denies,
    },
    // It costs a stream per connection every 10 s; the protocols have their own heartbeats.
    connectionMonitor: { enabled: false },
    connectionManager: {
      maxConnections: options.connectionsMax,
      maxIncomingPendingConnections: INBOUND_PENDING_MAX,
      inboundConnectionThreshold: INBOUND_PER_HOST_PER_SECOND_MAX,
    },
  })
  // Not getMultiaddrs(): that withholds public addresses until other peers have confirmed them.
  const listeners: Listener[] = []
  node.addEventListener('transport:listening', ({ detail }) => listeners.push(detail))
  try {
    await node.start()
  } catch (error) {
    await node.stop()
    throw listenError(error, options.listen)
  }
  const host = new Libp2pHost({ ...deps, log, node, multiaddr, peerIdFromString, listeners })
  // libp2p goes on without IPv6, whatever the reason, when IPv4 works.
  if (listeners.length < listen.length)
    log.warn(
      { wanted: listen.map(String), addresses: host.listenAddresses() },
      'host does not listen on every address',
    )
  log.info({ peer: host.peerId, addresses: host.listenAddresses() }, 'host opened')
  return host
}

/** libp2p rejects with the event that ended a connection; what happened is in its `error`. */
function reasonOf(error: unknown): string {
  if (!(error instanceof Event)) return messageOf(error)
  return 'error' in error && error.error instanceof Error
    ? error.error.message
    : 'the connection was closed'
}

type ParseMultiaddr = (address: string) => Multiaddr

function parse(
  multiaddr: ParseMultiaddr,
  address: string,
  code: 'MESH0104' | 'MESH0120',
): Multiaddr {
  try {
    return multiaddr(address)
  } catch (error) {
    throw new MeshError(code, `"${address}" is not a multiaddr: ${messageOf(error)}`, {
      cause: error,
      hints: ['write it like /ip4/192.0.2.7/tcp/7421 or /dns4/build.example.org/tcp/7421'],
    })
  }
}

class Libp2pHost implements Host {
  readonly peerId: string
  readonly #node: Libp2p
  readonly #multiaddr: ParseMultiaddr
  readonly #listeners: readonly Listener[]
  readonly #log: Logger
  readonly #clock: Clock
  readonly #peerIdFromString: (text: string) => PeerId

  constructor(
    deps: HostDeps & {
      readonly node: Libp2p
      readonly multiaddr: ParseMultiaddr
      readonly peerIdFromString: (text: string) => PeerId
      readonly listeners: readonly Listener[]
    },
  ) {
    this.peerId = deps.node.peerId.toString()
    this.#node = deps.node
    this.#multiaddr = deps.multiaddr
    this.#listeners = deps.listeners
    this.#log = deps.log
    this.#clock = deps.clock
    this.#peerIdFromString = deps.peerIdFromString
  }

  listenAddresses(): string[] {
    return this.#listeners
      .flatMap((listener) => listener.getAddrs())
      .map((address) => `${address.toString()}/p2p/${this.peerId}`)
  }

  async handle(
    protocol: string,
    options: { readonly frameBytesMax: number; readonly streamsMax: number },
    accept: (channel: FrameChannel) => void,
  ): Promise<void> {
    await this.#node.handle(
      protocol,
      (stream, connection) => accept(this.#channel(stream, connection, options.frameBytesMax)),
      { maxInboundStreams: options.streamsMax, maxOutboundStreams: OUTBOUND_STREAMS_MAX },
    )
  }

  async open(
    target: { readonly peerId?: string; readonly addresses: readonly string[] },
    protocol: string,
    options: { readonly frameBytesMax: number; readonly signal: AbortSignal },
  ): Promise<FrameChannel> {
    const failures: MeshError[] = []
    const attempt = async (
      where: string,
      open: () => Promise<FrameChannel | undefined>,
    ): Promise<FrameChannel | undefined> => {
      options.signal.throwIfAborted()
      try {
        return await open()
      } catch (error) {
        options.signal.throwIfAborted()
        failures.push(
          error instanceof MeshError
            ? error
            : new MeshError('MESH0120', `${where}: ${messageOf(error)}`, { where, cause: error }),
        )
        return undefined
      }
    }
    const { peerId } = target
    if (peerId !== undefined) {
      const channel = await attempt(peerId, () => this.#openExisting(peerId, protocol, options))
      if (channel !== undefined) return channel
    }
    for (const address of target.addresses) {
      const channel = await attempt(address, () => this.#openAt(address, peerId, protocol, options))
      if (channel !== undefined) return channel
    }
    throw bestOf(failures, peerId ?? 'the node')
  }

  isConnected(peerId: string): boolean {
    return this.#connections(peerId).length > 0
  }

  async hangUp(peerId: string): Promise<void> {
    await Promise.all(
      this.#connections(peerId).map((connection) => this.#closeConnection(connection)),
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#node.stop()
    this.#log.info('host closed')
  }

  #connections(peerId: string): Connection[] {
    // A connection that is closing stays listed until its socket has closed.
    return this.#node
      .getConnections(this.#peerIdFromString(peerId))
      .filter(({ status }) => status === 'open')
  }

  /** Undefined without a connection that works. One that does not is closed, for a dial would get it again. */
  async #openExisting(
    peerId: string,
    protocol: string,
    options: OpenOptions,
  ): Promise<FrameChannel | undefined> {
    for (const connection of this.#connections(peerId)) {
      try {
        return await this.#openStream(connection, protocol, options)
      } catch (error) {
        options.signal.throwIfAborted()
        if (error instanceof MeshError) throw error
        this.#log.info({ err: error, peer: peerId }, 'dead connection closed')
        connection.abort(new Error('the connection is dead'))
      }
    }
    return undefined
  }

  async #openAt(
    text: string,
    peerId: string | undefined,
    protocol: string,
    options: OpenOptions,
  ): Promise<FrameChannel> {
    const address = parse(this.#multiaddr, text, 'MESH0120')
    const named = address.getComponents().findLast(({ name }) => name === 'p2p')?.value
    if (named !== undefined && peerId !== undefined && named !== peerId)
      throw new MeshError('MESH0120', `${text}: names another node than ${peerId}`, { where: text })
    if (named !== undefined && peerId === undefined) {
      const channel = await this.#openExisting(named, protocol, options)
      if (channel !== undefined) return channel
    }
    const pinned =
      named === undefined && peerId !== undefined ? address.encapsulate(`/p2p/${peerId}`) : address
    const connection = await this.#dial(pinned, options.signal)
    try {
      return await this.#openStream(connection, protocol, options)
    } catch (error) {
      options.signal.throwIfAborted()
      if (error instanceof MeshError) throw error
      connection.abort(new Error('the peer opens no stream'))
      throw new MeshError(
        'MESH0123',
        `${text}: the node there hung up after the handshake (${reasonOf(error)}); it seems not to admit this node, ${this.peerId}`,
        { where: text, cause: error, hints: [`on that node: mesh-node --allow ${this.peerId}`] },
      )
    }
  }

  async #dial(address: Multiaddr, signal: AbortSignal): Promise<Connection> {
    const limit = deadline(
      this.#clock,
      DIAL_MS_MAX,
      () => new Error(`no answer within ${DIAL_MS_MAX / 1000} s`),
      signal,
    )
    try {
      return await this.#node.dial(address, { signal: limit.signal })
    } catch (error) {
      limit.signal.throwIfAborted()
      if (error instanceof Error && error.name === 'ConnectionInterceptedError')
        throw new MeshError(
          'MESH0123',
          `${address.toString()}: this node does not admit the node there`,
          {
            where: address.toString(),
            cause: error,
          },
        )
      throw error
    } finally {
      limit.cancel()
    }
  }

  async #openStream(
    connection: Connection,
    protocol: string,
    { frameBytesMax, signal }: OpenOptions,
  ): Promise<FrameChannel> {
    const limit = deadline(
      this.#clock,
      STREAM_MS_MAX,
      () => new Error(`no stream within ${STREAM_MS_MAX / 1000} s`),
      signal,
    )
    try {
      const stream = await connection.newStream(protocol, {
        signal: limit.signal,
        maxOutboundStreams: OUTBOUND_STREAMS_MAX,
      })
      return this.#channel(stream, connection, frameBytesMax)
    } catch (error) {
      limit.signal.throwIfAborted()
      const peer = connection.remotePeer.toString()
      if (error instanceof Error && error.name === 'UnsupportedProtocolError')
        throw new MeshError('MESH0121', `${peer} does not speak ${protocol}`, { cause: error })
      if (error instanceof Error && error.name === 'TooManyOutboundProtocolStreamsError')
        throw new MeshError('MESH0303', `${peer}: ${messageOf(error)}`, { cause: error })
      throw error
    } finally {
      limit.cancel()
    }
  }

  #channel(stream: Stream, connection: Connection, frameBytesMax: number): FrameChannel {
    return frameStream(
      { stream, log: this.#log },
      { remotePeer: connection.remotePeer.toString(), frameBytesMax },
    )
  }

  async #closeConnection(connection: Connection): Promise<void> {
    const limit = deadline(this.#clock, HANG_UP_MS_MAX, () => new Error('not closed in time'))
    try {
      await connection.close({ signal: limit.signal })
    } catch (error) {
      connection.abort(error instanceof Error ? error : new Error(messageOf(error)))
    } finally {
      limit.cancel()
    }
  }
}

interface OpenOptions {
  readonly frameBytesMax: number
  readonly signal: AbortSignal
}

/** What tells most: a node that answered and refused rather than one that did not answer. */
function bestOf(failures: readonly MeshError[], what: string): MeshError {
  const telling =
    failures.find(({ code }) => code !== 'MESH0120') ??
    (failures.length === 1 ? failures[0] : undefined)
  if (telling !== undefined) return telling
  const lines = failures.map(({ message }) => `\n  ${message}`)
  return new MeshError(
    'MESH0120',
    lines.length === 0
      ? `${what} is not connected, and has no address to dial`
      : `${what} does not answer:${lines.join('')}`,
  )
}

/** libp2p tells why it cannot listen only in the text of its error. */
function listenError(error: unknown, addresses: readonly string[]): unknown {
  const found = /listen (E[A-Z]+): .*/.exec(messageOf(error))
  if (found === null) return error
  const [text, errno] = found
  const port = /:(\d+)$/.exec(text)?.[1] ?? '0'
  const address =
    addresses.find((candidate) => candidate.includes(`/tcp/${port}`)) ?? addresses.join(', ')
  if (errno !== 'EADDRINUSE')
    return new MeshError('MESH0104', `cannot listen on ${address}: ${text}`, {
      where: address,
      cause: error,
    })
  const pid = findListener(Number(port))
  const holder = pid === undefined ? 'another process' : `process ${pid}`
  return new MeshError(
    'MESH0103',
    `${address} is taken: ${holder} listens on port ${port} (EADDRINUSE)`,
    {
      where: address,
      cause: error,
      hints: ['choose another with --listen MULTIADDR; port 0 takes a free one'],
    },
  )
}

/** The process that listens on a TCP port, where /proc shows it to this user. Reads files of the kernel only. */
export function findListener(port: number): number | undefined {
  const LISTEN = '0A'
  const inodes = new Set<string>()
  for (const table of ['/proc/net/tcp', '/proc/net/tcp6']) {
    for (const line of existsSync(table)
      ? readFileSync(table, 'latin1').split('\n').slice(1)
      : []) {
      const fields = line.trim().split(/\s+/)
      const [, local = '', , state] = fields
      if (state === LISTEN && Number.parseInt(local.split(':')[1] ?? '', 16) === port)
        inodes.add(`socket:[${fields[9]}]`)
    }
  }
  if (inodes.size === 0) return undefined
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const directory = `/proc/${pid}/fd`
      if (readdirSync(directory).some((fd) => inodes.has(readlinkSync(`${directory}/${fd}`))))
        return Number(pid)
    } catch (error) {
      // Processes end, and those of other users do not show their descriptors.
      if (!hasCode(error, 'ENOENT', 'EACCES', 'EPERM', 'ESRCH')) throw error
    }
  }
  return undefined
}
