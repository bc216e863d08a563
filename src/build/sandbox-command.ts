/**
 * How each sandbox method is started for one build, and what it reports on descriptor 3.
 *
 * The helper is our own program (sandbox/mesh-sandbox.c). bubblewrap and unshare make do with what a
 * distribution has: shell scripts on descriptor 4 run the build and report in the same lines. They are
 * weaker in what they can tell: a build killed by signal N ends as exit 128+N, and the usage lacks memory.
 */
import { constants } from 'node:os'
import { join } from 'node:path'
import type { BuildEnd, BuildSpec, ImageRoot, SandboxChoice } from './executor-protocol.ts'
import { SCRIPT_DESCRIPTORS } from './jobs/build-jobs.ts'
import { CHANGES, INNER_ID, placesOf, type HostLayout, type Place } from './sandbox-layout.ts'

export interface SandboxCommand {
  readonly command: string
  readonly args: readonly string[]
  /** Written to descriptor 3, which is then closed for writing. */
  readonly input: string
  /** Written to the attempt's directory before the start; `fd` is how the program finds it. */
  readonly files: readonly {
    readonly name: string
    readonly content: string
    readonly fd?: 4 | 5
  }[]
}

interface Inside {
  readonly places: readonly Place[]
  readonly inherited: string | undefined
}

/** `sandbox.method` is not `none`. */
export function sandboxCommand(
  sandbox: SandboxChoice,
  layout: HostLayout,
  spec: BuildSpec,
  /** A FIFO in the sandbox to be open in the build at descriptors that its tools are told of. */
  inherited?: string,
): SandboxCommand {
  const places = placesOf(layout, spec)
  switch (sandbox.method) {
    case 'helper':
      return helperCommand(sandbox.program, layout, spec, { places, inherited })
    case 'bwrap':
      return bwrapCommand(sandbox.program, layout, spec, { places, inherited })
    case 'unshare':
      return unshareCommand(sandbox.program, layout, spec, { places, inherited })
    case 'none':
      throw new Error('there is no sandbox on this machine')
  }
}

/** For a person at a terminal, whose process `parentPid` starts it. The sandbox is the helper. */
export function shellCommand(
  sandbox: SandboxChoice,
  layout: HostLayout,
  spec: BuildSpec,
  parentPid: number,
): { readonly program: string; readonly input: string } {
  const inside = { places: placesOf(layout, spec), inherited: undefined }
  const how = { parentPid, isTerminal: true }
  const { command, input } = helperCommand(sandbox.program, layout, spec, inside, how)
  return { program: command, input }
}

/** A script that does what the builder was started with. */
export function shellScript(argv: readonly string[]): string {
  return `exec ${argv.map(quote).join(' ')}\n`
}

function helperCommand(
  program: string,
  layout: HostLayout,
  spec: BuildSpec,
  { places, inherited }: Inside,
  { parentPid, isTerminal } = { parentPid: process.pid, isTerminal: false },
): SandboxCommand {
  const words = [
    'uid',
    `${layout.uid}`,
    'gid',
    `${layout.gid}`,
    'parent',
    `${parentPid}`,
    'root',
    layout.root,
    'cwd',
    spec.cwd,
  ]
  if (spec.network) words.push('network')
  if (isTerminal) words.push('terminal')
  if (inherited !== undefined) words.push('jobserver', inherited)
  if (spec.image !== undefined) words.push(...imageWords(spec, spec.image))
  for (const { kind, from, at } of places) words.push(kind, from, at)
  for (const arg of spec.argv) words.push('arg', arg)
  for (const [name, value] of Object.entries(spec.env)) words.push('env', `${name}=${value}`)
  words.push('end', '')
  return { command: program, args: [], input: words.join('\0'), files: [] }
}

function imageWords({ directory }: BuildSpec, { layers, is32Bit, emulator }: ImageRoot): string[] {
  const words = layers.flatMap((layer) => ['layer', layer])
  words.push('changes', join(directory, CHANGES))
  if (is32Bit === true) words.push('linux32')
  if (emulator !== undefined)
    words.push('emulator', emulator.program, 'binary', emulator.binary, 'flags', emulator.flags)
  return words
}

function bwrapCommand(
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

function unshareCommand(
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

/** The command that gives up all rights and goes on with the script on descriptor 4. */
function sealArgs(layout: HostLayout, asRoot: boolean): string[] {
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
function runScript(spec: BuildSpec, inherited: string | undefined): string {
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

const quote = (word: string): string => `'${word.replaceAll("'", String.raw`'\''`)}'`
const parentOf = (path: string): string => path.slice(0, Math.max(1, path.lastIndexOf('/')))

/** The directories that hold the places, outermost first. */
function ancestorsOf(places: readonly Place[]): string[] {
  const paths = new Set<string>()
  for (const { at } of places)
    for (let end = at.indexOf('/', 1); end !== -1; end = at.indexOf('/', end + 1))
      paths.add(at.slice(0, end))
  return [...paths]
}

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

/** What the report on descriptor 3 says. */
export interface SandboxReport {
  /** Undefined when the sandbox ended without a word. */
  readonly end: BuildEnd | undefined
  /** The build itself had begun. */
  readonly begun: boolean
  readonly cpuMs: number
  readonly maxRssBytes: number
}

export function parseReport(text: string): SandboxReport {
  let end: BuildEnd | undefined
  let begun = false
  let cpuMs = 0
  let maxRssBytes = 0
  for (const line of text.split('\n')) {
    const [key = '', ...words] = line.split(' ')
    const rest = words.join(' ')
    if (key === 'failed') end ??= { kind: 'infrastructure', message: `sandbox: ${rest}` }
    else if (key === 'builder') end ??= { kind: 'builder-not-found', message: rest }
    else if (key === 'begun') begun = true
    else if (key === 'exited') end ??= { kind: 'exited', code: Number(rest) }
    else if (key === 'signalled') end ??= { kind: 'signalled', signal: signalName(Number(rest)) }
    else if (key === 'usage') [cpuMs = 0, maxRssBytes = 0] = words.map(Number)
    // The last line that `times` prints: user and system time of all children.
    else if (/^\d+m[\d.]+s$/.test(key))
      cpuMs = words.concat(key).reduce((sum, time) => sum + shellTimeMs(time), 0)
  }
  return { end, begun, cpuMs, maxRssBytes }
}

function shellTimeMs(time: string): number {
  const [minutes = 0, seconds = 0] = time.replace('s', '').split('m').map(Number)
  return Math.round(minutes * 60_000 + seconds * 1000)
}

function signalName(number: number): string {
  return (
    Object.entries(constants.signals).find(([, value]) => value === number)?.[0] ??
    `signal ${number}`
  )
}
