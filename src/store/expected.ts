/** What every store demands of bytes that come under a name: exactly the named ones. */
import { MeshError } from '../base/errors.ts'
import { BLOB_BYTES_MAX, cidOf, type BlobRef } from '../wire/digest.ts'

/** Throws MESH0502 unless `got` is what was expected. */
export function checkExpected(got: BlobRef, expected: BlobRef | undefined): void {
  if (expected === undefined || (got.digest === expected.digest && got.size === expected.size))
    return
  throw new MeshError(
    'MESH0502',
    `expected ${cidOf(expected.digest)} of ${expected.size} bytes, received ${cidOf(got.digest)} of ${got.size} bytes`,
  )
}

/** Counts a stream; throws MESH0502 as soon as it is longer than it may be. */
export class SizeGuard {
  readonly #expected: BlobRef | undefined
  #sizeBytes = 0

  constructor(expected: BlobRef | undefined) {
    this.#expected = expected
  }

  get sizeBytes(): number {
    return this.#sizeBytes
  }

  add(byteCount: number): void {
    this.#sizeBytes += byteCount
    const sizeBytesMax = this.#expected?.size ?? BLOB_BYTES_MAX
    if (this.#sizeBytes <= sizeBytesMax) return
    const name = this.#expected === undefined ? 'a blob' : cidOf(this.#expected.digest)
    throw new MeshError('MESH0502', `${name}: received more than ${sizeBytesMax} bytes`)
  }
}

/** Ends a source that nobody reads. */
export async function releaseSource(source: Uint8Array | AsyncIterable<Uint8Array>): Promise<void> {
  if (!(source instanceof Uint8Array)) await source[Symbol.asyncIterator]().return?.()
}
