/**
 * One blob in the making: a file of its full size with holes, into which chunks are written in any order,
 * each checked against its digest before.
 */
import assert from 'node:assert/strict'
import { closeSync, constants, ftruncate, openSync } from 'node:fs'
import { rm } from 'node:fs/promises'
import { promisify } from 'node:util'
import type { Logger } from 'pino'
import type { Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import { collectBytes } from '../../files/collect-bytes.ts'
import { writeAllAt } from '../../files/file-io.ts'
import { mapLimited, nextTurn } from '../../files/map-limited.ts'
import { runJob, type FileWorkers } from '../../files/workers/file-workers.ts'
import { encodeChunkList, type Chunk, type ChunkList } from '../../wire/chunk-list.ts'
import { cidOf, sha256, type BlobRef, type Digest } from '../../wire/digest.ts'
import type { BlobStore } from '../blob-store.ts'
import type { ChunkIndex } from '../chunks/chunk-index.ts'
import { diskError } from '../disk.ts'
import type { PartialBlob } from './partial-blobs.ts'
import { PartMapWriter, readPartMap } from './part-map.ts'
import { readRange } from './read-range.ts'
import { WholeHash } from './whole-hash.ts'

/** Chunks that are hashed again in one job of a thread. */
const CHECKED_AT_ONCE = 256
const COPIES_AT_ONCE = 4
const LOOKUPS_PER_TURN = 64

export interface PartDeps {
  readonly store: Pick<BlobStore, 'open'>
  readonly chunks: Pick<ChunkIndex, 'locate' | 'keep'>
  readonly workers: FileWorkers
  readonly clock: Clock
  readonly log: Logger
  /** Makes the file, whose bytes were checked, the blob. */
  readonly adopt: (path: string, ref: BlobRef) => Promise<void>
}

export interface PartPaths {
  readonly directory: string
  readonly data: string
  readonly map: string
}

/** Opens the files of a partial blob, or makes them; what a former process left is hashed before it counts. */
export async function openPart(
  deps: PartDeps,
  options: { readonly list: ChunkList; readonly paths: PartPaths },
): Promise<Part> {
  const { list, paths } = options
  const listDigest = sha256(encodeChunkList(list))
  const map = await readPartMap(paths.map)
  const file = openSync(
    paths.data,
    constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW,
    0o600,
  )
  try {
    const bits = new Uint8Array(Math.ceil(list.chunks.length / 8))
    if (map?.list === listDigest) await believe(deps.workers, paths.data, list, map.bits, bits)
    else await promisify(ftruncate)(file, 0) // chunks of another list are elsewhere
    await promisify(ftruncate)(file, list.size)
    return new Part(deps, { list, listDigest, paths, file, bits })
  } catch (error) {
    closeSync(file)
    throw diskError(error, paths.directory)
  }
}

/** Sets the bits of those claimed chunks whose bytes are right. */
async function believe(
  workers: FileWorkers,
  path: string,
  list: ChunkList,
  claimed: Uint8Array,
  bits: Uint8Array,
): Promise<void> {
  const chunks = [...list.chunks.entries()].filter(([chunk]) => hasBit(claimed, chunk))
  for (let at = 0; at < chunks.length; at += CHECKED_AT_ONCE) {
    const batch = chunks.slice(at, at + CHECKED_AT_ONCE)
    const ranges = batch.map(([, { offset, length }]) => ({ offset, length }))
    const digests = await runJob(workers, 'hash-ranges', { path, ranges })
    for (const [index, [chunk, { digest }]] of batch.entries())
      if (digests[index] === digest) setBit(bits, chunk)
  }
}

export class Part implements PartialBlob {
  readonly list: ChunkList
  readonly #deps: PartDeps
  readonly #paths: PartPaths
  readonly #file: number
  readonly #bits: Uint8Array<ArrayBuffer>
  readonly #map: PartMapWriter
  readonly #whole: WholeHash
  /** All chunks with the same bytes. */
  readonly #equals: ReadonlyMap<Digest, readonly number[]>
  readonly #listeners = new Set<(chunk: number) => void>()
  /** What uses the file. */
  readonly #busy = new Set<Promise<unknown>>()
  #missingCount = 0
  #heldBytes = 0
  #isOpen = true
  #isGone = false
  #isFinishing = false
  #finishing: Promise<void> | undefined
  /** Called for each disposal; whoever shares it out counts. */
  onRelease: () => Promise<void> = () => this.close()

  constructor(
    deps: PartDeps,
    options: {
      readonly list: ChunkList
      readonly listDigest: Digest
      readonly paths: PartPaths
      readonly file: number
      readonly bits: Uint8Array<ArrayBuffer>
    },
  ) {
    const { list, listDigest, paths, file, bits } = options
    this.#deps = deps
    this.list = list
    this.#paths = paths
    this.#file = file
    this.#bits = bits
    for (const [chunk, { length }] of list.chunks.entries())
      if (this.has(chunk)) this.#heldBytes += length
      else this.#missingCount++
    this.#equals = Map.groupBy(list.chunks.keys(), (chunk) => this.#chunk(chunk).digest)
    const has = (chunk: number): boolean => this.has(chunk)
    this.#whole = new WholeHash(deps, {
      list,
      path: paths.data,
      file,
      has,
      heldBytes: this.#heldBytes,
    })
    this.#map = new PartMapWriter(deps, {
      path: paths.map,
      current: () => ({
        v: 1,
        list: listDigest,
        heldBytes: this.#heldBytes,
        usedAtWallMs: deps.clock.wallMs(),
        bits: this.#bits,
      }),
    })
  }

  get ref(): BlobRef {
    return { digest: this.list.digest, size: this.list.size }
  }
  get missingCount(): number {
    return this.#missingCount
  }
  get heldBytes(): number {
    return this.#heldBytes
  }
  /** Whether it can be read and written. */
  get isOpen(): boolean {
    return this.#isOpen
  }
  /** Whether its files are no more: it became a blob, or was dropped. */
  get isGone(): boolean {
    return this.#isGone
  }

  has(chunk: number): boolean {
    return hasBit(this.#bits, chunk)
  }

  bitmap(): Uint8Array {
    return this.#bits.slice()
  }

  onChunk(listener: (chunk: number) => void): Disposable {
    this.#listeners.add(listener)
    return { [Symbol.dispose]: () => this.#listeners.delete(listener) }
  }

  async write(chunk: number, bytes: Uint8Array): Promise<boolean> {
    const { digest, length } = this.#chunk(chunk)
    if (this.has(chunk)) return true
    if (bytes.byteLength !== length || sha256(bytes) !== digest) return false
    for (const equal of this.#equals.get(digest) ?? [])
      if (!this.has(equal)) await this.#whileOpen(() => this.#put(equal, bytes))
    return true
  }

  async #put(chunk: number, bytes: Uint8Array): Promise<void> {
    try {
      await writeAllAt(this.#file, [bytes], this.#chunk(chunk).offset)
    } catch (error) {
      throw diskError(error, this.#paths.directory)
    }
    if (this.has(chunk)) return // two sources sent it
    setBit(this.#bits, chunk)
    this.#missingCount--
    this.#heldBytes += bytes.byteLength
    this.#map.touch(bytes.byteLength)
    this.#whole.add(chunk, bytes)
    for (const listener of this.#listeners) listener(chunk)
  }

  async read(offsetBytes: number, lengthBytes: number): Promise<Uint8Array | undefined> {
    if (!this.#isOpen || !this.#covers(offsetBytes, offsetBytes + lengthBytes)) return undefined
    return this.#whileOpen(() => readRange(this.#file, offsetBytes, lengthBytes))
  }

  #covers(startBytes: number, endBytes: number): boolean {
    const { chunks, size } = this.list
    if (endBytes > size) return false
    if (startBytes === endBytes) return true
    for (let at = chunkAt(chunks, startBytes); ; at++) {
      const chunk = chunks[at]
      if (chunk === undefined || chunk.offset >= endBytes) return true
      if (!this.has(at)) return false
    }
  }

  async fillFromLocal(): Promise<number> {
    let takenBytes = 0
    let lookups = 0
    const take = async (chunk: number): Promise<void> => {
      if (++lookups % LOOKUPS_PER_TURN === 0) await nextTurn()
      if (!this.has(chunk) && (await this.#copy(chunk))) takenBytes += this.#chunk(chunk).length
    }
    await mapLimited([...this.list.chunks.keys()], COPIES_AT_ONCE, take)
    return takenBytes
  }

  /** Takes a chunk out of a blob of the store. */
  async #copy(chunk: number): Promise<boolean> {
    const { digest, length } = this.#chunk(chunk)
    const place = await this.#deps.chunks.locate(digest)
    if (place?.length !== length) return false
    await using reader = await this.#deps.store.open(place.blob, {
      offsetBytes: place.offset,
      lengthBytes: length,
    })
    if (reader === undefined) return false
    const isRight = await this.write(chunk, await collectBytes(reader, length))
    if (!isRight) this.#deps.log.warn({ ...place }, 'a stored blob has other bytes than it had')
    return isRight
  }

  finish(): Promise<void> {
    if (this.#finishing === undefined) {
      this.#isFinishing = true
      this.#finishing = this.#finish().finally(() => (this.#isFinishing = false))
    }
    return this.#finishing
  }

  /** Settles when the file is nobody's any more; undefined while nobody finishes it. Never rejects. */
  get finishing(): Promise<unknown> | undefined {
    return this.#isFinishing ? Promise.allSettled([this.#finishing]) : undefined
  }

  async #finish(): Promise<void> {
    assert.equal(this.#missingCount, 0, 'nothing is missing')
    const { ref } = this
    const digest = await this.#whileOpen(() => this.#whole.digest())
    await this.#closeFile()
    if (digest !== ref.digest) {
      await this.#remove()
      throw new MeshError(
        'MESH0502',
        `the chunks of ${cidOf(ref.digest)} are right, the whole is not: its chunk list was forged`,
      )
    }
    await this.#deps.chunks.keep(this.list)
    await this.#deps.adopt(this.#paths.data, ref)
    await this.#remove()
  }

  async #remove(): Promise<void> {
    this.#isGone = true
    await rm(this.#paths.map, { force: true })
    await rm(this.#paths.data, { force: true })
  }

  /** Ends it and keeps what is there for the next time. */
  async close(): Promise<void> {
    await Promise.allSettled([this.#finishing])
    if (!this.#isOpen) return
    await this.#closeFile()
    try {
      await this.#map.write()
    } catch (error) {
      this.#deps.log.warn({ err: error }, 'map of a partial blob was not written')
    }
  }

  async #closeFile(): Promise<void> {
    this.#isOpen = false
    await Promise.allSettled(this.#busy)
    await this.#whole.settle()
    await this.#map.stop()
    closeSync(this.#file)
  }

  #whileOpen<T>(use: () => Promise<T>): Promise<T> {
    if (!this.#isOpen) return Promise.reject(new Error('the partial blob was closed'))
    const using = use()
    this.#busy.add(using)
    return using.finally(() => this.#busy.delete(using))
  }

  #chunk(chunk: number): Chunk {
    const found = this.list.chunks[chunk]
    assert(found !== undefined, `there is a chunk ${chunk}`)
    return found
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.onRelease()
  }
}

/** The number of the chunk that has the byte, by bisection. */
function chunkAt(chunks: readonly Chunk[], offsetBytes: number): number {
  let low = 0
  let high = chunks.length
  while (low < high) {
    const middle = (low + high) >>> 1
    const chunk = chunks[middle]
    if (chunk !== undefined && chunk.offset + chunk.length <= offsetBytes) low = middle + 1
    else high = middle
  }
  return low
}

const hasBit = (bits: Uint8Array, at: number): boolean =>
  (((bits[at >> 3] ?? 0) >> (at & 7)) & 1) === 1
function setBit(bits: Uint8Array, at: number): void {
  bits[at >> 3] = (bits[at >> 3] ?? 0) | (1 << (at & 7))
}
