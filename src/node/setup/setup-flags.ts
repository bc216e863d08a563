/** The command lines of `calibrate`, `init` and `install-service`: flags of their own, and those of the daemon. */
import { parseArgs } from 'node:util'
import { MeshError } from '../../base/errors.ts'
import { nearestOf } from '../../base/nearest.ts'
import { readCommandLine, type CommandLine } from '../config/command-line.ts'
import { isJobKind, JOB_KIND_NAMES, type JobKindName } from './job-kinds.ts'

export type SetupCommand = 'calibrate' | 'init' | 'install-service'

const OWN_FLAGS = {
  calibrate: ['for', 'json'],
  init: ['for', 'json', 'yes', 'force', 'boot'],
  'install-service': ['print'],
} as const satisfies Record<SetupCommand, readonly string[]>
/** Settings of the daemon that a command has a use for; all where it writes a configuration. */
const DAEMON_FLAGS: Readonly<Record<SetupCommand, readonly string[] | 'all'>> = {
  calibrate: ['data', 'config', 'help'],
  init: 'all',
  'install-service': ['config', 'help'],
}

export interface SetupLine {
  readonly command: SetupCommand
  /** Undefined when it was not said. */
  readonly jobs: JobKindName | undefined
  readonly switches: ReadonlySet<string>
  /** The flags of the daemon. */
  readonly line: CommandLine
}

/** `argv` begins with the command. Throws MESH0002 and MESH0104. */
export function readSetupLine(command: SetupCommand, argv: readonly string[]): SetupLine {
  const own: readonly string[] = OWN_FLAGS[command]
  const { tokens } = parseArgs({
    args: [...argv],
    strict: false,
    tokens: true,
    options: Object.fromEntries(
      own.map((flag) => [
        flag,
        { type: flag === 'for' ? ('string' as const) : ('boolean' as const) },
      ]),
    ),
  })
  const switches = new Set<string>()
  const taken = new Set([0])
  let jobs: JobKindName | undefined
  for (const token of tokens) {
    if (token.kind !== 'option' || !own.includes(token.name)) continue
    taken.add(token.index)
    if (token.name === 'for') {
      jobs = jobKind(token.value)
      if (token.inlineValue !== true) taken.add(token.index + 1)
    } else if (token.value === undefined) switches.add(token.name)
    else throw new MeshError('MESH0002', `--${token.name} takes no value`)
  }
  const line = readCommandLine(argv.filter((_, at) => !taken.has(at)))
  checkLine(command, line)
  return { command, jobs, switches, line }
}

function jobKind(word: string | undefined): JobKindName {
  if (word !== undefined && isJobKind(word)) return word
  throw new MeshError(
    'MESH0002',
    word === undefined
      ? '--for needs a kind of jobs'
      : `--for ${JSON.stringify(word)}: no such kind of jobs`,
    { hints: [`one of ${JOB_KIND_NAMES.join(', ')}`] },
  )
}

function checkLine(command: SetupCommand, { words, flags }: CommandLine): void {
  const [word] = words
  if (word !== undefined)
    throw new MeshError(
      'MESH0002',
      `mesh-node ${command} takes no argument ${JSON.stringify(word)}`,
      {
        hints: [`mesh-node ${command} --help`],
      },
    )
  const known = DAEMON_FLAGS[command]
  if (known === 'all') return
  const stray = [...flags.keys()].find((flag) => !known.includes(flag))
  if (stray === undefined) return
  const all = [...known, ...OWN_FLAGS[command]]
  throw new MeshError('MESH0002', `mesh-node ${command} has no flag --${stray}`, {
    hints: [`nearest: --${nearestOf(stray, all, 1).join()}`, `mesh-node ${command} --help`],
  })
}
