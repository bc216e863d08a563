/**
 * How much room there is: what is stored and reserved against the quota, and what is free on the disk
 * against the floor. Free space is asked for rarely and estimated in between, so that a put costs additions.
 *
 * Being full is a state, not an error: it begins when removing what may go did not help, and ends well
 * below the mark at which it began, so that it does not flicker.
 */
import { MeshError } from '../../base/errors.ts'
import { formatSize } from '../../base/units.ts'
import type { DiskSpace } from '../disk.ts'
import { Listeners } from './listeners.ts'

/** Shares of the quota: above the high water removing begins, and ends at the low water. */
const HIGH_WATER = 0.9
const LOW_WATER = 0.8
/** A full store is not full any more below this share of the quota ... */
const QUOTA_RELIEF = 0.85
/** ... and above this multiple of the floor, which is also what removing aims at. */
const FLOOR_RELIEF = 1.1

/** The floor when none is set: the greater of a share of the disk and 10 GiB, but of small disks not most. */
const FLOOR_SHARE = 0.05
const FLOOR_BYTES = 10 * 1024 ** 3
const FLOOR_SHARE_MAX = 0.25

export interface Space {
  /** When full, the node should take no new work; what runs may still store its results. */
  readonly state: 'ok' | 'full'
  readonly usedBytes: number
  /** By what is being written. */
  readonly reservedBytes: number
  readonly quotaBytes: number | undefined
  readonly freeBytes: number
  readonly floorBytes: number
  /** What could be removed, as of the last look at all blobs; 0 before the first. */
  readonly freeableBytes: number
}

export interface SpaceLimits {
  /** Most that blobs, executable copies and partial blobs may have together. */
  readonly quotaBytes?: number | undefined
  /** What is left free on the disk; by default the greater of 5 % and 10 GiB, at most a quarter. */
  readonly floorBytes?: number | undefined
}

export interface Reservation extends Disposable {
  grow(bytes: number): void
}

/** What should be removed: bytes over the high water of the quota, and bytes under the floor of the disk. */
export interface Pressure {
  readonly quotaBytes: number
  readonly floorBytes: number
}

export class SpaceMeter {
  readonly #measure: () => Promise<DiskSpace>
  readonly #stored: () => number
  readonly #limits: SpaceLimits
  readonly changes = new Listeners<Space>()
  #disk: DiskSpace
  /** Written since the disk was measured. */
  #writtenBytes = 0
  #reservedBytes = 0
  #state: Space['state'] = 'ok'
  freeableBytes = 0

  constructor(
    deps: {
      readonly measure: () => Promise<DiskSpace>
      /** Bytes that are stored now. */
      readonly stored: () => number
    },
    limits: SpaceLimits & { readonly disk: DiskSpace },
  ) {
    this.#measure = deps.measure
    this.#stored = deps.stored
    this.#limits = limits
    this.#disk = limits.disk
  }

  space(): Space {
    return {
      state: this.#state,
      usedBytes: this.#stored(),
      reservedBytes: this.#reservedBytes,
      quotaBytes: this.#limits.quotaBytes,
      freeBytes: this.#freeBytes,
      floorBytes: this.#floorBytes,
      freeableBytes: this.freeableBytes,
    }
  }

  async refresh(): Promise<void> {
    const writtenBytes = this.#writtenBytes
    this.#disk = await this.#measure()
    this.#writtenBytes -= writtenBytes
  }

  wrote(bytes: number): void {
    this.#writtenBytes += bytes
  }

  /** Counts as used, from now until it is disposed of. */
  reserve(sizeBytes: number): Reservation {
    let bytes = sizeBytes
    this.#reservedBytes += bytes
    return {
      grow: (more) => {
        bytes += more
        this.#reservedBytes += more
      },
      [Symbol.dispose]: () => {
        this.#reservedBytes -= bytes
        bytes = 0
      },
    }
  }

  pressure(): Pressure {
    const { quotaBytes = Infinity } = this.#limits
    const claimed = this.#stored() + this.#reservedBytes
    const left = this.#freeBytes - this.#reservedBytes
    return {
      quotaBytes:
        claimed > quotaBytes * HIGH_WATER ? Math.ceil(claimed - quotaBytes * LOW_WATER) : 0,
      floorBytes: left < this.#floorBytes ? Math.ceil(this.#floorBytes * FLOOR_RELIEF - left) : 0,
    }
  }

  /** Whether what is reserved does not fit into the quota, or not on the disk. */
  isOver(): boolean {
    const { quotaBytes = Infinity } = this.#limits
    return (
      this.#stored() + this.#reservedBytes > quotaBytes || this.#freeBytes < this.#reservedBytes
    )
  }

  /** MESH0503 with the numbers. */
  error(where: string): MeshError {
    const { usedBytes, reservedBytes, quotaBytes, freeBytes, freeableBytes } = this.space()
    const quota = quotaBytes === undefined ? '' : ` of its quota of ${formatSize(quotaBytes)}`
    return new MeshError(
      'MESH0503',
      `${where} has ${formatSize(freeBytes)} free and holds ${formatSize(usedBytes)}${quota}; ${formatSize(reservedBytes)} are being written, ${formatSize(freeableBytes)} can be freed`,
      {
        where,
        hints: [
          'free disk space or raise the quota; what is pinned or needed by jobs is not removed',
        ],
      },
    )
  }

  /** Decides between ok and full. To be called when all has been tried. */
  async decide(): Promise<void> {
    const { quotaBytes = Infinity } = this.#limits
    const isFull = this.#state === 'full'
    const claimed = this.#stored() + this.#reservedBytes
    const left = this.#freeBytes - this.#reservedBytes
    const state =
      claimed > quotaBytes * (isFull ? QUOTA_RELIEF : HIGH_WATER) ||
      left < this.#floorBytes * (isFull ? FLOOR_RELIEF : 1)
        ? 'full'
        : 'ok'
    if (state === this.#state) return
    this.#state = state
    await this.changes.tell(this.space())
  }

  get #freeBytes(): number {
    return Math.max(0, this.#disk.freeBytes - this.#writtenBytes)
  }

  get #floorBytes(): number {
    const { totalBytes } = this.#disk
    return (
      this.#limits.floorBytes ??
      Math.floor(
        Math.min(Math.max(totalBytes * FLOOR_SHARE, FLOOR_BYTES), totalBytes * FLOOR_SHARE_MAX),
      )
    )
  }
}
