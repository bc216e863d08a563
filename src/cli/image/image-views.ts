/** Images as people see them. */
import { formatSize } from '../../base/units.ts'
import type { ImageView } from '../../wire/images.ts'
import { since, type ViewOptions } from '../query-views.ts'
import { table } from '../text/table.ts'

export function imageLines(images: readonly ImageView[], options: ViewOptions): string[] {
  if (images.length === 0) return ['no image has a name yet: mesh image put NAME PATH']
  return table(
    [
      { header: 'NAME', cell: ({ name }) => name },
      { header: 'SYSTEM', cell: ({ system }) => system },
      { header: 'LABEL', cell: ({ label }) => label, spare: 3 },
      { header: 'SIZE', cell: ({ sizeBytes }) => formatSize(sizeBytes), align: 'right' },
      { header: 'FILES', cell: ({ fileCount }) => String(fileCount), align: 'right', spare: 4 },
      { header: 'V', cell: ({ version }) => String(version), align: 'right', spare: 5 },
      {
        header: 'AGE',
        cell: ({ at }) => since(at, options),
        align: 'right',
        spare: 2,
      },
      {
        header: 'KEPT ON',
        cell: keptOn,
      },
      { header: 'CID', cell: ({ cid }) => cid, spare: 1 },
    ],
    images,
    options,
  )
}

export function imageShowLines(view: ImageView): string[] {
  const rows: readonly (readonly [string, string])[] = [
    ['name', view.name],
    ['cid', view.cid],
    ['system', view.system],
    ['label', view.label],
    ['size', formatSize(view.sizeBytes)],
    ['files', String(view.fileCount)],
    ['version', String(view.version)],
    ['put', `${view.at} by ${view.by}, at ${view.from.name}`],
    ['kept on', keptOn(view)],
    ['used by', `needs.image = "${view.name}" in a derivation, mesh run --image ${view.name}`],
  ]
  return rows.filter(([, value]) => value !== '').map(([key, value]) => `${key.padEnd(9)} ${value}`)
}

const keptOn = ({ stores, problem, from }: ImageView): string =>
  stores.length > 0 ? stores.join(', ') : `${from.name} only: ${problem ?? 'on its way'}`
