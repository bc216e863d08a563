/** One tree out of entries that lie at relative paths: `mesh run` and `files` of a derivation pack inputs with it. */
import { MeshError } from '../base/errors.ts'
import { isSegment, type Entry } from '../wire/tree.ts'
import { encodeFolder, type Folder } from './folder.ts'
import type { Upload } from './upload.ts'

/** The segments of a relative path without `.`; undefined for an absolute or escaping one. */
export function segmentsOf(path: string): string[] | undefined {
  if (path.startsWith('/')) return undefined
  const segments = path.split('/').filter((segment) => segment !== '' && segment !== '.')
  return segments.every(isSegment) ? segments : undefined
}

/**
 * The entry of a directory that holds each of `entries` at its path. The listings go to `upload`.
 * Throws MESH0203 for paths that are absolute, escape, or lie in one another.
 */
export function composeTree(upload: Upload, entries: ReadonlyMap<string, Entry>): Entry {
  const root: Folder = new Map()
  for (const [path, entry] of entries) {
    const segments = segmentsOf(path)
    const name = segments?.pop()
    if (segments === undefined || name === undefined)
      throw new MeshError('MESH0203', `${JSON.stringify(path)} is not a relative path without ".."`)
    let folder = root
    for (const segment of segments) {
      const below = folder.get(segment) ?? new Map<string, Entry | Folder>()
      if (!(below instanceof Map)) throw overlap(path)
      folder.set(segment, below)
      folder = below
    }
    if (folder.has(name)) throw overlap(path)
    folder.set(name, entry)
  }
  return encodeFolder(upload, root)
}

const overlap = (path: string): MeshError =>
  new MeshError('MESH0203', `${JSON.stringify(path)} and another path lie in one another`)
