/** How much of its disk a store gets, and how much is left free. */
import { formatSize } from '../../../base/units.ts'
import type { Disk, Machine } from '../machine.ts'
import { GIB, roundSize, type Proposal } from './proposal.ts'

/** What the store leaves free by itself (store/retention/space.ts). */
const FLOOR_SHARE = 0.05
const FLOOR_BYTES = 10 * GIB
const FLOOR_SHARE_MAX = 0.25
/** Of a disk where somebody's own files grow. */
const OWNER_FLOOR_SHARE = 0.1
const OWNER_FLOOR_BYTES = 20 * GIB

/** Of what is free above the floor, on a disk that others use as well. */
const SHARED_PART = 0.8
const OWNER_PART = 0.4

/** What the store keeps free where nothing else is said. */
export const floorOf = ({ totalBytes }: Disk): number =>
  Math.min(Math.max(totalBytes * FLOOR_SHARE, FLOOR_BYTES), totalBytes * FLOOR_SHARE_MAX)

export function proposeStore({ disk, ownerSigns }: Machine): Proposal[] {
  const hasOwner = ownerSigns.length > 0
  const usual = floorOf(disk)
  const wanted = hasOwner
    ? Math.max(
        usual,
        Math.min(
          Math.max(disk.totalBytes * OWNER_FLOOR_SHARE, OWNER_FLOOR_BYTES),
          disk.totalBytes * FLOOR_SHARE_MAX,
        ),
      )
    : usual
  // Above what is free now the node would never take a job.
  const floor = Math.min(wanted, disk.freeBytes / 2)
  const above = disk.freeBytes - floor
  const free = `${formatSize(disk.freeBytes)} of ${formatSize(disk.totalBytes)} are free`
  return [
    disk.isOwn && !hasOwner
      ? {
          setting: 'store.quota',
          value: 'none',
          reason: `${disk.directory} has a file system of its own: only the floor counts`,
        }
      : {
          setting: 'store.quota',
          value: roundSize(above * (hasOwner ? OWNER_PART : SHARED_PART)),
          reason: `${free}; ${hasOwner ? 'most of it stays for the owner' : 'the rest stays for what shares the disk'}`,
        },
    floor === usual
      ? {
          setting: 'store.free',
          value: 'auto',
          reason: `${formatSize(usual)} of this disk: below it the node takes no jobs`,
        }
      : {
          setting: 'store.free',
          value: roundSize(floor),
          reason:
            floor < wanted
              ? `${free}: with the usual ${formatSize(wanted)} the node would take no jobs`
              : "the owner's own files grow, too",
        },
  ]
}
