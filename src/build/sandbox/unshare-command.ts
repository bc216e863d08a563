/**
 * How walls are made with what every distribution has: util-linux's unshare makes the namespaces, a script in
 * them mounts the new root, and goes on with another that runs the build.
 */
import { join } from 'node:path'
import { quote } from '../../base/quote.ts'
import type { BuildSpec } from '../executor-protocol.ts'
import type { HostLayout, Place } from '../sandbox-layout.ts'
import { runScript, sealArgs } from './run-script.ts'
import type { Inside, SandboxCommand } from './started-sandbox.ts'

export function unshareCommand(
  program: string,
  layout: HostLayout,
  spec: BuildSpec,
  { places, inherited }: Inside,
): SandboxCommand {
  const asRoot = layout.uid !== process.geteuid?.()
  const inputs = new Set(spec.inputs.map((input) => input.path))
  const mounts = places.filter((place) => place.kind !== 'link')
  // Inputs come second: some lie in /build/work, which the first round mounts.
  const rounds = [
    mounts.filter(({ at }) => !inputs.has(at)),
    mounts.filter(({ at }) => inputs.has(at)),
  ]
  const inner = (path: string): string => join(layout.root, path)
  const script = [
    `fail() { printf 'failed %s\\n' "$*" >&3; exit 125; }`,
    `mount -n -t tmpfs -o nosuid,nodev,mode=0755 mesh ${quote(layout.root)} || fail mount a tmpfs`,
    'umask 022',
    ...rounds.flatMap((round, at) => [
      ...makeDirectories(
        round.map((place) =>
          inner(place.kind === 'file' || place.kind === 'dev' ? parentOf(place.at) : place.at),
        ),
      ),
      ...round
        .filter(({ kind }) => kind === 'file' || kind === 'dev')
        .map((place) => `: > ${quote(inner(place.at))} || fail make ${quote(place.at)}`),
      round.length === 0
        ? ':'
        : `mount -n -a -T ${quote(join(spec.directory, `fstab-${at}`))} || fail mount the ${at === 0 ? 'tools' : 'inputs'}`,
    ]),
    `cd ${quote(layout.root)} && mkdir -p proc dev/shm old || fail make /proc`,
    'mount -n -t proc -o nosuid,nodev,noexec proc proc || fail mount /proc',
    'mount -n -t tmpfs -o nosuid,nodev,mode=1777 shm dev/shm || fail mount /dev/shm',
    ...places
      .filter((place) => place.kind === 'link')
      .map(
        ({ from, at }) =>
          `mkdir -p .${quote(parentOf(at))} && ln -s -- ${quote(from)} .${quote(at)} || fail link ${quote(at)}`,
      ),
    'pivot_root . old && cd / || fail pivot_root',
    'umount -l /old && rmdir /old && mount -n -o remount,bind,ro,nosuid,nodev / || fail detach the old root',
    // Neither is in every distribution; a build without them sees the host's name, or no loopback.
    'hostname mesh 2>/dev/null',
    ...(spec.network ? [] : ['ip link set lo up 2>/dev/null']),
    'ulimit -c 0',
    `cd ${quote(spec.cwd)} || fail chdir`,
    sealArgs(layout, asRoot).map(quote).join(' '),
    'exit $?',
  ]
  const namespaces = [
    program,
    '--mount',
    '--pid',
    '--ipc',
    '--uts',
    ...(spec.network ? [] : ['--net']),
    '--fork',
    '--kill-child',
    '--propagation',
    'private',
    '--',
    '/bin/sh',
    join(spec.directory, 'setup.sh'),
  ]
  // Entering a user namespace clears the parent-death signal, so it is set in between.
  const [command = program, ...args] = [
    ...(asRoot ? [] : [program, '--user', '--map-root-user', '--']),
    'setpriv',
    '--pdeathsig',
    'KILL',
    '--',
    ...namespaces,
  ]
  return {
    command,
    args,
    input: '',
    files: [
      { name: 'run.sh', content: runScript(spec, inherited), fd: 4 },
      { name: 'setup.sh', content: `${script.join('\n')}\n` },
      ...rounds.map((round, at) => ({
        name: `fstab-${at}`,
        content: round.map((place) => fstabLine(place, inner(place.at), asRoot)).join(''),
      })),
    ],
  }
}

const parentOf = (path: string): string => path.slice(0, Math.max(1, path.lastIndexOf('/')))

function* makeDirectories(paths: readonly string[]): Generator<string> {
  const unique = [...new Set(paths)]
  // Below the limit of one command line.
  for (let at = 0; at < unique.length; at += 200)
    yield `mkdir -p -- ${unique
      .slice(at, at + 200)
      .map(quote)
      .join(' ')} || fail make directories`
}

const fstabPath = (path: string): string =>
  path.replaceAll(/[\s\\#]/g, (letter) => `\\${letter.charCodeAt(0).toString(8).padStart(3, '0')}`)

function fstabLine({ kind, from }: Place, at: string, asRoot: boolean): string {
  // In a user namespace of our own the kernel does not let a mount be separated from those below it.
  const bind = asRoot || kind !== 'dir' ? 'bind' : 'rbind'
  const options = {
    dir: 'ro,nosuid,nodev',
    file: 'ro,nosuid,nodev',
    default: 'ro,nosuid,nodev',
    rw: 'nosuid,nodev',
    dev: 'nosuid,noexec',
    link: '',
  }[kind]
  return `${fstabPath(from)} ${fstabPath(at)} none ${bind},${options} 0 0\n`
}
