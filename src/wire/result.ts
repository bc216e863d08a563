/**
 * Action results: the claim "this action gave these outputs", signed by its builder and countersigned by
 * the owner that granted the attempt. A blob cannot lie; this can, so a reader checks both signatures.
 */
import { createPublicKey, sign, verify, type KeyObject } from 'node:crypto'
import { base58btc } from 'multiformats/bases/base58'
import { z } from 'zod'
import { MeshError } from '../base/errors.ts'
import { decodeCanonical, decodeObject, encodeObject } from './cbor.ts'
import { BlobRefJson, BlobRefWire, DigestBytes, DigestHex, type Digest } from './digest.ts'
import { AttemptId, NodeName, OutputName, PeerId, System } from './names.ts'
import { Isolation, userlandSchema } from './environment.ts'
import { EntryJson, EntryWire, type Entry } from './tree.ts'

const usage = {
  wallMs: z.int().min(0),
  /** User and system time of all its processes. */
  cpuMs: z.int().min(0),
  /** Of the largest process. */
  maxRssBytes: z.int().min(0),
}
export const Usage = z.object(usage)
export type Usage = z.infer<typeof Usage>

/** What its node measured of a whole attempt, beyond what the result says. */
export const Measured = z.object({
  /** The most memory that all of its processes had at once. */
  memoryBytes: z.int().min(0),
  /**
   * `cgroup`: the most that its control group was seen to hold. `sampled`: the largest sum over its processes
   * that was seen. `largest-process`: of the largest process alone.
   */
  memoryFrom: z.enum(['cgroup', 'sampled', 'largest-process']),
  /** Of its directories at its end: what it wrote and did not remove. */
  diskBytes: z.int().min(0),
  /** Of the machine that ran it. */
  speed: z.number().optional(),
})
export type Measured = z.infer<typeof Measured>

const resultSchema = <
  D extends z.ZodType<Digest>,
  E extends z.ZodType<Entry>,
  B extends z.ZodType<{ digest: Digest; size: number }>,
>(
  digest: D,
  entry: E,
  blob: B,
) =>
  z.object({
    v: z.literal(1),
    action: digest,
    jobKey: digest,
    attempt: AttemptId,
    exitCode: z.int().min(0).max(255),
    outputs: z.record(OutputName, entry),
    log: blob,
    usage: Usage,
    /** The userland that it was built with; null where none takes part (`builtin:fetch`). */
    userland: userlandSchema(digest).nullable(),
    builder: z.object({ peerId: PeerId, name: NodeName, system: System, isolation: Isolation }),
    /** Milliseconds since the epoch, by the builder's clock: display only. */
    endedAtWallMs: z.int().min(0),
  })

const ActionResultWire = resultSchema(DigestBytes, EntryWire, BlobRefWire)
export const ActionResultJson = resultSchema(DigestHex, EntryJson, BlobRefJson)
export type ActionResult = z.infer<typeof ActionResultWire>

/** Of an Ed25519 signature. */
export const SIGNATURE_BYTES = 64

const Signature = z.object({
  peerId: PeerId,
  signature: z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength === SIGNATURE_BYTES),
})
type Signature = z.infer<typeof Signature>
/** The canonical bytes of a result with its signatures. */
export const SignedResult = z.object({
  body: z.instanceof(Uint8Array).refine((bytes) => bytes.byteLength <= 256 * 1024),
  builder: Signature,
  owner: Signature.optional(),
})
export type SignedResult = z.infer<typeof SignedResult>

/** Who signs: a peer id and its private key. */
export interface Signer {
  readonly peerId: string
  readonly privateKey: KeyObject
}

const BUILDER_CONTEXT = Buffer.from('mesh result v1\0')
const OWNER_CONTEXT = Buffer.from('mesh countersigned result v1\0')

export function signResult(result: ActionResult, signer: Signer): SignedResult {
  const body = encodeObject(ActionResultWire, result)
  return { body, builder: signBytes(signer, Buffer.concat([BUILDER_CONTEXT, body])) }
}

/** The owner's word that it granted the attempt. Covers the builder's signature. */
export function countersignResult(signed: SignedResult, owner: Signer): SignedResult {
  return {
    body: signed.body,
    builder: signed.builder,
    owner: signBytes(owner, Buffer.concat([OWNER_CONTEXT, signed.builder.signature, signed.body])),
  }
}

/**
 * Opens a result whose builder's signature, and owner's where there is one or where `countersigned`
 * asks for one, hold. Throws MESH0210.
 */
export function openResult(
  signed: SignedResult,
  options: { readonly countersigned: boolean },
): ActionResult {
  const result = decodeCanonical(ActionResultWire, signed.body, 'action result')
  if (signed.builder.peerId !== result.builder.peerId)
    throw new MeshError(
      'MESH0210',
      `action result of ${result.builder.peerId} is signed by ${signed.builder.peerId}`,
    )
  if (!verifyBytes(signed.builder, Buffer.concat([BUILDER_CONTEXT, signed.body])))
    throw new MeshError('MESH0210', `the builder's signature of ${signed.builder.peerId} is wrong`)
  if (signed.owner === undefined) {
    if (options.countersigned) throw new MeshError('MESH0210', 'the result has no countersignature')
  } else if (
    !verifyBytes(
      signed.owner,
      Buffer.concat([OWNER_CONTEXT, signed.builder.signature, signed.body]),
    )
  ) {
    throw new MeshError('MESH0210', `the owner's signature of ${signed.owner.peerId} is wrong`)
  }
  return result
}

export const encodeSignedResult = (signed: SignedResult): Uint8Array<ArrayBuffer> =>
  encodeObject(SignedResult, signed)
export const decodeSignedResult = (bytes: Uint8Array): SignedResult =>
  decodeObject(SignedResult, bytes, 'signed result')

export function signBytes(signer: Signer, bytes: Uint8Array): Signature {
  return { peerId: signer.peerId, signature: new Uint8Array(sign(null, bytes, signer.privateKey)) }
}

export function verifyBytes(signature: Signature, bytes: Uint8Array): boolean {
  return verify(null, bytes, publicKeyOf(signature.peerId), signature.signature)
}

/** DER head of an Ed25519 SubjectPublicKeyInfo (RFC 8410); 32 key bytes follow. */
const SPKI_HEAD = Buffer.from('302a300506032b6570032100', 'hex')
/** An Ed25519 peer id is an identity multihash of a protobuf: 0x00 0x24 0x08 0x01 0x12 0x20, then the key (libp2p specs, peer-ids). */
const PEER_ID_HEAD = Buffer.from('002408011220', 'hex')

/** Keys of the peers that signed last: making one costs as much as a signature. */
const KEYS_MAX = 4_096
const keys = new Map<string, KeyObject>()

export function publicKeyOf(peerId: string): KeyObject {
  const known = keys.get(peerId)
  if (known !== undefined) return known
  const key = readPublicKey(peerId)
  const [oldest] = keys.keys()
  if (keys.size >= KEYS_MAX && oldest !== undefined) keys.delete(oldest)
  keys.set(peerId, key)
  return key
}

function readPublicKey(peerId: string): KeyObject {
  const bytes = Buffer.from(base58btc.decode(`z${peerId}`))
  if (bytes.byteLength !== 38 || !bytes.subarray(0, 6).equals(PEER_ID_HEAD))
    throw new MeshError('MESH0210', `${peerId} is not the id of an Ed25519 key`)
  return createPublicKey({
    key: Buffer.concat([SPKI_HEAD, bytes.subarray(6)]),
    format: 'der',
    type: 'spki',
  })
}

export function peerIdOf(publicKey: Uint8Array): string {
  return base58btc.encode(Buffer.concat([PEER_ID_HEAD, publicKey])).slice(1)
}
