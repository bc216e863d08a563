/**
 * The one id of bytes in its three spellings: 32 bytes on the wire and in keys, lower-case hex in URLs,
 * paths and memory, CIDv1 towards people.
 *
 * A blob's id is the sha256 of its whole bytes, so it equals `sha256sum`, REAPI and OCI digests.
 */
import assert from 'node:assert/strict'
import { createHash, hash } from 'node:crypto'
import { CID } from 'multiformats/cid'
import * as multihash from 'multiformats/hashes/digest'
import { z } from 'zod'
import { MeshError } from '../base/errors.ts'

/** 64 lower-case hex digits. */
export type Digest = string & { readonly __digest: true }

const HEX = /^[0-9a-f]{64}$/
/** Multihash code of sha2-256, and multicodec codes of `raw` and `dag-cbor`. */
const SHA2_256 = 0x12
const RAW = 0x55
const DAG_CBOR = 0x71

export function isDigest(text: string): text is Digest {
  return HEX.test(text)
}

/** What node:crypto gives as hex is always a digest. */
function asDigest(hex: string): Digest {
  assert(isDigest(hex))
  return hex
}

export function digestFromBytes(bytes: Uint8Array): Digest {
  const hex = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('hex')
  if (!isDigest(hex))
    throw new MeshError('MESH0210', `a digest has 32 bytes, not ${bytes.byteLength}`)
  return hex
}

export function digestBytes(digest: Digest): Uint8Array<ArrayBuffer> {
  return new Uint8Array(Buffer.from(digest, 'hex'))
}

/** sha256 of bytes that are in memory already; use `Hasher` for streams. */
export function sha256(bytes: Uint8Array | string): Digest {
  return asDigest(hash('sha256', bytes, 'hex'))
}

/** sha256 of a stream. */
export class Hasher {
  readonly #hash = createHash('sha256')
  update(bytes: Uint8Array): void {
    this.#hash.update(bytes)
  }
  digest(): Digest {
    return asDigest(this.#hash.digest('hex'))
  }
}

export const EMPTY_DIGEST = sha256('')

/** `bafkrei…` for bytes, `bafyrei…` for trees and other dag-cbor objects. */
export function cidOf(digest: Digest, kind: 'raw' | 'object' = 'raw'): string {
  return CID.createV1(
    kind === 'raw' ? RAW : DAG_CBOR,
    multihash.create(SHA2_256, digestBytes(digest)),
  ).toString()
}

/** Accepts a CIDv1 (raw or dag-cbor with sha256) or 64 hex digits; undefined for anything else. */
export function parseCid(text: string): { digest: Digest; kind: 'raw' | 'object' } | undefined {
  if (isDigest(text)) return { digest: text, kind: 'raw' }
  if (text.length > 100) return undefined
  let cid: CID
  try {
    cid = CID.parse(text)
  } catch {
    return undefined // any text may be asked about; not a CID is an answer, not an error
  }
  if (
    cid.version !== 1 ||
    cid.multihash.code !== SHA2_256 ||
    cid.multihash.digest.byteLength !== 32
  )
    return undefined
  if (cid.code !== RAW && cid.code !== DAG_CBOR) return undefined
  return {
    digest: digestFromBytes(cid.multihash.digest),
    kind: cid.code === RAW ? 'raw' : 'object',
  }
}

/** Digest in JSON and in memory. */
export const DigestHex = z.custom<Digest>(
  (value) => typeof value === 'string' && isDigest(value),
  'expected 64 lower-case hex digits',
)

/** Digest on the wire: 32 bytes there, hex here. */
export const DigestBytes = z.codec(
  z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength === 32, 'a digest has 32 bytes'),
  DigestHex,
  { decode: (bytes) => digestFromBytes(bytes), encode: (digest) => digestBytes(digest) },
)

/** Bytes named by digest and size. */
export interface BlobRef {
  readonly digest: Digest
  readonly size: number
}

/** 2^43 bytes, 8 TiB: the largest blob that a size field may claim. */
export const BLOB_BYTES_MAX = 2 ** 43
export const Size = z.int().min(0).max(BLOB_BYTES_MAX)

const blobRefSchema = <D extends z.ZodType<Digest>>(digest: D) => z.object({ digest, size: Size })
/** Blob reference on the wire. */
export const BlobRefWire = blobRefSchema(DigestBytes)
/** Blob reference in JSON. */
export const BlobRefJson = blobRefSchema(DigestHex)
