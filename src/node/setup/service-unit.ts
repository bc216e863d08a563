/** The systemd unit that starts a node at boot: of the machine for root, else of the user. */
import { join } from 'node:path'

export interface ServiceUnit {
  readonly text: string
  /** Where systemd looks for it. */
  readonly path: string
  /** What makes it start now and at boot; commands of a shell. */
  readonly commands: readonly string[]
}

export interface ServiceOptions {
  /** Absolute path of `mesh-node`. */
  readonly program: string
  /** Undefined when the daemon finds its configuration by itself. */
  readonly config: string | undefined
  readonly isRoot: boolean
  readonly home: string
}

const NAME = 'mesh-node.service'

export function serviceUnit({ program, config, isRoot, home }: ServiceOptions): ServiceUnit {
  const words = [program, 'run', ...(config === undefined ? [] : ['--config', config])]
  const text = [
    '[Unit]',
    'Description=Build mesh node',
    ...(isRoot ? ['After=network-online.target', 'Wants=network-online.target'] : []),
    '',
    '[Service]',
    'Type=notify',
    'NotifyAccess=all',
    `ExecStart=${words.map(systemdWord).join(' ')}`,
    'ExecReload=/bin/kill -HUP $MAINPID',
    'WatchdogSec=60',
    'Restart=on-failure',
    'RestartSec=2',
    'TimeoutStopSec=5min',
    'KillMode=mixed',
    ...(isRoot ? ['StateDirectory=mesh', 'StateDirectoryMode=0700'] : []),
    'Delegate=yes',
    'OOMPolicy=continue',
    '',
    '[Install]',
    `WantedBy=${isRoot ? 'multi-user.target' : 'default.target'}`,
  ]
  const control = isRoot ? 'systemctl' : 'systemctl --user'
  return {
    text: `${text.join('\n')}\n`,
    path: isRoot ? `/etc/systemd/system/${NAME}` : join(home, '.config/systemd/user', NAME),
    commands: [
      `${control} daemon-reload`,
      `${control} enable --now mesh-node`,
      ...(isRoot ? [] : ['loginctl enable-linger # also while you are not logged in']),
    ],
  }
}

/** One word of a command line: systemd.service(5), "COMMAND LINES", and the specifiers of systemd.unit(5). */
function systemdWord(word: string): string {
  const text = word.replaceAll('%', '%%').replaceAll('$', '$$$$')
  if (/^[^\s"'\\;]+$/.test(text)) return text
  return `"${text.replaceAll('\\', '\\\\').replaceAll('"', String.raw`\"`)}"`
}
