/**
 * Hours of the week in which builds get another share of a machine, in its local time. Pure: the time and
 * the rules of the time zone are given.
 *
 * What holds is decided by the clock on the wall, so that a window moves with summer time: one from 02:00
 * to 03:00 is skipped, or lasts two hours, in the nights when the clock is changed.
 */

/** Monday is 0. */
export type Weekday = 0 | 1 | 2 | 3 | 4 | 5 | 6
export const WEEKDAYS = ['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'] as const
const MINUTES_PER_DAY = 24 * 60
const MINUTE_MS = 60_000
const DAY_MS = MINUTES_PER_DAY * MINUTE_MS

/** Hours that begin on each of `days`; over midnight where `to` is not after `from`. */
export interface TimeWindow {
  /** Sorted, no duplicates, not empty. */
  readonly days: readonly Weekday[]
  /** Minutes after midnight, 0 to 1439. */
  readonly from: number
  /** 1 to 1440. */
  readonly to: number
}

/** What a clock on the wall shows. */
export interface LocalTime {
  readonly day: Weekday
  /** Minutes after midnight. */
  readonly minute: number
}

/** The local time at a moment, in ms since the epoch. */
export type LocalTimeOf = (wallMs: number) => LocalTime

/** Local time in `timeZone`, or that of the process. */
export function localTimeIn(timeZone?: string): LocalTimeOf {
  const format = new Intl.DateTimeFormat('en-GB', {
    ...(timeZone === undefined ? {} : { timeZone }),
    weekday: 'short',
    hour: '2-digit',
    minute: '2-digit',
    hourCycle: 'h23',
  })
  return (wallMs) => {
    const parts = new Map(format.formatToParts(wallMs).map(({ type, value }) => [type, value]))
    const name = parts.get('weekday')?.toLowerCase()
    return {
      day: weekdayAt(WEEKDAYS.findIndex((day) => day === name)),
      minute: Number(parts.get('hour')) * 60 + Number(parts.get('minute')),
    }
  }
}

export function weekdayAt(index: number): Weekday {
  const days: readonly Weekday[] = [0, 1, 2, 3, 4, 5, 6]
  return days[((index % 7) + 7) % 7] ?? 0
}

export function holdsAt({ days, from, to }: TimeWindow, { day, minute }: LocalTime): boolean {
  if (from < to) return days.includes(day) && minute >= from && minute < to
  if (days.includes(day) && minute >= from) return true
  return days.includes(weekdayAt(day - 1)) && minute < to
}

/** The first of the windows that holds; its index, as several may be alike. */
export function windowAt(windows: readonly TimeWindow[], time: LocalTime): number | undefined {
  const at = windows.findIndex((window) => holdsAt(window, time))
  return at === -1 ? undefined : at
}

/**
 * When another window holds than now, or none; undefined where that never happens. Right but for a change of
 * the clock within the hour before it; it is for people, what holds is asked of `windowAt`.
 */
export function nextChangeMs(
  windows: readonly TimeWindow[],
  wallMs: number,
  localTimeOf: LocalTimeOf,
): number | undefined {
  const now = localTimeOf(wallMs)
  const current = windowAt(windows, now)
  const edges = new Set(windows.flatMap(({ from, to }) => [from, to % MINUTES_PER_DAY]))
  const thisMinuteMs = wallMs - (wallMs % MINUTE_MS)
  const moments: number[] = []
  for (const edge of edges) {
    const inMinutes = (edge - now.minute + MINUTES_PER_DAY) % MINUTES_PER_DAY
    for (let day = 0; day <= 7; day++) {
      const guess = thisMinuteMs + inMinutes * MINUTE_MS + day * DAY_MS
      // The clock may have been changed on the way there.
      const off = (edge - localTimeOf(guess).minute + MINUTES_PER_DAY) % MINUTES_PER_DAY
      const shift = off > MINUTES_PER_DAY / 2 ? off - MINUTES_PER_DAY : off
      moments.push(guess + shift * MINUTE_MS)
    }
  }
  return moments
    .filter((atMs) => atMs > wallMs)
    .toSorted((a, b) => a - b)
    .find((atMs) => windowAt(windows, localTimeOf(atMs)) !== current)
}
