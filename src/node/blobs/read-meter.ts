/** A store that counts the bytes read through it: what is served to other nodes goes through one. */
import type {
  BlobRange,
  BlobReader,
  BlobStore,
  StoredBlob,
  StoreStats,
} from '../../store/blob-store.ts'
import type { BlobRef, Digest } from '../../wire/digest.ts'
import type { Entry } from '../../wire/tree.ts'

export class ReadMeter implements BlobStore {
  readonly #store: BlobStore
  /** Since the start. */
  bytes = 0

  constructor(store: BlobStore) {
    this.#store = store
  }

  async open(digest: Digest, range?: BlobRange): Promise<BlobReader | undefined> {
    const reader = await this.#store.open(digest, range)
    return reader === undefined
      ? undefined
      : new MeteredReader(reader, (bytes) => (this.bytes += bytes))
  }

  async read(digest: Digest, bytesMax: number): Promise<Uint8Array | undefined> {
    const bytes = await this.#store.read(digest, bytesMax)
    this.bytes += bytes?.byteLength ?? 0
    return bytes
  }

  has(digest: Digest): Promise<boolean> {
    return this.#store.has(digest)
  }
  sizeOf(digest: Digest): Promise<number | undefined> {
    return this.#store.sizeOf(digest)
  }
  missing(refs: readonly BlobRef[]): Promise<BlobRef[]> {
    return this.#store.missing(refs)
  }
  pathOf(digest: Digest, executable: boolean): Promise<string | undefined> {
    return this.#store.pathOf(digest, executable)
  }
  put(source: Uint8Array | AsyncIterable<Uint8Array>, expected?: BlobRef): Promise<BlobRef> {
    return this.#store.put(source, expected)
  }
  putFile(path: string, options: { readonly move: boolean }): Promise<BlobRef> {
    return this.#store.putFile(path, options)
  }
  putTree(path: string): Promise<Entry> {
    return this.#store.putTree(path)
  }
  delete(digest: Digest): Promise<boolean> {
    return this.#store.delete(digest)
  }
  stats(): StoreStats {
    return this.#store.stats()
  }
  list(): AsyncIterable<StoredBlob> {
    return this.#store.list()
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#store[Symbol.asyncDispose]()
  }
}

class MeteredReader implements BlobReader {
  readonly #reader: BlobReader
  readonly #onBytes: (count: number) => void

  constructor(reader: BlobReader, onBytes: (count: number) => void) {
    this.#reader = reader
    this.#onBytes = onBytes
  }
  get sizeBytes(): number {
    return this.#reader.sizeBytes
  }
  async *[Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    for await (const piece of this.#reader) {
      this.#onBytes(piece.byteLength)
      yield piece
    }
  }
  async [Symbol.asyncDispose](): Promise<void> {
    await this.#reader[Symbol.asyncDispose]()
  }
}
