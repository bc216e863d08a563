/**
 * A directory that any web server turns into a mirror: `cas/sha256/ab/<hex>` for blobs with everything
 * below trees, `<hex>.chunks` beside big ones, `ac/<hex>` for signed results.
 *
 * Each file appears whole, with the right sha256, or not at all, so that a server may serve the directory
 * meanwhile. What is there already is left, so that an export that broke off is simply repeated.
 */
import { chmod, lstat, open, readdir, readFile, rename, rm } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { z } from 'zod'
import type { Clock } from '../base/clock.ts'
import { hasCode, isDiskFull, MeshError, messageOf } from '../base/errors.ts'
import { randomId } from '../base/random.ts'
import { formatSize, plural } from '../base/units.ts'
import { makeDirectories } from '../files/make-directories.ts'
import { collectBytes } from '../files/collect-bytes.ts'
import { mapLimited } from '../files/map-limited.ts'
import { RequestView, type JobView } from '../wire/api.ts'
import { OBJECT_BYTES_MAX } from '../wire/cbor.ts'
import { decodeChunkList, isChunked } from '../wire/chunk-list.ts'
import { cidOf, Hasher, parseCid, sha256, type BlobRef, type Digest } from '../wire/digest.ts'
import { decodeSignedResult, openResult } from '../wire/result.ts'
import { Pin } from '../wire/storage.ts'
import { blobOf, decodeTree, TREE_DEPTH_MAX, type Entry } from '../wire/tree.ts'
import type { Client } from './client.ts'
import { entryOfCid } from './commands/objects.ts'
import type { Context } from './context.ts'
import { fetchJobs } from './resolve-job.ts'

const BLOBS_AT_ONCE = 8
/** Different blobs of one export; each is a small object in memory. */
const BLOBS_MAX = 2_000_000
const RESULT_BYTES_MAX = 1024 * 1024
/** Web servers run as somebody else. */
const FILE_MODE = 0o644
/** Files in the making lie in a directory of this name; one that is older than a day was left behind. */
const TEMPORARY = '.mesh-export-'
const LEFT_BEHIND_MS = 24 * 3600_000
/** How often progress is told: on a terminal, and elsewhere. */
const PROGRESS_MS = { tty: 200, plain: 10_000 } as const

export interface Exported {
  readonly blobs: { readonly written: number; readonly present: number; readonly bytes: number }
  readonly chunkLists: number
  /** Of jobs that ran; those that this daemon does not have are absent. */
  readonly results: { readonly written: number; readonly absent: number }
}

interface Deps {
  readonly context: Pick<Context, 'clock' | 'random' | 'stderr'>
  readonly client: Client
}

/** Throws MESH0502 for wrong bytes, MESH0503 for a full disk, MESH0601 for what there is not. */
export async function exportMirror(
  deps: Deps,
  directory: string,
  options: { readonly names: readonly string[]; readonly isPinned: boolean },
): Promise<Exported> {
  const temporary = join(directory, `${TEMPORARY}${randomId(deps.context.random, 'x')}`)
  try {
    await makeDirectories(temporary, 0o755)
  } catch (error) {
    throw explained(error, directory)
  }
  try {
    await removeLeftBehind(directory, deps.context.clock)
    const work = new Export(deps, directory, temporary)
    const roots = options.isPinned ? await pinned(deps.client) : []
    for (const name of options.names) roots.push(...(await work.rootsOf(name)))
    await work.write(roots)
    return work.exported
  } catch (error) {
    throw explained(error, directory)
  } finally {
    await rm(temporary, { recursive: true, force: true })
  }
}

function explained(error: unknown, directory: string): unknown {
  if (isDiskFull(error))
    return new MeshError('MESH0503', `writing below ${directory}: ${messageOf(error)}`, {
      where: directory,
      cause: error,
      hints: ['what was written stays: the same command goes on from there'],
    })
  if (hasCode(error, 'EACCES', 'EROFS', 'EPERM', 'ENOTDIR', 'EISDIR', 'EEXIST'))
    return new MeshError('MESH0209', `cannot write below ${directory}: ${messageOf(error)}`, {
      where: directory,
      cause: error,
    })
  return error
}

async function pinned(client: Client): Promise<Entry[]> {
  const pins = await client.json(z.array(Pin), '/api/pins')
  return pins.map(({ kind, digest, size }): Entry =>
    kind === 'dir' ? { kind, digest, size } : { kind, digest, size, executable: false },
  )
}

/** Of exports that were killed. */
async function removeLeftBehind(directory: string, clock: Clock): Promise<void> {
  for (const name of await readdir(directory)) {
    if (!name.startsWith(TEMPORARY)) continue
    const path = join(directory, name)
    const stat = await lstat(path).catch(() => undefined) // another export removes its own
    if (stat !== undefined && stat.mtimeMs < clock.wallMs() - LEFT_BEHIND_MS)
      await rm(path, { recursive: true, force: true })
  }
}

class Export {
  readonly #deps: Deps
  readonly #directory: string
  readonly #temporary: string
  readonly #seen = new Set<Digest>()
  readonly #blobs = { written: 0, present: 0, bytes: 0 }
  readonly #results = { written: 0, absent: 0 }
  #chunkLists = 0
  #files = 0
  #toldAtMs: number

  constructor(deps: Deps, directory: string, temporary: string) {
    this.#deps = deps
    this.#directory = directory
    this.#temporary = temporary
    this.#toldAtMs = deps.context.clock.nowMs()
  }

  get exported(): Exported {
    return { blobs: this.#blobs, chunkLists: this.#chunkLists, results: this.#results }
  }

  /** What a CID names, or the outputs of a request, whose results are written at once. */
  async rootsOf(name: string): Promise<Entry[]> {
    const { client } = this.#deps
    if (parseCid(name) !== undefined) return [await entryOfCid(client, name)]
    const path = `/api/requests/${encodeURIComponent(name)}`
    const request = await client.json(RequestView, path)
    const entries = Object.values(request.outputs).flatMap((outputs) => Object.values(outputs))
    if (entries.length === 0)
      throw new MeshError(
        'MESH0601',
        `the request ${request.id} has no outputs: it is ${request.state}`,
      )
    for (const job of await fetchJobs(client, { request: request.id }))
      await this.#writeResults(job)
    return entries
  }

  /** Level by level, each blob once. */
  async write(roots: readonly Entry[]): Promise<void> {
    let level = this.#unseen(roots)
    for (let depth = 0; level.length > 0; depth++) {
      if (depth > TREE_DEPTH_MAX)
        throw new MeshError('MESH0210', `a tree is deeper than ${TREE_DEPTH_MAX} directories`)
      const below = await mapLimited(level, BLOBS_AT_ONCE, async (entry) => {
        const children = await this.#writeEntry(entry, depth === 0)
        await this.#tell()
        return this.#unseen(children)
      })
      level = below.flat()
    }
    if (this.#deps.context.stderr.isTty) await this.#deps.context.stderr.write('\r\u001b[K')
  }

  #unseen(entries: readonly Entry[]): Entry[] {
    return entries.filter((entry) => {
      const blob = blobOf(entry)
      if (blob === undefined || this.#seen.has(blob.digest)) return false
      if (this.#seen.size >= BLOBS_MAX)
        throw new MeshError('MESH0211', `an export has at most ${BLOBS_MAX} different blobs`)
      this.#seen.add(blob.digest)
      return true
    })
  }

  /** Gives what is below a directory. */
  async #writeEntry(entry: Entry, isRoot: boolean): Promise<readonly Entry[]> {
    const blob = blobOf(entry)
    if (blob === undefined) return []
    const path = this.#pathOf(blob.digest)
    if (entry.kind === 'dir') {
      const bytes = await this.#writeTree(blob, path, isRoot)
      return decodeTree(bytes).map(({ entry: child }) => child)
    }
    if (await isThere(path, blob.size)) this.#blobs.present++
    else await this.#writeBlob(blob, path)
    if (isChunked(blob.size)) await this.#writeChunkList(blob, `${path}.chunks`)
    return []
  }

  #pathOf(digest: Digest): string {
    return join(this.#directory, 'cas', 'sha256', digest.slice(0, 2), digest)
  }

  async #writeTree(ref: BlobRef, path: string, isRoot: boolean): Promise<Uint8Array> {
    if (ref.size > OBJECT_BYTES_MAX)
      throw new MeshError(
        'MESH0210',
        `a tree claims ${ref.size} bytes, the limit is ${OBJECT_BYTES_MAX}`,
      )
    if (await isThere(path, ref.size)) {
      const bytes = await readFile(path)
      if (sha256(bytes) === ref.digest) {
        this.#blobs.present++
        return bytes
      }
    }
    // The daemon brings all that is below the root at once.
    const source = this.#deps.client.blob({ ...ref, isTree: isRoot })
    const bytes = await collectBytes(source, ref.size)
    if (sha256(bytes) !== ref.digest) throw wrongBytes(ref)
    await this.#publish(path, [bytes])
    this.#count(ref.size)
    return bytes
  }

  async #writeBlob(ref: BlobRef, path: string): Promise<void> {
    const hasher = new Hasher()
    const checked = async function* (source: AsyncIterable<Uint8Array>) {
      let size = 0
      for await (const bytes of source) {
        size += bytes.byteLength
        if (size > ref.size) break
        hasher.update(bytes)
        yield bytes
      }
      if (size !== ref.size || hasher.digest() !== ref.digest) throw wrongBytes(ref)
    }
    await this.#publish(path, checked(this.#deps.client.blob(ref)))
    this.#count(ref.size)
  }

  #count(bytes: number): void {
    this.#blobs.written++
    this.#blobs.bytes += bytes
  }

  /** A hint for clients that have another version of the blob; made by the daemon, if it makes any. */
  async #writeChunkList(ref: BlobRef, path: string): Promise<void> {
    if (await isThere(path)) return
    const bytes = await this.#find(`/cas/${ref.digest}.chunks`, OBJECT_BYTES_MAX)
    if (bytes === undefined) return
    const list = decodeChunkList(bytes)
    if (list.digest !== ref.digest || list.size !== ref.size)
      throw new MeshError(
        'MESH0502',
        `the daemon sent the chunk list of another blob than ${cidOf(ref.digest)}`,
      )
    await this.#publish(path, [bytes])
    this.#chunkLists++
  }

  /** Of the attempts of a job that gave one. Both signatures are checked: a result is a claim. */
  async #writeResults(job: JobView): Promise<void> {
    for (const { action, state } of job.attempts) {
      if (state !== 'done') continue
      const bytes = await this.#find(`/ac/${action}`, RESULT_BYTES_MAX)
      if (bytes === undefined) {
        this.#results.absent++
        continue
      }
      const result = openResult(decodeSignedResult(bytes), { countersigned: true })
      if (result.action !== action)
        throw new MeshError(
          'MESH0210',
          `the daemon sent the result of another action than ${action}`,
        )
      await this.#publish(join(this.#directory, 'ac', action), [bytes])
      this.#results.written++
    }
  }

  async #find(path: string, bytesMax: number): Promise<Uint8Array | undefined> {
    try {
      return await collectBytes(this.#deps.client.stream(path), bytesMax)
    } catch (error) {
      if (error instanceof MeshError && error.code === 'MESH0601') return undefined
      throw error
    }
  }

  /** Writes beside, and gives the file its name when all of it is there. */
  async #publish(
    path: string,
    pieces: Iterable<Uint8Array> | AsyncIterable<Uint8Array>,
  ): Promise<void> {
    const beside = join(this.#temporary, String(++this.#files))
    const file = await open(beside, 'wx', FILE_MODE)
    try {
      for await (const bytes of pieces) await file.writeFile(bytes)
    } finally {
      await file.close()
    }
    await chmod(beside, FILE_MODE) // whatever the umask made of it
    await makeDirectories(dirname(path), 0o755)
    await rename(beside, path)
  }

  async #tell(): Promise<void> {
    const { clock, stderr } = this.#deps.context
    const nowMs = clock.nowMs()
    if (nowMs - this.#toldAtMs < (stderr.isTty ? PROGRESS_MS.tty : PROGRESS_MS.plain)) return
    this.#toldAtMs = nowMs
    const { written, present, bytes } = this.#blobs
    const text = `${plural(written, 'blob')} written (${formatSize(bytes)}), ${present} were there, ${this.#seen.size - written - present} to come`
    await stderr.write(stderr.isTty ? `\r\u001b[K${text}` : `${text}\n`)
  }
}

/** A regular file, of that size where one is given. */
async function isThere(path: string, sizeBytes?: number): Promise<boolean> {
  try {
    const stat = await lstat(path)
    return stat.isFile() && (sizeBytes === undefined || stat.size === sizeBytes)
  } catch (error) {
    if (hasCode(error, 'ENOENT')) return false
    throw error
  }
}

function wrongBytes(ref: BlobRef): MeshError {
  return new MeshError('MESH0502', `the daemon sent other bytes than ${cidOf(ref.digest)} names`)
}
