/**
 * The host's own userland as environments of builds: its fingerprint, which is made of the contents of its C
 * library and tools. What else the machine has is found out in probe/.
 */
import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readFile, realpath, rename, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { pipeline } from 'node:stream/promises'
import { z } from 'zod'
import { hasCode } from '../base/errors.ts'
import { encodeCbor } from '../wire/cbor.ts'
import { DigestHex, digestBytes, digestFromBytes, sha256, type Digest } from '../wire/digest.ts'
import { BASE_TOOLS, type Environment, type Isolation } from '../wire/environment.ts'
import { ToolName } from '../wire/names.ts'
import type { SandboxChoice } from './executor-protocol.ts'
import { systemOfKernel } from './probe/systems.ts'
import { readUserland } from './probe/userland.ts'
import { findTool } from './tool-path.ts'

/** Where a build looks its tools up (PATH of wire/action.ts). */
const BUILD_PATH = '/usr/bin:/bin'
/** Files whose digests are kept; when full, it starts anew. */
const CACHE_ENTRIES_MAX = 4096
/** Where distributions keep the C library, the architecture's own directory first. */
const LIBC_NAME = 'libc.so.6'

/** What fingerprints call the systems that Node itself runs on. */
const ARCHES: Readonly<Record<string, string>> = { 'x86_64-linux': 'x64', 'aarch64-linux': 'arm64' }
/** Debian's names for the directories of one system. */
const MULTIARCH: Readonly<Record<string, string>> = {
  'i686-linux': 'i386-linux-gnu',
  'armv7l-linux': 'arm-linux-gnueabihf',
}

export interface HostEnvironment {
  /** Without `tools` and `features`, which the node adds. Weakest isolation first. */
  readonly environments: readonly Environment[]
  /** sha256 of the program that a build finds under this name; null where there is none. */
  probeTool(name: string): Promise<Digest | null>
}

/** The same, which can be looked at again. */
export interface OwnUserland extends HostEnvironment {
  /** After packages were changed; costs little where none were. */
  look(): Promise<void>
}

/** Reads the machine. `directory` is the data directory, for the digests of files that did not change. */
export async function openHostEnvironment(options: {
  readonly directory: string
  readonly sandbox: Pick<SandboxChoice, 'method'>
}): Promise<OwnUserland> {
  const hashes = await FileHashes.open(join(options.directory, 'file-hashes.json'))
  const isolations: Isolation[] =
    options.sandbox.method === 'none' ? ['host'] : ['host', 'namespace']
  const probeTool = async (name: string): Promise<Digest | null> => {
    const path = await findTool(ToolName.parse(name), BUILD_PATH)
    const digest = path === undefined ? null : await hashes.digestOf(path)
    await hashes.save()
    return digest
  }
  let environments: readonly Environment[] = []
  const look = async (): Promise<void> => {
    const userland = await readUserland()
    const system = userland.system ?? systemOfKernel()
    const { label } = userland.platform
    const base = await fingerprint({ ...userland.platform, system }, { hashes, probeTool })
    environments = isolations.map((isolation) => ({
      system,
      isolation,
      label,
      base,
      tools: {},
      features: [],
    }))
  }
  await look()
  return {
    get environments() {
      return environments
    },
    probeTool,
    look,
  }
}

async function fingerprint(
  {
    id,
    version,
    system,
  }: { readonly id: string; readonly version: string; readonly system: string },
  deps: { readonly hashes: FileHashes; readonly probeTool: HostEnvironment['probeTool'] },
): Promise<Digest> {
  const [arch = system] = system.split('-')
  const directories = [
    ...['/lib', '/usr/lib'].map((path) => `${path}/${MULTIARCH[system] ?? `${arch}-linux-gnu`}`),
    ...['/lib64', '/usr/lib64', '/lib', '/usr/lib'],
  ]
  const libc = await findFile(directories.map((directory) => join(directory, LIBC_NAME)))
  const tools: [string, Uint8Array | null][] = []
  for (const name of BASE_TOOLS) {
    const digest = await deps.probeTool(name)
    tools.push([name, digest === null ? null : digestBytes(digest)])
  }
  const libcDigest = libc === undefined ? null : await deps.hashes.digestOf(libc)
  await deps.hashes.save()
  return sha256(
    encodeCbor({
      v: 1,
      id,
      version,
      arch: ARCHES[system] ?? system,
      libc: libcDigest === null ? null : digestBytes(libcDigest),
      tools,
    }),
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

async function findFile(paths: readonly string[]): Promise<string | undefined> {
  for (const path of paths) if ((await stat(path).catch(ignoreAbsent))?.isFile()) return path
  return undefined
}

function ignoreAbsent(error: unknown): undefined {
  if (!hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES')) throw error
}
