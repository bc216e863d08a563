/**
 * Entries on their way out: from a tree to files, directories and links of the user.
 *
 * Writes only below directories that it made itself, opens files exclusively and follows no link; tree
 * names cannot escape (wire/tree.ts). Targets of symbolic links are written as they are: nothing here
 * goes through them. Bytes are checked against their digests on the way.
 */
import { closeSync, openSync, writeSync } from 'node:fs'
import { mkdir, rm, symlink } from 'node:fs/promises'
import { join } from 'node:path'
import { hasCode, isDiskFull, MeshError, messageOf } from '../base/errors.ts'
import { OBJECT_BYTES_MAX } from '../wire/cbor.ts'
import { cidOf, Hasher, type BlobRef } from '../wire/digest.ts'
import { decodeTree, TREE_DEPTH_MAX, type Entry } from '../wire/tree.ts'
import { collectBytes } from './collect-bytes.ts'
import { mapLimited } from './map-limited.ts'

const FILES_AT_ONCE = 16

/** The bytes of a blob; throws when it cannot be had. `isTree`: all that is in that tree is read next. */
export type ReadBlob = (ref: BlobRef & { readonly isTree?: boolean }) => AsyncIterable<Uint8Array>

/**
 * Writes the entry at exactly `path`, whose parent exists and which itself must not (MESH0209). After a
 * failure nothing of it is left. Throws MESH0502 for bytes that do not match, MESH0503 for a full disk.
 */
export async function layOut(
  read: ReadBlob,
  entry: Entry,
  path: string,
  options: { readonly signal?: AbortSignal } = {},
): Promise<void> {
  const made = { root: false }
  const write = async (one: Entry, at: string, depth: number): Promise<void> => {
    options.signal?.throwIfAborted()
    switch (one.kind) {
      case 'symlink':
        await symlink(one.target, at)
        made.root = true
        return
      case 'file':
        await writeFile(read, one, at, () => (made.root = true))
        return
      case 'dir': {
        if (depth >= TREE_DEPTH_MAX)
          throw new MeshError('MESH0210', `${at} lies deeper than ${TREE_DEPTH_MAX} directories`)
        const tree = decodeTree(await readWhole(read, { ...one, isTree: depth === 0 }))
        await mkdir(at)
        made.root = true
        const child = ({ name, entry: below }: (typeof tree)[number]): Promise<void> =>
          write(below, join(at, name), depth + 1)
        await mapLimited(
          tree.filter(({ entry: below }) => below.kind !== 'dir'),
          FILES_AT_ONCE,
          child,
        )
        for (const below of tree) if (below.entry.kind === 'dir') await child(below)
      }
    }
  }
  try {
    await write(entry, path, 0)
  } catch (error) {
    if (made.root) await rm(path, { recursive: true, force: true })
    throw explain(error, path)
  }
}

function explain(error: unknown, path: string): unknown {
  if (hasCode(error, 'EEXIST'))
    return new MeshError('MESH0209', `${path} exists already`, { where: path, cause: error })
  if (isDiskFull(error))
    return new MeshError('MESH0503', `writing ${path}: ${messageOf(error)}`, {
      where: path,
      cause: error,
    })
  return error
}

async function writeFile(
  read: ReadBlob,
  entry: Extract<Entry, { kind: 'file' }>,
  path: string,
  onMade: () => void,
): Promise<void> {
  const file = openSync(path, 'wx', entry.executable ? 0o777 : 0o666)
  onMade()
  try {
    for await (const bytes of checked(read, entry))
      for (let at = 0; at < bytes.byteLength;) at += writeSync(file, bytes, at)
  } finally {
    closeSync(file)
  }
}

async function readWhole(read: ReadBlob, ref: Parameters<ReadBlob>[0]): Promise<Uint8Array> {
  if (ref.size > OBJECT_BYTES_MAX)
    throw new MeshError(
      'MESH0210',
      `a tree claims ${ref.size} bytes, the limit is ${OBJECT_BYTES_MAX}`,
    )
  return collectBytes(checked(read, ref), ref.size)
}

/** The bytes of the blob, followed by an error unless they were the right ones. Never more than its size. */
async function* checked(read: ReadBlob, ref: Parameters<ReadBlob>[0]): AsyncGenerator<Uint8Array> {
  const hasher = new Hasher()
  let size = 0
  // An entry has more fields than a reference.
  const { digest, isTree = false } = ref
  for await (const bytes of read({ digest, size: ref.size, isTree })) {
    size += bytes.byteLength
    if (size > ref.size) break
    hasher.update(bytes)
    yield bytes
  }
  if (size !== ref.size || hasher.digest() !== ref.digest)
    throw new MeshError(
      'MESH0502',
      `the bytes received for ${cidOf(ref.digest)} (${ref.size} bytes) are others`,
    )
}
