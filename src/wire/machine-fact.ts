/** What a node tells people of its machine, with where it comes from. No decision hangs on it. */
import { z } from 'zod'
import { text } from './names.ts'

/** Of one node. */
export const FACTS_MAX = 64
export const Fact = z.object({
  name: text(64),
  value: text(256),
  source: z.enum(['probed', 'declared', 'default']),
  /** Where it comes from, or why it is so. */
  how: text(512),
})
export type Fact = z.infer<typeof Fact>
