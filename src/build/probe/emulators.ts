/**
 * Emulators of single programs (qemu-user) and how the kernel is told to use them: binfmt_misc.
 *
 * The kernel has registrations of its own in each user namespace since 6.7: whoever may make one can mount
 * binfmt_misc in it and write `registrationOf(...)` to `register`; nothing of that is seen outside. A name
 * space with registrations of its own does not use those of the machine any more.
 * Source: Documentation/admin-guide/binfmt-misc.rst of Linux; qemu's scripts/qemu-binfmt-conf.sh.
 */
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode } from '../../base/errors.ts'
import { findTool } from '../tool-path.ts'
import { ELF_KINDS, type ElfKind } from './trial-program.ts'

/** How the kernel knows the programs of one system, and what can run them. */
export interface QemuFormat {
  /** The first 20 bytes of a program, and which of their bits count, as `register` takes them: `\x7f\x45…`. */
  readonly magic: string
  readonly mask: string
  /** Emulators by the names that distributions give them, the static one first: it needs nothing of the image. */
  readonly programs: readonly string[]
}

/** What qemu calls the systems. */
const QEMU_NAMES: Readonly<Record<string, string>> = {
  'x86_64-linux': 'x86_64',
  'i686-linux': 'i386',
  'aarch64-linux': 'aarch64',
  'armv7l-linux': 'arm',
  'riscv64-linux': 'riscv64',
  'powerpc64le-linux': 'ppc64le',
  's390x-linux': 's390x',
}

export const QEMU_FORMATS: ReadonlyMap<string, QemuFormat> = new Map(
  [...ELF_KINDS].map(([system, kind]) => {
    const name = QEMU_NAMES[system] ?? system
    const { magic, mask } = headOf(kind)
    return [
      system,
      {
        magic: escaped(magic),
        mask: escaped(mask),
        programs: [`qemu-${name}-static`, `qemu-${name}`],
      },
    ]
  }),
)

/** Executables and position-independent ones, for any variant of the system's ABI. */
function headOf({ bits, isBigEndian, machine }: ElfKind): { magic: Buffer; mask: Buffer } {
  const magic = Buffer.alloc(20)
  magic.set([0x7f, 0x45, 0x4c, 0x46, bits === 64 ? 2 : 1, isBigEndian ? 2 : 1, 1])
  const mask = Buffer.alloc(20, 0xff)
  mask[7] = 0
  const [type, low] = isBigEndian ? [17, 19] : [16, 18]
  magic[type] = 2
  mask[type] = 0xfe
  magic[low] = machine
  return { magic, mask }
}

function escaped(bytes: Buffer): string {
  return [...bytes].map((byte) => String.raw`\x${byte.toString(16).padStart(2, '0')}`).join('')
}

/**
 * How an emulator is called. `OPF`: with the program's own name as it was called (qemu 6 and newer know of
 * it by a flag of the kernel) and opened by the kernel; `F`: older ones, which see the program's path instead.
 * F opens the emulator when it is registered, so that it is found from inside of any root.
 */
export const EMULATOR_FLAGS = ['OPF', 'F'] as const
export type EmulatorFlags = (typeof EMULATOR_FLAGS)[number]

/** The line for `register`. Throws where the system has no format or the path has what would end it. */
export function registrationOf(
  system: string,
  emulator: { readonly path: string; readonly flags: EmulatorFlags },
): string {
  const format = QEMU_FORMATS.get(system)
  if (format === undefined) throw new Error(`no format of programs is known for ${system}`)
  if (/[:\n]/.test(emulator.path)) throw new Error(`a path with a colon: ${emulator.path}`)
  return `:mesh-${system}:M::${format.magic}:${format.mask}:${emulator.path}:${emulator.flags}`
}

/** The emulator of a system that is installed, if any. */
export async function findEmulator(
  system: string,
  searchPath?: string,
): Promise<string | undefined> {
  for (const name of QEMU_FORMATS.get(system)?.programs ?? []) {
    const path = await findTool(name, searchPath)
    if (path !== undefined) return path
  }
  return undefined
}

/** What the machine's kernel does with programs of some kind. */
export interface Registered {
  readonly name: string
  readonly interpreter: string
  readonly flags: string
  readonly magic: Buffer
  readonly mask: Buffer
}

/** Registrations that are looked at; a machine has a few dozens. */
const REGISTRATIONS_MAX = 512

/** All that are switched on; none where binfmt_misc is not mounted. `root` is another root directory, for tests. */
export async function readRegistered(root = '/'): Promise<Registered[]> {
  const directory = join(root, 'proc/sys/fs/binfmt_misc')
  if ((await readText(join(directory, 'status')))?.trim() === 'disabled') return []
  const names = await readdir(directory).catch(ignoreAbsent)
  const found: Registered[] = []
  for (const name of (names ?? []).toSorted().slice(0, REGISTRATIONS_MAX)) {
    if (name === 'status' || name === 'register') continue
    const text = await readText(join(directory, name))
    if (text === undefined || !text.startsWith('enabled')) continue
    const wordOf = (key: string): string =>
      new RegExp(`^${key}:? (.*)$`, 'm').exec(text)?.[1]?.trim() ?? ''
    const magic = Buffer.from(wordOf('magic'), 'hex')
    const mask = Buffer.from(wordOf('mask'), 'hex')
    if (wordOf('offset') !== '0' || magic.byteLength === 0) continue
    found.push({
      name,
      interpreter: wordOf('interpreter'),
      flags: wordOf('flags'),
      magic,
      mask: mask.byteLength === magic.byteLength ? mask : Buffer.alloc(magic.byteLength, 0xff),
    })
  }
  return found
}

/** The registration that takes this program. Of several the kernel takes the one that was made last, which is not told: the first by name here. */
export function registeredFor(
  all: readonly Registered[],
  program: Uint8Array,
): Registered | undefined {
  return all.find(({ magic, mask }) =>
    magic.every((byte, at) => (((program[at] ?? 0) ^ byte) & (mask[at] ?? 0)) === 0),
  )
}

function readText(path: string): Promise<string | undefined> {
  return readFile(path, 'utf8').catch(ignoreAbsent)
}

function ignoreAbsent(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES', 'EINVAL', 'EIO')) throw error
}
