/**
 * Which chunks the big blobs of this store have: their chunk lists, for whoever fetches them in parts, and
 * where the bytes of a chunk are, for a new version of a blob to be put together from older ones.
 *
 * Lists are made when somebody asks, and in the background for every new big blob. Blobs that were evicted
 * are noticed when a chunk of theirs is looked up.
 */
import assert from 'node:assert/strict'
import type { Logger } from 'pino'
import { MeshError } from '../../base/errors.ts'
import { Chunker } from '../../files/fastcdc.ts'
import type { FileWorkers } from '../../files/workers/file-workers.ts'
import {
  decodeChunkList,
  encodeChunkList,
  isChunked,
  type Chunk,
  type ChunkList,
} from '../../wire/chunk-list.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import type { BlobStore } from '../blob-store.ts'
import { ByteWindow } from '../byte-window.ts'
import { openChunkTable, type ChunkPlace, type ChunkTable } from './chunk-table.ts'

/** About 0.5 TiB of blobs, and 250 MB on disk. */
const CHUNKS_INDEXED_MAX = 2_000_000
const LISTS_AT_ONCE = 2
/** Blobs whose lists are being made or waited for; who asks for one more is told that there is none. */
const LISTS_ASKED_MAX = 64
/** New blobs whose lists are still to be made; the one that waits longest is passed over. */
const LISTS_QUEUED_MAX = 1_000

export interface ChunkIndex extends AsyncDisposable {
  /**
   * The chunk list of a blob of the store, made when there is none: that takes a second per half GiB.
   * Undefined for blobs that are not here or not of a size to be chunked, and while too much is asked.
   */
  listOf(blob: Digest): Promise<ChunkList | undefined>
  /** The same as bytes, for those who pass it on. */
  encodedListOf(blob: Digest): Promise<Uint8Array | undefined>
  /** A range of a blob of the store that has these bytes, unless the disk is damaged: check them. */
  locate(chunk: Digest): Promise<ChunkPlace | undefined>
  /**
   * Takes a list that came from elsewhere, whose every chunk and whose whole were found right. One with cuts
   * of its own is of less use for differences, and does no other harm.
   */
  keep(list: ChunkList): Promise<void>
  /** To be called for each new blob: has its list made in the background, and its chunks found. */
  add(ref: BlobRef): void
  /** Chunks of all lists that are kept. */
  readonly chunkCount: number
}

/** Throws MESH0105 when another process has it open. */
export async function openChunkIndex(
  deps: Deps,
  options: { readonly directory: string; readonly chunksMax?: number },
): Promise<ChunkIndex> {
  const table = await openChunkTable(deps, { chunksMax: CHUNKS_INDEXED_MAX, ...options })
  return new StoreChunkIndex(deps, table)
}

interface Deps {
  readonly store: Pick<BlobStore, 'sizeOf' | 'pathOf' | 'open'>
  readonly workers: FileWorkers
  readonly log: Logger
}

class StoreChunkIndex implements ChunkIndex {
  readonly #store: Deps['store']
  readonly #workers: FileWorkers
  readonly #log: Logger
  readonly #table: ChunkTable
  readonly #making = new Map<Digest, Promise<Uint8Array | undefined>>()
  readonly #room = new ByteWindow({ bytesMax: LISTS_AT_ONCE })
  readonly #queued = new Set<Digest>()
  readonly #closing = new AbortController()
  #background: Promise<void> | undefined

  constructor({ store, workers, log }: Deps, table: ChunkTable) {
    this.#store = store
    this.#workers = workers
    this.#log = log
    this.#table = table
  }

  get chunkCount(): number {
    return this.#table.chunkCount
  }

  async listOf(blob: Digest): Promise<ChunkList | undefined> {
    const encoded = await this.encodedListOf(blob)
    if (encoded === undefined) return undefined
    try {
      return decodeChunkList(encoded)
    } catch (error) {
      // Damaged on disk: the next who asks has it made again.
      this.#log.warn({ err: error, blob }, 'chunk list was damaged and was dropped')
      await this.#note(this.#table.dropList(blob))
      return undefined
    }
  }

  async encodedListOf(blob: Digest): Promise<Uint8Array | undefined> {
    const found = this.#table.findList(blob)
    if (found !== undefined) return found
    const running = this.#making.get(blob)
    if (running !== undefined) return running
    if (this.#making.size >= LISTS_ASKED_MAX) return undefined
    const making = this.#make(blob).finally(() => this.#making.delete(blob))
    this.#making.set(blob, making)
    return making
  }

  async #make(blob: Digest): Promise<Uint8Array | undefined> {
    const size = await this.#store.sizeOf(blob)
    if (size === undefined || !isChunked(size)) return undefined
    await this.#room.acquire(1, this.#closing.signal)
    try {
      const chunks = await this.#chunksOf(blob)
      const last = chunks?.at(-1)
      if (chunks === undefined || last === undefined) return undefined
      if (last.offset + last.length !== size)
        throw new MeshError(
          'MESH0502',
          `blob ${blob} ends at ${last.offset + last.length} of ${size} bytes`,
        )
      const list = { digest: blob, size, chunks }
      const encoded = encodeChunkList(list)
      await this.#note(this.#table.put(list, encoded))
      return encoded
    } catch (error) {
      // Evicted while it was read.
      if ((await this.#store.sizeOf(blob)) === undefined) return undefined
      throw error
    } finally {
      this.#room.release(1)
    }
  }

  async #chunksOf(blob: Digest): Promise<readonly Chunk[] | undefined> {
    const path = await this.#store.pathOf(blob, false)
    if (path !== undefined) return this.#chunkFile(path)
    await using reader = await this.#store.open(blob)
    if (reader === undefined) return undefined
    const chunker = new Chunker()
    for await (const bytes of reader) chunker.add(bytes)
    return chunker.finish()
  }

  async #chunkFile(path: string): Promise<readonly Chunk[]> {
    const job = this.#workers.start('chunk-file', path)
    const stop = (): void => void job.stop()
    this.#closing.signal.addEventListener('abort', stop, { once: true })
    try {
      const step = await job.next()
      assert(step.kind === 'result', 'the job tells nothing before its end')
      return step.result
    } finally {
      this.#closing.signal.removeEventListener('abort', stop)
    }
  }

  async locate(chunk: Digest): Promise<ChunkPlace | undefined> {
    const place = this.#table.findPlace(chunk)
    if (place === undefined || (await this.#store.sizeOf(place.blob)) !== undefined) return place
    await this.#note(this.#table.dropPlace(chunk, place))
    return undefined
  }

  /** What cannot be written, for example to a full disk, is made again when it is needed. */
  async #note(writing: Promise<void>): Promise<void> {
    try {
      await writing
    } catch (error) {
      this.#log.warn({ err: error }, 'chunk index was not written')
    }
  }

  async keep(list: ChunkList): Promise<void> {
    await this.#note(this.#table.put(list, encodeChunkList(list)))
  }

  add({ digest, size }: BlobRef): void {
    if (!isChunked(size) || this.#closing.signal.aborted) return
    this.#queued.add(digest)
    const [oldest] = this.#queued
    if (this.#queued.size > LISTS_QUEUED_MAX && oldest !== undefined) this.#queued.delete(oldest)
    this.#background ??= this.#makeQueued()
  }

  /** One after the other, so that the other place is free for those who wait. */
  async #makeQueued(): Promise<void> {
    for (const blob of this.#queued) {
      this.#queued.delete(blob)
      try {
        // One that is known comes back after an eviction: its chunks may have lost their places.
        const known = this.#table.findList(blob)
        if (known === undefined) await this.encodedListOf(blob)
        else await this.#table.put(decodeChunkList(known), known)
      } catch (error) {
        if (this.#closing.signal.aborted) break
        this.#log.warn({ err: error, blob }, 'chunk list could not be made')
      }
    }
    this.#background = undefined
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#queued.clear()
    this.#closing.abort(new MeshError('MESH0108', 'the node is stopping'))
    await Promise.allSettled([...this.#making.values(), this.#background])
    await this.#table.close()
  }
}
