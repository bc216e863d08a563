/** `[[worker.image]]`: root file systems of this machine that builds may have. */
import { isAbsolute } from 'node:path'
import { z } from 'zod'
import { ImageName, System } from '../../wire/names.ts'

const DECLARED_MAX = 16

const DeclaredImage = z.strictObject({
  name: ImageName.describe('what derivations call it'),
  path: z
    .string()
    .max(4096)
    .refine((path) => isAbsolute(path) && !path.includes('\0'), 'expected an absolute path')
    .describe('directory that is its root'),
  system: System.optional().describe('what its programs run on (default: found by looking)'),
  publish: z
    .boolean('expected true or false')
    .default(true)
    .describe('give it its name in the whole mesh, unless another image has that'),
})
export type DeclaredImage = z.infer<typeof DeclaredImage>

export const DeclaredImages = z
  .array(DeclaredImage)
  .max(DECLARED_MAX)
  .refine(
    (images) => new Set(images.map(({ name }) => name)).size === images.length,
    'two images have one name',
  )
  .default([])
  .describe('images that this node has at hand')

/** Keys of one, for hints. */
export const IMAGE_KEYS: readonly string[] = Object.keys(DeclaredImage.shape)
