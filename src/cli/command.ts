/**
 * What a command is on the command line: its options, its help, and the reading of its arguments.
 *
 * The table in command-table.ts is made of these; help texts and docs/cli.md come from it alone.
 */
import { parseArgs } from 'node:util'
import { MeshError } from '../base/errors.ts'
import type { Context } from './context.ts'
import { nearestOf } from '../base/nearest.ts'

export interface OptionSpec {
  readonly name: string
  readonly short?: string
  /** Placeholder of its value; an option without one is a flag. */
  readonly value?: string
  readonly repeatable?: true
  readonly text: string
}

export interface CommandSpec {
  readonly name: string
  /** What follows the name in the usage line, after the options. */
  readonly operands: string
  readonly operandsMin: number
  readonly operandsMax: number
  /** One sentence. */
  readonly sentence: string
  readonly examples: readonly (readonly [command: string, text: string])[]
  readonly options: readonly OptionSpec[]
  readonly exit: string
  /** Loads the code only when the command runs: start-up time counts. */
  readonly load: () => Promise<CommandRun>
}

/** Resolves to the exit code. */
type CommandRun = (context: Context, args: Arguments) => Promise<number>

/** Options of every command that talks to a daemon. */
export const GLOBAL_OPTIONS: readonly OptionSpec[] = [
  { name: 'data', value: 'DIR', text: 'use the daemon whose data directory is DIR' },
  { name: 'socket', value: 'PATH', text: 'use the daemon that listens at PATH' },
  { name: 'color', value: 'WHEN', text: 'auto, always or never (default: auto)' },
]
const JSON_OPTION: OptionSpec = { name: 'json', text: 'the result as one line of JSON on stdout' }
const HELP_OPTION: OptionSpec = { name: 'help', short: 'h', text: 'this text' }

/** All options of a command in the order of its help. */
function optionsOf(spec: CommandSpec): OptionSpec[] {
  const own = spec.options.some(({ name }) => name === 'json')
    ? spec.options
    : [...spec.options, JSON_OPTION]
  return [...own, HELP_OPTION]
}

/** The arguments of one call, checked against its options. */
export class Arguments {
  readonly #values: ReadonlyMap<string, readonly string[]>
  /** What is no option. */
  readonly operands: readonly string[]

  constructor(values: ReadonlyMap<string, readonly string[]>, operands: readonly string[]) {
    this.#values = values
    this.operands = operands
  }

  /** The same call with other operands: what is behind a verb. */
  withOperands(operands: readonly string[]): Arguments {
    return new Arguments(this.#values, operands)
  }
  /** The same call as if `--name value` had been given as well. */
  withValue(name: string, value: string): Arguments {
    return new Arguments(new Map([...this.#values, [name, [value]]]), this.operands)
  }
  /** The same call as if `--name` had not been given. */
  without(name: string): Arguments {
    return new Arguments(
      new Map([...this.#values].filter(([given]) => given !== name)),
      this.operands,
    )
  }

  flag(name: string): boolean {
    return this.#values.has(name)
  }
  /** The last value given. */
  text(name: string): string | undefined {
    return this.#values.get(name)?.at(-1)
  }
  all(name: string): readonly string[] {
    return this.#values.get(name) ?? []
  }
  /** The operand at `index`, which the table of commands guarantees. */
  operand(index: number): string {
    const operand = this.operands[index]
    if (operand === undefined) throw new MeshError('MESH0001', `operand ${index} is missing`)
    return operand
  }
  /** The value parsed by `parse`; MESH0002 where that gives undefined. */
  parsed<T>(name: string, parse: (text: string) => T | undefined, expected: string): T | undefined {
    const text = this.text(name)
    if (text === undefined) return undefined
    const value = parse(text)
    if (value === undefined)
      throw new MeshError('MESH0002', `--${name} ${text}: expected ${expected}`)
    return value
  }
}

/** Reads `args`, which stand behind the command's name. Throws MESH0002 with the two nearest flags. */
export function readArguments(spec: CommandSpec, args: readonly string[]): Arguments {
  const options = [...optionsOf(spec), ...GLOBAL_OPTIONS]
  const { tokens } = parseArgs({
    args: [...args],
    options: Object.fromEntries(
      options.map(({ name, short, value }) => [
        name,
        {
          type: value === undefined ? 'boolean' : 'string',
          multiple: true,
          ...(short === undefined ? {} : { short }),
        },
      ]),
    ),
    strict: false,
    allowPositionals: true,
    tokens: true,
  })
  const values = new Map<string, string[]>()
  const operands: string[] = []
  for (const token of tokens) {
    if (token.kind === 'positional') operands.push(token.value)
    if (token.kind !== 'option') continue
    const option = options.find(({ name }) => name === token.name)
    if (option === undefined) {
      const [first, second] = nearestOf(
        token.name,
        options.map(({ name }) => name),
        2,
      )
      throw new MeshError(
        'MESH0002',
        `mesh ${spec.name}: unknown option ${token.rawName}; the nearest are --${first} and --${second}`,
      )
    }
    if (option.value !== undefined && token.value === undefined)
      throw new MeshError(
        'MESH0002',
        `mesh ${spec.name}: ${token.rawName} needs a value: ${option.value}`,
      )
    if (option.value === undefined && token.value !== undefined)
      throw new MeshError('MESH0002', `mesh ${spec.name}: ${token.rawName} takes no value`)
    const before = values.get(option.name)
    if (before === undefined) values.set(option.name, [token.value ?? ''])
    else if (option.repeatable) before.push(token.value ?? '')
    else if (option.value !== undefined)
      throw new MeshError('MESH0002', `mesh ${spec.name}: ${token.rawName} is given twice`)
  }
  const color = values.get('color')?.[0]
  if (color !== undefined && !['auto', 'always', 'never'].includes(color))
    throw new MeshError('MESH0002', `--color ${color}: expected auto, always or never`)
  if (
    !values.has('help') &&
    (operands.length < spec.operandsMin || operands.length > spec.operandsMax)
  )
    throw new MeshError(
      'MESH0002',
      operands.length < spec.operandsMin
        ? `mesh ${spec.name}: ${spec.operands} is missing`
        : `mesh ${spec.name}: ${JSON.stringify(operands[spec.operandsMax])} is one argument too many`,
      { hints: [`mesh ${spec.name} --help`] },
    )
  return new Arguments(values, operands)
}

/** Help texts begin at this column (counted from 0). */
const OPTION_TEXT_COLUMN = 25

/** The help of one command: at most 24 lines. */
export function helpOf(spec: CommandSpec): string[] {
  const examplesWidth = Math.max(...spec.examples.map(([command]) => command.length)) + 2
  return [
    `Usage: mesh ${[spec.name, '[options]', spec.operands].join(' ').trimEnd()}`,
    '',
    spec.sentence,
    '',
    'Examples:',
    ...spec.examples.map(([command, text]) =>
      `  ${command.padEnd(examplesWidth)}${text}`.trimEnd(),
    ),
    '',
    'Options:',
    ...optionsOf(spec).map(optionLine),
    '',
    `Exit status: ${spec.exit}`,
  ]
}

export function optionLine({ name, short, value, text }: OptionSpec): string {
  const flags = `${short === undefined ? '    ' : `-${short}, `}--${name}${value === undefined ? '' : ` ${value}`}`
  return `  ${flags}`.padEnd(OPTION_TEXT_COLUMN - 1) + ` ${text}`
}
