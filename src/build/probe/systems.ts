/**
 * Whose programs this machine runs. Nothing is concluded from what is installed or registered: a program of
 * each system is made and started, and counts when it ends as it should.
 *
 * Foreign programs are started in a root of their own, which has nothing but them, as an image has nothing
 * of this machine: an emulator that is only found on the machine is no help there.
 */
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { machine as kernelMachine, tmpdir } from 'node:os'
import { join } from 'node:path'
import { removeTree } from '../../files/workers/remove-job.ts'
import {
  EMULATOR_FLAGS,
  findEmulator,
  readRegistered,
  registeredFor,
  registrationOf,
  type Registered,
} from './emulators.ts'
import { ELF_KINDS, makeTrialProgram, TRIAL_EXIT, type ElfKind } from './trial-program.ts'
import { tryProgram, type Tried } from './try-program.ts'

/** A system whose programs this machine really ran. */
export interface Runnable {
  readonly system: string
  /** `native`: the machine's own; `compat`: 32-bit programs under a kernel of 64; `emulated`: by qemu-user. */
  readonly how: 'native' | 'compat' | 'emulated'
  /**
   * Of `emulated`: the line that a sandbox writes to `register` of a binfmt_misc of its own before it enters
   * the image, and the emulator that it names. Absent where the kernel has it registered for all, so that
   * the image can be entered as it is.
   */
  readonly registration?: string
  readonly interpreter?: string
  /** What showed it. */
  readonly why: string
}

/** A system whose programs did not run, and why. */
export interface NotRunnable {
  readonly system: string
  readonly why: string
}

export interface SystemsProbe {
  readonly runnable: readonly Runnable[]
  readonly others: readonly NotRunnable[]
}

export interface ProbeSystemsOptions {
  /** Where trial programs may be written and started; made and removed by the probe. */
  readonly directory?: string
  /** Where registrations are read, and emulators looked for. */
  readonly root?: string
  readonly searchPath?: string
}

/** 64 and 32 bits of one family: the kernel of the first may run programs of the second. */
const COMPAT: Readonly<Record<string, string>> = {
  'x86_64-linux': 'i686-linux',
  'aarch64-linux': 'armv7l-linux',
}
/** Names that kernels give themselves, beside those that systems have here. */
const KERNEL_NAMES: Readonly<Record<string, string>> = {
  i386: 'i686',
  i486: 'i686',
  i586: 'i686',
  armv8l: 'armv7l',
  armv6l: 'armv7l',
  ppc64le: 'powerpc64le',
}

/** The system that the kernel says it is for; a personality (setarch) may make it say the smaller one. */
export function systemOfKernel(machine = kernelMachine()): string {
  return `${(KERNEL_NAMES[machine] ?? machine).replaceAll(/[^a-z0-9_]/g, '_')}-linux`
}

/** The same, without what does not run. Some 100 ms where many emulators are installed. */
export async function probeSystems(
  options: ProbeSystemsOptions = {},
): Promise<readonly Runnable[]> {
  return (await probeAllSystems(options)).runnable
}

/** Tries each system that there is a trial program for. Native ones first. */
export async function probeAllSystems(options: ProbeSystemsOptions = {}): Promise<SystemsProbe> {
  const registered = await readRegistered(options.root)
  const directory = await mkdtemp(join(options.directory ?? tmpdir(), 'mesh-systems-'))
  try {
    await mkdir(join(directory, 'binfmt'))
    const trials = new Trials(directory, registered, options.searchPath)
    const runnable: Runnable[] = []
    const others: NotRunnable[] = []
    for (const [system, kind] of ELF_KINDS) {
      const answer = await trials.attempt(system, kind)
      if ('how' in answer) runnable.push(answer)
      else others.push(answer)
    }
    const order = ['native', 'compat', 'emulated']
    return {
      runnable: runnable.toSorted((a, b) => order.indexOf(a.how) - order.indexOf(b.how)),
      others,
    }
  } finally {
    await removeTree(directory)
  }
}

/** One round of trials in one directory. */
class Trials {
  readonly #directory: string
  readonly #registered: readonly Registered[]
  readonly #searchPath: string | undefined
  readonly #binfmt: string
  /** Those that the processor may run of itself. */
  readonly #own: ReadonlySet<string>
  readonly #native = new Set<string>()

  constructor(
    directory: string,
    registered: readonly Registered[],
    searchPath: string | undefined,
  ) {
    this.#directory = directory
    this.#registered = registered
    this.#searchPath = searchPath
    this.#binfmt = join(directory, 'binfmt')
    const kernel = systemOfKernel()
    const wide = Object.entries(COMPAT).find(([, narrow]) => narrow === kernel)?.[0]
    this.#own = new Set([kernel, COMPAT[kernel] ?? kernel, wide ?? kernel])
  }

  async attempt(system: string, kind: ElfKind): Promise<Runnable | NotRunnable> {
    const program = makeTrialProgram(kind)
    const root = join(this.#directory, system)
    await mkdir(root)
    await writeFile(join(root, 'trial'), program, { mode: 0o755 })
    const entry = registeredFor(this.#registered, program)
    // A registration comes before the kernel's own ability, also for the machine's own programs.
    if (this.#own.has(system) && entry === undefined) {
      const tried = await tryProgram(join(root, 'trial'), [])
      if (isRight(tried)) return this.#ran(system)
      const emulated = await this.#emulated(system, root)
      return 'how' in emulated ? emulated : { system, why: problemOf(tried) }
    }
    const tried = await this.#inOwnRoot(root)
    if (isRight(tried)) {
      const how = entry === undefined ? '' : `, by ${entry.interpreter} (${entry.name})`
      return {
        system,
        how: 'emulated',
        why: `a program of it ran in a root of its own, as the kernel has it registered for all${how}`,
      }
    }
    const emulated = await this.#emulated(system, root)
    if ('how' in emulated || entry === undefined) return emulated
    const name = `registered as ${entry.name} for ${entry.interpreter} (flags ${entry.flags || 'none'})`
    return { system, why: `${name}: ${problemOf(tried)}; ${emulated.why}` }
  }

  /** 32-bit programs are the machine's own where those of 64 do not run. The wide systems are tried first. */
  #ran(system: string): Runnable {
    const wide = Object.entries(COMPAT).find(([, narrow]) => narrow === system)?.[0]
    if (wide !== undefined && this.#native.has(wide))
      return { system, how: 'compat', why: 'a 32-bit program of it ran under the 64-bit kernel' }
    this.#native.add(system)
    return { system, how: 'native', why: 'a program of it ran' }
  }

  /** As an image would be entered: with nothing of this machine in it. */
  async #inOwnRoot(root: string): Promise<Tried> {
    return tryInRoot(root, ['/trial'], { binfmt: this.#binfmt })
  }

  async #emulated(system: string, root: string): Promise<Runnable | NotRunnable> {
    const path = await findEmulator(system, this.#searchPath)
    if (path === undefined)
      return { system, why: 'neither registered with the kernel nor is qemu-user-static installed' }
    let why = ''
    for (const flags of EMULATOR_FLAGS) {
      const registration = registrationOf(system, { path, flags })
      const tried = await tryInRoot(root, ['/trial'], { binfmt: this.#binfmt, registration })
      if (isRight(tried))
        return {
          system,
          how: 'emulated',
          registration,
          interpreter: path,
          why: `a program of it ran by ${path}, registered in a user namespace of its own`,
        }
      why ||= `${path} is installed, but: ${problemOf(tried)}`
    }
    return { system, why }
  }
}

/** $1 directory to mount binfmt_misc at, $2 line for it, $3 root to enter, then what to run there. */
const WITH_EMULATOR = `mount -t binfmt_misc binfmt_misc "$1" && printf %s "$2" > "$1/register" || exit 125
shift 2
exec chroot "$@"`

/**
 * Runs a program of another root directory in it, by an emulator that is registered for nothing else where
 * `registration` says so. Its files are as they are: it may write where this user may.
 */
export async function tryInRoot(
  root: string,
  argv: readonly string[],
  { binfmt, registration }: { readonly binfmt: string; readonly registration?: string },
): Promise<Tried> {
  const unshare = ['--user', '--map-root-user']
  if (registration !== undefined)
    return tryProgram('unshare', [
      ...[...unshare, '--mount', '--', '/bin/sh', '-c', WITH_EMULATOR, 'sh'],
      ...[binfmt, registration, root, ...argv],
    ])
  const tried = await tryProgram('unshare', [...unshare, '--', 'chroot', root, ...argv])
  // Root may change its root where user namespaces are forbidden.
  return isRefused(tried) && process.geteuid?.() === 0
    ? await tryProgram('chroot', [root, ...argv])
    : tried
}

/** Whether `unshare` itself did not work. */
const isRefused = ({ code, why }: Tried): boolean => code !== 0 && why.startsWith('unshare:')

const isRight = ({ code }: Tried): boolean => code === TRIAL_EXIT

function problemOf({ code, why }: Tried): string {
  return code === TRIAL_EXIT + 1 ? 'it hands programs a wrong list of arguments' : why
}
