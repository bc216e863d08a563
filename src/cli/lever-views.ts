/** What the levers print: what changed, what still runs, and how to undo it. Pure. */
import type { DrainView, JobView, RequestView, Undrained } from '../wire/api.ts'
import { quote } from '../base/quote.ts'
import { formatDuration, plural } from '../base/units.ts'
import { shortPeer } from './node-views.ts'
import { since, type ViewOptions } from './query-views.ts'
import { printableLine } from './text/style.ts'
import { table } from './text/table.ts'

/** Jobs of a node that are named. */
const RUNNING_SHOWN_MAX = 3

/** One drain that was just ordered. */
export function drainLines(drain: DrainView, options: ViewOptions): string[] {
  const selector = printableLine(drain.selector)
  const what = `draining ${selector}${drain.reason === '' ? '' : `: ${printableLine(drain.reason)}`}`
  return [
    drain.nodes.length === 0
      ? `${what}; no node matches now`
      : `${what}; ${plural(drain.nodes.length, 'node')} ${drain.nodes.length === 1 ? 'matches' : 'match'} now`,
    ...(drain.nodes.length === 0 ? [] : drainedNodeLines(drain, options)),
    'Nodes that match further down the tree, or come later, take no jobs either.',
    drain.deadline === null
      ? 'What runs may end in its own time; --deadline TIME sets an end to it.'
      : `What still runs ${atTime(drain.deadline, options)} is stopped and started elsewhere.`,
    `End it: mesh undrain ${quoted(selector)}`,
  ]
}

function drainedNodeLines(drain: DrainView, options: ViewOptions): string[] {
  const names = drain.nodes.map(({ name }) => name)
  return table(
    [
      {
        header: 'NODE',
        cell: ({ name, peerId }) =>
          names.indexOf(name) === names.lastIndexOf(name) ? name : `${name} (${shortPeer(peerId)})`,
      },
      { header: 'STATE', cell: ({ state }) => state },
      { header: 'STILL RUNNING', cell: runningText },
    ],
    drain.nodes,
    options,
  )
}

function runningText({ running, runningCount }: DrainView['nodes'][number]): string {
  if (runningCount === 0) return 'nothing'
  const shown = running
    .slice(0, RUNNING_SHOWN_MAX)
    .map(({ job, name, forMs }) => `${name} (${job}, ${formatDuration(forMs)})`)
  return [
    ...shown,
    ...(runningCount > shown.length ? [`${runningCount - shown.length} more`] : []),
  ].join(', ')
}

/** All drains in force. */
export function drainListLines(drains: readonly DrainView[], options: ViewOptions): string[] {
  if (drains.length === 0) return ['nothing is drained']
  return table(
    [
      { header: 'SELECTOR', cell: ({ selector }) => selector },
      { header: 'BY', cell: ({ by }) => by },
      { header: 'AGE', align: 'right', cell: ({ at }) => since(at, options) },
      {
        header: 'DEADLINE',
        cell: ({ deadline }) => (deadline === null ? '' : atTime(deadline, options)),
      },
      { header: 'NODES', align: 'right', cell: ({ nodes }) => String(nodes.length) },
      {
        header: 'RUNNING',
        align: 'right',
        cell: ({ nodes }) => String(nodes.reduce((sum, node) => sum + node.runningCount, 0)),
      },
      { header: 'REASON', cell: ({ reason }) => reason },
    ],
    drains,
    options,
  )
}

export function undrainedLine(selector: string, { drains, nodes }: Undrained): string {
  if (drains.length === 0 && nodes.length === 0)
    return `nothing was drained by ${quoted(selector)}; mesh drain --list shows what is`
  if (nodes.length === 0)
    return `${plural(drains.length, 'drain')} ended: nodes that match ${quoted(selector)} take jobs again`
  return `${nodes.map(printableLine).join(', ')} ${nodes.length === 1 ? 'takes' : 'take'} jobs again`
}

export type Lever = 'boost' | 'hold' | 'release' | 'retry' | 'cancel'

/** One sentence on what the lever did to the request or job that is seen now. */
export function leverLine(lever: Lever, view: JobView | RequestView): string {
  const isJob = 'attempts' in view
  const title = isJob ? `${printableLine(view.name)} (${view.id})` : view.id
  const state = `${title} is ${view.state}`
  switch (lever) {
    case 'cancel':
      return view.state === 'cancelled' ? `${title} is cancelled` : state
    case 'boost':
      return view.priority === undefined || hasEnded(view)
        ? `${state}: its order does not matter any more`
        : `${title} has priority ${view.priority} now`
    case 'hold': {
      if (view.held === undefined) return `${state}: there is nothing to hold`
      const { by, reason } = view.held
      const runs = isJob ? view.state === 'running' : view.counts.running > 0
      return `${title} is held by ${printableLine(by)}${reason === '' ? '' : `: ${printableLine(reason)}`}${runs ? ' (what runs goes on)' : ''}; to let it go on: mesh release ${view.id}`
    }
    case 'release':
      return view.held === undefined
        ? `${title} is not held (${view.state})`
        : `${title} is still held by ${printableLine(view.held.by)}`
    case 'retry':
      if (hasEnded(view)) return `${state}: there is nothing to build again`
      return isJob
        ? `${title} is built again (${view.request})`
        : `${title} goes on: ${view.counts.built + view.counts.cached} done, ${plural(view.counts.running + view.counts.waiting, 'job')} to go`
  }
}

const hasEnded = ({ state }: JobView | RequestView): boolean =>
  state === 'done' || state === 'failed' || state === 'cancelled'

/** "in 30m00s (18:00 UTC)". */
function atTime(iso: string, { nowWallMs }: ViewOptions): string {
  const leftMs = Date.parse(iso) - nowWallMs
  return leftMs <= 0 ? 'now' : `in ${formatDuration(leftMs)} (${iso.slice(11, 16)} UTC)`
}

/** As a shell has to see it. */
export const quoted = (word: string): string => (/^[\w.,=+@:-]+$/.test(word) ? word : quote(word))
