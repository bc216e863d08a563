/**
 * Who may read blobs over TCP: this machine without more, other nodes of the mesh over TLS with a token,
 * and everybody where the operator has opened the door.
 */
import type { IncomingMessage } from 'node:http'
import { TLSSocket } from 'node:tls'
import type { Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { openToken, type AccessToken } from '../../wire/access-token.ts'
import { sha256, type Digest } from '../../wire/digest.ts'
import { isLoopback } from '../config/config-values.ts'

/** How far the clocks of two nodes may be apart. */
const SKEW_MS = 5 * 60_000
/** Tokens whose signatures were found right; beyond it the oldest is looked at again. */
const TOKENS_MAX = 8_192

interface Refusal {
  readonly status: 401 | 421
  readonly text: string
  readonly headers: Readonly<Record<string, string>>
}

export class Gate {
  readonly #clock: Clock
  readonly #issuer: () => string | undefined
  /** Everybody may read. */
  readonly isOpen: boolean
  readonly #signed = new Map<string, AccessToken>()
  readonly #certificates = new WeakMap<TLSSocket, Digest>()

  constructor(
    deps: {
      readonly clock: Clock
      /** The owner whose tokens count; undefined while none is known. */
      readonly issuer: () => string | undefined
    },
    options: { readonly isOpen: boolean },
  ) {
    this.#clock = deps.clock
    this.#issuer = deps.issuer
    this.isOpen = options.isOpen
  }

  /** Why a request is not served; undefined when it is. */
  refusal({ socket, headers }: IncomingMessage): Refusal | undefined {
    if (this.isOpen) return undefined
    if (socket instanceof TLSSocket) return this.#refusalOfToken(socket, headers.authorization)
    const { remoteAddress, localAddress } = socket
    // From one own address to another nothing has left the machine.
    const isHere = remoteAddress === localAddress || isLoopback(remoteAddress ?? '')
    if (remoteAddress !== undefined && isHere) return undefined
    return {
      status: 421,
      text: 'plain HTTP is answered to this machine alone; nodes of the mesh use https on the same port. To let everybody read: mesh-node --http-open, or open = true in [http]',
      headers: {},
    }
  }

  #refusalOfToken(socket: TLSSocket, authorization: string | undefined): Refusal | undefined {
    const token = /^Bearer +([\w-]+)$/i.exec(authorization ?? '')?.[1]
    if (token === undefined) return unauthorized('Bearer', 'nodes of the mesh show a token here')
    try {
      this.#judge(token, socket)
      return undefined
    } catch (error) {
      if (!(error instanceof MeshError)) throw error
      return unauthorized('Bearer error="invalid_token"', error.message)
    }
  }

  /** Throws MESH0210 for a token of no use, MESH0603 for one that does not count here. */
  #judge(token: string, socket: TLSSocket): void {
    const { holder, certificate, issuer, notAfterWallMs } = this.#open(token)
    const expected = this.#issuer()
    if (issuer !== expected)
      throw new MeshError(
        'MESH0603',
        `the token is from ${issuer}, this node takes those of ${expected ?? 'nobody yet'}`,
      )
    if (this.#clock.wallMs() > notAfterWallMs + SKEW_MS)
      throw new MeshError(
        'MESH0603',
        `the token ended at ${new Date(notAfterWallMs).toISOString()}, by the clock of its issuer`,
      )
    if (this.#certificateOf(socket) !== certificate)
      throw new MeshError('MESH0603', `the token is for ${holder}, who has another certificate`)
  }

  #open(token: string): AccessToken {
    const known = this.#signed.get(token)
    if (known !== undefined) return known
    const said = openToken(token)
    // What a stranger signs must not push out what counts.
    if (said.issuer !== this.#issuer()) return said
    this.#signed.set(token, said)
    if (this.#signed.size > TOKENS_MAX) {
      const [oldest] = this.#signed.keys()
      if (oldest !== undefined) this.#signed.delete(oldest)
    }
    return said
  }

  #certificateOf(socket: TLSSocket): Digest | undefined {
    const known = this.#certificates.get(socket)
    if (known !== undefined) return known
    const certificate = socket.getPeerX509Certificate()
    if (certificate === undefined) return undefined
    const digest = sha256(certificate.raw)
    this.#certificates.set(socket, digest)
    return digest
  }
}

function unauthorized(challenge: string, text: string): Refusal {
  return { status: 401, text, headers: { 'www-authenticate': challenge } }
}
