/**
 * A tar archive as an image. No path of the archive ever becomes one of the file system: contents go to one
 * nameless file of the user's temporary directory, one behind the other, and the tree is made in memory.
 *
 * So a hostile archive can neither climb out nor follow a link out; what it may cost is bounded.
 */
import { createReadStream, openSync, closeSync, unlinkSync, mkdtempSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'
import { tmpdir } from 'node:os'
import { MeshError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import { readAt, writeAllAt, PIECE_BYTES } from '../../files/file-io.ts'
import { Hasher } from '../../wire/digest.ts'
import { IMAGE_BYTES_MAX, IMAGE_ENTRIES_MAX } from '../../wire/images.ts'
import { isSegment, TARGET_BYTES_MAX, TREE_DEPTH_MAX, type Entry } from '../../wire/tree.ts'
import { encodeFolder, type Folder } from '../folder.ts'
import type { Upload } from '../upload.ts'
import { isOfSystem, type LeftOut } from '../../files/image/left-out.ts'
import { openArchive } from './open-archive.ts'
import type { FileProgress } from './progress.ts'
import { readTar, type TarItem } from './tar-reader.ts'

/** Contents gather up to so much before they are written. */
const WRITE_BYTES = 4 * 1024 * 1024

export async function readArchive(
  to: {
    readonly upload: Upload
    readonly leftOut: LeftOut
    readonly progress: FileProgress
    readonly spool: Spool
  },
  source: AsyncIterable<Uint8Array>,
): Promise<Entry> {
  const { upload, leftOut, progress, spool } = to
  const root: Folder = new Map()
  let count = 0
  for await (const { item, body } of readTar(openArchive(source))) {
    const segments = segmentsOf(item.path)
    const relative = segments.join('/')
    if (++count > IMAGE_ENTRIES_MAX)
      throw new MeshError('MESH0211', `the archive has more than ${IMAGE_ENTRIES_MAX} entries`)
    if (isOfSystem(relative)) {
      leftOut.add('system', relative)
      continue
    }
    const name = segments.pop()
    if (name === undefined) continue // the root itself
    const folder = folderAt(root, segments, item.path)
    switch (item.kind) {
      case 'dir':
        if (!(folder.get(name) instanceof Map)) folder.set(name, new Map())
        break
      case 'symlink':
        folder.set(name, { kind: 'symlink', target: targetOf(item) })
        break
      case 'hardlink':
        folder.set(name, linkedEntry(root, item))
        break
      case 'other':
        leftOut.add('device', relative)
        break
      case 'file': {
        const { blob, executable } = { blob: await spool.add(body), executable: item.executable }
        upload.add(blob)
        await progress.add(item.size)
        folder.set(name, { kind: 'file', ...blob.ref, executable })
      }
    }
  }
  await spool.flush()
  if (root.size === 0) throw new MeshError('MESH0207', 'the archive is empty')
  return encodeFolder(upload, root)
}

/** Throws MESH0207 for a path that climbs out, or has what no tree holds. */
function segmentsOf(path: string): string[] {
  const segments = path.split('/').filter((segment) => segment !== '' && segment !== '.')
  if (segments.length > TREE_DEPTH_MAX || !segments.every(isSegment))
    throw new MeshError(
      'MESH0207',
      `the archive has the path ${JSON.stringify(path.slice(0, 200))}, which no image may have`,
    )
  return segments
}

/** Folders that an archive leaves out are made. What is no folder is not gone through, whatever it points to. */
function folderAt(root: Folder, segments: readonly string[], path: string): Folder {
  let folder = root
  for (const segment of segments) {
    const below = folder.get(segment) ?? new Map<string, Entry | Folder>()
    if (!(below instanceof Map))
      throw new MeshError(
        'MESH0207',
        `the archive has ${JSON.stringify(path.slice(0, 200))} below ${JSON.stringify(segment)}, which is a ${below.kind === 'symlink' ? 'symbolic link' : 'file'} in it`,
      )
    folder.set(segment, below)
    folder = below
  }
  return folder
}

function targetOf({ path, target }: TarItem): string {
  if (target === '' || Buffer.byteLength(target) > TARGET_BYTES_MAX || target.includes('\0'))
    throw new MeshError(
      'MESH0207',
      `the link ${JSON.stringify(path)} has no target that a tree holds`,
    )
  return target
}

/** A hard link becomes an equal file. */
function linkedEntry(root: Folder, { path, target }: TarItem): Entry {
  const segments = segmentsOf(target)
  const name = segments.pop() ?? ''
  const found = folderAt(root, segments, target).get(name)
  if (found === undefined || found instanceof Map)
    throw new MeshError(
      'MESH0207',
      `${JSON.stringify(path)} is a hard link to ${JSON.stringify(target)}, which does not come before it`,
    )
  return found
}

/** Contents of many files in one nameless file. Dispose of it when they have been sent. */
export class Spool implements Disposable {
  readonly #file: number
  #pieces: Uint8Array[] = []
  #gatheredBytes = 0
  #writtenBytes = 0

  constructor() {
    const directory = mkdtempSync(join(tmpdir(), 'mesh-image-'))
    const path = join(directory, 'contents')
    this.#file = openSync(path, 'wx+', 0o600)
    unlinkSync(path)
    rmdirSync(directory)
  }

  /** Throws MESH0211 beyond what an image may have. */
  async add(body: AsyncIterable<Uint8Array>): Promise<Parameters<Upload['add']>[0]> {
    const at = this.#writtenBytes + this.#gatheredBytes
    const hasher = new Hasher()
    for await (const piece of body) {
      hasher.update(piece)
      this.#pieces.push(Buffer.from(piece))
      this.#gatheredBytes += piece.byteLength
      if (this.#writtenBytes + this.#gatheredBytes > IMAGE_BYTES_MAX)
        throw new MeshError('MESH0211', `the image is larger than ${formatSize(IMAGE_BYTES_MAX)}`)
      if (this.#gatheredBytes >= WRITE_BYTES) await this.flush()
    }
    const size = this.#writtenBytes + this.#gatheredBytes - at
    const ref = { digest: hasher.digest(), size }
    return { ref, open: () => this.#read(at, size) }
  }

  async flush(): Promise<void> {
    const pieces = this.#pieces
    const at = this.#writtenBytes
    this.#writtenBytes += this.#gatheredBytes
    this.#pieces = []
    this.#gatheredBytes = 0
    await writeAllAt(this.#file, pieces, at)
  }

  async *#read(from: number, size: number): AsyncGenerator<Uint8Array> {
    for (let at = from; at < from + size;) {
      const buffer = Buffer.allocUnsafe(Math.min(PIECE_BYTES, from + size - at))
      const count = await readAt(this.#file, buffer, at)
      if (count === 0) throw new MeshError('MESH0207', 'contents of the archive were lost')
      at += count
      yield buffer.subarray(0, count)
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#file)
  }
}

/** The bytes of the archive at `path`. */
export const archiveAt = (path: string): AsyncIterable<Uint8Array> => createReadStream(path)
