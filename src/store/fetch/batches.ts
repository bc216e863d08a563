/** Small blobs in lists that are asked for at once. */
import type { BlobRef } from '../../wire/digest.ts'
import { BATCH_ITEMS_MAX } from '../blob-source.ts'

const BATCH_BYTES = 4 * 1024 * 1024

/** In order; none is empty. */
export function batches(refs: readonly BlobRef[]): BlobRef[][] {
  const all: BlobRef[][] = []
  let byteCount = Infinity
  for (const ref of refs) {
    const last = all.at(-1)
    if (
      last === undefined ||
      last.length === BATCH_ITEMS_MAX ||
      byteCount + ref.size > BATCH_BYTES
    ) {
      all.push([ref])
      byteCount = ref.size
    } else {
      last.push(ref)
      byteCount += ref.size
    }
  }
  return all
}
