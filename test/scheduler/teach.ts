/** What a scheduler would have learnt from earlier runs. */
import type { Derivation } from '../../src/wire/derivation.ts'
import type { World } from './world.ts'

/** As if the derivation had run `count` times, each for so long on a machine of speed 1. */
export function teach(
  world: World,
  derivations: readonly Derivation[],
  durationMs: number,
  options: { readonly count?: number; readonly memoryBytes?: number } = {},
): void {
  for (const derivation of derivations)
    for (let at = 0; at < (options.count ?? 3); at += 1)
      world.scheduler.state.estimates.learn([derivation], {
        kind: 'done',
        durationMs,
        memoryBytes: options.memoryBytes ?? 0,
        diskBytes: 0,
        cpuShare: 1,
      })
}
