/**
 * What this machine offers to builds: its system, its userland's fingerprint, and how many processors and
 * how much memory it may use under its control groups.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, realpath, rename, stat, writeFile } from 'node:fs/promises'
import { availableParallelism, totalmem } from 'node:os'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { hasCode } from '../base/errors.ts'
import { encodeCbor } from '../wire/cbor.ts'
import { DigestHex, digestBytes, digestFromBytes, sha256, type Digest } from '../wire/digest.ts'
import { BASE_TOOLS, type Environment, type Isolation } from '../wire/environment.ts'
import { ToolName } from '../wire/names.ts'
import type { SandboxChoice } from './executor-protocol.ts'
import { findTool } from './tool-path.ts'

/** Where a build looks its tools up (PATH of wire/action.ts). */
const BUILD_PATH = '/usr/bin:/bin'
/** Files whose digests are kept; when full, it starts anew. */
const CACHE_ENTRIES_MAX = 4096
/** Where distributions keep the C library, the architecture's own directory first. */
const LIBC_NAME = 'libc.so.6'

const SYSTEMS: Readonly<Record<string, string>> = { x64: 'x86_64-linux', arm64: 'aarch64-linux' }
const LIBC_DIRECTORIES: Readonly<Record<string, readonly string[]>> = {
  x64: [
    '/lib/x86_64-linux-gnu',
    '/usr/lib/x86_64-linux-gnu',
    '/lib64',
    '/usr/lib64',
    '/lib',
    '/usr/lib',
  ],
  arm64: [
    '/lib/aarch64-linux-gnu',
    '/usr/lib/aarch64-linux-gnu',
    '/lib64',
    '/usr/lib64',
    '/lib',
    '/usr/lib',
  ],
}

export interface HostEnvironment {
  /** Without `tools` and `features`, which the node adds. Weakest isolation first. */
  readonly environments: readonly Environment[]
  /** sha256 of the program that a build finds under this name; null where there is none. */
  probeTool(name: string): Promise<Digest | null>
}

/** Reads the machine. `directory` is the data directory, for the digests of files that did not change. */
export async function openHostEnvironment(options: {
  readonly directory: string
  readonly sandbox: SandboxChoice
}): Promise<HostEnvironment> {
  const hashes = await FileHashes.open(join(options.directory, 'file-hashes.json'))
  const probeTool = async (name: string): Promise<Digest | null> => {
    const path = await findTool(ToolName.parse(name), BUILD_PATH)
    const digest = path === undefined ? null : await hashes.digestOf(path)
    await hashes.save()
    return digest
  }
  const release = parseOsRelease(await readFirst(['/etc/os-release', '/usr/lib/os-release']))
  const libc = await findFile(
    (LIBC_DIRECTORIES[process.arch] ?? ['/lib', '/usr/lib']).map((directory) =>
      join(directory, LIBC_NAME),
    ),
  )
  const tools: [string, Uint8Array | null][] = []
  for (const name of BASE_TOOLS) {
    const digest = await probeTool(name)
    tools.push([name, digest === null ? null : digestBytes(digest)])
  }
  const libcDigest = libc === undefined ? null : await hashes.digestOf(libc)
  await hashes.save()
  const base = sha256(
    encodeCbor({
      v: 1,
      id: release.id,
      version: release.version,
      arch: process.arch,
      libc: libcDigest === null ? null : digestBytes(libcDigest),
      tools,
    }),
  )
  const system = SYSTEMS[process.arch] ?? `${process.arch.replaceAll(/[^a-z0-9_]/g, '_')}-linux`
  const label = [release.id, release.version]
    .filter((word) => word !== '')
    .join('-')
    .slice(0, 64)
  const isolations: Isolation[] =
    options.sandbox.method === 'none' ? ['host'] : ['host', 'namespace']
  return {
    environments: isolations.map((isolation) => ({
      system,
      isolation,
      label,
      base,
      tools: {},
      features: [],
    })),
    probeTool,
  }
}

/** ID and VERSION_ID (os-release(5)); a rolling distribution has no version. */
export function parseOsRelease(text: string): { readonly id: string; readonly version: string } {
  const values = new Map<string, string>()
  for (const line of text.split('\n')) {
    const [, name, value] = /^([A-Z_]+)=(.*)$/.exec(line.trim()) ?? []
    if (name !== undefined && value !== undefined)
      values.set(name, value.replace(/^(["'])(.*)\1$/, '$2'))
  }
  return { id: values.get('ID') ?? 'linux', version: values.get('VERSION_ID') ?? '' }
}

/** Processors that this process may use: its affinity mask, and the quota of its control group rounded up. */
export async function cpusOf(root = '/'): Promise<number> {
  let cpus = availableParallelism()
  for (const directory of await groupDirectories(root, 'cpu')) {
    const [quota, period] = (await readLimit(directory, 'cpu.max')) ?? [
      (await readLimit(directory, 'cpu.cfs_quota_us'))?.[0],
      (await readLimit(directory, 'cpu.cfs_period_us'))?.[0],
    ]
    if (quota !== undefined && period !== undefined && quota > 0 && period > 0)
      cpus = Math.min(cpus, Math.max(1, Math.ceil(quota / period)))
  }
  return cpus
}

/** Memory that this process may use: the machine's, or less under its control group. */
export async function memoryBytesOf(root = '/'): Promise<number> {
  let bytes = totalmem()
  for (const directory of await groupDirectories(root, 'memory')) {
    const [limit] =
      (await readLimit(directory, 'memory.max')) ??
      (await readLimit(directory, 'memory.limit_in_bytes')) ??
      []
    if (limit !== undefined) bytes = Math.min(bytes, limit)
  }
  return bytes
}

/** This process's control group and all above it, in the hierarchy of one controller; v2 and v1. */
async function groupDirectories(root: string, controller: string): Promise<string[]> {
  const directories: string[] = []
  const text = await readFile(join(root, 'proc/self/cgroup'), 'utf8').catch(ignoreAbsent)
  for (const line of (text ?? '').split('\n')) {
    const [, id, controllers = '', path = ''] = /^(\d+):([^:]*):(.*)$/.exec(line) ?? []
    if (id === undefined || (controllers !== '' && !controllers.split(',').includes(controller)))
      continue
    // A container may see its own group as the root of the mount, so the mount itself is always looked at.
    const mounts =
      controllers === ''
        ? ['sys/fs/cgroup', 'sys/fs/cgroup/unified']
        : [`sys/fs/cgroup/${controllers}`, `sys/fs/cgroup/${controller}`]
    for (const mount of mounts)
      for (let group = path; ; group = group.slice(0, group.lastIndexOf('/'))) {
        directories.push(join(root, mount, group))
        if (group === '' || group === '/') break
      }
  }
  return directories
}

/** Numbers of a limit file; undefined when there is none. `max` and values over 2^53 are no limit. */
async function readLimit(
  directory: string,
  file: string,
): Promise<(number | undefined)[] | undefined> {
  const text = await readFile(join(directory, file), 'utf8').catch(ignoreAbsent)
  return text
    ?.trim()
    .split(' ')
    .map((word) =>
      /^\d+$/.test(word) && Number.isSafeInteger(Number(word)) ? Number(word) : undefined,
    )
}

const CacheFile = z.object({
  v: z.literal(1),
  entries: z.array(z.tuple([z.string(), z.string(), DigestHex])).max(CACHE_ENTRIES_MAX),
})

/** sha256 of files, remembered by path, size, time and inode: hashing the tools of a host takes a second otherwise. */
class FileHashes {
  readonly #path: string
  readonly #entries: Map<string, { readonly stamp: string; readonly digest: Digest }>
  #isChanged = false
  #saves = 0

  private constructor(path: string, entries: Map<string, { stamp: string; digest: Digest }>) {
    this.#path = path
    this.#entries = entries
  }

  static async open(path: string): Promise<FileHashes> {
    const entries = new Map<string, { stamp: string; digest: Digest }>()
    const text = await readFile(path, 'utf8').catch(ignoreAbsent)
    if (text !== undefined) {
      const parsed = CacheFile.safeParse(parseJson(text))
      // A cache that cannot be read is made anew.
      if (parsed.success)
        for (const [file, stamp, digest] of parsed.data.entries)
          entries.set(file, { stamp, digest })
    }
    return new FileHashes(path, entries)
  }

  async digestOf(file: string): Promise<Digest> {
    const path = await realpath(file)
    const { size, mtimeNs, ctimeNs, ino } = await stat(path, { bigint: true })
    const stamp = `${size}-${mtimeNs}-${ctimeNs}-${ino}`
    const known = this.#entries.get(path)
    if (known?.stamp === stamp) return known.digest
    const hash = createHash('sha256')
    await pipeline(createReadStream(path), hash)
    const digest = digestFromBytes(hash.digest())
    if (this.#entries.size >= CACHE_ENTRIES_MAX) this.#entries.clear()
    this.#entries.set(path, { stamp, digest })
    this.#isChanged = true
    return digest
  }

  async save(): Promise<void> {
    if (!this.#isChanged) return
    this.#isChanged = false
    const entries = [...this.#entries].map(([path, { stamp, digest }]) => [path, stamp, digest])
    // Saves may overlap.
    const temporary = `${this.#path}-${process.pid}-${++this.#saves}`
    await writeFile(temporary, JSON.stringify({ v: 1, entries }), { mode: 0o600 })
    await rename(temporary, this.#path)
  }
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined // cut short by a crash: as good as absent
  }
}

async function readFirst(paths: readonly string[]): Promise<string> {
  for (const path of paths) {
    const text = await readFile(path, 'utf8').catch(ignoreAbsent)
    if (text !== undefined) return text
  }
  return ''
}

async function findFile(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) if ((await stat(path).catch(ignoreAbsent))?.isFile()) return path
  return undefined
}

function ignoreAbsent(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES')) throw error
}
