/** What people see of builds that were compared: the answers of GET /api/jobs/ID/diff and GET /api/audits. */
import { z } from 'zod'
import { EntryJson } from './tree.ts'

const count = z.int().min(0)
const iso = z.string()

/** How a difference came to light; of newer versions' ways only that there was one is known. */
const Found = z.enum(['verify', 'late', 'rebuilt', 'audit', 'other']).catch('other')

export const JobDiff = z.object({
  v: z.literal(1),
  job: z.string(),
  name: z.string(),
  request: z.string(),
  /** Null where nothing differs. */
  found: Found.nullable(),
  agree: z.boolean(),
  /** Builds of one action; the first one is what the others are compared with. */
  votes: z.array(
    z.object({
      node: z.string(),
      peerId: z.string(),
      attempt: z.string(),
      /** Its number among the attempts of the job; null for one that is not among them. */
      n: count.nullable(),
      /** Null where it failed. */
      outputs: z.record(z.string(), EntryJson).nullable(),
      error: z.string().nullable(),
    }),
  ),
})
export type JobDiff = z.infer<typeof JobDiff>

/** Divergences in one answer, the newest first. */
export const DIVERGED_LISTED_MAX = 1_000

export const Audits = z.object({
  v: z.literal(1),
  /** Of the finished jobs those that are built again, from 0 to 1; 0 where audits are off. */
  share: z.number().min(0).max(1),
  /** Jobs that are to be audited when a node is idle. */
  candidates: count,
  running: z.array(
    z.object({
      job: z.string(),
      name: z.string(),
      node: z.string(),
      /** Who built it first. */
      builtBy: z.string(),
      forMs: count,
    }),
  ),
  /** Audits by outcome, of those that are remembered. */
  audited: z.object({ equal: count, different: count, failed: count }),
  /** However they came to light. */
  diverged: z.array(
    z.object({
      job: z.string(),
      name: z.string(),
      request: z.string(),
      found: Found,
      at: iso,
      nodes: z.array(z.string()),
      /** Names of the outputs that differ; empty where it failed on one node. */
      outputs: z.array(z.string()),
    }),
  ),
})
export type Audits = z.infer<typeof Audits>
