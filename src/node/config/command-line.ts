/** The flags of the daemon: a command line is read, and each flag has a line of help. */
import { parseArgs } from 'node:util'
import type { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { nearestOf } from '../../base/nearest.ts'
import { SETTINGS } from './setting-table.ts'
import { configSchema } from './settings.ts'

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

/** One line of help for each flag. */
export function flagHelp(): string[] {
  const schema = configSchema()
  const lines = SETTINGS.map(({ section, key, flag, value, isList }) => {
    const property = propertyOf(propertyOf(schema, section), key)
    const standard = [property?.default].flat().join()
    const text = property?.description ?? ''
    const note = standard === '' || text.includes('(default') ? '' : ` (default: ${standard})`
    return helpLine(
      `--${flag} ${value}`.trimEnd(),
      `${text}${note}${isList === undefined ? '' : ' *'}`,
    )
  })
  return [
    ...lines,
    helpLine(
      '--config FILE',
      'read FILE and not $XDG_CONFIG_HOME/mesh/mesh.toml or /etc/mesh/mesh.toml',
    ),
    helpLine('--version', 'print the version'),
    helpLine('-h, --help', 'this text'),
    '  * may be repeated, or be a list with commas',
  ]
}

/** A line of help: what is written, and what it means. */
export const helpLine = (written: string, text: string): string =>
  `  ${written.padEnd(22)}  ${text}`

function propertyOf(schema: z.core.JSONSchema.JSONSchema | undefined, name: string) {
  const property = schema?.properties?.[name]
  return typeof property === 'object' ? property : undefined
}
