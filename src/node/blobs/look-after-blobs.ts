/** Carries out what an owner asks about the blobs that a node has: to keep some, and to look whether some are whole. */
import { MeshError } from '../../base/errors.ts'
import type { FsBlobStore } from '../../store/fs-blob-store.ts'
import type { Leases } from '../../store/retention/leases.ts'
import { OBJECT_BYTES_MAX } from '../../wire/cbor.ts'
import { Hasher, type BlobRef, type Digest } from '../../wire/digest.ts'
import { blobOf, decodeTree, type Entry } from '../../wire/tree.ts'
import type { Call, Checked, Done } from '../../wire/work-messages.ts'

/** How long what an owner wants kept is kept when it is not heard of again. */
const KEEP_MS = 2 * 3600_000

/** The part of a store that looks after blobs. */
export type CaredStore = Pick<FsBlobStore, 'open' | 'read' | 'suspect' | 'leases' | 'pins'>

/** Changes what is kept for `owner`, a peer id. */
export function keepBlobs(
  leases: Pick<Leases, 'hold' | 'renew' | 'change'>,
  owner: string,
  { base, add, remove }: Extract<Call, { method: 'keep' }>,
): Done {
  const isKept =
    base === null
      ? leases.hold(owner, add, KEEP_MS)
      : leases.renew(owner, base, KEEP_MS) &&
        ((add.length === 0 && remove.length === 0) ||
          leases.change(owner, { add, remove }, KEEP_MS))
  return { ok: isKept, bytes: 0, message: isKept ? '' : 'the set here is another one, or full' }
}

/**
 * Which of the entries are here, with all that is in them. Reads every byte of them: what the index believes
 * may be gone or damaged, which the store is then told.
 */
export async function checkBlobs(
  store: Pick<CaredStore, 'open' | 'read' | 'suspect'>,
  entries: readonly Entry[],
  signal: AbortSignal,
): Promise<Checked> {
  const held: Digest[] = []
  const known = new Map<Digest, boolean>()
  for (const entry of entries) {
    const blob = blobOf(entry)
    if (blob !== undefined && (await isWhole(store, entry, known, signal))) held.push(blob.digest)
  }
  return { held }
}

/** Looks at each blob once; `known` holds what was found. */
async function isWhole(
  store: Pick<CaredStore, 'open' | 'read' | 'suspect'>,
  entry: Entry,
  known: Map<Digest, boolean>,
  signal: AbortSignal,
): Promise<boolean> {
  const open: Entry[] = [entry]
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    const blob = blobOf(next)
    if (blob === undefined) continue
    signal.throwIfAborted()
    const before = known.get(blob.digest)
    const isFine = before ?? (await isUndamaged(store, blob, signal))
    known.set(blob.digest, isFine)
    if (!isFine) {
      store.suspect(blob.digest)
      return false
    }
    if (next.kind !== 'dir') continue
    const bytes = await store.read(blob.digest, OBJECT_BYTES_MAX)
    if (bytes === undefined) return false
    for (const { entry: child } of decodeTree(bytes)) open.push(child)
  }
  return true
}

async function isUndamaged(
  store: Pick<CaredStore, 'open'>,
  { digest, size }: BlobRef,
  signal: AbortSignal,
): Promise<boolean> {
  try {
    const reader = await store.open(digest)
    if (reader === undefined) return false
    await using opened = reader
    if (opened.sizeBytes !== size) return false
    const hasher = new Hasher()
    for await (const bytes of opened) {
      signal.throwIfAborted()
      hasher.update(bytes)
    }
    return hasher.digest() === digest
  } catch (error) {
    if (error instanceof MeshError && error.code === 'MESH0502') return false
    throw error
  }
}
