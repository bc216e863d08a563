/** The turns of phrase that several answers of `mesh why` share. */
import { formatDuration } from '../../base/units.ts'

/** Names in one list, before the others are only counted. */
const LISTED_MAX = 3

export function listSome(names: readonly string[], max = LISTED_MAX): string {
  return names.length <= max
    ? names.join(', ')
    : `${names.slice(0, max).join(', ')} and ${names.length - max} more`
}

/** A time that is only estimated: `40 s`, `6 m`, `2 h 10 m`. */
export function about(ms: number): string {
  const minutes = Math.round(ms / 60_000)
  if (ms < 55_000) return `${Math.max(1, Math.ceil(ms / 5_000) * 5)} s`
  if (minutes < 60) return `${Math.max(1, minutes)} m`
  if (minutes < 48 * 60) {
    const tens = Math.round(minutes / 10)
    const [hours, rest] = [Math.floor(tens / 6), (tens % 6) * 10]
    return rest === 0 ? `${hours} h` : `${hours} h ${rest} m`
  }
  return `${Math.round(minutes / (24 * 60))} days`
}

/** `2m of ~5m`, or `2m` where nothing was learnt. */
export function progressText(elapsedMs: number, expectedMs: number | undefined): string {
  const elapsed = coarse(elapsedMs)
  return expectedMs === undefined ? elapsed : `${elapsed} of ~${coarse(expectedMs)}`
}

function coarse(ms: number): string {
  return ms >= 120_000 && ms < 3_600_000 ? `${Math.round(ms / 60_000)}m` : formatDuration(ms)
}
