/** What `mesh why` prints: every requirement against every node. Pure. */
import type { Why } from '../wire/api.ts'
import { printableLine, type Style } from './text/style.ts'
import { table } from './text/table.ts'
import { formatDuration, plural } from '../base/units.ts'

/** With more nodes than this, those with equal columns share one. */
const NODES_APART_MAX = 12

type NodeVerdicts = Why['nodes'][number]
interface Column {
  readonly title: string
  readonly node: NodeVerdicts
}

export function whyLines(
  why: Why,
  options: { readonly style: Style; readonly width?: number | undefined },
): string[] {
  const summary = printableLine(why.summary)
  // The sentence of the daemon begins with the name as well.
  const prefix = `${why.name} waits: `
  const lines = [
    why.state === 'waiting'
      ? `${why.name} (${why.job}) has waited ${formatDuration(why.waitedMs)}: ${summary.startsWith(prefix) ? summary.slice(prefix.length) : summary}`
      : `${summary} (${why.job})`,
  ]
  if (why.nodes.length > 0) lines.push('', ...matrixLines(why.nodes, options))
  const closest = closestLine(why)
  if (closest !== undefined) lines.push('', closest)
  if (why.etaMs !== null) lines.push(`expected start in about ${formatDuration(why.etaMs)}`)
  if (why.unknown.length > 0)
    lines.push(
      `not known in time: ${why.unknown.map(printableLine).join(', ')} (as of ${why.asOf})`,
    )
  if (why.fixes.length > 0)
    lines.push('You can:', ...why.fixes.map((fix) => `  - ${printableLine(fix)}`))
  return lines
}

function matrixLines(
  nodes: readonly NodeVerdicts[],
  options: { readonly style: Style; readonly width?: number | undefined },
): string[] {
  const requirements = [...new Set(nodes.flatMap((node) => demandsOn(node).map(label)))]
  const columns =
    nodes.length > NODES_APART_MAX
      ? grouped(nodes)
      : nodes.map((node) => ({ title: node.node, node }))
  const rows = [
    ...requirements.map((requirement) => ({
      title: requirement,
      cell: ({ node }: Column) => verdictCell(node, requirement),
    })),
    { title: 'state', cell: ({ node }: Column) => stateOf(node) },
  ]
  return table(
    [
      { header: 'requirement', cell: ({ title }: (typeof rows)[number]) => title },
      ...columns.map((column) => ({
        header: column.title,
        cell: ({ cell }: (typeof rows)[number]) => cell(column),
      })),
    ],
    rows,
    { style: options.style, width: options.width === undefined ? undefined : options.width - 2 },
  ).map((line) => `  ${line}`)
}

/** Whether a node is there has a row of its own. */
const STATE = 'state'
const demandsOn = ({ verdicts }: NodeVerdicts): NodeVerdicts['verdicts'] =>
  verdicts.filter(({ requirement }) => requirement !== STATE)
const stateOf = ({ state, verdicts }: NodeVerdicts): string =>
  verdicts.find(({ requirement, ok }) => requirement === STATE && !ok)?.have ?? state

const label = ({ requirement, want }: NodeVerdicts['verdicts'][number]): string =>
  printableLine(`${requirement} ${want}`)

/** `yes`, `no` for what time may cure, `NO` for what it cannot; with the observed value. */
function verdictCell({ verdicts }: NodeVerdicts, requirement: string): string {
  const verdict = verdicts.find((one) => label(one) === requirement)
  if (verdict === undefined) return '-'
  if (verdict.ok) return 'yes'
  return `${verdict.permanent ? 'NO' : 'no'} ${verdict.have}`.trim()
}

/** One column for all nodes that differ in nothing shown: "ci-a (37 nodes)". */
function grouped(nodes: readonly NodeVerdicts[]): Column[] {
  const groups = new Map<string, { node: NodeVerdicts; count: number }>()
  for (const node of nodes) {
    const key = JSON.stringify([node.state, node.verdicts])
    const group = groups.get(key)
    if (group === undefined) groups.set(key, { node, count: 1 })
    else group.count++
  }
  return [...groups.values()].map(({ node, count }) => ({
    title: count === 1 ? node.node : `${node.node} (${count} nodes)`,
    node,
  }))
}

/** The node that fails the fewest requirements, when none fails nothing. */
function closestLine({ nodes }: Why): string | undefined {
  const failing = nodes
    .map((node) => ({
      node: node.node,
      total: demandsOn(node).length,
      failed: demandsOn(node).filter(({ ok }) => !ok),
    }))
    .toSorted((a, b) => a.failed.length - b.failed.length)
  const [closest] = failing
  if (closest === undefined || closest.failed.length === 0) return undefined
  const reasons = closest.failed.map(
    (one) => `${label(one)} asked, ${printableLine(one.have) || 'none'} there`,
  )
  const isPermanent = closest.failed.some(({ permanent }) => permanent)
  return `closest: ${closest.node} fails ${closest.failed.length} of ${plural(closest.total, 'requirement')} (${reasons.join('; ')}).${isPermanent ? ' This cannot change by waiting.' : ''}`
}
