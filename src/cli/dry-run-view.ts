/** What `mesh submit --dry-run` prints: what is cached, fetched and built, where, and how long that takes. Pure. */
import type { DryRun } from '../wire/api.ts'
import { formatDuration, formatSize, plural } from '../base/units.ts'
import { printableLine } from './text/style.ts'
import { table, type TableOptions } from './text/table.ts'

/** Names of nodes that are listed in a cell. */
const NODES_SHOWN_MAX = 4

type Derivation = DryRun['derivations'][number]

export function dryRunLines(answer: DryRun, options: TableOptions): string[] {
  const { derivations, criticalPath, criticalPathMs, estimateMs, unsatisfiable = [] } = answer
  const lines = [
    summary(answer),
    '',
    ...table(
      [
        { header: 'STATE', cell: ({ state }) => state },
        { header: 'DERIVATION', cell: ({ name }) => name },
        { header: 'INPUTS', align: 'right', cell: ({ inputBytes }) => formatSize(inputBytes) },
        {
          header: 'TAKES',
          align: 'right',
          cell: ({ state, estimateMs: ms = null }) =>
            ms === null || state === 'cached' ? '' : `~${formatDuration(ms)}`,
        },
        {
          header: 'TIMEOUT',
          align: 'right',
          spare: 1,
          cell: ({ run }) => formatDuration(run.timeoutMs),
        },
        { header: 'NODES', cell: nodesText },
      ],
      derivations,
      options,
    ),
  ]
  if (criticalPath.length > 0)
    lines.push(
      '',
      `critical path: ${criticalPath.map(printableLine).join(' -> ')}${taking(criticalPathMs)}`,
    )
  if (estimateMs !== undefined && estimateMs !== null)
    lines.push(`all of it: about ${formatDuration(estimateMs)}`)
  if (unsatisfiable.length > 0)
    lines.push(
      `! no node can build ${unsatisfiable.map(printableLine).join(', ')}: it would wait (--no-wait: fail at once)`,
    )
  return lines
}

/** "2 cached, 3 to build (1 may turn out to be cached), 1 source to fetch (12 MiB)". */
function summary({ derivations, toFetch }: DryRun): string {
  const count = (state: Derivation['state']): number =>
    derivations.filter((one) => one.state === state).length
  const later = count('unknown')
  const fetched =
    toFetch === undefined
      ? ''
      : toFetch.count === 0
        ? ', nothing to fetch'
        : `, ${plural(toFetch.count, 'source')} to fetch${toFetch.bytes === null ? '' : ` (${formatSize(toFetch.bytes)})`}`
  return `${count('cached')} cached, ${count('build') + later} to build${
    later === 0 ? '' : ` (${later} may turn out to be cached)`
  }${fetched}`
}

const taking = (ms: number | null | undefined): string =>
  ms === undefined || ms === null ? '' : ` (about ${formatDuration(ms)})`

function nodesText({ state, nodes, nodeCount = nodes.length, reason }: Derivation): string {
  if (nodeCount === 0) return state === 'cached' ? '' : `none: ${reason ?? 'it would wait'}`
  const shown = nodes.slice(0, NODES_SHOWN_MAX)
  const more = nodeCount - shown.length
  return `${shown.join(',')}${more > 0 ? ` and ${more} more` : ''}`
}
