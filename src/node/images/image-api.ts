/** The part of the owner's API that names images: `/api/images`, see wire/images.ts. */
import { MeshError } from '../../base/errors.ts'
import { nearestOf } from '../../base/nearest.ts'
import type { ImageFact, Images } from '../../scheduler/images.ts'
import { parseWith } from '../../wire/cbor.ts'
import { cidOf } from '../../wire/digest.ts'
import { ImageOrder, IMAGES_MAX, type ImageView, type NamedImage } from '../../wire/images.ts'
import { ImageName } from '../../wire/names.ts'
import type { ApiCall } from '../authority.ts'
import { bodyOf, byOf } from '../owner/lever-api.ts'
import type { ImageKeeper } from './image-keeper.ts'

export interface ImageApiDeps {
  readonly images: Images
  readonly wallMs: () => number
  /** Resolves when the fact is on disk. */
  readonly record: (fact: ImageFact) => Promise<void>
  readonly keeper: Pick<ImageKeeper, 'of'>
  /** Called after each change. */
  readonly onChange: () => void
}

export class ImageApi {
  readonly #deps: ImageApiDeps

  constructor(deps: ImageApiDeps) {
    this.#deps = deps
  }

  list(): ImageView[] {
    return this.#deps.images.list().map((image) => this.#view(image))
  }

  /** Throws MESH0601 with the nearest names. */
  find(name: string): ImageView {
    return this.#view(this.#found(name))
  }

  async put(name: string, call: ApiCall): Promise<ImageView> {
    const { images, wallMs, record, onChange } = this.#deps
    const known = parseWith(ImageName, name, 'name of an image')
    const { isNew = false, ...order } = parseWith(ImageOrder, bodyOf(call), 'image')
    const before = images.find(known)
    if (isNew && before !== undefined && before.digest !== order.digest)
      throw new MeshError(
        'MESH0604',
        `the image ${known} is ${cidOf(before.digest, 'object')} since version ${before.version}, not ${cidOf(order.digest, 'object')}`,
        { hints: [`give it another name, or replace it: mesh image put ${known} PATH`] },
      )
    if (before === undefined && images.size >= IMAGES_MAX)
      throw new MeshError('MESH0211', `${IMAGES_MAX} images have names, and that is the limit`, {
        hints: ['see them: mesh image ls', 'take a name away: mesh image rm NAME'],
      })
    // Said again it is nothing new.
    if (before?.digest !== order.digest || before.system !== order.system) {
      const version = (before?.version ?? 0) + 1
      const by = byOf(call)
      await record({ type: 'image-set', name: known, ...order, version, by, atWall: wallMs() })
    }
    onChange()
    return this.find(known)
  }

  async remove(name: string, call: ApiCall): Promise<ImageView> {
    const { wallMs, record, onChange } = this.#deps
    const view = this.find(name)
    const by = byOf(call)
    await record({ type: 'image-removed', name: view.name, by, atWall: wallMs() })
    onChange()
    return view
  }

  #found(name: string): NamedImage {
    const { images } = this.#deps
    const image = images.find(name)
    if (image !== undefined) return image
    const names = images.list().map((one) => one.name)
    throw new MeshError('MESH0601', `there is no image ${JSON.stringify(name)}`, {
      hints:
        names.length === 0
          ? ['no image has a name yet: mesh image put NAME PATH']
          : [`did you mean ${nearestOf(name, names, 3).join(' or ')}?`, 'list them: mesh image ls'],
    })
  }

  #view(image: NamedImage): ImageView {
    const { atWall, ...rest } = image
    const { stores, problem } = this.#deps.keeper.of(image.digest)
    return {
      name: rest.name,
      digest: rest.digest,
      size: rest.size,
      cid: cidOf(rest.digest, 'object'),
      system: rest.system,
      label: rest.label,
      sizeBytes: rest.sizeBytes,
      fileCount: rest.fileCount,
      from: rest.from,
      version: rest.version,
      by: rest.by,
      at: new Date(atWall).toISOString(),
      stores: [...stores],
      ...(problem === undefined ? {} : { problem }),
    }
  }
}
