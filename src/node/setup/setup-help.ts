/** The help of the commands that set a machine up. */
import { flagHelp } from '../config/command-line.ts'
import type { SetupCommand } from './setup-flags.ts'

const KINDS = '  --for KIND              kind of jobs: c, large-c, java, mixed (default: mixed)'
const HELP = '  -h, --help              this text'

const TEXTS: Readonly<Record<SetupCommand, () => readonly string[]>> = {
  calibrate: () => [
    'Usage: mesh-node calibrate [--for KIND] [--data DIR] [--json]',
    '',
    'Measure this machine for a few seconds, and propose how a node on it should be configured.',
    'Nothing is changed: what it writes to the disk of DIR is removed again.',
    '',
    'Examples:',
    '  mesh-node calibrate',
    '  mesh-node calibrate --for large-c --data /srv/mesh',
    '',
    'Options:',
    KINDS,
    '  --data DIR              data directory whose disk is measured; it need not exist',
    '  --json                  one JSON object on stdout',
    HELP,
    '',
    'Exit status: 0 measured, 2 bad usage, 73 disk full, 130 ended by ^C.',
  ],
  init: () => [
    'Usage: mesh-node init [--yes] [--for KIND] [--force] [--boot] [--json] [flags]',
    '',
    'Write a configuration: a few questions, with proposals from what was measured on this machine. The file',
    'is shown with the reason for each value before it is written.',
    '',
    'Examples:',
    '  mesh-node init                                asks',
    '  mesh-node init --yes                          takes all proposals: a mesh of one machine',
    '  mesh-node init --yes --parent /ip4/10.0.0.7/tcp/7421/p2p/PEERID --for large-c',
    '                                                joins a mesh',
    '',
    'Options:',
    '  --yes                   ask nothing: what no flag says is as proposed',
    KINDS,
    '  --force                 replace a configuration that is there',
    '  --boot                  print the systemd unit that starts the node at boot, too',
    '  --json                  one JSON object on stdout at the end',
    '',
    'What is said by a flag is not asked. --config FILE is what is written:',
    ...flagHelp(),
    '',
    'Exit status: 0 written, 2 bad usage, or a file is there already, 8 not written, 130 ended by ^C.',
  ],
  'install-service': () => [
    'Usage: mesh-node install-service --print [--config FILE]',
    '',
    'Print the systemd unit that starts this node at boot: of the machine for root, else of the user.',
    '',
    'Example:',
    '  mesh-node install-service --print > /etc/systemd/system/mesh-node.service',
    '',
    'Options:',
    '  --print                 print it; nothing is installed',
    '  --config FILE           the configuration that it names (default: the usual places)',
    HELP,
    '',
    'Exit status: 0 printed, 2 bad usage.',
  ],
}

export const setupHelp = (command: SetupCommand): string => `${TEXTS[command]().join('\n')}\n`
