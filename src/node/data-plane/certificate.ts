/**
 * A self-signed X.509 certificate in DER (RFC 5280), as small as TLS takes it: version 1, one name, a P-256
 * key. Nobody checks what it says: it is known by its hash in the signed record of its node.
 */
import { sign, type KeyObject } from 'node:crypto'

/** Identifier octets of ASN.1 (X.690). */
const TAG = {
  integer: 0x02,
  bitString: 0x03,
  oid: 0x06,
  utf8: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const
const ECDSA_WITH_SHA256 = element(
  TAG.sequence,
  element(TAG.oid, Buffer.from('2a8648ce3d040302', 'hex')),
)
const COMMON_NAME = element(TAG.oid, Buffer.from('550403', 'hex'))
/** RFC 5280 has two digits for a year until this one, and four from then on. */
const FOUR_DIGIT_YEAR = 2050

export function selfSigned(
  keys: { readonly privateKey: KeyObject; readonly publicKey: KeyObject },
  says: {
    /** At most 64 characters. */
    readonly name: string
    /** 1 to 19 bytes. */
    readonly serial: Uint8Array
    readonly notBeforeWallMs: number
    readonly notAfterWallMs: number
  },
): Buffer {
  const name = element(
    TAG.sequence,
    element(TAG.set, element(TAG.sequence, COMMON_NAME, element(TAG.utf8, Buffer.from(says.name)))),
  )
  const body = element(
    TAG.sequence,
    // A leading 1 makes it positive, and as short as its encoding must be.
    element(TAG.integer, Buffer.of(1), says.serial),
    ECDSA_WITH_SHA256,
    name,
    element(TAG.sequence, time(says.notBeforeWallMs), time(says.notAfterWallMs)),
    name,
    keys.publicKey.export({ format: 'der', type: 'spki' }),
  )
  const signature = sign('sha256', body, { key: keys.privateKey, dsaEncoding: 'der' })
  return element(TAG.sequence, body, ECDSA_WITH_SHA256, bitString(signature))
}

/** All its bits are used. */
function bitString(bytes: Uint8Array): Buffer {
  return element(TAG.bitString, Buffer.of(0), bytes)
}

function time(wallMs: number): Buffer {
  // 20261122181500Z
  const text = `${new Date(wallMs).toISOString().slice(0, 19).replaceAll(/[-T:]/g, '')}Z`
  return Number(text.slice(0, 4)) < FOUR_DIGIT_YEAR
    ? element(TAG.utcTime, Buffer.from(text.slice(2)))
    : element(TAG.generalizedTime, Buffer.from(text))
}

function element(tag: number, ...contents: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(contents)
  const { length } = content
  const head =
    length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff]
  return Buffer.concat([Buffer.from([tag, ...head]), content])
}
