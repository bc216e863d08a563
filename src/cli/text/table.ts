/** Tables on stdout: upper-case headers, two spaces between columns, no borders, numbers to the right. */
import { displayWidth, padEnd, padStart, printableLine, truncate, type Style } from './style.ts'

export interface Column<Row> {
  readonly header: string
  readonly cell: (row: Row) => string
  readonly align?: 'right'
}

export interface TableOptions {
  readonly style: Style
  /** Columns of the terminal; undefined: nothing is cut off. */
  readonly width?: number | undefined
}

/** Lines without a newline. Columns whose cells are all empty are left out. */
export function table<Row>(
  columns: readonly Column<Row>[],
  rows: readonly Row[],
  options: TableOptions,
): string[] {
  const used = columns
    .map((column) => ({ column, cells: rows.map((row) => printableLine(column.cell(row))) }))
    .filter(({ cells }) => rows.length === 0 || cells.some((cell) => cell !== ''))
    .map(({ column, cells }) => ({
      cells: [column.header, ...cells],
      pad: column.align === 'right' ? padStart : padEnd,
      width: [column.header, ...cells].reduce(
        (most, cell) => Math.max(most, displayWidth(cell)),
        0,
      ),
    }))
  return Array.from({ length: rows.length + 1 }, (_, at) => {
    const line = used
      .map(({ cells, pad, width }) => pad(cells[at] ?? '', width))
      .join('  ')
      .trimEnd()
    return options.width === undefined ? line : truncate(options.style, line, options.width)
  })
}
