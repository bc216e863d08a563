/** What `mesh du`, `mesh gc` and `mesh pin` print: pure functions from answers to lines. */
import { formatDuration, formatSize, plural } from '../base/units.ts'
import { cidOf } from '../wire/digest.ts'
import type { GcReport, Pin, Space, Storage, StorageClass } from '../wire/storage.ts'
import type { ViewOptions } from './query-views.ts'
import { paint, padStart, printableLine, type Style } from './text/style.ts'
import { table } from './text/table.ts'

const MEANINGS: Readonly<Record<StorageClass, string>> = {
  pinned: 'kept until it is unpinned',
  leased: 'needed by jobs and requests',
  recent: 'used within the last hour',
  idle: 'goes first when room is needed',
  partial: 'on its way in; resumed later',
  executables: 'executable copies for builds',
  trash: 'being removed',
}
const BAR_COLUMNS = 28

/** How full it is, a bar for each class, and what to do when it is full. */
export function storageLines(storage: Storage, style: Style): string[] {
  const { space, classes } = storage
  const total = Math.max(1, space.quotaBytes ?? space.usedBytes)
  const rows = Object.entries(classes).filter(([, { count }]) => count > 0)
  const lines = [
    `${paint(style, 'strong', printableLine(storage.node))}  ${printableLine(storage.directory)}`,
    `  ${spaceText(space)}`,
  ]
  for (const [name, { count, bytes }] of Object.entries(classes)) {
    if (count === 0 && rows.length > 0) continue
    lines.push(
      `  ${name.padEnd(11)} ${bar(style, bytes / total)} ${padStart(formatSize(bytes), 9)}  ${padStart(plural(count, 'blob'), 12)}  ${MEANINGS[isClass(name) ? name : 'idle']}`,
    )
  }
  if (space.state === 'full')
    lines.push(
      `${paint(style, 'bad', '!')} full: this node takes no new jobs until ${formatSize(space.floorBytes)} are free; mesh gc frees ${formatSize(classes.idle.bytes)}`,
    )
  return lines
}

function isClass(name: string): name is StorageClass {
  return Object.hasOwn(MEANINGS, name)
}

function spaceText({ usedBytes, reservedBytes, quotaBytes, freeBytes, floorBytes }: Space): string {
  const of = quotaBytes === null ? '' : ` of ${formatSize(quotaBytes)}`
  const coming = reservedBytes === 0 ? '' : `, ${formatSize(reservedBytes)} on its way in`
  return `${formatSize(usedBytes)}${of} used${coming}; ${formatSize(freeBytes)} free on the disk, ${formatSize(floorBytes)} of it kept free`
}

function bar(style: Style, share: number): string {
  const full = Math.min(BAR_COLUMNS, Math.round(share * BAR_COLUMNS))
  const [mark, rest] = style.unicode ? ['█', '░'] : ['#', '.']
  return paint(style, 'dim', mark.repeat(full) + rest.repeat(BAR_COLUMNS - full))
}

export function gcLines(report: GcReport): string[] {
  const { evicted, shortBytes, classes, dryRun, space } = report
  const verb = dryRun ? 'would free' : 'freed'
  const stays = Object.entries(classes)
    .filter(([name, { count }]) => name !== 'idle' && count > 0)
    .map(([name, { bytes }]) => `${formatSize(bytes)} ${name}`)
  const short = shortBytes === 0 ? '' : `, ${formatSize(shortBytes)} less than needed`
  return [
    `${verb} ${formatSize(evicted.bytes)} (${plural(evicted.count, 'blob')})${short}`,
    ...(stays.length === 0 ? [] : [`stays: ${stays.join(', ')}`]),
    spaceText(space),
  ]
}

export function pinLines(pins: readonly Pin[], options: ViewOptions): string[] {
  return table(
    [
      { header: 'KIND', cell: ({ kind }) => kind },
      {
        header: 'SIZE',
        align: 'right',
        cell: ({ kind, size }) => (kind === 'dir' ? '-' : formatSize(size)),
      },
      {
        header: 'AGE',
        align: 'right',
        cell: ({ atWall }) => formatDuration(options.nowWallMs - Date.parse(atWall)),
      },
      {
        header: 'CID',
        cell: ({ digest, kind }) => cidOf(digest, kind === 'dir' ? 'object' : 'raw'),
      },
      { header: 'LABEL', cell: ({ label }) => label },
    ],
    pins,
    options,
  )
}
