/** How much of a machine is for builds now, and why: as nodes tell it, and as people see it. */
import { z } from 'zod'
import { text } from './names.ts'

const count = z.int().min(0)

export const PolicyWire = z.object({
  /** What its owner chose, or the hours of now: `dedicated`, `when-idle`. */
  name: text(32),
  /** Processors for builds, of those that there are in all. */
  cpus: count,
  of: count,
  /** Memory that there is in all for builds. */
  wholeMemoryBytes: count,
  reason: text(512),
  /** When it may be another one for all that is known, in ms since the epoch, by the clock of the node. */
  untilWall: count.optional(),
})
export type PolicyWire = z.infer<typeof PolicyWire>

export const PolicyView = PolicyWire.omit({ untilWall: true }).extend({
  until: z.iso.datetime().optional(),
})
export type PolicyView = z.infer<typeof PolicyView>
