/** The section `[shares]` of the configuration: how an owner divides its nodes among users. */
import { z } from 'zod'
import { parseDuration } from '../../base/units.ts'

const GROUPS_MAX = 256
const PATTERNS_MAX = 1_000
const HALF_LIFE_MS_MIN = 60_000
const HALF_LIFE_MS_MAX = 30 * 24 * 3600 * 1000

const isHalfLife = (text: string): boolean => {
  const ms = parseDuration(text)
  return ms !== undefined && ms >= HALF_LIFE_MS_MIN && ms <= HALF_LIFE_MS_MAX
}

const ShareGroup = z.strictObject({
  name: z.string().min(1).max(64).describe('name of the group; "default" is for all other users'),
  users: z
    .array(z.string().min(1).max(256))
    .max(PATTERNS_MAX)
    .default([])
    .describe('users as `mesh requests` shows them, with * for any text'),
  weight: z
    .number()
    .min(0.01)
    .max(1_000)
    .default(1)
    .describe('a group of weight 2 gets twice as much as one of weight 1'),
})

export const ShareSettings = z.strictObject({
  'half-life': z
    .string()
    .max(64)
    .refine(isHalfLife, 'expected a duration from 1m to 30d such as "4h"')
    .default('4h')
    .describe('after so long, half of what a user had counts'),
  group: z
    .array(ShareGroup)
    .max(GROUPS_MAX)
    .refine(
      (groups) => new Set(groups.map(({ name }) => name)).size === groups.length,
      'two groups have one name',
    )
    .default([])
    .describe('groups of users; the first that fits a user has it'),
})
export type ShareSettings = z.infer<typeof ShareSettings>

/** Shares as the scheduler takes them. */
export interface ShareConfig {
  readonly halfLifeMs: number
  readonly groups: readonly {
    readonly name: string
    readonly users: readonly string[]
    readonly weight: number
  }[]
}

export function shareConfigOf({ 'half-life': halfLife, group }: ShareSettings): ShareConfig {
  const halfLifeMs = parseDuration(halfLife)
  if (halfLifeMs === undefined) throw new Error('the schema let a wrong duration pass')
  return { halfLifeMs, groups: group }
}

/** Keys of a group, for hints. */
export const GROUP_KEYS: readonly string[] = Object.keys(ShareGroup.shape)
