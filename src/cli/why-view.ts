/** What `mesh why` prints: the reason, every requirement against every node, and what can be done. Pure. */
import type { Why } from '../wire/api.ts'
import { formatDuration } from '../base/units.ts'
import { displayWidth, padEnd, paint, printableLine, type Style } from './text/style.ts'
import { table } from './text/table.ts'
import { wrap } from './text/wrap.ts'
import { labelOf, matrixLines } from './why-matrix.ts'

export interface WhyViewOptions {
  readonly style: Style
  /** Of the terminal; undefined where it is none: sentences are not broken then. */
  readonly width?: number | undefined
  /** Only this node was asked about. */
  readonly onlyNode?: string | undefined
}

/** Between what to do and where or how. */
const ADVICE_GAP = 5
/** What waits for something other than a node. */
const NODELESS: readonly string[] = ['inputs', 'lookup', 'held', 'retry', 'recovery']
/** What ends by itself when its turn comes. */
const ORDERLY: readonly string[] = ['busy', 'share', 'faster', 'reserved', 'locality']

export function whyLines(why: Why, options: WhyViewOptions): string[] {
  const { style, width, onlyNode } = options
  const sentence = (text: string, indent = ''): string[] =>
    width === undefined ? [text] : wrap(text, width, indent)
  const lines = sentence(headline(why))
  const isWaiting = why.state === 'waiting'
  if (onlyNode !== undefined) {
    lines.push('', ...why.nodes.flatMap((node) => nodeLines(node, options)))
    lines.push(...why.nodes.map((node) => verdictLine(node)))
  } else if (isWaiting && why.nodes.length > 0 && showsMatrix(why)) {
    lines.push('', ...matrixLines(why, options), '')
    for (const note of why.notes ?? [])
      lines.push(...sentence(`  * ${printableLine(note)}`, '    '))
    if (typeof why.closest === 'string')
      lines.push(...sentence(`closest: ${printableLine(why.closest)}`, '  '))
  }
  if (why.unknown.length > 0)
    lines.push(
      ...sentence(
        `not known: what the nodes below ${why.unknown.map(printableLine).join(', ')} could do; ${why.unknown.length === 1 ? 'it has' : 'they have'} not answered (as of ${why.asOf})`,
        '  ',
      ),
    )
  lines.push(...adviceLines(why, width))
  const end = isWaiting ? endLine(why) : undefined
  if (end !== undefined) lines.push(...sentence(end, '  '))
  while (lines.at(-1) === '') lines.pop()
  return lines.map((line, at) => (at === 0 ? paint(style, 'strong', line) : line))
}

/** `kernel-arm (j-4fz8) has waited 3m 12s: no node matches its requirements.` */
function headline(why: Why): string {
  const summary = printableLine(why.summary)
  if (why.state !== 'waiting') return `${summary} (${why.job})`
  // The sentence of the daemon begins with the name as well.
  const prefix = `${why.name} waits: `
  const reason = summary.startsWith(prefix) ? summary.slice(prefix.length) : summary
  const said =
    why.class === 'unsatisfiable' && typeof why.closest === 'string'
      ? 'no node matches its requirements'
      : reason
  return `${why.name} (${why.job}) has waited ${spaced(formatDuration(why.waitedMs))}: ${said}.`.replace(
    /\.\.$/,
    '.',
  )
}

/** `3m12s` as `3m 12s`. */
const spaced = (duration: string): string => duration.replaceAll(/([a-z])(?=\d)/g, '$1 ')

const showsMatrix = (why: Why): boolean =>
  !NODELESS.includes(why.class ?? '') || typeof why.closest === 'string'

/** One node with every requirement and value, also those that are nothing special. */
function nodeLines(node: Why['nodes'][number], { style, width }: WhyViewOptions): string[] {
  return table(
    [
      {
        header: 'requirement',
        cell: (verdict: (typeof node.verdicts)[number]) => verdict.requirement,
      },
      { header: 'asked', cell: ({ want }) => want },
      {
        header: `${printableLine(node.node)} has`,
        cell: ({ requirement, have, brief }) =>
          requirement === 'state' && brief?.startsWith('busy') === true
            ? `${have}, ${brief}`
            : have,
      },
      {
        header: '',
        cell: ({ ok, permanent, cross }) =>
          ok ? 'yes' : cross === undefined ? (permanent ? 'NO' : 'no') : 'no*',
      },
    ],
    node.verdicts,
    { style, width: width === undefined ? undefined : width - 2 },
  ).map((line) => `  ${line}`)
}

function verdictLine({ node, verdicts }: Why['nodes'][number]): string {
  const failing = verdicts.filter(({ ok }) => !ok)
  const name = printableLine(node)
  if (failing.length === 0) return `${name} matches, and has room for it now.`
  const isPermanent = failing.some(({ permanent }) => permanent)
  const isShown = ({ permanent }: (typeof failing)[number]): boolean => permanent || !isPermanent
  const labels = failing
    .filter(isShown)
    .map((verdict) =>
      verdict.requirement === 'state' ? (verdict.brief ?? verdict.have) : labelOf(verdict),
    )
  return isPermanent
    ? `${name} fails ${labels.length} of ${verdicts.length} (${labels.map(printableLine).join('; ')}). This cannot change by waiting.`
    : `${name} matches, but not now (${labels.map(printableLine).join('; ')}).`
}

/** What to do on the left, where or how on the right, below it where the line is too short for both. */
function adviceLines(why: Why, width: number | undefined): string[] {
  const advice = why.advice ?? why.fixes.map((text) => ({ text, how: '' }))
  if (advice.length === 0) return []
  const rows = advice.map(({ text, how }) => ({
    text: printableLine(text),
    how: printableLine(how),
  }))
  const left = Math.max(...rows.map(({ text, how }) => (how === '' ? 0 : displayWidth(text))))
  const most = Math.max(...rows.map(({ how }) => displayWidth(how)))
  const isWide = width === undefined || 4 + left + ADVICE_GAP + most <= width
  return [
    'You can:',
    ...rows.flatMap(({ text, how }) => {
      if (how === '')
        return width === undefined ? [`  - ${text}`] : wrap(`  - ${text}`, width, '    ')
      return isWide
        ? [`  - ${padEnd(text, left + ADVICE_GAP)}${how}`]
        : [...wrap(`  - ${text}`, width, '    '), `      ${how}`]
    }),
  ]
}

/** When waiting ends by itself, for what waiting alone may not bring about. */
function endLine({ class: reason, failsAt, waitLimitMs, asOf }: Why): string | undefined {
  if (typeof failsAt !== 'string' || reason === null) return undefined
  if (NODELESS.includes(reason) || ORDERLY.includes(reason)) return undefined
  const limit = waitLimitMs === undefined ? '' : ` (wait limit ${hours(waitLimitMs)})`
  const hint = reason === 'unsatisfiable' ? ' To fail at once next time: mesh submit --no-wait' : ''
  return `It fails by itself on ${weekday(failsAt, asOf)}${limit}.${hint}`
}

const hours = (ms: number): string =>
  ms % 3_600_000 === 0 ? `${ms / 3_600_000}h` : formatDuration(ms)

const DAYS = ['Sun', 'Mon', 'Tue', 'Wed', 'Thu', 'Fri', 'Sat'] as const
/** `Mon 11:12 UTC`; beyond the week the date. */
function weekday(iso: string, asOf: string): string {
  const at = new Date(iso)
  const isNear = at.getTime() - Date.parse(asOf) < 6 * 24 * 3_600_000
  return `${isNear ? (DAYS[at.getUTCDay()] ?? '') : iso.slice(0, 10)} ${iso.slice(11, 16)} UTC`
}
