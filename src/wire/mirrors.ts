/**
 * HTTP mirrors in the API of a node: what it knows of those it uses, and the outcome of trying one.
 *
 * | method and path | body → answer |
 * |---|---|
 * | GET /api/mirrors | → MirrorView[], in the order in which they are asked |
 * | POST /api/mirrors/test | MirrorTestQuery → MirrorTest[] |
 */
import { z } from 'zod'
import { DigestHex, Size } from './digest.ts'

const count = z.int().min(0)

/** `GET /api/mirrors`: one of the mirrors of the node that is asked. */
export const MirrorView = z.object({
  url: z.string(),
  /** `suspended`: asked last until then, for the reason given. */
  state: z.enum(['ok', 'suspended', 'untried']),
  reason: z.string().nullable(),
  until: z.string().nullable(),
  /** To the first byte of an answer, averaged. */
  latencyMs: count.nullable(),
  bytesPerS: count.nullable(),
  asks: count,
  /** Asks that were answered with the blob. */
  hits: count,
  bytes: count,
})
export type MirrorView = z.infer<typeof MirrorView>

/** `POST /api/mirrors/test`: which to try, and with what; by default all, with blobs that the node has. */
export const MirrorTestQuery = z.object({
  url: z
    .string()
    .max(2048)
    .refine((text) => URL.canParse(text) && /^https?:$/.test(new URL(text).protocol), {
      error: 'expected an http or https URL',
    })
    .optional(),
  digest: DigestHex.optional(),
})
export type MirrorTestQuery = z.infer<typeof MirrorTestQuery>

export const MirrorTest = z.object({
  url: z.string(),
  /** Nothing was found wrong. */
  ok: z.boolean(),
  /** Where its blobs are: `/cas/sha256/ab/…` or `/cas/…`; null where none was found. */
  layout: z.enum(['sharded', 'flat']).nullable(),
  /** Whether it gives parts; null where that could not be tried. */
  range: z.boolean().nullable(),
  latencyMs: count.nullable(),
  bytesPerS: count.nullable(),
  /** The blob that was fetched and compared. */
  blob: z.object({ digest: DigestHex, size: Size }).nullable(),
  wrongBytes: z.boolean(),
  problems: z.array(z.string()),
})
export type MirrorTest = z.infer<typeof MirrorTest>
