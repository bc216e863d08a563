/** Sizes and durations as people write and read them: "8 GiB", "1h30m". Used by the graph file, flags and tables. */

const SIZE_UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB'] as const
const SIZE = /^(\d{1,15}(?:\.\d{1,3})?) ?(B|KiB|MiB|GiB|TiB)$/
const DURATION_PART = /(\d{1,9}(?:\.\d{1,3})?)(ms|s|m|h|d)/y
const DURATION_MS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 } as const

/** Bytes of a size such as "8 GiB" (binary units, exact spelling); undefined for any other text. */
export function parseSize(text: string): number | undefined {
  const [, number, unit] = SIZE.exec(text) ?? []
  if (number === undefined) return undefined
  const bytes = Math.round(
    Number(number) * 1024 ** SIZE_UNITS.findIndex((candidate) => candidate === unit),
  )
  return Number.isSafeInteger(bytes) ? bytes : undefined
}

/** Milliseconds of a duration such as "90s" or "1h30m"; undefined for any other text. */
export function parseDuration(text: string): number | undefined {
  let total = 0
  let end = 0
  while (end < text.length) {
    DURATION_PART.lastIndex = end
    const match = DURATION_PART.exec(text)
    const [part, number, unit] = match ?? []
    if (part === undefined || !isDurationUnit(unit)) return undefined
    total += Number(number) * DURATION_MS[unit]
    end += part.length
  }
  const rounded = Math.round(total)
  return end > 0 && Number.isSafeInteger(rounded) ? rounded : undefined
}

function isDurationUnit(unit: string | undefined): unit is keyof typeof DURATION_MS {
  return unit !== undefined && Object.hasOwn(DURATION_MS, unit)
}

/** "512 B", "12.4 GiB", "340 MiB": three significant digits at most, from 100 on none behind the point. */
export function formatSize(bytes: number): string {
  let value = bytes
  let unit = 0
  // 1023.5 would be shown as 1024.
  while (value >= 1023.5 && unit < SIZE_UNITS.length - 1) {
    value /= 1024
    unit++
  }
  return `${Number(value.toFixed(value >= 100 ? 0 : 1))} ${SIZE_UNITS[unit]}`
}

/** "0.4s", "12s", "1m02s", "3h05m", "2d04h". */
export function formatDuration(ms: number): string {
  const clamped = Math.max(0, ms)
  if (clamped < 950) return clamped === 0 ? '0s' : `${Math.max(0.1, clamped / 1000).toFixed(1)}s`
  const seconds = Math.round(clamped / 1000)
  if (seconds < 60) return `${seconds}s`
  if (seconds < 3600) return `${Math.floor(seconds / 60)}m${two(seconds % 60)}s`
  const minutes = Math.floor(seconds / 60)
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)}h${two(minutes % 60)}m`
  const hours = Math.floor(minutes / 60)
  return `${Math.floor(hours / 24)}d${two(hours % 24)}h`
}

const two = (value: number): string => String(value).padStart(2, '0')

/** "1 job", "3 jobs". */
export const plural = (count: number, noun: string): string =>
  `${count} ${noun}${count === 1 ? '' : 's'}`
