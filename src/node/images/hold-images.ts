/** Carries out what an owner asks about images: to keep just these, as pins, which outlast both of them. */
import type { Clock } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import type { Pins } from '../../store/retention/pins.ts'
import type { Call, Done } from '../../wire/work-messages.ts'

/**
 * Images that `owner` named before and does not name now are let go; pins of people stay as they are. The
 * trees need not be here yet: what comes of them is kept from its first blob on.
 */
export function holdImages(
  deps: {
    readonly clock: Clock
    readonly pins: Pick<Pins, 'list' | 'find' | 'add' | 'remove'>
  },
  { owner, images }: Extract<Call, { method: 'images' }>,
): Done {
  const { clock, pins } = deps
  const suffix = ` for ${owner}`
  const wanted = new Set(images.map(({ digest }) => digest))
  for (const { digest, label } of pins.list())
    if (label.endsWith(suffix) && !wanted.has(digest)) pins.remove(digest)
  try {
    for (const { name, digest, size } of images)
      if (pins.find(digest)?.kind !== 'dir')
        pins.add({
          digest,
          size,
          kind: 'dir',
          label: `image ${name}${suffix}`,
          atWall: new Date(clock.wallMs()).toISOString(),
        })
  } catch (error) {
    // A node may have as many pins as it can hold; the owner then tries another one.
    if (!(error instanceof MeshError)) throw error
    return { ok: false, bytes: 0, message: error.message.slice(0, 4096) }
  }
  return { ok: true, bytes: 0, message: '' }
}
