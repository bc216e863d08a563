/**
 * One TCP port for TLS and for plain HTTP, told apart by the first byte: a TLS handshake begins with 22, a
 * method of HTTP with a letter.
 *
 * Whoever connects and then says nothing, or stops in the middle of a handshake or of a head, costs a
 * place among few, for some seconds.
 */
import { once } from 'node:events'
import { createServer as createHttpServer, type RequestListener, type Server } from 'node:http'
import { createServer, type Socket } from 'node:net'
import { createServer as createTlsServer, type Server as TlsServer } from 'node:tls'
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'

/** Content type of the first record of TLS (RFC 8446, 5.1). */
const TLS_HANDSHAKE = 22

export interface DoorLimits {
  /** One more is refused, and the idle ones are closed. */
  readonly connectionsMax: number
  /** Connections without a first byte, or within their handshake; for one more the oldest has to go. */
  readonly halfOpenMax: number
  /** From the connection to the end of the handshake, or to a first byte that is not of TLS. */
  readonly openMs: number
  /** The head of a request, and then the whole of it. */
  readonly headersMs: number
  readonly requestMs: number
  /** A connection that moves nothing in either direction, such as that of a reader who left without a word. */
  readonly idleMs: number
}

export const DOOR_LIMITS: DoorLimits = {
  connectionsMax: 4_096,
  halfOpenMax: 256,
  openMs: 10_000,
  headersMs: 10_000,
  requestMs: 60_000,
  idleMs: 60_000,
}
const KEEP_ALIVE_MS = 30_000

export interface Door extends AsyncDisposable {
  readonly port: number
}

/** Listens. Throws what listen(2) says. Requests over TLS have a `TLSSocket` as their socket. */
export async function openDoor(
  deps: { readonly clock: Clock; readonly log: Logger; readonly listener: RequestListener },
  options: {
    readonly host: string
    readonly port: number
    /** PEM. */
    readonly tls: { readonly key: string; readonly certificate: string }
    readonly limits: DoorLimits
  },
): Promise<Door> {
  const { limits } = options
  const http = openHttp(deps.listener, limits)
  const halfOpen = new HalfOpen(deps.clock, limits)
  const tls = openTls(options.tls, limits)
  tls.on('secureConnection', (socket) => {
    halfOpen.delete(socket)
    http.emit('connection', socket)
  })
  const sockets = new Set<Socket>()
  const server = createServer({ noDelay: true }, (socket) => {
    sockets.add(socket)
    halfOpen.add(socket)
    // Those who break off are no news, and what they broke off ends with their connection.
    socket.on('error', () => socket.destroy())
    socket.once('close', () => {
      sockets.delete(socket)
      halfOpen.delete(socket)
    })
    socket.once('data', (first) => {
      socket.pause()
      socket.unshift(first)
      if (first[0] === TLS_HANDSHAKE) tls.emit('connection', socket)
      else {
        halfOpen.delete(socket)
        http.emit('connection', socket)
        socket.resume()
      }
    })
  })
  server.maxConnections = limits.connectionsMax
  server.on('drop', () => http.closeIdleConnections())
  server.listen(options.port, options.host)
  await once(server, 'listening')
  server.on('error', (error) => deps.log.warn({ err: error }, 'connection was not accepted'))
  const address = server.address()
  return {
    port: typeof address === 'object' && address !== null ? address.port : options.port,
    async [Symbol.asyncDispose]() {
      const closed = new Promise((resolve) => server.close(resolve))
      for (const socket of sockets) socket.destroy()
      http.close()
      await closed
    },
  }
}

function openHttp(listener: RequestListener, limits: DoorLimits): Server {
  const http = createHttpServer(
    {
      headersTimeout: limits.headersMs,
      requestTimeout: limits.requestMs,
      keepAliveTimeout: KEEP_ALIVE_MS,
      connectionsCheckingInterval: Math.ceil(limits.headersMs / 4),
    },
    listener,
  )
  http.timeout = limits.idleMs
  // It never listens itself: without this event it would not enforce its limits on heads and requests.
  http.emit('listening')
  return http
}

function openTls(
  { key, certificate }: { readonly key: string; readonly certificate: string },
  limits: DoorLimits,
): TlsServer {
  return createTlsServer({
    key,
    cert: certificate,
    // Shown by other nodes; tokens are bound to it, so that who signed it does not matter.
    requestCert: true,
    rejectUnauthorized: false,
    minVersion: 'TLSv1.3',
    // The cheapest first.
    ciphers: 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256',
    ALPNProtocols: ['http/1.1'],
    handshakeTimeout: limits.openMs,
  })
}

/** Known by the other end's address: the TLS server gives another object for the same connection. */
type Ends = Pick<Socket, 'remoteAddress' | 'remotePort'>

class HalfOpen {
  readonly #clock: Clock
  readonly #limits: DoorLimits
  readonly #waiting = new Map<string, { readonly socket: Socket; readonly timer: Timer }>()

  constructor(clock: Clock, limits: DoorLimits) {
    this.#clock = clock
    this.#limits = limits
  }

  add(socket: Socket): void {
    const [oldest] = this.#waiting.values()
    if (oldest !== undefined && this.#waiting.size >= this.#limits.halfOpenMax) {
      this.delete(oldest.socket)
      oldest.socket.destroy()
    }
    this.#waiting.set(nameOf(socket), {
      socket,
      timer: this.#clock.setTimer(this.#limits.openMs, () => socket.destroy()),
    })
  }

  delete(ends: Ends): void {
    const name = nameOf(ends)
    this.#waiting.get(name)?.timer.cancel()
    this.#waiting.delete(name)
  }
}

const nameOf = ({ remoteAddress, remotePort }: Ends): string => `${remoteAddress} ${remotePort}`
