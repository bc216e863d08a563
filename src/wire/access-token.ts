/**
 * Tokens for the data plane: an owner's word that a node belongs to its mesh, good for some minutes.
 *
 * A token names the certificate of its holder, who shows that one in the TLS handshake (RFC 8705): whoever
 * else gets hold of a token cannot use it.
 */
import { z } from 'zod'
import { MeshError } from '../base/errors.ts'
import { decodeCanonical, encodeObject } from './cbor.ts'
import { DigestBytes } from './digest.ts'
import { PeerId } from './names.ts'
import { signBytes, SIGNATURE_BYTES, verifyBytes, type Signer } from './result.ts'

export const TOKEN_MS = 15 * 60_000
export const TOKEN_TEXT_MAX = 1024
/** The last moment that a Date can show. */
const WALL_MS_MAX = 8.64e15

const AccessToken = z.object({
  v: z.literal(1),
  holder: PeerId,
  /** sha256 of the DER of the holder's certificate. */
  certificate: DigestBytes,
  issuer: PeerId,
  /** Milliseconds since the epoch, by the issuer's clock. */
  notAfterWallMs: z.int().min(0).max(WALL_MS_MAX),
})
export type AccessToken = z.infer<typeof AccessToken>

/** Who a token is for. */
export type TokenHolder = Pick<AccessToken, 'holder' | 'certificate'>

const CONTEXT = Buffer.from('mesh access token v1\0')

/** base64url of the canonical bytes and the signature after them. */
export function mintToken(to: TokenHolder, notAfterWallMs: number, issuer: Signer): string {
  const body = encodeObject(AccessToken, {
    v: 1,
    holder: to.holder,
    certificate: to.certificate,
    issuer: issuer.peerId,
    notAfterWallMs,
  })
  const { signature } = signBytes(issuer, Buffer.concat([CONTEXT, body]))
  return Buffer.concat([body, signature]).toString('base64url')
}

/**
 * What a token says, if its issuer signed it. Whether that issuer counts, and until when, is the caller's.
 * Throws MESH0210.
 */
export function openToken(token: string): AccessToken {
  if (token.length > TOKEN_TEXT_MAX || !/^[\w-]+$/.test(token))
    throw new MeshError('MESH0210', 'the token is malformed')
  const bytes = Buffer.from(token, 'base64url')
  const body = bytes.subarray(0, -SIGNATURE_BYTES)
  const said = decodeCanonical(AccessToken, body, 'the token')
  const signature = bytes.subarray(-SIGNATURE_BYTES)
  if (!verifyBytes({ peerId: said.issuer, signature }, Buffer.concat([CONTEXT, body])))
    throw new MeshError('MESH0210', `the token is not signed by ${said.issuer}`)
  return said
}
