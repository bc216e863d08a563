/**
 * The partial blobs of a directory, each in two files: `<hex>.data` has its bytes, with holes, and
 * `<hex>.map` says which are there.
 *
 * Belongs to the process that has the store open. What nobody works at stays for a while, within bounds.
 */
import { readdir, rm } from 'node:fs/promises'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { MeshError } from '../../base/errors.ts'
import { cidOf, isDigest, type BlobRef, type Digest } from '../../wire/digest.ts'
import type { ChunkList } from '../../wire/chunk-list.ts'
import { openPart, type Part, type PartDeps, type PartPaths } from './part.ts'
import type { PartialBlob, PartialBlobs } from './partial-blobs.ts'
import { readPartMap } from './part-map.ts'

/** Bounds of what nobody works at; beyond them what was used longest ago goes. */
const LEFT_MAX = 256
const LEFT_BYTES_MAX = 16 * 1024 ** 3
const LEFT_MS_MAX = 7 * 24 * 3_600_000

/** Reads the maps of what is left, and removes what cannot be resumed. */
export async function openPartialBlobs(
  deps: PartDeps,
  options: { readonly directory: string; readonly leftBytesMax?: number },
): Promise<PartialBlobs> {
  const { directory, leftBytesMax = LEFT_BYTES_MAX } = options
  mkdirSync(directory, { recursive: true })
  const left: [Digest, Left][] = []
  for (const digest of await tidy(deps.log, directory)) {
    const map = await readPartMap(pathsOf(directory, digest).map)
    if (map === undefined) await removeFiles(directory, digest)
    else left.push([digest, { bytes: map.heldBytes, usedAtWallMs: map.usedAtWallMs }])
  }
  left.sort(([, a], [, b]) => a.usedAtWallMs - b.usedAtWallMs)
  const blobs = new PartDirectory(deps, { directory, leftBytesMax, left: new Map(left) })
  await blobs.trim()
  return blobs
}

/** What nobody works at. */
interface Left {
  readonly bytes: number
  readonly usedAtWallMs: number
}

/** What somebody works at, and how many do. */
interface Shared {
  readonly opening: Promise<Part>
  part: Part | undefined
  users: number
  closing: Promise<void> | undefined
}

class PartDirectory implements PartialBlobs {
  readonly #deps: PartDeps
  readonly #directory: string
  readonly #leftBytesMax: number
  readonly #shared = new Map<Digest, Shared>()
  /** The one used longest ago is first. */
  readonly #left: Map<Digest, Left>
  readonly #removing = new Map<Digest, Promise<void>>()
  #isClosing = false

  constructor(
    deps: PartDeps,
    options: {
      readonly directory: string
      readonly leftBytesMax: number
      readonly left: Map<Digest, Left>
    },
  ) {
    this.#deps = deps
    this.#directory = options.directory
    this.#leftBytesMax = options.leftBytesMax
    this.#left = options.left
  }

  async open(ref: BlobRef, list: ChunkList): Promise<PartialBlob> {
    const { digest } = ref
    if (list.digest !== digest || list.size !== ref.size)
      throw new MeshError('MESH0502', `the chunk list is not one of ${cidOf(digest)}`)
    for (;;) {
      const held = this.#shared.get(digest)
      const busy = held?.closing ?? held?.part?.finishing ?? this.#removing.get(digest)
      if (busy === undefined) break
      await busy
    }
    if (this.#isClosing) throw new MeshError('MESH0108', 'the node is stopping')
    let shared = this.#shared.get(digest)
    // One that became a blob is of no use to who comes after, whoever still holds it.
    if (shared === undefined || shared.part?.isOpen === false) shared = this.#begin(list)
    shared.users++
    return shared.opening
  }

  #begin(list: ChunkList): Shared {
    const { digest } = list
    const left = this.#left.get(digest)
    this.#left.delete(digest)
    const opening = openPart(this.#deps, { list, paths: pathsOf(this.#directory, digest) })
    const shared: Shared = { opening, part: undefined, users: 0, closing: undefined }
    this.#shared.set(digest, shared)
    opening.then(
      (part) => {
        shared.part = part
        part.onRelease = () => this.#release(shared, part)
      },
      () => {
        this.#shared.delete(digest)
        if (left !== undefined) this.#left.set(digest, left)
      },
    )
    return shared
  }

  #release(shared: Shared, part: Part): Promise<void> {
    shared.users--
    if (shared.users > 0) return Promise.resolve()
    return (shared.closing ??= this.#close(shared, part))
  }

  async #close(shared: Shared, part: Part): Promise<void> {
    await part.close()
    const { digest } = part.ref
    if (this.#shared.get(digest) === shared) this.#shared.delete(digest)
    if (part.isGone || this.#shared.has(digest)) return
    const usedAtWallMs = this.#deps.clock.wallMs()
    this.#left.set(digest, { bytes: part.heldBytes, usedAtWallMs })
    await this.trim()
  }

  find(digest: Digest): PartialBlob | undefined {
    const part = this.#shared.get(digest)?.part
    return part?.isOpen === true ? part : undefined
  }

  stats(): { readonly count: number; readonly bytes: number } {
    const bytes = [
      ...this.#left.values().map((left) => left.bytes),
      ...this.#shared.values().map(({ part }) => (part?.isOpen === true ? part.heldBytes : 0)),
    ]
    return { count: bytes.length, bytes: bytes.reduce((sum, one) => sum + one, 0) }
  }

  async trim(leftBytesMax = this.#leftBytesMax): Promise<void> {
    const usedAfterWallMs = this.#deps.clock.wallMs() - LEFT_MS_MAX
    let bytes = this.#left.values().reduce((sum, left) => sum + left.bytes, 0)
    for (const [digest, left] of this.#left) {
      const isWithin = this.#left.size <= LEFT_MAX && bytes <= leftBytesMax
      if (isWithin && left.usedAtWallMs > usedAfterWallMs) break
      this.#left.delete(digest)
      bytes -= left.bytes
      const removing = removeFiles(this.#directory, digest)
      this.#removing.set(digest, removing)
      await removing.finally(() => this.#removing.delete(digest))
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosing = true
    await Promise.allSettled([...this.#shared.values()].map(({ opening }) => opening))
    for (const shared of this.#shared.values())
      if (shared.part !== undefined) await (shared.closing ??= this.#close(shared, shared.part))
  }
}

function pathsOf(directory: string, digest: Digest): PartPaths {
  const path = join(directory, digest)
  return { directory, data: `${path}.data`, map: `${path}.map` }
}

/** The map last: data without one is removed at the next start. */
async function removeFiles(directory: string, digest: Digest): Promise<void> {
  const { data, map } = pathsOf(directory, digest)
  await rm(data, { force: true })
  await rm(map, { force: true })
}

/** Those with both files. Removes what a crash left of others; what is not ours stays. */
async function tidy(log: PartDeps['log'], directory: string): Promise<Digest[]> {
  const names = new Set(await readdir(directory))
  const whole: Digest[] = []
  for (const name of names) {
    const [digest = '', ...endings] = name.split('.')
    const ending = endings.join('.')
    if (!isDigest(digest) || !['data', 'map', 'map.new'].includes(ending))
      log.warn({ path: join(directory, name) }, 'foreign file among the partial blobs ignored')
    else if (ending === 'data' && names.has(`${digest}.map`)) whole.push(digest)
    else if (ending !== 'map' || !names.has(`${digest}.data`))
      await rm(join(directory, name), { force: true })
  }
  return whole
}
