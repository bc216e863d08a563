/**
 * Trees: the canonical listing of a directory, itself a blob.
 *
 * Same content, same tree, on every machine: entries sorted by the bytes of their names, one executable
 * bit, no time, owner or other mode. The rules are checked at every decode, so no `..`, absolute or
 * duplicate name ever reaches a file system.
 */
import { z } from 'zod'
import { decodeCanonical, encodeObject } from './cbor.ts'
import { DigestBytes, DigestHex, Size, type BlobRef, type Digest } from './digest.ts'
import { text } from './names.ts'

/** One name of a directory, one output, one input: what is there, without its name. */
export type Entry =
  | { kind: 'file'; digest: Digest; size: number; executable: boolean }
  | { kind: 'dir'; digest: Digest; size: number }
  | { kind: 'symlink'; target: string }

export const TREE_ENTRIES_MAX = 100_000
export const TREE_DEPTH_MAX = 128
const NAME_BYTES_MAX = 255
export const TARGET_BYTES_MAX = 4095

const Target = text(TARGET_BYTES_MAX).min(1)

const entrySchema = <D extends z.ZodType<Digest>>(digest: D) =>
  z.discriminatedUnion('kind', [
    z.object({ kind: z.literal('file'), digest, size: Size, executable: z.boolean() }),
    z.object({ kind: z.literal('dir'), digest, size: Size }),
    z.object({ kind: z.literal('symlink'), target: Target }),
  ])
/** Entry in messages and in hashed objects. */
export const EntryWire: z.ZodType<Entry> = entrySchema(DigestBytes)
/** Entry in JSON. */
export const EntryJson: z.ZodType<Entry> = entrySchema(DigestHex)

/** A segment of a path: one name, not empty, not `.` or `..`, without `/` or NUL, at most 255 bytes, well-formed. */
export const isSegment = (name: string): boolean =>
  name !== '' &&
  name !== '.' &&
  name !== '..' &&
  !name.includes('/') &&
  !name.includes('\0') &&
  name.isWellFormed() &&
  Buffer.byteLength(name) <= NAME_BYTES_MAX

export interface TreeEntry {
  readonly name: string
  readonly entry: Entry
}
/** Sorted by name bytes, no duplicates. */
export type Tree = readonly TreeEntry[]

const Packed = z.object({
  v: z.literal(1),
  entries: z
    .array(z.tuple([z.string().refine(isSegment, 'not a file name'), EntryWire]))
    .max(TREE_ENTRIES_MAX)
    .refine(
      (entries) =>
        entries.every(
          ([name], at) => at === 0 || compareNames(entries[at - 1]?.[0] ?? '', name) < 0,
        ),
      'names are not sorted, or not unique',
    ),
})

/** Order of the bytes of the names in UTF-8, which is that of code points and not of UTF-16 units. */
export function compareNames(a: string, b: string): number {
  const length = Math.min(a.length, b.length)
  for (let at = 0; at < length; at++) {
    const [unitOfA, unitOfB] = [a.charCodeAt(at), b.charCodeAt(at)]
    if (unitOfA !== unitOfB) return rankOf(unitOfA) - rankOf(unitOfB)
  }
  return a.length - b.length
}

/** Surrogates stand for code points above all others, though their units are below U+E000. */
function rankOf(unit: number): number {
  return unit >= 0xd800 && unit < 0xe000 ? unit + 0x10000 : unit
}

/** Sorts, checks and encodes. Throws MESH0210 or a ZodError for names that no tree may hold. */
export function encodeTree(entries: Tree): Uint8Array<ArrayBuffer> {
  const sorted = entries.toSorted((a, b) => compareNames(a.name, b.name))
  return encodeObject(Packed, {
    v: 1,
    entries: sorted.map(({ name, entry }) => [name, entry] as [string, Entry]),
  })
}

/** Throws MESH0210 for anything but a canonical tree. */
export function decodeTree(bytes: Uint8Array): Tree {
  return decodeCanonical(Packed, bytes, 'tree').entries.map(([name, entry]) => ({ name, entry }))
}

/** The blob that an entry needs to be present, if any. */
export function blobOf(entry: Entry): BlobRef | undefined {
  return entry.kind === 'symlink' ? undefined : { digest: entry.digest, size: entry.size }
}

export function sameEntry(a: Entry, b: Entry): boolean {
  if (a.kind === 'symlink' || b.kind === 'symlink')
    return a.kind === 'symlink' && b.kind === 'symlink' && a.target === b.target
  if (a.kind !== b.kind || a.digest !== b.digest) return false
  return a.kind === 'dir' || (b.kind === 'file' && a.executable === b.executable)
}
