/** `mesh-node guess-env --help`. */

export function guessHelp(): string {
  return `${[
    'Usage: mesh-node guess-env [--root DIR] [--json | --toml] [flags]',
    '',
    'Tell what this machine is and what a node on it would offer to builds, with the source of',
    'each piece of knowledge. All of it is tried, not concluded. Nothing is changed.',
    '',
    'Examples:',
    '  mesh-node guess-env                              for people',
    '  mesh-node guess-env --toml > worker.toml         as [worker] of a configuration',
    '  mesh-node guess-env --root /srv/chroots/sid      a chroot, or an image that was unpacked',
    '',
    'Flags:',
    '  --root DIR              tell of the system whose root directory is DIR',
    '  --json                  one line for programs',
    '  --toml                  a part of a configuration file',
    '  --data DIR              the data directory, whose disk counts',
    '  --config FILE           the configuration, which may hold things back',
    '  --cpus N  --memory SIZE  --isolation KIND  --facts PATH  --feature NAME  --system SYSTEM',
    '                          as for the node: mesh-node --help',
    '  -h, --help              this text',
    '',
    'Exit status: 0, or 2 for bad usage or configuration. What does not work here is told, not an error.',
  ].join('\n')}\n`
}
