/**
 * What a capture takes, by absolute path. A path is gone through segment by segment as the kernel does it,
 * and each link on the way is taken too: so what was reached here is reached in the image by the same path.
 */
import { lstatSync, readdirSync, readlinkSync, type Stats } from 'node:fs'
import { join } from 'node:path'
import { hasCode, MeshError } from '../../../base/errors.ts'
import { IMAGE_ENTRIES_MAX } from '../../../wire/images.ts'

/** As the kernel does. */
const LINKS_MAX = 40

export type Pick =
  | { readonly kind: 'file'; readonly size: number; readonly group: string }
  | { readonly kind: 'link'; readonly target: string; readonly group: string }
  /** One of which nothing else is taken. */
  | { readonly kind: 'dir'; readonly group: string }

export class Picked {
  /** Absolute paths without links in them, but for the last segment. */
  readonly all = new Map<string, Pick>()

  /** The real path of a file or directory, whose links are taken; undefined where there is none. */
  reach(path: string, group: string): { readonly path: string; readonly stat: Stats } | undefined {
    let rest = segmentsOf(path)
    let links = 0
    let here = '/'
    let stat: Stats | undefined
    for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
      const next = join(here, name)
      stat = lstat(next)
      if (stat === undefined) return undefined
      if (!stat.isSymbolicLink()) {
        here = next
        continue
      }
      if (++links > LINKS_MAX) return undefined
      const target = readlinkSync(next)
      this.#add(next, { kind: 'link', target, group })
      rest = [...segmentsOf(target), ...rest]
      if (target.startsWith('/')) here = '/'
    }
    stat = lstat(here)
    return stat === undefined ? undefined : { path: here, stat }
  }

  /** Takes the file there; its real path where it is new, undefined where there is none or it was known. */
  file(path: string, group: string): string | undefined {
    const found = this.reach(path, group)
    if (found?.stat.isFile() !== true || this.all.has(found.path)) return undefined
    this.#add(found.path, { kind: 'file', size: found.stat.size, group })
    return found.path
  }

  /** Takes all that is below; gives the files that are new. What its links point to is taken too, once. */
  *tree(path: string, group: string, skip: ReadonlySet<string> = new Set()): Generator<string> {
    const root = this.reach(path, group)
    if (root?.stat.isDirectory() !== true) return
    const open = [root.path]
    for (let directory = open.pop(); directory !== undefined; directory = open.pop()) {
      const names = readdirSync(directory)
      if (names.length === 0) this.#add(directory, { kind: 'dir', group })
      for (const name of names) {
        if (skip.has(name)) continue
        const child = join(directory, name)
        const stat = lstat(child)
        if (stat?.isDirectory() === true) open.push(child)
        else if (stat !== undefined) {
          // A link to a directory elsewhere is taken as a link: its contents are asked for by name.
          const file = this.file(child, group)
          if (file !== undefined) yield file
        }
      }
    }
  }

  /** An empty directory, unless something is in it. */
  folder(path: string): void {
    for (const known of this.all.keys()) if (known === path || known.startsWith(`${path}/`)) return
    this.#add(path, { kind: 'dir', group: 'folders' })
  }

  #add(path: string, pick: Pick): void {
    if (this.all.size >= IMAGE_ENTRIES_MAX)
      throw new MeshError('MESH0211', `more than ${IMAGE_ENTRIES_MAX} files would be taken`)
    if (!this.all.has(path)) this.all.set(path, pick)
  }
}

/** `..` is left to the walk: what is above depends on the links before it. */
const segmentsOf = (path: string): string[] =>
  path.split('/').filter((segment) => segment !== '' && segment !== '.')

function lstat(path: string): Stats | undefined {
  try {
    return lstatSync(path)
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', 'EACCES')) return undefined
    throw error
  }
}
