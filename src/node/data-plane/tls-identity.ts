/**
 * The key and certificate that a node shows in TLS, as a server and as a client: `identity/tls.pem`, made
 * at the first start. The node's record says the certificate's hash, so it may be replaced at any start.
 */
import { createPrivateKey, generateKeyPair, X509Certificate } from 'node:crypto'
import { join } from 'node:path'
import { promisify } from 'node:util'
import type { Clock } from '../../base/clock.ts'
import type { Random } from '../../base/random.ts'
import { sha256, type Digest } from '../../wire/digest.ts'
import { readPrivate, writePrivate } from '../process/private-file.ts'
import { selfSigned } from './certificate.ts'

const FILE = 'tls.pem'
const DAY_MS = 24 * 3600_000
const VALID_MS = 3650 * DAY_MS
/** Longer than a daemon runs without a restart. */
const RENEW_MS = 730 * DAY_MS
const SERIAL_BYTES = 8

export interface TlsIdentity {
  /** PEM. */
  readonly key: string
  /** PEM. */
  readonly certificate: string
  /** sha256 of the certificate's DER. */
  readonly digest: Digest
}

/** `directory` is the node's private one. Throws MESH0104 when others may read the key. */
export async function openTlsIdentity(
  deps: { readonly clock: Clock; readonly random: Random },
  options: { readonly directory: string; readonly peerId: string },
): Promise<TlsIdentity> {
  const { directory, peerId } = options
  const wallMs = deps.clock.wallMs()
  const kept = await readPrivate(join(directory, FILE))
  const usable = kept === undefined ? undefined : parse(kept.toString(), wallMs)
  if (usable !== undefined) return usable
  const keys = await promisify(generateKeyPair)('ec', { namedCurve: 'P-256' })
  const certificate = new X509Certificate(
    selfSigned(keys, {
      name: peerId,
      serial: deps.random.bytes(SERIAL_BYTES),
      notBeforeWallMs: wallMs - DAY_MS,
      notAfterWallMs: wallMs + VALID_MS,
    }),
  )
  const key = keys.privateKey.export({ format: 'pem', type: 'pkcs8' }).toString()
  await writePrivate(directory, FILE, `${key}${certificate.toString()}`)
  return identityOf(key, certificate)
}

/** Undefined for what is damaged or nearly out of date: another is as good, once the record names it. */
function parse(pem: string, wallMs: number): TlsIdentity | undefined {
  try {
    const key = createPrivateKey(pem)
    const certificate = new X509Certificate(pem)
    const isCurrent = certificate.validToDate.getTime() - wallMs > RENEW_MS
    if (!isCurrent || !certificate.checkPrivateKey(key)) return undefined
    return identityOf(key.export({ format: 'pem', type: 'pkcs8' }).toString(), certificate)
  } catch {
    return undefined // whatever OpenSSL says of it, it is no key with its certificate
  }
}

function identityOf(key: string, certificate: X509Certificate): TlsIdentity {
  return { key, certificate: certificate.toString(), digest: sha256(certificate.raw) }
}
