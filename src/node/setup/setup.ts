/**
 * The commands of `mesh-node` that set a machine up, before there is a daemon: `calibrate`, `init`,
 * `install-service`. commands/command-table.ts has them.
 */
import { constants } from 'node:os'
import { EXIT } from '../../base/errors.ts'
import { calibrate } from './calibrate.ts'
import { init } from './init/init.ts'
import { installService } from './install-service.ts'
import { readSetupLine, type SetupCommand, type SetupLine } from './setup-flags.ts'
import { setupHelp } from './setup-help.ts'
import type { SetupSystem } from './setup-system.ts'

/** `argv` begins with the command. Resolves to the exit code. */
export async function runSetup(
  command: SetupCommand,
  argv: readonly string[],
  system: SetupSystem,
): Promise<number> {
  const setup = readSetupLine(command, argv)
  if (setup.line.flags.has('help')) {
    system.out(setupHelp(command))
    return EXIT.ok
  }
  const ending = new AbortController()
  let exit: number | undefined
  system.onSignal((signal) => {
    exit = 128 + constants.signals[signal]
    ending.abort(new Error(signal))
  })
  try {
    return await run(setup, system, ending.signal)
  } catch (error) {
    if (exit === undefined) throw error
    system.err('\nended: nothing was written\n')
    return exit
  }
}

async function run(setup: SetupLine, system: SetupSystem, signal: AbortSignal): Promise<number> {
  switch (setup.command) {
    case 'calibrate':
      return calibrate(setup, system, signal)
    case 'init':
      return init(setup, system, signal)
    case 'install-service':
      return installService(setup, system)
  }
}
