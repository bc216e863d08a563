/** `needs.image` as people write it: one layer, or a list of them with the uppermost first. */
import { z } from 'zod'
import { LAYERS_MAX } from '../../wire/derivation.ts'
import { parseCid } from '../../wire/digest.ts'
import { ImageName, text } from '../../wire/names.ts'

/** How strong the walls must be at least. */
export const IsolationNeed = z.enum(['host', 'namespace', 'image'])
export type IsolationNeed = z.infer<typeof IsolationNeed>

const EXPECTED =
  'expected the name of an image, {path = "./rootfs"}, {cid = "bafyrei…"}, {output = "rootfs"}, or a list of those'

/** A tree by its place, its CID, or as what another derivation makes. */
const LayerObject = z.union([
  z.strictObject({ path: text(4096).min(1) }),
  z.strictObject({
    cid: z
      .string()
      .refine((value) => parseCid(value)?.kind === 'object', 'expected a CID of a directory'),
  }),
  z.strictObject({ output: text(256).min(1) }),
])
type LayerObject = z.infer<typeof LayerObject>
const Layer = z.union([ImageName, LayerObject], { error: EXPECTED })
export type Layer = z.infer<typeof Layer>

export const ImageNeed = z.union([Layer, z.array(Layer).max(LAYERS_MAX)], { error: EXPECTED })
export type ImageNeed = z.infer<typeof ImageNeed>
