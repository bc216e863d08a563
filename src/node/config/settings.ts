/**
 * The schema of the configuration file: sections, keys, what each may hold, its default, one line about it.
 *
 * Flags and environment variables set the same values: which, is in setting-table.ts.
 */
import { isAbsolute } from 'node:path'
import { z } from 'zod'
import { parseDuration, parseSize } from '../../base/units.ts'
import { ROLES, Role } from '../../wire/api.ts'
import { Feature, NodeName, PeerId, System } from '../../wire/names.ts'
import {
  isHttpUrl,
  parseDialAddress,
  parseHostPort,
  parseListenAddress,
  parsePercent,
} from './config-values.ts'
import { DeclaredImages } from './image-settings.ts'
import { OwnerSettings, PolicyName, Windows } from './policy-settings.ts'
import { ShareSettings } from './share-settings.ts'

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const

const ADDRESSES_MAX = 16
const ALLOWED_PEERS_MAX = 10_000
const CPUS_MAX = 4096
const CHECKS_MAX = 8
const FACT_PROGRAMS_MAX = 8
const FEATURES_MAX = 32
const SYSTEMS_MAX = 16
/** The longest delay of a timer: 2^31 - 1 ms, 24 days. */
const DRAIN_MS_MAX = 2 ** 31 - 1
const KEEP_MS_MAX = 365 * 24 * 3600 * 1000

const written = (isRight: (value: string) => boolean, form: string) =>
  z.string().max(4096).refine(isRight, `expected ${form}`)

/** `/build` is what a build sees there, which a check is not in. */
const isCheckPath = (path: string): boolean =>
  isAbsolute(path) && !path.includes('\0') && !/^\/build(?:\/|$)/.test(path)

/** The configuration file; flags and environment variables set the same values. */
export const Settings = z.strictObject({
  node: z
    .strictObject({
      data: written((path) => path !== '' && !path.includes('\0'), 'a path')
        .optional()
        .describe('directory of all that this node keeps'),
      name: NodeName.optional().describe('name of this node in the mesh (default: host name)'),
      roles: z
        .array(Role)
        .min(1)
        .max(ROLES.length)
        .optional()
        .describe(
          `any of ${ROLES.join(',')} (default: root,worker,store; with a parent worker,store)`,
        ),
      listen: z
        .array(
          written(
            (text) => text === 'none' || parseListenAddress(text) !== undefined,
            '"none" or a multiaddr such as "/ip4/127.0.0.1/tcp/7421"',
          ),
        )
        .max(ADDRESSES_MAX)
        .refine((list) => list.length <= 1 || !list.includes('none'), '"none" stands alone')
        .default(['/ip4/127.0.0.1/tcp/7421'])
        .describe('address for other nodes, or none'),
      parents: z
        .array(
          written(
            (text) => parseDialAddress(text) !== undefined,
            'a multiaddr such as "/ip4/10.0.0.7/tcp/7421/p2p/12D3KooW…"',
          ),
        )
        .max(ADDRESSES_MAX)
        .default([])
        .describe('address of the node that gives work to this one'),
      allow: z
        .array(
          written(
            (text) => text === 'any' || PeerId.safeParse(text).success,
            '"any" or a peer id, which begins with 12D3KooW',
          ),
        )
        .max(ALLOWED_PEERS_MAX)
        .optional()
        .describe('peer to admit, or any; needed beyond loopback'),
    })
    .prefault({}),
  worker: z
    .strictObject({
      cpus: z
        .union([z.int().min(1).max(CPUS_MAX), z.literal('auto')], {
          error: `expected a whole number from 1 to ${CPUS_MAX}, or "auto"`,
        })
        .default('auto')
        .describe('processors for builds (default: auto, all)'),
      memory: written(
        (text) => text === 'auto' || (parseSize(text) ?? 0) > 0,
        'a size such as "8 GiB", or "auto"',
      )
        .default('auto')
        .describe('memory for builds, as "8 GiB" (default: auto, all)'),
      isolation: z
        .enum(['auto', 'host'])
        .default('auto')
        .describe('auto: the strongest there is; host: no walls, unsealed'),
      checks: z
        .array(written(isCheckPath, 'an absolute path, not below /build'))
        .max(CHECKS_MAX)
        .default([])
        .describe('program that may refuse a job before it begins'),
      facts: z
        .array(written(isCheckPath, 'an absolute path, not below /build'))
        .max(FACT_PROGRAMS_MAX)
        .default([])
        .describe('program that prints NAME=VALUE or feature NAME'),
      features: z
        .array(
          written(
            (text) => Feature.safeParse(text.replace(/^-/, '')).success,
            'a name of a-z 0-9 _ . + -, or one after "-" that is not to be offered',
          ),
        )
        .max(FEATURES_MAX)
        .default([])
        .describe('name that derivations may require, or -NAME'),
      systems: z
        .array(written((text) => System.safeParse(text).success, 'a system such as "x86_64-linux"'))
        .min(1)
        .max(SYSTEMS_MAX)
        .optional()
        .describe('system to build for (default: all that run here)'),
      policy: PolicyName,
      'machine-root': written(
        (path) => isAbsolute(path) && !path.includes('\0'),
        'an absolute path',
      )
        .default('/')
        .describe('where a container has /proc, /sys, /run and /dev of its host'),
      owner: OwnerSettings.prefault({}),
      window: Windows,
      image: DeclaredImages,
    })
    .prefault({}),
  store: z
    .strictObject({
      mirrors: z
        .array(written(isHttpUrl, 'an http or https URL'))
        .max(ADDRESSES_MAX)
        .default([])
        .describe('base URL of an HTTP source of blobs'),
      quota: written(
        (text) => text === 'none' || (parseSize(text) ?? 0) > 0,
        'a size such as "200 GiB", or "none"',
      )
        .default('none')
        .describe('the most that the store may use (default: none)'),
      free: written(
        (text) => text === 'auto' || parseSize(text) !== undefined,
        'a size such as "20 GiB", or "auto"',
      )
        .default('auto')
        .describe('left free on its disk (default: auto, 5 % or 10 GiB)'),
      'keep-logs': written(
        (text) => (parseDuration(text) ?? 0) > 0 && (parseDuration(text) ?? 0) <= KEEP_MS_MAX,
        'a duration up to 365d such as "14d"',
      )
        .default('14d')
        .describe('how long logs and kept directories of builds stay'),
      'keep-logs-size': written(
        (text) => text === 'auto' || (parseSize(text) ?? 0) > 0,
        'a size such as "10 GiB", or "auto"',
      )
        .default('auto')
        .describe('the most of them (default: auto, up to 10 GiB)'),
    })
    .prefault({}),
  audit: z
    .strictObject({
      share: written(
        (text) => parsePercent(text) !== undefined,
        'a percentage from 0% to 100% such as "5%"',
      )
        .default('0%')
        .describe('of the finished jobs, build so many again when idle'),
    })
    .prefault({}),
  shares: ShareSettings.prefault({}),
  http: z
    .strictObject({
      listen: written(
        (text) => text === 'none' || parseHostPort(text) !== undefined,
        '"none" or HOST:PORT such as "127.0.0.1:7420" or "[::1]:0"',
      )
        .default('127.0.0.1:7420')
        .describe('address of metrics and blobs, or none'),
      open: z
        .boolean('expected true or false')
        .default(false)
        .describe('let everybody who reaches that address read blobs'),
    })
    .prefault({}),
  log: z
    .strictObject({
      level: z.enum(LOG_LEVELS).default('info').describe(LOG_LEVELS.join(', ')),
      format: z
        .enum(['auto', 'json', 'pretty'])
        .default('auto')
        .describe('json, pretty, or auto: pretty on a terminal'),
    })
    .prefault({}),
  shutdown: z
    .strictObject({
      deadline: written(
        (text) => (parseDuration(text) ?? Infinity) <= DRAIN_MS_MAX,
        'a duration up to 24d such as "30s"',
      )
        .default('30s')
        .describe('how long running builds may finish after SIGTERM'),
    })
    .prefault({}),
})
export type Settings = z.infer<typeof Settings>

/** The JSON schema of the configuration file. */
export function configSchema(): z.core.JSONSchema.JSONSchema {
  return z.toJSONSchema(Settings, { io: 'input' })
}
