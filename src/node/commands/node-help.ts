/** `mesh-node --help`. */
import { flagHelp, helpLine } from '../config/command-line.ts'
import { COMMANDS } from './command-table.ts'

export function nodeHelp(): string {
  const ownNames = COMMANDS.filter(({ reads }) => reads === 'its own line').map(({ name }) => name)
  return `${[
    'Usage: mesh-node [run] [flags]',
    '       mesh-node COMMAND [flags]',
    '',
    'Run a node of a build mesh. Without flags this machine alone is one: root, worker and store.',
    '',
    'Commands:',
    ...COMMANDS.map(({ name, help }) => helpLine(name, help)),
    `  ${ownNames.join(', ')}: each has flags of its own, see its --help`,
    '',
    'Examples:',
    '  mesh-node                                        one machine, on loopback',
    '  mesh-node --listen /ip4/0.0.0.0/tcp/7421 --allow PEERID',
    '                                                   admit a worker from another machine',
    '  mesh-node --listen none --parent /ip4/10.0.0.7/tcp/7421/p2p/PEERID',
    '                                                   be that worker',
    '',
    'Flags (each also in the environment and in TOML: mesh-node config check, config schema):',
    ...flagHelp(),
    '',
    'Exit status: 0 stopped, 2 bad usage or configuration, 69 address or data directory in use,',
    '70 a bug, 73 disk full, 78 data of a newer version, 130 or 143 stopped by a second signal.',
  ].join('\n')}\n`
}
