/** How much of a machine is for builds, as `[worker]`, `[worker.owner]` and `[[worker.window]]` say it. */
import { z } from 'zod'
import { formatDuration, formatSize, parseDuration, parseSize } from '../../base/units.ts'
import { POLICIES, type PolicySettings, type PolicyWindow } from '../policy/policy.ts'
import { WEEKDAYS, weekdayAt, type Weekday } from '../policy/windows.ts'

const WINDOWS_MAX = 32
const CPUS_MAX = 4096
const IDLE_MS_MIN = 1000
const IDLE_MS_MAX = 24 * 3600 * 1000

const written = (isRight: (value: string) => boolean, form: string) =>
  z.string().max(64).refine(isRight, `expected ${form}`)

const isIdleTime = (text: string): boolean => {
  const ms = parseDuration(text)
  return ms !== undefined && ms >= IDLE_MS_MIN && ms <= IDLE_MS_MAX
}

const cpus = z
  .int({ error: `expected a whole number from 0 to ${CPUS_MAX}` })
  .min(0)
  .max(CPUS_MAX)

export const PolicyName = z
  .enum(POLICIES)
  .default('dedicated')
  .describe(`how much of the machine is for builds: ${POLICIES.join(', ')}`)

export const OwnerSettings = z.strictObject({
  cpus: cpus.default(1).describe('left to builds while somebody is there, or it is busy'),
  memory: written(
    (text) => text === 'auto' || (parseSize(text) ?? 0) > 0,
    'a size such as "2 GiB", or "auto"',
  )
    .default('auto')
    .describe('the same of memory (default: auto, what is free)'),
  'idle-after': written(isIdleTime, 'a duration from 1s to 24h such as "10m"')
    .default('10m')
    .describe('untouched for so long, nobody is there'),
  battery: z
    .boolean('expected true or false')
    .default(false)
    .describe('build on battery as on mains'),
})

const WindowSettings = z
  .strictObject({
    days: written(
      (text) => parseDays(text) !== undefined,
      'days such as "mon-fri", "sat,sun" or "daily"',
    ).describe('days on which it begins'),
    from: written((text) => parseClock(text) !== undefined && text !== '24:00', 'HH:MM').describe(
      'local time of its begin',
    ),
    to: written((text) => parseClock(text) !== undefined, 'HH:MM').describe(
      'local time of its end; on the next day where it is not after from',
    ),
    cpus: cpus.optional().describe('the most that builds get then'),
    policy: z.enum(POLICIES).optional().describe('the policy of these hours'),
  })
  .refine(({ from, to }) => from !== to, {
    error: 'it begins and ends at one time; a whole day is from = "00:00", to = "24:00"',
    path: ['to'],
  })
  .refine((window) => window.cpus !== undefined || window.policy !== undefined, {
    error: 'it changes nothing: give it cpus or policy',
  })

export const Windows = z
  .array(WindowSettings)
  .max(WINDOWS_MAX)
  .default([])
  .describe('hours with a share of their own; the first that holds counts')

/** For hints, by the path of the table in `[worker]`. */
export const POLICY_KEYS: Readonly<Record<string, readonly string[]>> = {
  owner: Object.keys(OwnerSettings.shape),
  window: Object.keys(WindowSettings.shape),
}

/** The days that "mon-fri,sun" names; undefined for another text. */
export function parseDays(text: string): Weekday[] | undefined {
  if (text === 'daily') return [0, 1, 2, 3, 4, 5, 6]
  const days = new Set<Weekday>()
  for (const part of text.split(',')) {
    const [, first, last = first] = /^ *([a-z]{3})(?:-([a-z]{3}))? *$/.exec(part) ?? []
    const from = WEEKDAYS.findIndex((day) => day === first)
    const to = WEEKDAYS.findIndex((day) => day === last)
    if (from === -1 || to === -1) return undefined
    for (let at = from; at <= (to < from ? to + 7 : to); at++) days.add(weekdayAt(at))
  }
  return [...days].toSorted((a, b) => a - b)
}

/** Minutes after midnight of "09:30", up to 24:00; undefined for another text. */
export function parseClock(text: string): number | undefined {
  const [, hours = '', minutes = ''] = /^(\d{2}):(\d{2})$/.exec(text) ?? []
  const minute = Number(hours) * 60 + Number(minutes)
  return hours !== '' && Number(minutes) < 60 && minute <= 24 * 60 ? minute : undefined
}

/** Of settings that the schema has checked. */
export function policyConfigOf(worker: {
  readonly policy: PolicySettings['name']
  readonly owner: z.infer<typeof OwnerSettings>
  readonly window: z.infer<typeof Windows>
}): PolicySettings {
  const { owner } = worker
  return {
    name: worker.policy,
    owner: {
      cpus: owner.cpus,
      memoryBytes: parseSize(owner.memory),
      idleAfterMs: checked(parseDuration(owner['idle-after'])),
      isBatteryFine: owner.battery,
    },
    windows: worker.window.map(({ days, from, to, cpus: most, policy }) => ({
      days: checked(parseDays(days)),
      from: checked(parseClock(from)),
      to: checked(parseClock(to)),
      cpus: most,
      policy,
    })),
  }
}

/** The tables of `mesh-node config check`: TOML with the same meaning. */
export function shownPolicy({ owner, windows }: PolicySettings): string[] {
  return [
    '',
    '[worker.owner]',
    `cpus = ${owner.cpus}`,
    `memory = ${owner.memoryBytes === undefined ? '"auto"' : JSON.stringify(formatSize(owner.memoryBytes))}`,
    `idle-after = ${JSON.stringify(formatDuration(owner.idleAfterMs))}`,
    `battery = ${owner.isBatteryFine}`,
    ...windows.flatMap(shownWindow),
  ]
}

function shownWindow({ days, from, to, cpus: most, policy }: PolicyWindow): string[] {
  return [
    '',
    '[[worker.window]]',
    `days = ${JSON.stringify(days.map((day) => WEEKDAYS[day]).join(','))}`,
    `from = ${JSON.stringify(clockText(from))}`,
    `to = ${JSON.stringify(clockText(to))}`,
    ...(most === undefined ? [] : [`cpus = ${most}`]),
    ...(policy === undefined ? [] : [`policy = ${JSON.stringify(policy)}`]),
  ]
}

const two = (value: number): string => String(value).padStart(2, '0')
const clockText = (minute: number): string => `${two(Math.floor(minute / 60))}:${two(minute % 60)}`

function checked<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the schema let a wrong value pass')
  return value
}
