/** Who set a number of processors, and when, as people see it. Pure. */
import type { SlotsMark } from '../wire/slots.ts'
import type { Moment } from './events.ts'
import type { Slots } from './model.ts'
import type { ActiveSlots } from './node-slots.ts'

/** A time as the API has it. */
export const iso = (wallMs: number): string => new Date(wallMs).toISOString()

export function slotsMark({ cpus, by, atWall }: Slots): SlotsMark {
  return { cpus, by, at: iso(atWall) }
}

/** With why, and until when. */
export function nodeSlotsMark(
  { cpus, by, atWall, reason, endMs }: ActiveSlots,
  { nowMs, wallMs }: Moment,
): SlotsMark & { reason: string; until: string | null } {
  const until = Number.isFinite(endMs) ? iso(wallMs + Math.max(0, endMs - nowMs)) : null
  return { ...slotsMark({ cpus, by, atWall }), reason, until }
}
