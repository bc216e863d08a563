/**
 * What a daemon is told at its start, from flags, environment and a TOML file.
 *
 * Precedence: flag > environment > file > default; each value remembers where it came from. What changes
 * while a daemon runs is not here.
 */
import { resolve } from 'node:path'
import { MeshError } from '../../base/errors.ts'
import { readCommandLine, type CommandLine } from './command-line.ts'
import { readConfigFile } from './read-config-file.ts'
import type { ConfigIo, Env } from './config-io.ts'
import { exposureProblems, fileProblems } from './config-problems.ts'
import { configOf, type Config } from './config.ts'
import { fillIn } from './machine-defaults.ts'
import { SETTINGS, type SettingSpec } from './setting-table.ts'
import { Settings } from './settings.ts'

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

/** JSON strings, numbers and lists are TOML as well. */
function tomlOf(value: unknown): string | undefined {
  return value === undefined
    ? undefined
    : Array.isArray(value)
      ? `[${value.map((item) => JSON.stringify(item)).join(', ')}]`
      : JSON.stringify(value)
}
