/** The matrix of `mesh why`: a row for each requirement, a column for each node or kind of nodes. Pure. */
import type { Verdict, Why } from '../wire/api.ts'
import { plural } from '../base/units.ts'
import { displayWidth, padEnd, paint, printableLine, type Style, type Tone } from './text/style.ts'

/** With more nodes than this, those that are alike share a column. */
const NODES_APART_MAX = 12
/** Where no terminal says how wide it is. */
const WIDTH_DEFAULT = 80
const INDENT = '  '
const BETWEEN = '  '
/** Of a name in a column's title. */
const TITLE_MAX = 32
const TAIL = 5

interface Column {
  readonly title: string
  readonly verdicts: readonly Verdict[]
}

export interface MatrixOptions {
  readonly style: Style
  readonly width?: number | undefined
}

/** Columns that the terminal has no room for follow below. */
export function matrixLines(why: Why, { style, width = WIDTH_DEFAULT }: MatrixOptions): string[] {
  const columns = columnsOf(why)
  const rows = rowsOf(why, columns)
  const labels = ['requirement', ...rows.map(({ label }) => label)]
  const labelWidth = Math.max(...labels.map(displayWidth))
  const drawn = columns.map(({ title, verdicts }) => {
    const cells = rows.map(({ requirement }) =>
      cellOf(verdicts.find((verdict) => verdict.requirement === requirement)),
    )
    const texts = [title, ...cells.map(({ text }) => text)]
    return { title, cells, width: Math.max(...texts.map(displayWidth)) }
  })
  const lines: string[] = []
  for (const block of blocksOf(drawn, width - INDENT.length - labelWidth)) {
    if (lines.length > 0) lines.push('')
    for (const [at, label] of labels.entries()) {
      let line = INDENT + padEnd(label, labelWidth)
      for (const column of block) {
        const cell = at === 0 ? { text: column.title, tone: undefined } : column.cells[at - 1]
        const padding = ' '.repeat(Math.max(0, column.width - displayWidth(cell?.text ?? '')))
        line += BETWEEN + painted(style, cell) + padding
      }
      lines.push(line.trimEnd())
    }
  }
  return lines
}

interface Drawn {
  readonly title: string
  readonly cells: readonly Cell[]
  readonly width: number
}

/** As many columns as fit beside the labels, at least one, in each block. */
function blocksOf(columns: readonly Drawn[], room: number): Drawn[][] {
  const blocks: Drawn[][] = []
  let left = 0
  for (const column of columns) {
    const width = BETWEEN.length + column.width
    const block = blocks.at(-1)
    if (block === undefined || width > left) {
      blocks.push([column])
      left = room - width
    } else {
      block.push(column)
      left -= width
    }
  }
  return blocks
}

function columnsOf({ nodes, groups, nodeCount = nodes.length }: Why): Column[] {
  if (groups !== undefined && (nodeCount > NODES_APART_MAX || nodes.length < nodeCount))
    return groups.map(({ title, count, verdicts }) => ({
      title: count === 1 ? shortened(title) : `${shortened(title)} (${plural(count, 'node')})`,
      verdicts,
    }))
  return nodes.map((node) => ({ title: titleOf(node, nodes), verdicts: node.verdicts }))
}

/** Two nodes may have one name: then the end of the peer id tells them apart. */
function titleOf(node: Why['nodes'][number], nodes: Why['nodes']): string {
  const isUnique = nodes.every((other) => other === node || other.node !== node.node)
  return isUnique || node.peerId === undefined
    ? shortened(node.node)
    : `${shortened(node.node)} …${node.peerId.slice(-TAIL)}`
}

function shortened(name: string): string {
  const clean = printableLine(name)
  return clean.length <= TITLE_MAX ? clean : `${clean.slice(0, TITLE_MAX - 1)}~`
}

/** The requirements that are worth a row. A daemon of an older version leaves the choice to us. */
function rowsOf(
  why: Why,
  columns: readonly Column[],
): { readonly requirement: string; readonly label: string }[] {
  const all = columns.flatMap(({ verdicts }) => verdicts)
  const names = why.rows ?? [
    ...new Set(
      [...all.map(({ requirement }) => requirement), 'state'].filter((name) => name !== 'state'),
    ),
    'state',
  ]
  return names.flatMap((requirement) => {
    const verdict = all.find((one) => one.requirement === requirement)
    return verdict === undefined ? [] : [{ requirement, label: labelOf(verdict) }]
  })
}

/** `memory >= 32 GiB`. */
export function labelOf({ requirement, req, want }: Verdict): string {
  return printableLine(req ?? (requirement === 'state' ? requirement : `${requirement} ${want}`))
}

interface Cell {
  readonly text: string
  readonly tone: Tone | undefined
}

/** `yes`; `no` for what time may cure, `NO` for what it cannot, with what is there; `no*` for what a note explains. */
function cellOf(verdict: Verdict | undefined): Cell {
  if (verdict === undefined) return { text: '-', tone: 'dim' }
  const have = printableLine(withoutUnit(verdict.brief ?? verdict.have, verdict.want))
  if (verdict.requirement === 'state') return { text: have, tone: verdict.ok ? undefined : 'warn' }
  if (verdict.ok) return { text: 'yes', tone: 'good' }
  if (verdict.cross !== undefined) return { text: 'no*', tone: 'warn' }
  const isPlain = have === '' || have === 'no'
  return verdict.permanent
    ? { text: isPlain ? 'NO' : `NO ${have}`, tone: 'bad' }
    : { text: isPlain ? 'no' : `no ${have}`, tone: 'warn' }
}

/** A unit that the row names already is left out: `16` beside `>= 32 GiB`. */
function withoutUnit(amount: string, want: string): string {
  const [, number, unit] = /^(<?=?[\d.]+) ([KMGT]?i?B)$/.exec(amount) ?? []
  return number !== undefined && unit !== undefined && want.endsWith(` ${unit}`) ? number : amount
}

const painted = (style: Style, cell: Cell | undefined): string =>
  cell === undefined ? '' : cell.tone === undefined ? cell.text : paint(style, cell.tone, cell.text)
