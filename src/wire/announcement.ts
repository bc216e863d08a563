/**
 * What a node tells an index node of the blobs that it has: changes of a set that both sides know by its
 * fingerprint. A change names the set that it starts from and the one that it leads to, so repeating it is
 * harmless, and a renewal is a change of nothing.
 */
import { z } from 'zod'
import { DigestBytes, digestBytes, digestFromBytes, DigestHex } from './digest.ts'

/** Digests in one announcement: `added` and `gone` together, as senders make them. */
export const ANNOUNCEMENT_ITEMS_MAX = 4096
/** Digests that one node announces; it takes its oldest back beyond that. */
export const ANNOUNCED_MAX = 65_536
/** How long an index node believes an announcement that is not renewed. */
export const ANNOUNCED_MS = 2 * 3600_000

const DIGEST_BYTES = 32

/** One after the other: thousands of them are read in one go. */
const Digests = z.codec(
  z
    .instanceof(Uint8Array)
    .refine(
      ({ byteLength }) =>
        byteLength % DIGEST_BYTES === 0 && byteLength <= ANNOUNCEMENT_ITEMS_MAX * DIGEST_BYTES,
      'not a list of digests',
    ),
  z.array(DigestHex).max(ANNOUNCEMENT_ITEMS_MAX),
  {
    decode: (bytes) =>
      Array.from({ length: bytes.byteLength / DIGEST_BYTES }, (_, at) =>
        digestFromBytes(bytes.subarray(at * DIGEST_BYTES, (at + 1) * DIGEST_BYTES)),
      ),
    encode: (digests) => new Uint8Array(Buffer.concat(digests.map(digestBytes))),
  },
)

/** Of a set of digests; see wire/set-digest.ts. */
export const Fingerprint = z.object({ digest: DigestBytes, count: z.int().min(0) })
export type Fingerprint = z.infer<typeof Fingerprint>

export const Announcement = z.object({
  /** The set before; null when everything announced earlier is to be forgotten first. */
  from: Fingerprint.nullable(),
  added: Digests,
  gone: Digests,
  /** The set after. */
  to: Fingerprint,
})
export type Announcement = z.infer<typeof Announcement>

/** What the index node has of the announcer from now on; null for nothing. Anything but `to` is a refusal. */
export const Announced = z.object({ held: Fingerprint.nullable() })
export type Announced = z.infer<typeof Announced>
