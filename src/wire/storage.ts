/**
 * What the API says of a node's disk: how full it is, what may go, what is pinned.
 *
 * | method and path | body → answer |
 * |---|---|
 * | GET /api/storage | → Storage |
 * | POST /api/gc | GcRequest → GcReport |
 * | GET /api/pins | → Pin[], newest first |
 * | POST /api/pins | PinRequest → Pin, once everything in it is in this node's store |
 * | POST /api/pins/remove | UnpinRequest → Pin, the one that was removed |
 *
 * All of it is about the node that is asked.
 */
import { z } from 'zod'
import { DigestHex, Size } from './digest.ts'

const count = z.int().min(0)
const Amount = z.object({ count, bytes: count })

/** `full`: the node takes no work until there is room again. */
export const Space = z.object({
  state: z.enum(['ok', 'full']),
  /** Blobs, their executable copies, and what is partly here. */
  usedBytes: count,
  /** Of blobs on their way in. */
  reservedBytes: count,
  /** The most that the store may use; null where only the disk limits it. */
  quotaBytes: count.nullable(),
  /** Of the disk. */
  freeBytes: count,
  /** What is always left free on the disk. */
  floorBytes: count,
  /** What could be removed, as of the last look at all blobs. */
  freeableBytes: count,
})
export type Space = z.infer<typeof Space>

/** Why bytes are where they are; a blob is in the first class that fits. */
export const StorageClass = z.enum([
  'pinned',
  'leased',
  'recent',
  'idle',
  'partial',
  'executables',
  'trash',
])
export type StorageClass = z.infer<typeof StorageClass>

export const Storage = z.object({
  v: z.literal(1),
  node: z.string(),
  directory: z.string(),
  space: Space,
  classes: z.record(StorageClass, Amount),
})
export type Storage = z.infer<typeof Storage>

export const GcRequest = z.strictObject({
  dryRun: z.boolean().default(false),
  /** How much to free, least recently used first; without it, all that may go. */
  freeBytes: count.optional(),
})
export type GcRequest = z.infer<typeof GcRequest>
export const GcReport = z.object({
  v: z.literal(1),
  node: z.string(),
  dryRun: z.boolean(),
  /** What went, or would go. */
  evicted: Amount,
  /** Less than what was asked for by so much. */
  shortBytes: count,
  /** All that was looked at, by the reason why it may or may not go. */
  classes: z.partialRecord(StorageClass, Amount),
  space: Space,
})
export type GcReport = z.infer<typeof GcReport>

export const Pin = z.object({
  digest: DigestHex,
  size: Size,
  /** A `dir` is pinned with all that is in it. */
  kind: z.enum(['file', 'dir']),
  /** For people. */
  label: z.string().max(200),
  atWall: z.string(),
})
export type Pin = z.infer<typeof Pin>

export const PinRequest = Pin.pick({ digest: true, kind: true, label: true }).strict()
export type PinRequest = z.infer<typeof PinRequest>
export const UnpinRequest = Pin.pick({ digest: true }).strict()
