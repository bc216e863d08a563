/**
 * What a daemon is told at its start: one schema, filled from flags, environment and a TOML file.
 *
 * Precedence: flag > environment > file > default; each value remembers where it came from. The only
 * reader of the process's environment in this folder. What changes while a daemon runs is not here.
 */
import { closeSync, openSync, readSync } from 'node:fs'
import { homedir, hostname } from 'node:os'
import { isAbsolute, join, resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { z } from 'zod'
import { hasCode, MeshError, messageOf } from '../../base/errors.ts'
import { nearest, nearestOf } from '../../base/nearest.ts'
import { parseDuration, parseSize } from '../../base/units.ts'
import { ROLES, Role } from '../../wire/api.ts'
import { Feature, NodeName, PeerId, System } from '../../wire/names.ts'
import { ConfigFile } from './config-file.ts'
import {
  isHttpUrl,
  isLoopback,
  parseDialAddress,
  parseHostPort,
  parseListenAddress,
  parsePercent,
  type HostPort,
} from './config-values.ts'
import type { PolicySettings } from '../policy/policy.ts'
import {
  OwnerSettings,
  POLICY_KEYS,
  policyConfigOf,
  PolicyName,
  Windows,
} from './policy-settings.ts'
import { DeclaredImages, IMAGE_KEYS, type DeclaredImage } from './image-settings.ts'
import { GROUP_KEYS, shareConfigOf, ShareSettings, type ShareConfig } from './share-settings.ts'

/** The resolved settings of one daemon. */
export interface Config {
  /** Absolute path of the directory of all that the node keeps. */
  readonly data: string
  readonly name: string
  /** Multiaddrs; empty for a node that only dials out. */
  readonly listen: readonly string[]
  /** Absent for a node that serves no HTTP over TCP. */
  readonly http?: HostPort
  /** Whoever reaches the HTTP port reads blobs, without TLS and without a token. */
  readonly httpOpen: boolean
  /** Multiaddrs in the order of preference; empty for the root of a mesh. */
  readonly parents: readonly string[]
  readonly roles: readonly Role[]
  /** For builds; absent for all that the process may use. */
  readonly cpus?: number
  readonly memoryBytes?: number
  /** How much of that is for builds, and when. */
  readonly policy: PolicySettings
  /** Where the machine is looked at, absolute; `/` but in a container. */
  readonly machineRoot: string
  /** Base URLs, each with a slash at its end. */
  readonly mirrors: readonly string[]
  /** The most that the store may use; undefined: what the disk has. */
  readonly quotaBytes: number | undefined
  /** What is left free on the disk of the store; undefined: a share of the disk. */
  readonly floorBytes: number | undefined
  /** How long logs of builds are kept, and how much of them; undefined: a share of the disk. */
  readonly keepLogsMs: number
  readonly keepLogsBytes: number | undefined
  /** Peer ids; `loopback` when none were named: then no address of the node is reached from elsewhere. */
  readonly allow: readonly string[] | 'any' | 'loopback'
  /** `host`: no walls around builds even where there could be some; they are then unsealed. */
  readonly isolation: 'auto' | 'host'
  /** Absolute paths of programs that are asked before an attempt begins. */
  readonly checks: readonly string[]
  /** Programs that tell facts of the machine. */
  readonly facts: readonly string[]
  /** Names of its own that derivations may require; with `-`: of the probes, not to be offered. */
  readonly features: readonly string[]
  /** The only systems that builds may be for; undefined: all whose programs run here. */
  readonly systems: readonly string[] | undefined
  /** Directories of this machine that are images. */
  readonly images: readonly DeclaredImage[]
  /** Of the finished jobs of this owner those that are built again on idle nodes, from 0 to 1. */
  readonly auditShare: number
  /** Of an owner: how its nodes are divided among users. */
  readonly shares: ShareConfig
  readonly log: { readonly level: LogLevel; readonly format: 'json' | 'pretty' }
  readonly drainDeadlineMs: number
}

const LOG_LEVELS = ['fatal', 'error', 'warn', 'info', 'debug', 'trace'] as const
type LogLevel = (typeof LOG_LEVELS)[number]

const ADDRESSES_MAX = 16
const ALLOWED_PEERS_MAX = 10_000
const CPUS_MAX = 4096
const CHECKS_MAX = 8
const FACT_PROGRAMS_MAX = 8
const FEATURES_MAX = 32
const SYSTEMS_MAX = 16
const FILE_BYTES_MAX = 1024 * 1024
/** The longest delay of a timer: 2^31 - 1 ms, 24 days. */
const DRAIN_MS_MAX = 2 ** 31 - 1
const KEEP_MS_MAX = 365 * 24 * 3600 * 1000

const written = (isRight: (value: string) => boolean, form: string) =>
  z.string().max(4096).refine(isRight, `expected ${form}`)

/** `/build` is what a build sees there, which a check is not in. */
const isCheckPath = (path: string): boolean =>
  isAbsolute(path) && !path.includes('\0') && !/^\/build(?:\/|$)/.test(path)

/** The configuration file; flags and environment variables set the same values. */
const Settings = z.strictObject({
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
type Settings = z.infer<typeof Settings>

/** One setting, and its names on the command line and in the environment. */
interface SettingSpec {
  readonly section: keyof Settings
  readonly key: string
  readonly flag: string
  readonly env: string
  /** Placeholder of its value. */
  readonly value: string
  /** Given several times, or as one text with commas. */
  readonly isList?: true
  /** True or false; the flag alone means true. */
  readonly isSwitch?: true
}

const SETTINGS: readonly SettingSpec[] = [
  { section: 'node', key: 'data', flag: 'data', env: 'MESH_DATA', value: 'DIR' },
  { section: 'node', key: 'name', flag: 'name', env: 'MESH_NAME', value: 'NAME' },
  { section: 'node', key: 'roles', flag: 'role', env: 'MESH_ROLE', value: 'ROLES', isList: true },
  {
    section: 'node',
    key: 'listen',
    flag: 'listen',
    env: 'MESH_LISTEN',
    value: 'MULTIADDR',
    isList: true,
  },
  {
    section: 'node',
    key: 'parents',
    flag: 'parent',
    env: 'MESH_PARENT',
    value: 'MULTIADDR',
    isList: true,
  },
  {
    section: 'node',
    key: 'allow',
    flag: 'allow',
    env: 'MESH_ALLOW',
    value: 'PEERID',
    isList: true,
  },
  { section: 'worker', key: 'cpus', flag: 'cpus', env: 'MESH_CPUS', value: 'N' },
  { section: 'worker', key: 'memory', flag: 'memory', env: 'MESH_MEMORY', value: 'SIZE' },
  { section: 'worker', key: 'isolation', flag: 'isolation', env: 'MESH_ISOLATION', value: 'KIND' },
  {
    section: 'worker',
    key: 'checks',
    flag: 'check',
    env: 'MESH_CHECK',
    value: 'PATH',
    isList: true,
  },
  {
    section: 'worker',
    key: 'facts',
    flag: 'facts',
    env: 'MESH_FACTS',
    value: 'PATH',
    isList: true,
  },
  {
    section: 'worker',
    key: 'features',
    flag: 'feature',
    env: 'MESH_FEATURES',
    value: 'NAME',
    isList: true,
  },
  {
    section: 'worker',
    key: 'systems',
    flag: 'system',
    env: 'MESH_SYSTEMS',
    value: 'SYSTEM',
    isList: true,
  },
  { section: 'worker', key: 'policy', flag: 'policy', env: 'MESH_POLICY', value: 'NAME' },
  {
    section: 'worker',
    key: 'machine-root',
    flag: 'machine-root',
    env: 'MESH_MACHINE_ROOT',
    value: 'DIR',
  },
  {
    section: 'store',
    key: 'mirrors',
    flag: 'mirror',
    env: 'MESH_MIRROR',
    value: 'URL',
    isList: true,
  },
  { section: 'store', key: 'quota', flag: 'quota', env: 'MESH_QUOTA', value: 'SIZE' },
  {
    section: 'store',
    key: 'free',
    flag: 'keep-free',
    env: 'MESH_KEEP_FREE',
    value: 'SIZE',
  },
  {
    section: 'store',
    key: 'keep-logs',
    flag: 'keep-logs',
    env: 'MESH_KEEP_LOGS',
    value: 'TIME',
  },
  {
    section: 'store',
    key: 'keep-logs-size',
    flag: 'keep-logs-size',
    env: 'MESH_KEEP_LOGS_SIZE',
    value: 'SIZE',
  },
  { section: 'audit', key: 'share', flag: 'audit', env: 'MESH_AUDIT', value: 'SHARE' },
  {
    section: 'shares',
    key: 'half-life',
    flag: 'share-half-life',
    env: 'MESH_SHARE_HALF_LIFE',
    value: 'TIME',
  },
  { section: 'http', key: 'listen', flag: 'http', env: 'MESH_HTTP', value: 'HOST:PORT|none' },
  {
    section: 'http',
    key: 'open',
    flag: 'http-open',
    env: 'MESH_HTTP_OPEN',
    value: '',
    isSwitch: true,
  },
  { section: 'log', key: 'level', flag: 'log-level', env: 'MESH_LOG_LEVEL', value: 'LEVEL' },
  { section: 'log', key: 'format', flag: 'log-format', env: 'MESH_LOG_FORMAT', value: 'FORMAT' },
  {
    section: 'shutdown',
    key: 'deadline',
    flag: 'drain-deadline',
    env: 'MESH_DRAIN_DEADLINE',
    value: 'TIME',
  },
]

/** The JSON schema of the configuration file. */
export function configSchema(): z.core.JSONSchema.JSONSchema {
  return z.toJSONSchema(Settings, { io: 'input' })
}

/** One line of help for each flag. */
export function flagHelp(): string[] {
  const schema = configSchema()
  const lines = SETTINGS.map(({ section, key, flag, value, isList }) => {
    const property = propertyOf(propertyOf(schema, section), key)
    const standard = [property?.default].flat().join()
    const text = property?.description ?? ''
    const note = standard === '' || text.includes('(default') ? '' : ` (default: ${standard})`
    return flagLine(
      `--${flag} ${value}`.trimEnd(),
      `${text}${note}${isList === undefined ? '' : ' *'}`,
    )
  })
  return [
    ...lines,
    flagLine(
      '--config FILE',
      'read FILE and not $XDG_CONFIG_HOME/mesh/mesh.toml or /etc/mesh/mesh.toml',
    ),
    flagLine('--version', 'print the version'),
    flagLine('-h, --help', 'this text'),
    '  * may be repeated, or be a list with commas',
  ]
}

const flagLine = (flag: string, text: string): string => `  ${flag.padEnd(22)}  ${text}`

function propertyOf(schema: z.core.JSONSchema.JSONSchema | undefined, name: string) {
  const property = schema?.properties?.[name]
  return typeof property === 'object' ? property : undefined
}

/** What the resolution of a configuration may ask of the machine. */
export interface ConfigIo {
  readonly cwd: string
  readonly hostname: string
  readonly home: string
  readonly isRoot: boolean
  /** Whether the log goes to a terminal. */
  readonly isTty: boolean
  /** Undefined when there is no such file. */
  readonly readFile: (path: string) => string | undefined
}

export type Env = Readonly<Record<string, string | undefined>>

/** What only this process may see of its service manager; a build that had it could speak in our name. */
const PRIVATE_VARIABLES = [
  'NOTIFY_SOCKET',
  'WATCHDOG_USEC',
  'WATCHDOG_PID',
  'LISTEN_FDS',
  'LISTEN_PID',
  'LISTEN_FDNAMES',
]

/** The environment of the process, from which the variables of the service manager are taken away. */
export function takeEnvironment(): Env {
  const env = { ...process.env }
  for (const name of PRIVATE_VARIABLES) delete process.env[name]
  return env
}

export function systemConfigIo(env: Env, options: { readonly isTty: boolean }): ConfigIo {
  return {
    cwd: process.cwd(),
    hostname: hostname(),
    home: env['HOME'] || homedir(),
    // Of a user without a name, as in a bare chroot, nothing else is known.
    isRoot: process.getuid?.() === 0,
    isTty: options.isTty,
    readFile: readSmallFile,
  }
}

function readSmallFile(path: string): string | undefined {
  let file: number
  try {
    file = openSync(path, 'r')
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR')) return undefined
    throw error
  }
  try {
    const buffer = Buffer.alloc(FILE_BYTES_MAX + 1)
    let length = 0
    for (let count = -1; count !== 0 && length < buffer.length; length += count)
      count = readSync(file, buffer, length, buffer.length - length, null)
    if (length > FILE_BYTES_MAX) throw new Error(`${path} has more than ${FILE_BYTES_MAX} bytes`)
    return buffer.toString('utf8', 0, length)
  } finally {
    closeSync(file)
  }
}

/** The words of a command line: what is no flag, and the values of the flags. */
export interface CommandLine {
  readonly words: readonly string[]
  readonly flags: ReadonlyMap<string, readonly string[]>
}

const SWITCHES = ['help', 'version']
const isSwitch = (name: string): boolean =>
  SWITCHES.includes(name) || SETTINGS.some((spec) => spec.flag === name && spec.isSwitch === true)

/** Throws MESH0104 for an unknown flag, and for one without its value. */
export function readCommandLine(argv: readonly string[]): CommandLine {
  const valued = [...SETTINGS.map(({ flag }) => flag), 'config']
  const { tokens } = parseArgs({
    args: [...argv],
    strict: false,
    tokens: true,
    options: {
      ...Object.fromEntries(
        [...valued, ...SWITCHES].map((flag) => [
          flag,
          { type: isSwitch(flag) ? ('boolean' as const) : ('string' as const) },
        ]),
      ),
      help: { type: 'boolean', short: 'h' },
    },
  })
  const words: string[] = []
  const flags = new Map<string, string[]>()
  for (const token of tokens) {
    if (token.kind === 'positional') words.push(token.value)
    if (token.kind !== 'option') continue
    const { name, rawName, value } = token
    if (SWITCHES.includes(name)) {
      if (value !== undefined) throw new MeshError('MESH0104', `${rawName} takes no value`)
      flags.set(name, [])
    } else if (!valued.includes(name)) {
      const near = nearestOf(name, [...valued, ...SWITCHES], 2).map((flag) => `--${flag}`)
      throw new MeshError('MESH0104', `unknown flag ${rawName}`, {
        hints: [`nearest: ${near.join(', ')}`, 'all flags: mesh-node --help'],
      })
    } else if (value === undefined && isSwitch(name)) {
      flags.set(name, ['true'])
    } else if (value === undefined || (!token.inlineValue && value.startsWith('--'))) {
      throw new MeshError('MESH0104', `${rawName} needs a value`)
    } else {
      flags.set(name, [...(flags.get(name) ?? []), value])
    }
  }
  return { words, flags }
}

/** A setting as resolved, for people. */
interface ShownSetting extends SettingSpec {
  /** As it is written in TOML; undefined where no value is meant. */
  readonly toml: string | undefined
  /** `--flag`, `VARIABLE`, `FILE:LINE:COLUMN`, or `default`. */
  readonly source: string
}

export interface Resolution {
  /** Undefined when there are problems. */
  readonly config: Config | undefined
  readonly settings: readonly ShownSetting[]
  /** The file that was read. */
  readonly file: string | undefined
  readonly problems: readonly MeshError[]
}

/** Throws the first problem: MESH0104, MESH0107 or MESH0201. */
export function loadConfig(argv: readonly string[], env: Env, io: ConfigIo): Config {
  const { config, problems } = resolveConfig(readCommandLine(argv), env, io)
  if (config !== undefined) return config
  const [first] = problems
  if (first === undefined) throw new Error('a configuration without problems was not resolved')
  if (problems.length === 1) throw first
  throw new MeshError(first.code, first.message, {
    ...(first.where === undefined ? {} : { where: first.where }),
    hints: [...first.hints, `${problems.length - 1} more: mesh-node config check`],
  })
}

/** All settings with their sources, and all problems. Throws MESH0201, and MESH0104 when the file cannot be read. */
export function resolveConfig({ flags }: CommandLine, env: Env, io: ConfigIo): Resolution {
  const file = readConfigFile(flags, env, io)
  const fromFile = Settings.safeParse(file?.value ?? {})
  const problems =
    file === undefined || fromFile.success
      ? []
      : fromFile.error.issues.flatMap((issue) => fileProblems(file, issue))

  const overrides = new Map<string, Override>()
  for (const spec of SETTINGS) {
    const override = overrideOf(spec, flags, env)
    if (override !== undefined) overrides.set(`${spec.section}.${spec.key}`, override)
  }
  // With a broken file the rest is checked on top of the defaults.
  const base = fromFile.success ? fromFile.data : Settings.parse({})
  const parsed = Settings.safeParse(merge(base, overrides))
  for (const issue of parsed.error?.issues ?? []) {
    const override = overrides.get(issue.path.slice(0, 2).join('.'))
    problems.push(
      new MeshError('MESH0104', `${override?.source} ${override?.text}: ${issue.message}`),
    )
  }
  const found = { file: file?.path, problems, settings: [] }
  if (!parsed.success || !fromFile.success) return { ...found, config: undefined }

  const sourceOf = ({ section, key }: SettingSpec): string =>
    overrides.get(`${section}.${key}`)?.source ?? file?.whereOf([section, key]) ?? 'default'
  const isDataFromFile = !overrides.has('node.data') && file !== undefined
  const resolved = fillIn(parsed.data, env, io, {
    // A path in a file is meant relative to the file.
    dataBase: isDataFromFile ? resolve(io.cwd, file.path, '..') : io.cwd,
  })
  problems.push(...exposureProblems(resolved, sourceOf))
  return {
    ...found,
    config: problems.length === 0 ? configOf(resolved, io) : undefined,
    settings: SETTINGS.map((spec) => ({
      ...spec,
      toml: tomlOf(Reflect.get(resolved[spec.section], spec.key)),
      source: sourceOf(spec),
    })),
  }
}

interface Override {
  /** `--flag` or `VARIABLE`. */
  readonly source: string
  readonly text: string
  readonly value: unknown
}

function overrideOf(
  { key, flag, env: variable, isList, isSwitch: isTruth }: SettingSpec,
  flags: CommandLine['flags'],
  env: Env,
): Override | undefined {
  const given = flags.get(flag)
  const fromEnv = env[variable]
  const texts = given ?? (fromEnv ? [fromEnv] : undefined)
  const last = texts?.at(-1)
  if (texts === undefined || last === undefined) return undefined
  const source = given === undefined ? variable : `--${flag}`
  if (isList !== undefined) {
    const value = texts.flatMap((text) => text.split(',')).map((text) => text.trim())
    return { source, text: JSON.stringify(texts.join(',')), value }
  }
  const number = key === 'cpus' && /^\d{1,9}$/.test(last) ? Number(last) : undefined
  const truth = isTruth && /^(?:true|false)$/.test(last) ? last === 'true' : undefined
  return { source, text: JSON.stringify(last), value: number ?? truth ?? last }
}

/** Of unknown shape again: the schema looks at it next. */
function merge(settings: Settings, overrides: ReadonlyMap<string, Override>): unknown {
  const merged: Record<string, Record<string, unknown>> = {}
  for (const [section, values] of Object.entries(settings)) merged[section] = { ...values }
  for (const { section, key } of SETTINGS) {
    const override = overrides.get(`${section}.${key}`)
    if (override !== undefined) merged[section] = { ...merged[section], [key]: override.value }
  }
  return merged
}

function readConfigFile(
  flags: CommandLine['flags'],
  env: Env,
  io: ConfigIo,
): ConfigFile | undefined {
  const flag = flags.get('config')?.at(-1)
  const explicit = flag ?? (env['MESH_CONFIG'] || undefined)
  const configHome = absolute(env['XDG_CONFIG_HOME']) ?? join(io.home, '.config')
  const paths =
    explicit === undefined
      ? [join(configHome, 'mesh/mesh.toml'), '/etc/mesh/mesh.toml']
      : [resolve(io.cwd, explicit)]
  for (const path of paths) {
    let text: string | undefined
    try {
      text = io.readFile(path)
    } catch (error) {
      const message = `the configuration file cannot be read: ${messageOf(error)}`
      throw new MeshError('MESH0104', message, { where: path, cause: error })
    }
    if (text !== undefined) return new ConfigFile(path, text)
  }
  if (explicit === undefined) return undefined
  const source = flag === undefined ? 'MESH_CONFIG' : '--config'
  throw new MeshError('MESH0104', `${source} ${JSON.stringify(explicit)}: there is no such file`, {
    where: paths.join(),
  })
}

/** The XDG specification says that a relative path is to be ignored. */
const absolute = (path: string | undefined): string | undefined =>
  path !== undefined && isAbsolute(path) ? path : undefined

function fileProblems(file: ConfigFile, issue: z.core.$ZodIssue): MeshError[] {
  if (issue.code !== 'unrecognized_keys')
    return [file.errorAt('value', issue.path, `${issue.path.join('.')}: ${issue.message}`)]
  const [section] = issue.path
  const known = section === undefined ? Object.keys(Settings.shape) : knownKeys(section, issue.path)
  const place = section === undefined ? 'at the top' : `in [${tableOf(issue.path)}]`
  return issue.keys.map((key) =>
    file.errorAt('key', [...issue.path, key], `unknown key ${JSON.stringify(key)} ${place}`, [
      hintFor(key, known),
    ]),
  )
}

/** The name of the table that the path leads to: indices of arrays are no part of it. */
const tableOf = (path: readonly PropertyKey[]): string =>
  path.filter((part) => typeof part === 'string').join('.')

function knownKeys(section: PropertyKey, path: readonly PropertyKey[]): readonly string[] {
  if (section === 'shares') return path.length > 1 ? GROUP_KEYS : Object.keys(ShareSettings.shape)
  if (section === 'worker' && path[1] === 'image') return IMAGE_KEYS
  if (section === 'worker' && path.length > 1) return POLICY_KEYS[String(path[1])] ?? []
  if (section === 'worker') return Object.keys(Settings.shape.worker.unwrap().shape)
  return SETTINGS.filter((spec) => spec.section === section).map(({ key }) => key)
}

function hintFor(key: string, known: readonly string[]): string {
  const elsewhere = SETTINGS.find((spec) => spec.key === key || spec.flag === key)
  const [near] = nearest(key, known)
  if (near !== undefined) return `did you mean ${JSON.stringify(near)}?`
  if (elsewhere !== undefined)
    return `did you mean ${JSON.stringify(elsewhere.key)} in [${elsewhere.section}]?`
  return `known: ${known.join(', ')}`
}

/** Settings whose defaults hang on the machine are filled in; `allow` may stay open. */
type FilledSettings = Settings & {
  readonly node: { readonly data: string; readonly name: string; readonly roles: readonly Role[] }
}

function fillIn(
  settings: Settings,
  env: Env,
  io: ConfigIo,
  options: { readonly dataBase: string },
): FilledSettings {
  const { node } = settings
  const roles: readonly Role[] =
    node.roles ?? (node.parents.length === 0 ? ['root', 'worker', 'store'] : ['worker', 'store'])
  return {
    ...settings,
    node: {
      ...node,
      data: resolve(options.dataBase, node.data ?? defaultData(env, io)),
      name: node.name ?? nameOfHost(io.hostname),
      roles: ROLES.filter((role) => roles.includes(role)),
    },
  }
}

function defaultData(env: Env, io: ConfigIo): string {
  // systemd gives a list with colons when a unit has several.
  const ofService = absolute(env['STATE_DIRECTORY']?.split(':')[0])
  if (ofService !== undefined) return ofService
  const dataHome = absolute(env['XDG_DATA_HOME'])
  if (dataHome !== undefined) return join(dataHome, 'mesh')
  return io.isRoot ? '/var/lib/mesh' : join(io.home, '.local/share/mesh')
}

function nameOfHost(host: string): string {
  const clean = host.replaceAll(/[^A-Za-z0-9_.-]/g, '-').replace(/^[^A-Za-z0-9]+/, '')
  return clean === '' ? 'node' : clean.slice(0, 63)
}

const isExposed = (address: HostPort | undefined): boolean =>
  address !== undefined && !isLoopback(address.host)

/** MESH0107 for every address that other machines reach while nobody was said to be admitted. */
function exposureProblems(
  { node, http }: FilledSettings,
  sourceOf: (spec: SettingSpec) => string,
): MeshError[] {
  if (node.allow !== undefined) return []
  const exposed: [flag: string, address: string][] = [
    ...node.listen
      .filter((text) => isExposed(parseListenAddress(text)))
      .map((text): [string, string] => ['listen', text]),
    ...(isExposed(parseHostPort(http.listen)) ? [['http', http.listen] as [string, string]] : []),
  ]
  return exposed.map(([flag, address]) => {
    const spec = SETTINGS.find((candidate) => candidate.flag === flag)
    const where = spec === undefined ? '' : ` (${sourceOf(spec)})`
    return new MeshError(
      'MESH0107',
      `other machines reach ${address}${where}, and nothing says which peers are admitted`,
      {
        hints: [
          'admit peers one by one: --allow PEERID (repeatable)',
          'admit everybody on a network that you trust: --allow any',
        ],
      },
    )
  })
}

function configOf(
  { node, worker, store, audit, shares, http, log, shutdown }: FilledSettings,
  io: ConfigIo,
): Config {
  const { cpus } = worker
  const memoryBytes = parseSize(worker.memory)
  return {
    data: node.data,
    name: node.name,
    listen: node.listen.filter((address) => address !== 'none'),
    ...(http.listen === 'none' ? {} : { http: checked(parseHostPort(http.listen)) }),
    httpOpen: http.open,
    parents: node.parents,
    roles: node.roles,
    ...(cpus === 'auto' ? {} : { cpus }),
    ...(memoryBytes === undefined ? {} : { memoryBytes }),
    quotaBytes: parseSize(store.quota),
    floorBytes: parseSize(store.free),
    keepLogsMs: checked(parseDuration(store['keep-logs'])),
    keepLogsBytes: parseSize(store['keep-logs-size']),
    mirrors: store.mirrors.map((url) => (url.endsWith('/') ? url : `${url}/`)),
    allow: node.allow?.includes('any') ? 'any' : (node.allow ?? 'loopback'),
    policy: policyConfigOf(worker),
    machineRoot: worker['machine-root'],
    isolation: worker.isolation,
    checks: worker.checks,
    facts: worker.facts,
    features: worker.features,
    systems: worker.systems,
    images: worker.image,
    auditShare: checked(parsePercent(audit.share)),
    shares: shareConfigOf(shares),
    log: {
      level: log.level,
      format: log.format === 'auto' ? (io.isTty ? 'pretty' : 'json') : log.format,
    },
    drainDeadlineMs: checked(parseDuration(shutdown.deadline)),
  }
}

/** What the schema has checked already. */
function checked<T>(value: T | undefined): T {
  if (value === undefined) throw new Error('the schema let a wrong value pass')
  return value
}

/** JSON strings, numbers and lists are TOML as well. */
function tomlOf(value: unknown): string | undefined {
  return value === undefined
    ? undefined
    : Array.isArray(value)
      ? `[${value.map((item) => JSON.stringify(item)).join(', ')}]`
      : JSON.stringify(value)
}
