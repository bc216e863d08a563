/**
 * What `mesh top` shows, as lines: pure, for a terminal of a given size or for a pipe.
 *
 * Sorted by what people look at: what is wrong, the nodes, what runs, why the rest waits, who uses how much.
 * Where there are too few rows the longest sections give way first, and say how much they leave out.
 */
import type { Top } from '../wire/api.ts'
import { formatDuration, plural } from '../base/units.ts'
import { isGone, restrictionNote, shortPeer, STATE_ORDER } from './node-views.ts'
import { bar, sparkline } from './text/bars.ts'
import { paint, printableLine, truncate, type Style } from './text/style.ts'
import { table } from './text/table.ts'

/** Samples of busy processors that are kept and drawn. */
export const HISTORY_MAX = 60
const BAR_WIDTH = 16
/** What cannot be cured by waiting for a free node. */
const BLOCKING: ReadonlySet<string> = new Set(['unsatisfiable', 'missing', 'unreachable', 'rebind'])

export interface TopOptions {
  readonly style: Style
  /** Columns; undefined for a pipe, where nothing is cut off. */
  readonly width: number | undefined
  /** Rows; undefined: all there is. */
  readonly height: number | undefined
  /** Busy processors, the newest last; at most HISTORY_MAX. */
  readonly history: readonly number[]
  /** What went wrong with asking, while what is shown is older. */
  readonly stale: string | undefined
  /** The last line on a terminal. */
  readonly footer: string | undefined
}

interface Section {
  readonly title: string
  /** The first is the head of a table. */
  readonly lines: readonly string[]
}

export function topLines(top: Top, options: TopOptions): string[] {
  const { style, width } = options
  const cut = (line: string): string => (width === undefined ? line : truncate(style, line, width))
  const head = [...headLines(top, options).map(cut)]
  if (options.stale !== undefined)
    head.push(paint(style, 'bad', cut(`! ${printableLine(options.stale)}`)))
  const problems = problemLines(top)
  const sections: Section[] = [
    { title: '', lines: nodeSection(top, options) },
    { title: 'running', lines: runningSection(top, options) },
    { title: 'waiting', lines: waitingSection(top, options) },
    { title: 'users', lines: userSection(top, options) },
  ].filter(({ lines }) => lines.length > 1)
  const footer = options.footer === undefined ? [] : [paint(style, 'dim', cut(options.footer))]
  const rows =
    options.height === undefined ? Infinity : options.height - head.length - footer.length
  const shownProblems = problems.slice(0, Math.max(1, Math.floor(rows / 4)))
  const lines = [
    ...head,
    ...shownProblems.map((line) => paint(style, 'warn', cut(`! ${line}`))),
    ...laidOut(sections, rows - shownProblems.length, { style, cut }),
  ]
  const filler =
    options.height === undefined || footer.length === 0
      ? []
      : Array.from({ length: Math.max(0, options.height - lines.length - 1) }, () => '')
  return [...lines, ...filler, ...footer].slice(0, options.height)
}

function headLines({ at, name, totals }: Top, { style, history }: TopOptions): string[] {
  const { cpus, jobs, requests, perSecond } = totals
  const states = Object.entries(totals.nodes).filter(([, count]) => count > 0)
  const nodes = states.reduce((sum, [, count]) => sum + count, 0)
  const rate =
    perSecond === undefined
      ? ''
      : `  ${perSecond.started.toFixed(1)} started/s, ${perSecond.ended.toFixed(1)} ended/s`
  const chart = sparkline(style, history, cpus.total)
  return [
    `mesh top  ${printableLine(name)}  ${at.slice(11, 19)} UTC  ${plural(nodes, 'node')}: ${states.map(([state, count]) => `${count} ${state}`).join(', ')}`,
    `cpus   ${bar(style, cpus.busy, cpus.total, BAR_WIDTH)} ${cpus.busy}/${cpus.total}${chart === '' ? '' : `  ${chart}`}`,
    `queue  ${jobs.running} running, ${jobs.waiting} waiting, ${plural(requests.active, 'active request')}${rate}`,
  ]
}

/** Nodes that are gone or locked out, and jobs that no free node would help. */
function problemLines({ nodes, waiting }: Top): string[] {
  const bad = nodes.filter(({ state }) => isGone({ state }) || state === 'quarantined')
  return [
    ...bad.map(
      ({ name, state, note }) =>
        `${printableLine(name)} is ${state}${note === '' ? '' : `: ${printableLine(note)}`}`,
    ),
    ...waiting
      .filter((reason) => BLOCKING.has(reason.class))
      .map(
        ({ count, oldestMs, text }) =>
          `${plural(count, 'job')} cannot start (${formatDuration(oldestMs)}): ${printableLine(text)}`,
      ),
  ]
}

function nodeSection({ nodes }: Top, options: TopOptions): string[] {
  const { style } = options
  const names = nodes.map(({ name }) => name)
  return table(
    [
      {
        header: 'NODE',
        cell: ({ name, peerId }) =>
          names.indexOf(name) === names.lastIndexOf(name) ? name : `${name} (${shortPeer(peerId)})`,
      },
      { header: 'STATE', cell: ({ state }) => state },
      {
        header: 'CPUS',
        align: 'right',
        cell: ({ state, busy, cpus }) => `${isGone({ state }) ? '-' : busy}/${cpus}`,
      },
      {
        header: 'BUSY',
        spare: 1,
        cell: ({ state, busy, cpus }) =>
          isGone({ state }) ? '' : bar(style, busy, cpus, BAR_WIDTH),
      },
      { header: 'JOBS', align: 'right', cell: ({ running }) => String(running) },
      {
        header: 'NOTE',
        cell: ({ state, note, policy }) =>
          [
            ...(note === '' ? [] : [note]),
            ...(isGone({ state }) ? [] : restrictionNote(policy)),
          ].join('; '),
      },
    ],
    nodes.toSorted(
      (a, b) =>
        STATE_ORDER[a.state] - STATE_ORDER[b.state] ||
        b.busy - a.busy ||
        (a.name < b.name ? -1 : 1),
    ),
    options,
  )
}

function runningSection({ running }: Top, options: TopOptions): string[] {
  return table(
    [
      { header: 'RUNNING', cell: ({ job }) => job },
      { header: 'NAME', cell: ({ name }) => name },
      { header: 'PHASE', spare: 1, cell: ({ phase }) => phase },
      { header: 'TIME', align: 'right', cell: ({ forMs }) => formatDuration(forMs) },
      {
        header: 'OF',
        align: 'right',
        cell: ({ estimateMs }) => (estimateMs === null ? '' : `~${formatDuration(estimateMs)}`),
      },
      { header: 'NODE', cell: ({ node }) => node },
      { header: 'BY', spare: 2, cell: ({ user }) => user },
    ],
    running,
    options,
  )
}

function waitingSection({ waiting }: Top, options: TopOptions): string[] {
  return table(
    [
      { header: 'WAITING', align: 'right', cell: ({ count }) => String(count) },
      { header: 'OLDEST', align: 'right', cell: ({ oldestMs }) => formatDuration(oldestMs) },
      { header: 'WHY', cell: ({ text }) => text },
    ],
    waiting,
    options,
  )
}

function userSection({ users }: Top, options: TopOptions): string[] {
  const whole = users.reduce((sum, { runningCpus }) => sum + runningCpus, 0)
  return table(
    [
      { header: 'USER', cell: ({ user }) => user },
      { header: 'GROUP', spare: 2, cell: ({ group }) => group },
      { header: 'CPUS', align: 'right', cell: ({ runningCpus }) => String(round(runningCpus)) },
      {
        header: 'SHARE',
        align: 'right',
        cell: ({ runningCpus }) =>
          whole === 0 ? '-' : `${Math.round((100 * runningCpus) / whole)} %`,
      },
      { header: 'USED', align: 'right', cell: ({ usedCpuMs }) => formatDuration(usedCpuMs) },
      { header: 'WEIGHT', align: 'right', spare: 3, cell: ({ weight }) => String(round(weight)) },
      { header: 'SCORE', align: 'right', spare: 1, cell: ({ score }) => score.toFixed(2) },
    ],
    users,
    options,
  )
}

const round = (value: number): number => Number(value.toFixed(1))

/** The sections with an empty line before each, in at most `rows` rows. */
function laidOut(
  sections: readonly Section[],
  rows: number,
  { style, cut }: { readonly style: Style; readonly cut: (line: string) => string },
): string[] {
  const budget = rowsOf(
    sections.map(({ lines }) => lines.length),
    rows - sections.length,
  )
  return sections.flatMap(({ title, lines }, at) => {
    const most = budget[at] ?? 0
    if (most < 2) return []
    const left = lines.length - most
    const shown = left <= 0 ? lines : lines.slice(0, most - 1)
    const [head = '', ...rest] = shown
    return [
      '',
      paint(style, 'strong', head),
      ...rest,
      ...(left <= 0 ? [] : [cut(`  ${left + 1} more${title === '' ? '' : ` ${title}`}`)]),
    ]
  })
}

/** Row by row in turn, so that a long section takes what the short ones leave. */
function rowsOf(wanted: readonly number[], rows: number): number[] {
  const given = wanted.map(() => 0)
  let left = Math.max(0, rows)
  for (let isServed = true; isServed && left > 0;) {
    isServed = false
    for (const [at, want] of wanted.entries()) {
      const has = given[at] ?? 0
      if (has >= want || left === 0) continue
      given[at] = has + 1
      left -= 1
      isServed = true
    }
  }
  return given
}
