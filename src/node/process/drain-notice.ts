/** Says while a node drains for what it waits, and for how long at most: at once, and whenever that has changed. */
import type { Clock, Timer } from '../../base/clock.ts'

const LOOK_MS = 1_000
/** Told anew after this, though nothing has changed. */
const AGAIN_MS = 5_000

export interface Draining {
  readonly builds: number
  readonly leftMs: number
}

/** Until it is disposed of, or nothing is left to wait for. */
export function noticeDrain(
  {
    clock,
    running,
    tell,
  }: {
    readonly clock: Clock
    /** Builds that are not over yet. */
    readonly running: () => number
    readonly tell: (text: string, draining: Draining) => void
  },
  { deadlineMs }: { readonly deadlineMs: number },
): Disposable {
  const endsAtMs = clock.nowMs() + deadlineMs
  let timer: Timer | undefined
  let told = 0
  let toldAtMs = 0
  const look = (): void => {
    const nowMs = clock.nowMs()
    const builds = running()
    if (builds === 0) return
    if (builds !== told || nowMs - toldAtMs >= AGAIN_MS) {
      told = builds
      toldAtMs = nowMs
      const leftMs = Math.max(0, endsAtMs - nowMs)
      const what = builds === 1 ? '1 build' : `${builds} builds`
      tell(`waiting for ${what}, ${Math.ceil(leftMs / 1000)} s left`, { builds, leftMs })
    }
    timer = clock.setTimer(LOOK_MS, look)
  }
  look()
  return { [Symbol.dispose]: () => timer?.cancel() }
}
