/**
 * How bubblewrap is started: it makes the walls by its arguments, which it reads from descriptor 5, and goes
 * on with a script that runs the build.
 */
import type { BuildSpec } from '../executor-protocol.ts'
import { INNER_ID, type HostLayout, type Place } from '../sandbox-layout.ts'
import { runScript, sealArgs } from './run-script.ts'
import type { Inside, SandboxCommand } from './started-sandbox.ts'

export function bwrapCommand(
  program: string,
  layout: HostLayout,
  spec: BuildSpec,
  { places, inherited }: Inside,
): SandboxCommand {
  const asRoot = layout.uid !== process.geteuid?.()
  const args = [
    '--die-with-parent',
    '--new-session',
    '--unshare-pid',
    '--unshare-ipc',
    '--unshare-uts',
    '--hostname',
    'mesh',
  ]
  if (!spec.network) args.push('--unshare-net')
  // As root the walls belong to root, and `sealArgs` changes into an unprivileged user behind them.
  if (asRoot)
    for (const name of ['SETUID', 'SETGID', 'SETPCAP']) args.push('--cap-add', `CAP_${name}`)
  else
    args.push(
      '--unshare-user',
      '--disable-userns',
      '--uid',
      `${INNER_ID}`,
      '--gid',
      `${INNER_ID}`,
      '--cap-drop',
      'ALL',
    )
  // Directories that it makes on its own account are closed to everybody but root.
  for (const path of ancestorsOf(places)) args.push('--perms', '0755', '--dir', path)
  args.push('--proc', '/proc', '--perms', '1777', '--tmpfs', '/dev/shm')
  const verbs = {
    dir: '--ro-bind',
    file: '--ro-bind',
    default: '--ro-bind',
    rw: '--bind',
    dev: '--dev-bind',
    link: '--symlink',
  } as const
  for (const { kind, from, at } of places) args.push(verbs[kind], from, at)
  args.push('--remount-ro', '/', '--chdir', spec.cwd)
  return {
    command: program,
    args: [
      '--args',
      '5',
      '--',
      ...(asRoot ? sealArgs(layout, true) : ['/bin/sh', '/proc/self/fd/4']),
    ],
    input: '',
    files: [
      { name: 'run.sh', content: runScript(spec, inherited), fd: 4 },
      { name: 'bwrap.args', content: args.map((arg) => `${arg}\0`).join(''), fd: 5 },
    ],
  }
}

/** The directories that hold the places, outermost first. */
function ancestorsOf(places: readonly Place[]): string[] {
  const paths = new Set<string>()
  for (const { at } of places)
    for (let end = at.indexOf('/', 1); end !== -1; end = at.indexOf('/', end + 1))
      paths.add(at.slice(0, end))
  return [...paths]
}
