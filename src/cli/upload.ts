/**
 * The user's files on their way to the store: what the daemon lacks is asked in batches, small blobs go
 * many at a time, big ones as streams.
 */
import { MeshError } from '../base/errors.ts'
import { hashingSink, type IngestedBlob, type IngestSink } from '../files/ingest.ts'
import {
  BATCH_BYTES_MAX,
  BATCH_CONTENT_TYPE,
  BATCH_HEAD_BYTES,
  BatchAnswer,
  Digests,
} from '../wire/api.ts'
import { digestBytes, type Digest } from '../wire/digest.ts'
import type { Client } from './client.ts'
import { formatSize, plural } from '../base/units.ts'

/** Blobs over this size go one by one, as a stream. */
const SMALL_BLOB_BYTES = 1024 * 1024
/** How many blobs one question names; the API takes 20,000. */
const QUESTION_BLOBS_MAX = 10_000
/** Different blobs of one submission: each is a small object in memory here. */
const UPLOAD_BLOBS_MAX = 2_000_000
/** Less than this is sent without a word. */
const NOTICED_BYTES = 16 * 1024 * 1024

/** Collects the blobs of everything that is ingested through `sink`, each once. */
export class Upload {
  readonly #blobs = new Map<Digest, IngestedBlob>()
  readonly sink: IngestSink = hashingSink((blob) => this.add(blob))

  add(blob: IngestedBlob): void {
    if (this.#blobs.size >= UPLOAD_BLOBS_MAX)
      throw new MeshError(
        'MESH0211',
        `the inputs have more than ${UPLOAD_BLOBS_MAX} different files and directories`,
      )
    if (!this.#blobs.has(blob.ref.digest)) this.#blobs.set(blob.ref.digest, blob)
  }

  /** Adds bytes that are in memory. */
  addBytes(digest: Digest, bytes: Uint8Array): void {
    this.add({
      ref: { digest, size: bytes.byteLength },
      async *open() {
        yield bytes
      },
    })
  }

  /** A blob that was ingested here, for reading it back. */
  find(digest: Digest): IngestedBlob | undefined {
    return this.#blobs.get(digest)
  }

  /** Sends what the daemon lacks; says so when it may last. */
  async send(client: Client, onNotice: (text: string) => void = () => undefined): Promise<void> {
    const blobs = [...this.#blobs.values()]
    for (let at = 0; at < blobs.length; at += QUESTION_BLOBS_MAX) {
      const asked = blobs.slice(at, at + QUESTION_BLOBS_MAX).map(({ ref }) => ref)
      const missing = await client.send(Digests, 'POST', '/api/blobs/missing', asked)
      const bytes = missing.reduce(
        (sum, digest) => sum + (this.#blobs.get(digest)?.ref.size ?? 0),
        0,
      )
      if (bytes > NOTICED_BYTES)
        onNotice(`sending ${formatSize(bytes)} in ${plural(missing.length, 'blob')} to the store`)
      let batch: Buffer[] = []
      let batchBytes = 0
      const flush = async (): Promise<void> => {
        if (batch.length === 0) return
        await client.json(BatchAnswer, '/api/blobs', {
          method: 'POST',
          body: Buffer.concat(batch),
          contentType: BATCH_CONTENT_TYPE,
        })
        batch = []
        batchBytes = 0
      }
      for (const digest of missing) {
        const blob = this.#blobs.get(digest)
        if (blob === undefined) continue
        const { size } = blob.ref
        if (size > SMALL_BLOB_BYTES) {
          await client.json(BatchAnswer, `/cas/${digest}`, {
            method: 'PUT',
            body: () => blob.open(),
            contentType: 'application/octet-stream',
            contentLength: size,
          })
          continue
        }
        if (batchBytes + BATCH_HEAD_BYTES + size > BATCH_BYTES_MAX) await flush()
        const head = Buffer.alloc(BATCH_HEAD_BYTES)
        head.set(digestBytes(digest))
        head.writeBigUInt64BE(BigInt(size), 32)
        batch.push(head)
        for await (const piece of blob.open()) batch.push(Buffer.from(piece))
        batchBytes += BATCH_HEAD_BYTES + size
      }
      await flush()
    }
  }
}
