/** Points in time as people write them: `18:00`, `2026-05-01T18:00`, or how long from now: `90m`. */
import { parseDuration } from '../base/units.ts'

const DAY_MS = 24 * 3600 * 1000

/** Milliseconds from now; undefined for what is no time, or is over. A time of day is the next such one here. */
export function parseUntil(text: string, nowWallMs: number): number | undefined {
  const forMs = parseDuration(text)
  if (forMs !== undefined) return forMs > 0 ? forMs : undefined
  const atWallMs = timeOfDay(text, nowWallMs) ?? dateOf(text)
  return atWallMs === undefined || atWallMs <= nowWallMs ? undefined : atWallMs - nowWallMs
}

function timeOfDay(text: string, nowWallMs: number): number | undefined {
  const match = /^(\d{1,2}):(\d{2})$/.exec(text)
  const [hours, minutes] = [Number(match?.[1]), Number(match?.[2])]
  if (match === null || hours > 23 || minutes > 59) return undefined
  const today = new Date(nowWallMs).setHours(hours, minutes, 0, 0)
  return today > nowWallMs ? today : new Date(today + DAY_MS).setHours(hours, minutes, 0, 0)
}

function dateOf(text: string): number | undefined {
  const atWallMs = /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : Number.NaN
  return Number.isNaN(atWallMs) ? undefined : atWallMs
}
