/** Blobs in memory: a small real store for tests and simulations. */
import { MeshError } from '../base/errors.ts'
import { hashFile, ingest } from '../files/ingest.ts'
import { readFile, rm } from 'node:fs/promises'
import { sha256, type BlobRef, type Digest } from '../wire/digest.ts'
import type { BlobStore } from './blob-store.ts'
import { checkExpected, SizeGuard } from './expected.ts'

const PIECE_BYTES = 64 * 1024

/** Over `bytesMax` in total, `put` fails like a full disk does (MESH0503). */
export function openMemoryBlobStore(options: { readonly bytesMax?: number } = {}): BlobStore {
  const bytesMax = options.bytesMax ?? 1024 ** 3
  const blobs = new Map<Digest, Uint8Array>()
  let totalBytes = 0

  const put = async (
    source: Uint8Array | AsyncIterable<Uint8Array>,
    expected?: BlobRef,
  ): Promise<BlobRef> => {
    const guard = new SizeGuard(expected)
    const pieces: Uint8Array[] = []
    for await (const piece of source instanceof Uint8Array ? [source] : source) {
      guard.add(piece.byteLength)
      if (totalBytes + guard.sizeBytes > bytesMax)
        throw new MeshError(
          'MESH0503',
          `no room: the store holds ${totalBytes} of at most ${bytesMax} bytes`,
        )
      pieces.push(piece)
    }
    const bytes = new Uint8Array(Buffer.concat(pieces))
    const ref = { digest: sha256(bytes), size: bytes.byteLength }
    checkExpected(ref, expected)
    if (!blobs.has(ref.digest)) totalBytes += ref.size
    blobs.set(ref.digest, bytes)
    return ref
  }

  const putFile: BlobStore['putFile'] = async (path, { move }) => {
    const { ref } = await hashFile(path)
    await put(await readFile(path), ref)
    if (move) await rm(path)
    return ref
  }

  return {
    has: async (digest) => blobs.has(digest),
    sizeOf: async (digest) => blobs.get(digest)?.byteLength,
    missing: async (refs) =>
      [...new Map(refs.map((ref) => [ref.digest, ref])).values()].filter(
        ({ digest }) => !blobs.has(digest),
      ),
    async open(digest, range = {}) {
      const bytes = blobs.get(digest)
      if (bytes === undefined) return undefined
      const start = range.offsetBytes ?? 0
      const part = bytes.subarray(start, start + (range.lengthBytes ?? Infinity))
      return {
        sizeBytes: bytes.byteLength,
        async *[Symbol.asyncIterator]() {
          for (let at = 0; at < part.byteLength; at += PIECE_BYTES)
            yield part.slice(at, at + PIECE_BYTES)
        },
        [Symbol.asyncDispose]: async () => {},
      }
    },
    async read(digest, readBytesMax) {
      const bytes = blobs.get(digest)
      if (bytes !== undefined && bytes.byteLength > readBytesMax)
        throw new MeshError(
          'MESH0211',
          `blob ${digest} has ${bytes.byteLength} bytes, at most ${readBytesMax} are read at once`,
        )
      return bytes?.slice()
    },
    pathOf: async () => undefined,
    put,
    putFile,
    putTree: (path) =>
      ingest(
        {
          file: (file) => putFile(file, { move: true }),
          async tree(ref, bytes) {
            await put(bytes, ref)
          },
        },
        path,
      ),
    async delete(digest) {
      const bytes = blobs.get(digest)
      totalBytes -= bytes?.byteLength ?? 0
      return blobs.delete(digest)
    },
    stats: () => ({ count: blobs.size, bytes: totalBytes }),
    async *list() {
      for (const [digest, bytes] of blobs) yield { digest, size: bytes.byteLength, usedAtWallMs: 0 }
    },
    [Symbol.asyncDispose]: async () => {},
  }
}
