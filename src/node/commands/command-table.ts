/** The commands of `mesh-node`, in the order of its help. What only one of them needs is loaded when it runs. */
import { EXIT } from '../../base/errors.ts'
import type { Random } from '../../base/random.ts'
import { makeDirectories } from '../../files/make-directories.ts'
import { configSchema } from '../config/settings.ts'
import { askReload } from '../process/ask-reload.ts'
import { openIdentity } from '../process/identity.ts'
import type { SetupCommand } from '../setup/setup-flags.ts'
import type { NodeCommand, OwnLineCommand } from './node-command.ts'
import { runDaemon } from './run-daemon.ts'
import { shownConfig } from './shown-config.ts'

export const COMMANDS: readonly NodeCommand[] = [
  {
    name: 'run',
    help: 'run the node (what is done without a command)',
    reads: 'the configuration',
    run: runDaemon,
  },
  {
    name: 'id',
    help: 'the peer id of this node, for --allow of another',
    reads: 'the configuration',
    async run({ config }, { random, out }) {
      out(`${await peerIdOf(config.data, random)}\n`)
      return EXIT.ok
    },
  },
  {
    name: 'reload',
    help: 'let the running node read the configuration again (SIGHUP)',
    reads: 'the configuration',
    async run({ config }, { out }) {
      out(await askReload(config.data))
      return EXIT.ok
    },
  },
  {
    name: 'guess-env',
    help: 'what this machine offers to builds, and why',
    reads: 'its own line',
    async run(argv, system) {
      const { guessEnv } = await import('../guess/guess-env.ts')
      return guessEnv(argv, system)
    },
  },
  {
    name: 'config check',
    help: 'all settings and their sources, or what is wrong with them',
    reads: 'the configuration',
    run({ resolution, config }, { out }) {
      out(shownConfig(resolution, config))
      return Promise.resolve(EXIT.ok)
    },
  },
  {
    name: 'config schema',
    help: 'the JSON schema of the configuration file',
    reads: 'nothing',
    run({ out }) {
      out(`${JSON.stringify(configSchema(), null, 2)}\n`)
      return EXIT.ok
    },
  },
  setup('calibrate', 'measure this machine, and propose a configuration'),
  setup('init', 'write a configuration, with proposals'),
  setup('install-service', 'print the systemd unit of a node'),
]

function setup(name: SetupCommand, help: string): OwnLineCommand {
  return {
    name,
    help,
    reads: 'its own line',
    async run(argv, system) {
      const { runSetup } = await import('../setup/setup.ts')
      return runSetup(name, argv, system)
    },
  }
}

/** The key is made if there is none yet. */
async function peerIdOf(data: string, random: Random): Promise<string> {
  await makeDirectories(data, 0o700)
  return (await openIdentity({ random }, { directory: data })).peerId
}
