/** The command line of `guess-env`: flags of its own, and those of the daemon that say what is offered. */
import { parseArgs } from 'node:util'
import { MeshError } from '../../base/errors.ts'
import { nearestOf } from '../../base/nearest.ts'
import { readCommandLine, type CommandLine } from '../config/command-line.ts'

export interface GuessLine {
  /** Another root directory than this machine's. */
  readonly root: string | undefined
  readonly form: 'text' | 'json' | 'toml'
  /** The flags of the daemon. */
  readonly line: CommandLine
}

const OWN = ['root', 'json', 'toml']
const OF_DAEMON = [
  'data',
  'config',
  'cpus',
  'memory',
  'facts',
  'feature',
  'system',
  'isolation',
  'help',
]

/** `argv` begins with the command. Throws MESH0002 and MESH0104. */
export function readGuessLine(argv: readonly string[]): GuessLine {
  const { tokens } = parseArgs({
    args: [...argv],
    strict: false,
    tokens: true,
    options: { root: { type: 'string' }, json: { type: 'boolean' }, toml: { type: 'boolean' } },
  })
  const taken = new Set([0])
  const forms = new Set<'json' | 'toml'>()
  let root: string | undefined
  for (const token of tokens) {
    if (token.kind !== 'option' || !OWN.includes(token.name)) continue
    const { name, value, index, inlineValue } = token
    taken.add(index)
    if (name === 'root') {
      if (value === undefined || value === '' || (!inlineValue && value.startsWith('--')))
        throw new MeshError('MESH0002', '--root needs a directory')
      root = value
      if (!inlineValue) taken.add(index + 1)
    } else if (value === undefined) forms.add(name === 'json' ? 'json' : 'toml')
    else throw new MeshError('MESH0002', `--${name} takes no value`)
  }
  const [form = 'text', second] = forms
  if (second !== undefined) throw new MeshError('MESH0002', '--json and --toml exclude each other')
  const line = readCommandLine(argv.filter((_, at) => !taken.has(at)))
  const [word] = line.words
  const hints = ['mesh-node guess-env --help']
  if (word !== undefined)
    throw new MeshError('MESH0002', `guess-env takes no argument ${JSON.stringify(word)}`, {
      hints,
    })
  const stray = [...line.flags.keys()].find((flag) => !OF_DAEMON.includes(flag))
  if (stray !== undefined)
    throw new MeshError('MESH0002', `mesh-node guess-env has no flag --${stray}`, {
      hints: [`nearest: --${nearestOf(stray, [...OWN, ...OF_DAEMON], 1).join()}`, ...hints],
    })
  return { root, form, line }
}
