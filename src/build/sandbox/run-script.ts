/**
 * The last steps behind the walls of bubblewrap and unshare: all rights are given up, and a shell script on
 * descriptor 4 runs the build and reports in the same lines as the helper does.
 */
import { quote } from '../../base/quote.ts'
import type { BuildSpec } from '../executor-protocol.ts'
import { SCRIPT_DESCRIPTORS } from '../jobs/build-jobs.ts'
import { INNER_ID, type HostLayout } from '../sandbox-layout.ts'

/** The command that gives up all rights and goes on with the script on descriptor 4. */
export function sealArgs(layout: HostLayout, asRoot: boolean): string[] {
  const identity = [
    'setpriv',
    '--reuid',
    `${layout.uid}`,
    '--regid',
    `${layout.gid}`,
    '--clear-groups',
    '--',
  ]
  const enter = [
    'unshare',
    '--user',
    `--map-user=${INNER_ID}`,
    `--map-group=${INNER_ID}`,
    '--keep-caps',
    '--',
  ]
  const noNamespaces = [
    '/bin/sh',
    '-c',
    'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"',
    'sh',
  ]
  const drop = [
    'setpriv',
    '--no-new-privs',
    '--inh-caps=-all',
    '--ambient-caps=-all',
    '--bounding-set=-all',
    '--',
  ]
  return [
    ...(asRoot ? identity : []),
    ...enter,
    ...noNamespaces,
    ...drop,
    '/bin/sh',
    '/proc/self/fd/4',
  ]
}

/** Looks the builder up, runs it with exactly the environment of the specification, and reports. */
export function runScript(spec: BuildSpec, inherited: string | undefined): string {
  const [builder = '', ...args] = spec.argv
  const path = spec.env['PATH'] ?? '/usr/bin:/bin'
  const candidates = builder.includes('/')
    ? [builder]
    : path.split(':').map((directory) => `${directory === '' ? '.' : directory}/${builder}`)
  const env = Object.entries(spec.env).map(([name, value]) => quote(`${name}=${value}`))
  const opened =
    inherited === undefined
      ? ''
      : SCRIPT_DESCRIPTORS.map((fd) => ` ${fd}<>${quote(inherited)}`).join('')
  return [
    'ulimit -Sn 1024 2>/dev/null',
    'found=',
    `for path in ${candidates.map(quote).join(' ')}; do if [ -f "$path" ] && [ -x "$path" ]; then found=$path; break; fi; done`,
    `if [ -z "$found" ]; then printf 'builder %s: not found or not executable\\n' ${quote(builder.replaceAll(/[\n\r]/g, '?'))} >&3; exit 127; fi`,
    'echo begun >&3',
    `/usr/bin/env -i -- ${env.join(' ')} "$found" ${args.map(quote).join(' ')} 3>&- 4>&- 5>&-${opened}`,
    '{ echo "exited $?"; times; } >&3',
    '',
  ].join('\n')
}
