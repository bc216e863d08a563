/**
 * Looks at a running build now and then for what nothing tells of by itself: how much disk it takes, how
 * large its outputs have become, and whether it was refused a process.
 */
import type { Clock, Timer } from '../base/clock.ts'
import { messageOf } from '../base/errors.ts'
import { readDiskUse, type DiskUse } from './disk-use.ts'
import type { BuildEnd } from './executor-protocol.ts'
import type { BuildGroup } from './groups/build-group.ts'

/** From the end of one look to the next. */
const LOOK_MS = 1000
/** Looking takes at most this part of the time, however many files there are. */
const LOOK_SHARE = 0.1

interface WatchedLimits {
  readonly processesMax: number
  readonly maxOutputBytes?: number | undefined
  readonly diskBytes?: number | undefined
}

export class BuildWatch {
  readonly #clock: Clock
  readonly #directory: string
  readonly #group: BuildGroup
  readonly #limits: () => WatchedLimits
  readonly #onEnd: (end: BuildEnd) => void
  #timer: Timer | undefined
  #isOver = false

  /** `limits` is asked at each look; `onEnd` is called with the limit that was reached. */
  constructor(
    deps: { readonly clock: Clock; readonly group: BuildGroup },
    directory: string,
    limits: () => WatchedLimits,
    onEnd: (end: BuildEnd) => void,
  ) {
    this.#clock = deps.clock
    this.#group = deps.group
    this.#directory = directory
    this.#limits = limits
    this.#onEnd = onEnd
  }

  start(): void {
    this.#arm(LOOK_MS)
  }

  /** The last look, once no process of the build is alive: what it took, and the limit that it reached unseen. */
  async finish(): Promise<{ readonly use: DiskUse; readonly end: BuildEnd | undefined }> {
    this.#isOver = true
    this.#timer?.cancel()
    const use = await readDiskUse(this.#directory)
    return { use, end: this.#judge(use) }
  }

  #arm(delayMs: number): void {
    if (!this.#isOver) this.#timer = this.#clock.setTimer(delayMs, () => void this.#look())
  }

  async #look(): Promise<void> {
    const beganAtMs = this.#clock.nowMs()
    try {
      const use = await readDiskUse(this.#directory, () => this.#isOver)
      const end = this.#judge(use)
      if (this.#isOver) return
      if (end !== undefined) return this.#onEnd(end)
    } catch (error) {
      if (!this.#isOver)
        this.#onEnd({ kind: 'infrastructure', message: `looking at its disk: ${messageOf(error)}` })
      return
    }
    this.#arm(Math.max(LOOK_MS, (this.#clock.nowMs() - beganAtMs) / LOOK_SHARE))
  }

  /** A refused process counts also where the build got by without it: it would not everywhere. */
  #judge({ bytes, outputBytes }: DiskUse): BuildEnd | undefined {
    const { processesMax, maxOutputBytes, diskBytes } = this.#limits()
    if (this.#group.refused > 0) return { kind: 'limit', limit: 'processes', value: processesMax }
    if (maxOutputBytes !== undefined && outputBytes > maxOutputBytes)
      return { kind: 'limit', limit: 'output', value: maxOutputBytes }
    if (diskBytes !== undefined && Math.max(bytes, outputBytes) > diskBytes)
      return { kind: 'limit', limit: 'disk', value: diskBytes }
    return undefined
  }
}
