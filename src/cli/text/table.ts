/** Tables on stdout: upper-case headers, two spaces between columns, no borders, numbers to the right. */
import { displayWidth, padEnd, padStart, printableLine, truncate, type Style } from './style.ts'

export interface Column<Row> {
  readonly header: string
  readonly cell: (row: Row) => string
  readonly align?: 'right'
  /** Left out where the lines would be wider than the terminal, the highest number first; one without it stays. */
  readonly spare?: number
}

export interface TableOptions {
  readonly style: Style
  /** Columns of the terminal; undefined: nothing is cut off. */
  readonly width?: number | undefined
}

/** Of the last column, which is cut off where it is longer, so much has to fit before spare columns go. */
const LAST_WIDTH_MIN = 24

/** Lines without a newline. Columns whose cells are all empty are left out. */
export function table<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  options: TableOptions,
): string[] {
  const all = columns
    .map((column) => ({ column, cells: rows.map((row) => printableLine(column.cell(row))) }))
    .filter(({ cells }) => rows.length === 0 || cells.some((cell) => cell !== ''))
    .map(({ column, cells }) => ({
      spare: column.spare ?? 0,
      cells: [column.header, ...cells],
      pad: column.align === 'right' ? padStart : padEnd,
      width: [column.header, ...cells].reduce(
        (most, cell) => Math.max(most, displayWidth(cell)),
        0,
      ),
    }))
  const used = fitting(all, options.width)
  return Array.from({ length: rows.length + 1 }, (_, at) => {
    const line = used
      .map(({ cells, pad, width }) => pad(cells[at] ?? '', width))
      .join('  ')
      .trimEnd()
    return options.width === undefined ? line : truncate(options.style, line, options.width)
  })
}

interface Sized {
  readonly width: number
  readonly spare: number
}

/** Without the spare columns that do not fit. */
function fitting<T extends Sized>(columns: readonly T[], width: number | undefined): readonly T[] {
  if (width === undefined) return columns
  let kept = columns
  for (;;) {
    const needed = kept.reduce(
      (sum, column, at) =>
        sum + (at === kept.length - 1 ? Math.min(column.width, LAST_WIDTH_MIN) : column.width + 2),
      0,
    )
    const spare = kept.reduce((most, column) => Math.max(most, column.spare), 0)
    if (needed <= width || spare === 0) return kept
    kept = kept.filter((column) => column.spare !== spare)
  }
}
