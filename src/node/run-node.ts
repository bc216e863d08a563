/**
 * A run of `mesh-node`: finds the command, and turns what it threw into text and an exit code. main.ts calls
 * it with the real machine, tests with a small one.
 */
import { EXIT, MeshError } from '../base/errors.ts'
import { nearestOf } from '../base/nearest.ts'
import { COMMANDS } from './commands/command-table.ts'
import type { NodeCommand, OwnLineCommand } from './commands/node-command.ts'
import { nodeHelp } from './commands/node-help.ts'
import { readCommandLine, type CommandLine } from './config/command-line.ts'
import { resolveConfig, type Resolution } from './config/resolve-config.ts'
import { jsonReportOf, reportOf } from './error-report.ts'
import type { NodeSystem } from './node-system.ts'
import { packageVersion } from './process/version.ts'

/** Resolves to the exit code of the process. */
export async function runNode(argv: readonly string[], system: NodeSystem): Promise<number> {
  const own = COMMANDS.filter(hasOwnLine).find(({ name }) => name === argv[0])
  try {
    return own === undefined
      ? await runLine(readCommandLine(argv), system)
      : await own.run(argv, system)
  } catch (error) {
    const { text, exit } = reportOf(error)
    system.err(text)
    if (own !== undefined && argv.includes('--json')) system.out(jsonReportOf(error))
    return exit
  }
}

const hasOwnLine = (command: NodeCommand): command is OwnLineCommand =>
  command.reads === 'its own line'

async function runLine(line: CommandLine, system: NodeSystem): Promise<number> {
  if (line.flags.has('help')) {
    system.out(nodeHelp())
    return EXIT.ok
  }
  if (line.flags.has('version')) {
    system.out(`mesh-node ${packageVersion()}\n`)
    return EXIT.ok
  }
  const command = commandOf(line.words.join(' ') || 'run')
  switch (command.reads) {
    case 'nothing':
      return command.run(system)
    case 'its own line':
      throw new MeshError('MESH0002', `${command.name} stands before all flags`, {
        hints: [`mesh-node ${command.name} --help`],
      })
    case 'the configuration': {
      const read = (): Resolution => resolveConfig(line, system.env, system.io)
      const resolution = read()
      if (resolution.config !== undefined)
        return command.run({ resolution, config: resolution.config, read }, system)
      for (const problem of resolution.problems) system.err(reportOf(problem).text)
      return resolution.problems[0]?.exit ?? EXIT.usage
    }
  }
}

/** Throws MESH0002. */
function commandOf(name: string): NodeCommand {
  const command = COMMANDS.find((each) => each.name === name)
  if (command !== undefined) return command
  const names = COMMANDS.map((each) => each.name)
  const [near] = nearestOf(name, names, 1)
  throw new MeshError('MESH0002', `there is no command ${JSON.stringify(name)}`, {
    hints: [`did you mean "mesh-node ${near}"?`, 'mesh-node --help'],
  })
}
