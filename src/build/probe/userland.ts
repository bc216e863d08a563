/**
 * What a root file system is for: its system, by the headers of its programs, and its platform, by
 * os-release. Read, never run, so that it works on a directory of foreign programs as well.
 *
 * The userland decides what a machine builds of itself, not the kernel and not this Node: in a 32-bit
 * userland under a 64-bit kernel `cc` makes 32-bit programs.
 */
import { lstat, readdir, readFile, readlink } from 'node:fs/promises'
import { join, posix } from 'node:path'
import { hasCode } from '../../base/errors.ts'
import { readElf } from '../../files/elf.ts'

export interface Platform {
  /** `debian`, and `12`; a rolling distribution has no version. */
  readonly id: string
  readonly version: string
  /** Both in one word, for people: no decision hangs on it. */
  readonly label: string
}

export interface Userland {
  /** Undefined where nothing in it says so. */
  readonly system: string | undefined
  readonly platform: Platform
  /** What told the system, and the platform. */
  readonly how: string
}

const LABEL_CHARS_MAX = 64
const RELEASE_FILES = ['/etc/os-release', '/usr/lib/os-release']
/** Programs that every userland has one of; the first that is there tells. */
const WITNESSES = ['/bin/sh', '/usr/bin/sh', '/bin/busybox', '/usr/bin/env', '/sbin/init']
const LIBRARY_DIRECTORIES = ['/lib', '/usr/lib', '/lib64', '/usr/lib64', '/lib32']
const LIBC_NAME = /^(?:libc\.so\.6|ld-musl-[a-z0-9_]+\.so\.1|libc\.musl-[a-z0-9_]+\.so\.1)$/
const DIRECTORIES_MAX = 256
const LINKS_MAX = 40
const RELEASE_BYTES_MAX = 64 * 1024

/** `root` is the directory to look into; links in it are followed as if it were the root. */
export async function readUserland(root = '/'): Promise<Userland> {
  const release = await findRelease(root)
  const found = (await witnessOf(root)) ?? (await libcOf(root))
  const platform = platformOf(release?.text ?? '')
  const told = release === undefined ? 'no os-release' : release.path
  return {
    system: found?.system,
    platform,
    how: `${found === undefined ? 'no program whose header tells the system' : `header of ${found.path}`}; ${told}`,
  }
}

/** ID and VERSION_ID (os-release(5)). */
export function parseOsRelease(text: string): { readonly id: string; readonly version: string } {
  const values = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [, name, value] = /^([A-Z_]+)=(.*)$/.exec(line.trim()) ?? []
    if (name !== undefined && value !== undefined)
      values.set(name, value.replace(/^(["'])(.*)\1$/, '$2'))
  }
  return { id: values.get('ID') ?? 'linux', version: values.get('VERSION_ID') ?? '' }
}

function platformOf(text: string): Platform {
  const { id, version } = parseOsRelease(text)
  const label = [id, version]
    .filter((word) => word !== '')
    .join('-')
    .replaceAll(/\p{Cc}/gu, '')
    .slice(0, LABEL_CHARS_MAX)
  return { id, version, label }
}

async function findRelease(root: string): Promise<{ path: string; text: string } | undefined> {
  for (const path of RELEASE_FILES) {
    const place = await resolveIn(root, path)
    if (place === undefined) continue
    const text = await readFile(join(root, place), 'utf8').catch(ignoreAbsent)
    if (text !== undefined) return { path, text: text.slice(0, RELEASE_BYTES_MAX) }
  }
  return undefined
}

interface Witness {
  readonly path: string
  readonly system: string
}

async function witnessOf(root: string): Promise<Witness | undefined> {
  for (const path of WITNESSES) {
    const system = await systemAt(root, path)
    if (system !== undefined) return { path, system }
  }
  return undefined
}

/** Images without a shell still have a C library, if their programs are not static. */
async function libcOf(root: string): Promise<Witness | undefined> {
  const directories = [...LIBRARY_DIRECTORIES]
  // Debian has one directory for each system below these.
  for (const directory of LIBRARY_DIRECTORIES)
    for (const name of await namesIn(root, directory))
      if (/^[a-z0-9_]+-linux-[a-z0-9]+$/.test(name)) directories.push(`${directory}/${name}`)
  const systems = new Map<string, string>()
  for (const directory of directories.slice(0, DIRECTORIES_MAX))
    for (const name of await namesIn(root, directory)) {
      if (!LIBC_NAME.test(name)) continue
      const path = `${directory}/${name}`
      const system = await systemAt(root, path)
      if (system !== undefined && !systems.has(system)) systems.set(system, path)
    }
  const [only] = systems
  // Two C libraries tell nothing of which one the programs are for.
  return only === undefined || systems.size > 1 ? undefined : { system: only[0], path: only[1] }
}

async function systemAt(root: string, path: string): Promise<string | undefined> {
  const place = await resolveIn(root, path)
  return place === undefined ? undefined : readElf(join(root, place))?.system
}

async function namesIn(root: string, path: string): Promise<string[]> {
  const place = await resolveIn(root, path)
  if (place === undefined) return []
  return ((await readdir(join(root, place)).catch(ignoreAbsent)) ?? []).toSorted()
}

/** Where `path` leads to inside of `root`, without links; undefined where it leads nowhere. Never outside. */
export async function resolveIn(root: string, path: string): Promise<string | undefined> {
  let open = posix.normalize(`/${path}`).split('/').filter(Boolean)
  let done = '/'
  let links = 0
  for (let word = open.shift(); word !== undefined; word = open.shift()) {
    if (word === '..') {
      done = posix.dirname(done)
      continue
    }
    const next = posix.join(done, word)
    const found = await lstat(join(root, next)).catch(ignoreAbsent)
    if (found === undefined) return undefined
    if (!found.isSymbolicLink()) {
      done = next
      continue
    }
    links += 1
    if (links > LINKS_MAX) return undefined
    const target = await readlink(join(root, next))
    if (target.startsWith('/')) done = '/'
    open = [...target.split('/').filter((part) => part !== '' && part !== '.'), ...open]
  }
  return done
}

function ignoreAbsent(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES', 'EISDIR', 'ELOOP')) throw error
}
