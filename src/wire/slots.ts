/**
 * Words of people on processors: how many a node gives builds, how many a job has. Part of the API:
 *
 * | method and path | body → answer |
 * |---|---|
 * | GET /api/slots | → SlotsView: all that is set |
 * | POST /api/nodes/slots | SlotsOrder → SlotsView of that selector: also of nodes that come later |
 * | POST /api/jobs/ID/slots | JobSlotsOrder → JobView |
 */
import { z } from 'zod'
import { PeerId, text } from './names.ts'

/** The most processors that anybody can be said to have. */
export const SLOTS_MAX = 4096
/** The longest that a word on a node may hold by itself. */
const SLOTS_MS_MAX = 365 * 24 * 3600 * 1000

const iso = z.string()
const count = z.int().min(0)

export const SlotsOrder = z.object({
  selector: text(256).min(1),
  /** 0: nothing; null: what the node gives by itself. */
  cpus: count.max(SLOTS_MAX).nullable(),
  /** Null for ever. */
  forMs: z.int().min(1).max(SLOTS_MS_MAX).nullable().default(null),
  reason: text(512).default(''),
})
export type SlotsOrder = z.infer<typeof SlotsOrder>

/** Null: what the job asks for by itself. */
export const JobSlotsOrder = z.object({ cpus: z.int().min(1).max(SLOTS_MAX).nullable() })

/** Who set the number, and when. */
export const SlotsMark = z.object({ cpus: count, by: z.string(), at: iso })
export type SlotsMark = z.infer<typeof SlotsMark>

const NodeSlotsView = z.object({
  selector: z.string(),
  cpus: count,
  reason: z.string(),
  by: z.string(),
  at: iso,
  until: iso.nullable(),
  /** The nodes that it holds for now, with what they say that they have; others may come, and those of subtrees are not named. */
  nodes: z.array(
    z.object({ name: z.string(), peerId: PeerId, state: z.string(), cpus: count, busy: count }),
  ),
})
export type NodeSlotsView = z.infer<typeof NodeSlotsView>

const JobSlotsView = z.object({
  job: z.string(),
  name: z.string(),
  request: z.string(),
  state: z.string(),
  /** What it has now; null for one that does not run. */
  has: count.nullable(),
  ...SlotsMark.shape,
})
export type JobSlotsView = z.infer<typeof JobSlotsView>

export const SlotsView = z.object({ nodes: z.array(NodeSlotsView), jobs: z.array(JobSlotsView) })
export type SlotsView = z.infer<typeof SlotsView>
