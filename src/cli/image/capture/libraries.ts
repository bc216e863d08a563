/**
 * Where the dynamic loader would find a library: run paths, the directories of ld.so.conf, the built-in
 * ones. Worked out from files, without running anything. Source: ld.so(8) of glibc.
 */
import { readdirSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, isAbsolute, join, matchesGlob, resolve } from 'node:path'
import { hasCode } from '../../../base/errors.ts'
import { readElf, type Elf } from '../../../files/elf.ts'

const CONFIG = '/etc/ld.so.conf'
const INCLUDES_MAX = 64

/** Debian's name of the directory of a system, and where others keep the libraries of one width. */
const TRIPLETS: Readonly<Record<string, string>> = {
  'x86_64-linux': 'x86_64-linux-gnu',
  'i686-linux': 'i386-linux-gnu',
  'aarch64-linux': 'aarch64-linux-gnu',
  'armv7l-linux': 'arm-linux-gnueabihf',
  'riscv64-linux': 'riscv64-linux-gnu',
  'powerpc64le-linux': 'powerpc64le-linux-gnu',
  's390x-linux': 's390x-linux-gnu',
}

/** Names of directories below /usr/lib that may be there. */
export const LIBRARY_TRIPLETS: readonly string[] = Object.values(TRIPLETS)

export class Libraries {
  readonly #configured = configuredDirectories()
  readonly #more = new Set<string>()

  /** Directories where a compiler finds libraries, asked last: those of another system lie there. */
  addDirectory(directory: string): void {
    this.#more.add(directory)
  }

  /** The path by which the loader would open it; undefined where it is not found. `rpaths` are inherited. */
  find(
    name: string,
    by: { readonly elf: Elf; readonly path: string; readonly rpaths: readonly string[] },
  ): string | undefined {
    if (name.includes('/')) return isAbsolute(name) ? name : undefined
    const { elf, path, rpaths } = by
    const origin = dirname(realpathSync(path))
    const own = elf.runpath.length > 0 ? elf.runpath : [...elf.rpath, ...rpaths]
    const directories = [
      ...own.flatMap((directory) => expand(directory, origin, elf)),
      ...this.#configured,
      ...this.defaults(elf),
      ...this.#more,
    ]
    for (const directory of directories) {
      const candidate = join(directory, name)
      const found = readElf(candidate)
      if (found !== undefined && found.bits === elf.bits && found.machine === elf.machine)
        return candidate
    }
    return undefined
  }

  /** Whether the loader looks there without being told of it. */
  isDefault(directory: string, elf: Elf): boolean {
    return this.defaults(elf).includes(directory)
  }

  defaults({ system = '', bits }: Elf): string[] {
    const triplet = TRIPLETS[system]
    return [
      ...(triplet === undefined ? [] : [`/lib/${triplet}`, `/usr/lib/${triplet}`]),
      ...(bits === 64 ? ['/lib64', '/usr/lib64'] : ['/lib32', '/usr/lib32']),
      '/lib',
      '/usr/lib',
    ]
  }
}

function expand(directory: string, origin: string, { system = '', bits }: Elf): string[] {
  const withOrigin = directory.replaceAll(/\$(?:ORIGIN|\{ORIGIN\})/g, origin)
  const libs = [bits === 64 ? 'lib64' : 'lib', `lib/${TRIPLETS[system] ?? ''}`]
  const isLib = /\$(?:LIB|\{LIB\})/
  return isLib.test(withOrigin) ? libs.map((lib) => withOrigin.replace(isLib, lib)) : [withOrigin]
}

function configuredDirectories(): string[] {
  const directories: string[] = []
  const open = [CONFIG]
  const read = new Set<string>()
  for (let file = open.shift(); file !== undefined; file = open.shift()) {
    if (read.has(file) || read.size >= INCLUDES_MAX) continue
    read.add(file)
    for (const line of linesOf(file)) {
      const include = /^include\s+(.+)$/.exec(line)?.[1]
      if (include !== undefined) open.push(...filesMatching(resolve(dirname(file), include)))
      else if (line.startsWith('/')) directories.push(line)
    }
  }
  return directories
}

function linesOf(file: string): string[] {
  try {
    return readFileSync(file, 'utf8')
      .split('\n')
      .map((line) => line.replace(/#.*/, '').trim())
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'EACCES')) return []
    throw error
  }
}

function filesMatching(glob: string): string[] {
  try {
    return readdirSync(dirname(glob))
      .map((name) => join(dirname(glob), name))
      .filter((path) => matchesGlob(path, glob))
      .toSorted()
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES')) return []
    throw error
  }
}
