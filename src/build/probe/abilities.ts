/**
 * What this machine lets an ordinary process do: namespaces, other roots, overlays, virtual machines.
 *
 * Each is tried, for itself: kernels, containers and security modules forbid things in too many ways to
 * conclude anything. What does not work is told with its exact error.
 */
import { access, mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { hasCode } from '../../base/errors.ts'
import { removeTree } from '../../files/workers/remove-job.ts'
import { findTool } from '../tool-path.ts'
import type { Ability } from './known.ts'
import { systemOfKernel } from './systems.ts'
import { makeTrialProgram, ELF_KINDS, TRIAL_EXIT } from './trial-program.ts'
import { tryProgram, type Tried } from './try-program.ts'

export const NAMESPACES = ['user', 'mount', 'pid', 'net', 'ipc', 'uts', 'cgroup', 'time'] as const
type Namespace = (typeof NAMESPACES)[number]

export interface Abilities {
  readonly namespaces: Readonly<Record<Namespace, Ability>>
  /** To enter another root directory. */
  readonly chroot: Ability
  /** A writable layer over a directory that stays as it is: as root, and in a user namespace. */
  readonly overlay: { readonly asRoot: Ability; readonly inUserNamespace: Ability }
}

const isRoot = (): boolean => process.geteuid?.() === 0

/** `directory` is where trials may make files; made and removed by the probe. */
export async function probeAbilities({ directory = tmpdir() } = {}): Promise<Abilities> {
  const own = await mkdtemp(join(directory, 'mesh-abilities-'))
  try {
    const entries: [Namespace, Ability][] = []
    for (const name of NAMESPACES) entries.push([name, await tryNamespace(name)])
    const namespaces = Object.fromEntries(entries)
    return {
      namespaces: complete(namespaces),
      chroot: await tryChroot(own),
      overlay: {
        asRoot: isRoot()
          ? await tryOverlay(own, 'root', ['--mount'])
          : { ok: false, why: 'this process is not root' },
        inUserNamespace: await tryOverlay(own, 'user', ['--user', '--map-root-user', '--mount']),
      },
    }
  } finally {
    await removeTree(own)
  }
}

function complete(found: Partial<Record<Namespace, Ability>>): Record<Namespace, Ability> {
  const untried = { ok: false, why: 'was not tried' }
  const of = (name: Namespace): Ability => found[name] ?? untried
  return {
    user: of('user'),
    mount: of('mount'),
    pid: of('pid'),
    net: of('net'),
    ipc: of('ipc'),
    uts: of('uts'),
    cgroup: of('cgroup'),
    time: of('time'),
  }
}

/** As whoever this is: root has no need of a user namespace for the others. */
async function tryNamespace(name: Namespace): Promise<Ability> {
  const flags = [
    ...(name === 'user' || !isRoot() ? ['--user', '--map-root-user'] : []),
    ...(name === 'user' ? [] : [`--${name}`]),
    ...(name === 'pid' ? ['--fork'] : []),
  ]
  const tried = await tryProgram('unshare', [...flags, '--', 'true'])
  return abilityOf(tried, 0, `unshare ${flags.join(' ')}`)
}

async function tryChroot(own: string): Promise<Ability> {
  const root = join(own, 'root')
  await mkdir(root)
  const system = systemOfKernel()
  const kind = ELF_KINDS.get(system)
  if (kind === undefined) return { ok: false, why: `no trial program for ${system}` }
  await writeFile(join(root, 'trial'), makeTrialProgram(kind), { mode: 0o755 })
  const command = [
    ...(isRoot() ? [] : ['unshare', '--user', '--map-root-user', '--']),
    'chroot',
    root,
    '/trial',
  ]
  const [program = 'chroot', ...args] = command
  const how = isRoot() ? 'chroot as root' : 'chroot in a user namespace'
  return abilityOf(await tryProgram(program, args), TRIAL_EXIT, how)
}

/** A file is written above, and must be seen above and not below. */
const OVERLAY_TRIAL = `mount -t overlay -o "lowerdir=$1/low,upperdir=$1/up,workdir=$1/work$2" mesh "$1/all" || exit 2
echo above > "$1/all/file" || exit 3
[ "$(cat "$1/low/file")" = below ] && [ "$(cat "$1/all/file")" = above ] || { echo "what was written above is seen below" >&2; exit 4; }`

async function tryOverlay(own: string, name: string, flags: readonly string[]): Promise<Ability> {
  const base = join(own, `overlay-${name}`)
  // An overlay cannot lie on another one, as where this is a container's temporary directory.
  for (const part of ['low', 'up', 'work', 'all'])
    await mkdir(join(base, part), { recursive: true })
  await writeFile(join(base, 'low/file'), 'below\n')
  const options = name === 'user' ? ',userxattr' : ''
  const tried = await tryProgram('unshare', [
    ...flags,
    '--',
    '/bin/sh',
    '-c',
    OVERLAY_TRIAL,
    'sh',
    base,
    options,
  ])
  return abilityOf(tried, 0, `mount -t overlay${options === '' ? '' : ' -o userxattr'}`)
}

const abilityOf = ({ code, why }: Tried, right: number, how: string): Ability =>
  code === right ? { ok: true, why: how } : { ok: false, why: `${how}: ${why}` }

/**
 * Not the flags of the processor: machines that are virtual themselves may have one without the other.
 * With `uid`, as the builds' own user, which this process must be root for.
 */
export async function probeKvm(
  options: { readonly device?: string; readonly uid?: number } = {},
): Promise<Ability> {
  const { device = '/dev/kvm', uid } = options
  try {
    await access(device)
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES')) throw error
    return { ok: false, why: `there is no ${device}` }
  }
  const reasons: string[] = []
  for (const [name, flag, script] of KVM_TRIALS) {
    const program = await findTool(name)
    if (program === undefined) continue
    const [command, ...args] = [
      ...(uid === undefined ? [] : identity(uid)),
      program,
      flag,
      script,
      device,
    ]
    const tried = await tryProgram(command, args)
    if (tried.code === 0) return { ok: true, why: `${device}: a virtual machine was made` }
    if (tried.code === KVM_REFUSED) return { ok: false, why: `${device}: ${tried.why}` }
    reasons.push(`${name}: ${tried.why}`)
  }
  const untried = 'is there, but was not tried: that takes perl or python3'
  return { ok: false, why: `${device} ${[untried, ...reasons].join('; ')}` }
}

const identity = (uid: number): string[] => [
  'setpriv',
  `--reuid=${uid}`,
  `--regid=${uid}`,
  '--clear-groups',
  '--',
]

/** The trial itself says that it does not work, in words. */
const KVM_REFUSED = 9
/**
 * Node has no ioctl. _IO(KVMIO, 0x00) is KVM_GET_API_VERSION, which is 12 for ever, and _IO(KVMIO, 0x01)
 * KVM_CREATE_VM (Documentation/virt/kvm/api.rst); the numbers are those of x86, Arm, RISC-V and s390.
 */
const KVM_TRIALS: readonly (readonly [name: string, flag: string, script: string])[] = [
  [
    'perl',
    '-e',
    `sub no_ { print STDERR "$_[0]\\n"; exit ${KVM_REFUSED} }
sysopen(my $kvm, $ARGV[0], 2) or no_("open: $!");
my $version = ioctl($kvm, 0xAE00, 0) or no_("KVM_GET_API_VERSION: $!");
$version == 12 or no_("version $version of its interface, not 12");
my $vm = ioctl($kvm, 0xAE01, 0) or no_("KVM_CREATE_VM: $!");`,
  ],
  [
    'python3',
    '-c',
    `import fcntl, os, sys
def no(what, error):
    print(what + ': ' + os.strerror(error.errno), file=sys.stderr); sys.exit(${KVM_REFUSED})
try: kvm = os.open(sys.argv[1], os.O_RDWR)
except OSError as error: no('open', error)
try: version = fcntl.ioctl(kvm, 0xAE00, 0)
except OSError as error: no('KVM_GET_API_VERSION', error)
if version != 12: print('version %d of its interface, not 12' % version, file=sys.stderr); sys.exit(${KVM_REFUSED})
try: fcntl.ioctl(kvm, 0xAE01, 0)
except OSError as error: no('KVM_CREATE_VM', error)`,
  ],
]
