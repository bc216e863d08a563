/**
 * Images that have names: root file systems, as trees in the store, that builds ask for.
 *
 * The names are at the owner of requests, in its journal; the API below is answered by it from any node.
 *
 * | method and path | body → answer |
 * |---|---|
 * | GET /api/images | → ImageView[], by name |
 * | GET /api/images/NAME | → ImageView |
 * | POST /api/images/NAME | ImageOrder → ImageView, once the name is durable |
 * | POST /api/images/NAME/remove | → ImageView, the one that was removed |
 */
import { z } from 'zod'
import { DigestBytes, DigestHex, Size, type Digest } from './digest.ts'
import { ImageName, NodeName, PeerId, System, text } from './names.ts'

/** Names that an owner keeps. */
export const IMAGES_MAX = 1_000
/** Of all files of one image together. */
export const IMAGE_BYTES_MAX = 64 * 1024 ** 3
/** Files, directories and links of one image. */
export const IMAGE_ENTRIES_MAX = 2_000_000

const count = z.int().min(0)

const about = <D extends z.ZodType<Digest>>(digest: D) => ({
  /** Of its tree, which is a directory. */
  digest,
  size: Size,
  /** What its programs run on; `any` for one that has none. */
  system: System,
  /** `debian-12`: for people. */
  label: text(64),
  sizeBytes: count,
  fileCount: count,
  /** The node that was asked to take it in, and so has it. */
  from: z.object({ peerId: PeerId, name: NodeName }),
})

/** An image in the journal. */
export const NamedImage = z.object({
  name: ImageName,
  ...about(DigestBytes),
  /** Counts the trees that the name has had. */
  version: z.int().min(1),
  by: text(256),
  /** For people. */
  atWall: count,
})
export type NamedImage = z.infer<typeof NamedImage>

export const ImageOrder = z.object({
  ...about(DigestHex),
  /** A name that means another tree stays as it is, which is refused with MESH0604. */
  isNew: z.boolean().optional(),
})
export type ImageOrder = z.infer<typeof ImageOrder>

export const ImageView = z.object({
  name: ImageName,
  ...about(DigestHex),
  cid: z.string(),
  version: z.int().min(1),
  by: z.string(),
  /** ISO time, for display. */
  at: z.string(),
  /** Store nodes that keep it, by name. */
  stores: z.array(NodeName),
  /** Why no store node has it yet, where none has. */
  problem: z.string().optional(),
})
export type ImageView = z.infer<typeof ImageView>
