/**
 * What a node says of itself to the whole mesh: where its blobs can be had, and by which certificate its
 * HTTPS side is known. Signed by its own key, for records travel through other nodes.
 */
import { z } from 'zod'
import { MeshError } from '../base/errors.ts'
import { Role } from './api.ts'
import { encodeObject } from './cbor.ts'
import { DigestBytes } from './digest.ts'
import { NodeName, PeerId, text } from './names.ts'
import { SIGNATURE_BYTES, signBytes, verifyBytes, type Signer } from './result.ts'

const PeerFacts = z.object({
  peerId: PeerId,
  name: NodeName,
  roles: z.array(Role).max(8),
  /** libp2p addresses without the peer id; empty when nobody can dial it. */
  addresses: z.array(text(256)).max(16),
  /** Base URL of its HTTP side. One on loopback is of use only where `loopback` is the reader's own. */
  http: text(256).nullable(),
  /** sha256 of the DER of its certificate, as a server and as a client. */
  tls: DigestBytes.optional(),
  /** Equal for two nodes that share one loopback interface: one machine, one network namespace. */
  loopback: text(64).optional(),
})
/** What a node says, before it is signed. */
export type PeerFacts = z.infer<typeof PeerFacts>

const Seq = z.int().min(0)

export const PeerRecord = PeerFacts.extend({
  /** Absent in what was never meant to leave its maker. */
  proof: z
    .object({
      /** Of two records of one node the one with the higher number is the newer. */
      seq: Seq,
      signature: z
        .instanceof(Uint8Array)
        .refine((bytes) => bytes.byteLength === SIGNATURE_BYTES, 'a signature has 64 bytes'),
    })
    .optional(),
})
export type PeerRecord = z.infer<typeof PeerRecord>

const CONTEXT = Buffer.from('mesh peer record v1\0')

export function signRecord(facts: PeerFacts, seq: number, signer: Signer): PeerRecord {
  const { signature } = signBytes(signer, signedBytes(facts, seq))
  return { ...facts, proof: { seq, signature } }
}

/** Whether the node itself said this. */
export function isSignedByItself(record: PeerRecord): boolean {
  const { proof, ...facts } = record
  if (proof === undefined) return false
  const { seq, signature } = proof
  try {
    return verifyBytes({ peerId: record.peerId, signature }, signedBytes(facts, seq))
  } catch (error) {
    // Not every text of the right form is the id of a key.
    if (error instanceof MeshError && error.code === 'MESH0210') return false
    throw error
  }
}

const Signed = PeerFacts.extend({ seq: Seq })

function signedBytes(facts: PeerFacts, seq: number): Buffer {
  return Buffer.concat([CONTEXT, encodeObject(Signed, { ...facts, seq })])
}
