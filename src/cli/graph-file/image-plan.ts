/**
 * The image of a derivation and its variants on their way from the file to the graph: references checked
 * against what the file says of isolation, names looked up at the mesh, directories taken in.
 */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { hasCode, MeshError } from '../../base/errors.ts'
import type { InputRef } from '../../wire/derivation.ts'
import type { ImageView } from '../../wire/images.ts'
import type { Entry } from '../../wire/tree.ts'
import { LeftOut } from '../../files/image/left-out.ts'
import { readDirectory } from '../../files/image/read-directory.ts'
import type { Upload } from '../upload.ts'
import type { ImageNeed, IsolationNeed, Layer } from './image-description.ts'
import type { Path } from './located.ts'

export type PlannedLayer =
  | {
      readonly kind: 'output'
      readonly derivation: string
      readonly output: string
      readonly path: Path
    }
  | { readonly kind: 'image'; readonly name: string; readonly path: Path }
  | {
      readonly kind: 'tree'
      readonly at: { readonly path: string } | { readonly cid: string }
      readonly path: Path
    }

/** What the file says, in the words of the plan; `reference` reads `DERIVATION.OUTPUT`. */
export function planLayers(
  need: ImageNeed,
  path: Path,
  reference: (text: string) => { readonly derivation: string; readonly output: string },
): PlannedLayer[] {
  const layer = (given: Layer, at: Path): PlannedLayer => {
    if (typeof given === 'string') return { kind: 'image', name: given, path: at }
    if ('output' in given)
      return { kind: 'output', ...reference(given.output), path: [...at, 'output'] }
    return { kind: 'tree', at: given, path: at }
  }
  return Array.isArray(need)
    ? need.map((given, index) => layer(given, [...path, index]))
    : [layer(need, path)]
}

/** What a derivation says of its walls, each as written: undefined where it is silent. */
export interface WallsAsked {
  readonly isolation: IsolationNeed | undefined
  readonly sealed: boolean | undefined
  readonly image: readonly PlannedLayer[] | undefined
  readonly variantImages: readonly (readonly PlannedLayer[] | undefined)[]
}

/** Whether it is built sealed; `problem` where what it says contradicts itself, with the key that is wrong. */
export function wallsOf({
  isolation,
  sealed,
  image,
  variantImages,
}: WallsAsked):
  | { readonly sealed: boolean }
  | { readonly problem: string; readonly key: 'isolation' | 'image' } {
  const images = [image, ...variantImages].filter((layers) => layers !== undefined)
  const hasImage = images.some((layers) => layers.length > 0)
  if (isolation === 'host' && hasImage)
    return {
      problem: 'isolation = "host" means the machine as it is, and an image takes its place',
      key: 'isolation',
    }
  if (isolation === 'host' && sealed === true)
    return {
      problem: 'isolation = "host" has no walls, and sealed = true asks for some',
      key: 'isolation',
    }
  if (isolation === 'image' && (image ?? []).length === 0 && !everyVariantHasOne(variantImages))
    return { problem: 'isolation = "image" needs an image: image = "NAME"', key: 'isolation' }
  if (isolation === 'image' && variantImages.some((layers) => layers?.length === 0))
    return {
      problem: 'isolation = "image", and a block of "when" has image = []: the host\'s own tools',
      key: 'isolation',
    }
  if ((isolation === 'namespace' || isolation === 'image') && sealed === false)
    return {
      problem: `isolation = "${isolation}" is sealed, and sealed = false says that it need not be`,
      key: 'isolation',
    }
  if (hasImage && sealed === false)
    return {
      problem: 'a build in an image is sealed, and sealed = false says that it need not be',
      key: 'image',
    }
  return { sealed: isolation === 'host' ? false : (sealed ?? true) }
}

const everyVariantHasOne = (images: WallsAsked['variantImages']): boolean =>
  images.length > 0 && images.every((layers) => layers !== undefined && layers.length > 0)

export interface LayerContext {
  /** What relative paths are relative to. */
  readonly directory: string
  readonly upload: Upload
  readonly entryOfCid: (cid: string) => Promise<Entry>
  /** Throws MESH0601 for a name that no image has. */
  readonly imageOf: (name: string) => Promise<ImageView>
}

/** A layer with its tree, and the system of a named one. */
export async function readLayer(
  context: LayerContext,
  layer: PlannedLayer,
): Promise<{ readonly ref: InputRef; readonly system: string | undefined }> {
  if (layer.kind === 'output') {
    const { derivation, output } = layer
    return { ref: { kind: 'output', derivation, output }, system: undefined }
  }
  if (layer.kind === 'image') {
    const { digest, size, system } = await context.imageOf(layer.name)
    return { ref: { kind: 'entry', entry: { kind: 'dir', digest, size } }, system }
  }
  const { at } = layer
  const entry = 'cid' in at ? await context.entryOfCid(at.cid) : await readPath(context, at.path)
  return { ref: { kind: 'entry', entry }, system: undefined }
}

async function readPath({ directory, upload }: LayerContext, path: string): Promise<Entry> {
  const full = resolve(directory, path)
  try {
    if (!statSync(full).isDirectory())
      throw new MeshError('MESH0203', `${path} is no directory`, {
        hints: [`an archive is put first: mesh image put NAME ${path}`],
      })
  } catch (error) {
    if (!hasCode(error, 'ENOENT', 'ENOTDIR')) throw error
    throw new MeshError('MESH0205', `${path} does not exist (looked in ${directory})`, {
      cause: error,
    })
  }
  return readDirectory({ sink: upload.sink, leftOut: new LeftOut() }, full, {
    skipsUnreadable: false,
  })
}
