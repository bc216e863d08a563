/** What can be kept from eviction: a file, or a directory with everything in it. */
import { z } from 'zod'
import { DigestHex, Size } from '../../wire/digest.ts'

export const KeptEntry = z.object({
  digest: DigestHex,
  size: Size,
  kind: z.enum(['file', 'dir']),
})
/** Any entry of a tree but a symbolic link is one. */
export type KeptEntry = z.infer<typeof KeptEntry>
