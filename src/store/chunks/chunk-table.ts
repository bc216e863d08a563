/**
 * What the chunk index has on disk: chunk lists by blob, and for each chunk one place where its bytes are.
 *
 * A Level of its own and a cache: throwing it away costs computing. Bounded by the number of chunks; the
 * lists that were first stored longest ago go. Chunks are never stored, they are ranges of stored blobs.
 */
import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import type { Logger } from 'pino'
import { hasCode, MeshError } from '../../base/errors.ts'
import { decodeChunkList, type Chunk, type ChunkList } from '../../wire/chunk-list.ts'
import { digestBytes, digestFromBytes, type Digest } from '../../wire/digest.ts'
import { openLevel } from '../blob-index.ts'
import { LevelHealer } from '../level-healer.ts'

/** Places written or removed at once: a few milliseconds. */
const BATCH_CHUNKS = 1_000

/** A range of a blob. */
export interface ChunkPlace {
  readonly blob: Digest
  readonly offset: number
  readonly length: number
}

type Database = Awaited<ReturnType<typeof openLevel>>
type Change =
  | { readonly type: 'put'; readonly key: Uint8Array; readonly value: Uint8Array }
  | { readonly type: 'del'; readonly key: Uint8Array }

/** Opens the table; a corrupt one is thrown away. Throws MESH0105 when another process has it. */
export async function openChunkTable(
  deps: { readonly log: Logger },
  options: { readonly directory: string; readonly chunksMax: number },
): Promise<ChunkTable> {
  const { directory, chunksMax } = options
  try {
    return await ChunkTable.load(await openLevel(directory), chunksMax)
  } catch (error) {
    if (!(error instanceof Error) || !hasCode(error.cause, 'LEVEL_CORRUPTION')) throw error
    deps.log.warn({ err: error, directory }, 'chunk index was corrupt and was thrown away')
    await rm(directory, { recursive: true, force: true })
    return ChunkTable.load(await openLevel(directory), chunksMax)
  }
}

export class ChunkTable {
  readonly #db: Database
  readonly #healer: LevelHealer
  readonly #chunksMax: number
  #chunkCount = 0
  /** Lists have the numbers from the first to before the next, in order of their arrival. */
  #firstSequence = 0
  #nextSequence = 0
  #last: Promise<unknown> = Promise.resolve()

  private constructor(db: Database, chunksMax: number) {
    this.#db = db
    this.#healer = new LevelHealer(db)
    this.#chunksMax = chunksMax
  }

  /** Reads a few bytes for each list that is stored. */
  static async load(db: Database, chunksMax: number): Promise<ChunkTable> {
    const table = new ChunkTable(db, chunksMax)
    let isFirst = true
    for await (const [key, value] of db.iterator({ gte: orderKey(0), lt: ORDER_END })) {
      const sequence = sequenceOf(key)
      if (isFirst) table.#firstSequence = sequence
      isFirst = false
      table.#nextSequence = sequence + 1
      table.#chunkCount += decodeOrder(value).chunkCount
    }
    return table
  }

  /** Chunks of all lists, those that several share counted several times. */
  get chunkCount(): number {
    return this.#chunkCount
  }

  /** The encoding of the list of a blob. */
  findList(blob: Digest): Uint8Array | undefined {
    return this.#find(keyOf('l', blob))
  }

  /** Nothing for the moment in which the database is opened anew. */
  #find(key: Uint8Array): Uint8Array | undefined {
    return this.#db.status === 'open' ? this.#db.getSync(key) : undefined
  }

  findPlace(chunk: Digest): ChunkPlace | undefined {
    const value = this.#find(keyOf('c', chunk))
    return value === undefined ? undefined : decodePlace(value)
  }

  /** Stores a list, or the places of one that is stored already: the newest blob of a chunk has its place. */
  put(list: ChunkList, encoded: Uint8Array): Promise<void> {
    return this.#inTurn(() => this.#put(list, encoded))
  }

  /** Removes a list that cannot be read; its places are dropped when they prove wrong. */
  dropList(blob: Digest): Promise<void> {
    return this.#inTurn(() => this.#write([{ type: 'del', key: keyOf('l', blob) }]))
  }

  /** Removes the place of a chunk, unless it has another by now. */
  dropPlace(chunk: Digest, place: ChunkPlace): Promise<void> {
    return this.#inTurn(async () => {
      if (this.findPlace(chunk)?.blob === place.blob)
        await this.#write([{ type: 'del', key: keyOf('c', chunk) }])
    })
  }

  async close(): Promise<void> {
    await this.#last
    await this.#db.close()
  }

  /** One change after the other, since each reads what the one before wrote. */
  #inTurn(change: () => Promise<void>): Promise<void> {
    const done = this.#last.then(change)
    this.#last = Promise.allSettled([done])
    return done
  }

  #write(changes: Change[]): Promise<void> {
    return this.#healer.write(() => this.#db.batch(changes))
  }

  async #put(list: ChunkList, encoded: Uint8Array): Promise<void> {
    const { digest: blob, chunks } = list
    // The list before its places, and gone after them: what a crash leaves is removed with the list.
    if (this.findList(blob) === undefined) {
      await this.#write([
        {
          type: 'put',
          key: orderKey(this.#nextSequence),
          value: encodeOrder({ blob, chunkCount: chunks.length }),
        },
        { type: 'put', key: keyOf('l', blob), value: encoded },
      ])
      this.#nextSequence++
      this.#chunkCount += chunks.length
    }
    for (let at = 0; at < chunks.length; at += BATCH_CHUNKS)
      await this.#write(
        chunks.slice(at, at + BATCH_CHUNKS).map(({ digest, offset, length }) => ({
          type: 'put',
          key: keyOf('c', digest),
          value: encodePlace({ blob, offset, length }),
        })),
      )
    while (this.#chunkCount > this.#chunksMax) await this.#evictOldest()
  }

  async #evictOldest(): Promise<void> {
    const key = orderKey(this.#firstSequence)
    const value = this.#db.getSync(key)
    assert(value !== undefined, 'lists are numbered without gaps')
    const { blob, chunkCount } = decodeOrder(value)
    const chunks = chunksIn(this.findList(blob))
    for (let at = 0; at < chunks.length; at += BATCH_CHUNKS)
      await this.#write(
        chunks
          .slice(at, at + BATCH_CHUNKS)
          // A chunk may have a place in a newer blob.
          .filter(({ digest }) => this.findPlace(digest)?.blob === blob)
          .map(({ digest }) => ({ type: 'del', key: keyOf('c', digest) })),
      )
    await this.#write([
      { type: 'del', key },
      { type: 'del', key: keyOf('l', blob) },
    ])
    this.#firstSequence++
    this.#chunkCount -= chunkCount
  }
}

/** None for a list that was damaged on disk or dropped. */
function chunksIn(encoded: Uint8Array | undefined): readonly Chunk[] {
  if (encoded === undefined) return []
  try {
    return decodeChunkList(encoded).chunks
  } catch (error) {
    if (error instanceof MeshError) return []
    throw error
  }
}

/** `l` + blob → list; `c` + chunk → place; `o` + sequence number → blob and the number of its chunks. */
const keyOf = (kind: 'l' | 'c', digest: Digest): Uint8Array =>
  Buffer.concat([Buffer.from(kind), digestBytes(digest)])
const ORDER_END = Buffer.from('p')
function orderKey(sequence: number): Buffer {
  const key = Buffer.alloc(9, 'o')
  key.writeBigUInt64BE(BigInt(sequence), 1)
  return key
}
const sequenceOf = (key: Uint8Array): number => Number(Buffer.from(key).readBigUInt64BE(1))

interface Order {
  readonly blob: Digest
  readonly chunkCount: number
}
function encodeOrder({ blob, chunkCount }: Order): Buffer {
  const bytes = Buffer.alloc(36)
  bytes.set(digestBytes(blob))
  bytes.writeUInt32BE(chunkCount, 32)
  return bytes
}
const decodeOrder = (value: Uint8Array): Order => ({
  blob: digestFromBytes(value.subarray(0, 32)),
  chunkCount: Buffer.from(value).readUInt32BE(32),
})

function encodePlace({ blob, offset, length }: ChunkPlace): Buffer {
  const bytes = Buffer.alloc(42)
  bytes.set(digestBytes(blob))
  bytes.writeUIntBE(offset, 32, 6)
  bytes.writeUInt32BE(length, 38)
  return bytes
}
function decodePlace(value: Uint8Array): ChunkPlace {
  const bytes = Buffer.from(value)
  return {
    blob: digestFromBytes(bytes.subarray(0, 32)),
    offset: bytes.readUIntBE(32, 6),
    length: bytes.readUInt32BE(38),
  }
}
