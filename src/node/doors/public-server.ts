/** What a node answers over TCP: reads of blobs and results to those who may, health and metrics to all. */
import type { IncomingMessage, ServerResponse } from 'node:http'
import { isIP } from 'node:net'
import { hostname, networkInterfaces } from 'node:os'
import { TLSSocket } from 'node:tls'
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import { hasCode, MeshError } from '../../base/errors.ts'
import type { HostPort } from '../config/config-values.ts'
import type { Gate } from '../data-plane/gate.ts'
import type { TlsIdentity } from '../data-plane/tls-identity.ts'
import { DOOR_LIMITS, openDoor } from './tls-or-plain.ts'

export interface PublicDoor {
  readonly clock: Clock
  readonly log: Logger
  readonly gate: Gate
  readonly cas: (request: IncomingMessage, response: ServerResponse) => Promise<boolean>
  readonly metrics: () => Promise<string>
  /** Names of failing checks; ready when empty. */
  readonly failing: () => readonly string[]
}

export interface PublicServer extends AsyncDisposable {
  /** One that other nodes can reach, where the server listens on all. */
  readonly address: HostPort
}

/** Listens on TCP. Throws MESH0103. */
export async function openPublic(
  door: PublicDoor,
  options: { readonly listen: HostPort; readonly tls: TlsIdentity },
): Promise<PublicServer> {
  const { clock, log } = door
  const { listen, tls } = options
  const listener = (request: IncomingMessage, response: ServerResponse): void => {
    answer(door, request, response).catch((error: unknown) => {
      log.error({ err: error, url: request.url }, 'request failed')
      response.destroy()
    })
  }
  try {
    const opened = await openDoor({ clock, log, listener }, { ...listen, tls, limits: DOOR_LIMITS })
    return {
      address: { host: reachable(listen.host), port: opened.port },
      [Symbol.asyncDispose]: () => opened[Symbol.asyncDispose](),
    }
  } catch (error) {
    if (!hasCode(error, 'EADDRINUSE')) throw error
    throw new MeshError(
      'MESH0103',
      `cannot listen on ${listen.host}:${listen.port}: another process does`,
      {
        hints: [
          'is another mesh-node running?  mesh status',
          'or take another port: --http HOST:PORT',
        ],
        cause: error,
      },
    )
  }
}

async function answer(
  door: PublicDoor,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  if (request.headers.origin !== undefined || !isForUs(request, door.gate)) {
    plain(response, 403, 'this host name or origin is not served here\n')
    return
  }
  const path = (request.url ?? '').split('?', 1)[0]
  // Counts and sizes, no names: load balancers and Prometheus have no token of a mesh.
  if (request.method === 'GET' && path === '/metrics') {
    plain(response, 200, await door.metrics())
    return
  }
  if (request.method === 'GET' && (path === '/healthz' || path === '/livez')) {
    plain(response, 200, 'ok\n')
    return
  }
  if (request.method === 'GET' && path === '/readyz') {
    const failing = door.failing()
    plain(
      response,
      failing.length === 0 ? 200 : 503,
      `${JSON.stringify({ ready: failing.length === 0, failing })}\n`,
    )
    return
  }
  const refusal = door.gate.refusal(request)
  if (refusal !== undefined) plain(response, refusal.status, `${refusal.text}\n`, refusal.headers)
  else if (await door.cas(request, response)) return
  else if (request.method !== 'GET') plain(response, 405, 'over TCP only reads are served\n')
  else plain(response, 404, 'not found\n')
}

/**
 * A page elsewhere cannot make a browser ask here under a name of its own (DNS rebinding): browsers have
 * no token, and what is open to all may have any name.
 */
function isForUs({ headers, socket }: IncomingMessage, gate: Gate): boolean {
  if (gate.isOpen || socket instanceof TLSSocket) return true
  const name = (headers.host ?? '')
    .replace(/:\d+$/, '')
    .replace(/^\[|\]$/g, '')
    .toLowerCase()
  return isIP(name) !== 0 || name === 'localhost' || name === hostname().toLowerCase()
}

function plain(
  response: ServerResponse,
  status: number,
  text: string,
  headers: Readonly<Record<string, string>> = {},
): void {
  response.writeHead(status, {
    'content-type': 'text/plain; charset=utf-8',
    'cache-control': 'no-store',
    ...headers,
  })
  response.end(text)
}

export function urlOf(scheme: 'http' | 'https', { host, port }: HostPort): string {
  return `${scheme}://${host.includes(':') ? `[${host}]` : host}:${port}`
}

function reachable(host: string): string {
  if (host !== '0.0.0.0' && host !== '::') return host
  const family = host === '::' ? 'IPv6' : 'IPv4'
  const outer = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .find((item) => !item.internal && item.family === family)
  return outer?.address ?? '127.0.0.1'
}
