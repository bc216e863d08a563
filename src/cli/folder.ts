/** A directory that is put together in memory, and its listings, which go to the upload. */
import { sha256 } from '../wire/digest.ts'
import { encodeTree, type Entry } from '../wire/tree.ts'
import type { Upload } from './upload.ts'

export type Folder = Map<string, Entry | Folder>

/** The entry of the whole directory. */
export function encodeFolder(upload: Upload, folder: Folder): Entry {
  const bytes = encodeTree(
    [...folder].map(([name, below]) => ({
      name,
      entry: below instanceof Map ? encodeFolder(upload, below) : below,
    })),
  )
  const digest = sha256(bytes)
  upload.addBytes(digest, bytes)
  return { kind: 'dir', digest, size: bytes.byteLength }
}
