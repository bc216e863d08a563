/** What is told of an image beside its tree: found by looking into it. */
import { MeshError } from '../../base/errors.ts'
import type { ImageOrder } from '../../wire/images.ts'
import type { Entry } from '../../wire/tree.ts'
import type { ReadBlob } from '../lay-out.ts'
import { Inside } from './inside.ts'
import { recognise } from './recognise.ts'

export type Described = Pick<
  ImageOrder,
  'digest' | 'size' | 'system' | 'label' | 'sizeBytes' | 'fileCount'
>

/** `system`: as somebody says. Throws MESH0203 where it is not to be found out, MESH0207 for what is no directory. */
export async function describeImage(
  read: ReadBlob,
  entry: Entry,
  system: string | undefined,
): Promise<Described> {
  if (entry.kind !== 'dir') throw new MeshError('MESH0207', 'an image is a directory')
  const inside = new Inside(read, entry)
  const found = await recognise(inside)
  const known = system ?? found.system
  if (known === undefined)
    throw new MeshError(
      'MESH0203',
      'the image has no program that tells what system it is for (looked for /bin/sh and others)',
      { hints: ['say it: --system x86_64-linux', 'a layer without programs: --system any'] },
    )
  const { digest, size } = entry
  return { digest, size, system: known, label: found.label, ...(await inside.measure()) }
}
