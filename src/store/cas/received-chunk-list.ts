/** Chunk lists as they come from others: anything but one of the blob is the sender's lie. */
import { messageOf } from '../../base/errors.ts'
import { decodeChunkList, type ChunkList } from '../../wire/chunk-list.ts'
import type { Digest } from '../../wire/digest.ts'
import { SourceError } from '../blob-source.ts'

/** Throws SourceError for bytes that are no list of that blob. */
export function receivedChunkList(digest: Digest, bytes: Uint8Array): ChunkList {
  let list: ChunkList
  try {
    list = decodeChunkList(bytes)
  } catch (error) {
    throw new SourceError('wrong', `sent what is no chunk list: ${messageOf(error)}`, {
      cause: error,
    })
  }
  if (list.digest !== digest) throw new SourceError('wrong', 'sent the chunk list of another blob')
  return list
}
