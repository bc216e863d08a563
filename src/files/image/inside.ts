/**
 * Looks into a tree as a program would that has it as its root: links are followed inside of it, however
 * they are written. Nothing of the file system here is touched.
 */
import { MeshError } from '../../base/errors.ts'
import { collectBytes } from '../collect-bytes.ts'
import type { ReadBlob } from '../lay-out.ts'
import { OBJECT_BYTES_MAX } from '../../wire/cbor.ts'
import { IMAGE_ENTRIES_MAX } from '../../wire/images.ts'
import { decodeTree, type Entry, type Tree } from '../../wire/tree.ts'

/** As the kernel does. */
const LINKS_MAX = 40

export class Inside {
  readonly #read: ReadBlob
  readonly #root: Entry
  readonly #trees = new Map<string, Tree>()

  constructor(read: ReadBlob, root: Entry) {
    this.#read = read
    this.#root = root
  }

  /** The file or directory at an absolute path, its last link followed too; undefined where there is none. */
  async find(path: string): Promise<Entry | undefined> {
    let rest = path.split('/').filter((segment) => segment !== '' && segment !== '.')
    let links = 0
    const above: Entry[] = []
    let here = this.#root
    for (let name = rest.shift(); name !== undefined; name = rest.shift()) {
      if (name === '..') {
        here = above.pop() ?? this.#root
        continue
      }
      if (here.kind !== 'dir') return undefined
      const next = (await this.#tree(here)).find((child) => child.name === name)?.entry
      if (next === undefined) return undefined
      if (next.kind === 'symlink') {
        if (++links > LINKS_MAX) return undefined
        rest = [...next.target.split('/').filter((part) => part !== '' && part !== '.'), ...rest]
        if (!next.target.startsWith('/')) continue
        above.length = 0
        here = this.#root
        continue
      }
      above.push(here)
      here = next
    }
    return here
  }

  /** The bytes of a file there; undefined where there is none, or where it is larger than `bytesMax`. */
  async read(path: string, bytesMax: number): Promise<Uint8Array | undefined> {
    const entry = await this.find(path)
    if (entry?.kind !== 'file' || entry.size > bytesMax) return undefined
    return collectBytes(this.#read(entry), entry.size)
  }

  /** All files and all that is in it, counted. Throws MESH0211 for more than an image may have. */
  async measure(): Promise<{ readonly sizeBytes: number; readonly fileCount: number }> {
    let sizeBytes = 0
    let fileCount = 0
    const open: Entry[] = [this.#root]
    for (let next = open.pop(); next !== undefined; next = open.pop()) {
      if (next.kind === 'file') sizeBytes += next.size
      if (next.kind !== 'dir') continue
      for (const { entry } of await this.#tree(next)) {
        fileCount += 1
        if (fileCount > IMAGE_ENTRIES_MAX)
          throw new MeshError('MESH0211', `the image has more than ${IMAGE_ENTRIES_MAX} entries`)
        open.push(entry)
      }
    }
    return { sizeBytes, fileCount }
  }

  async #tree(ref: Extract<Entry, { kind: 'dir' }>): Promise<Tree> {
    const known = this.#trees.get(ref.digest)
    if (known !== undefined) return known
    if (ref.size > OBJECT_BYTES_MAX) throw new MeshError('MESH0210', 'a listing is too long')
    const tree = decodeTree(await collectBytes(this.#read(ref), ref.size))
    this.#trees.set(ref.digest, tree)
    return tree
  }
}
