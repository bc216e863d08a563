/** What `mesh nodes`, `jobs`, `jobs --requests` and `status` print: pure functions from answers to lines. */
import type { AttemptView, JobView, NodeView, RequestView, Status } from '../wire/api.ts'
import { paint, printableLine, type Style } from './text/style.ts'
import { table, type Column, type TableOptions } from './text/table.ts'
import { formatDuration, formatSize, plural } from '../base/units.ts'

export interface ViewOptions extends TableOptions {
  readonly nowWallMs: number
}

const since = (iso: string, { nowWallMs }: ViewOptions): string =>
  formatDuration(nowWallMs - Date.parse(iso))

const NODE_ORDER: Readonly<Record<NodeView['state'], number>> = {
  broken: 0,
  lost: 1,
  full: 2,
  draining: 3,
  waking: 4,
  sleeping: 5,
  ready: 6,
}

const isGone = ({ state }: NodeView): boolean => state === 'lost' || state === 'broken'

const free = (node: NodeView, what: 'memoryBytes' | 'diskBytes'): string =>
  isGone(node) ? '-' : formatSize(Math.max(0, node.capacity[what] - node.allocated[what]))

/** Nodes, those with a problem first. */
export function nodeLines(nodes: readonly NodeView[], options: ViewOptions): string[] {
  const columns: Column<NodeView>[] = [
    { header: 'NODE', cell: ({ name }) => name },
    { header: 'STATE', cell: ({ state }) => state },
    { header: 'ROLES', cell: ({ roles }) => roles.join(',') },
    {
      header: 'CPUS',
      align: 'right',
      cell: (node) => `${isGone(node) ? '-' : node.allocated.cpus}/${node.capacity.cpus}`,
    },
    {
      header: 'SYSTEMS',
      cell: ({ environments }) => [...new Set(environments.map(({ system }) => system))].join(','),
    },
    {
      header: 'SEALED',
      cell: ({ environments }) =>
        environments.length === 0
          ? '-'
          : environments.some(({ isolation }) => isolation === 'namespace')
            ? 'yes'
            : 'no',
    },
    { header: 'MEM FREE', align: 'right', cell: (node) => free(node, 'memoryBytes') },
    { header: 'DISK FREE', align: 'right', cell: (node) => free(node, 'diskBytes') },
    { header: 'VERSION', cell: ({ versions }) => versions.mesh },
    {
      header: 'NOTE',
      cell: (node) =>
        node.note || (isGone(node) ? `last seen ${since(node.lastSeenAt, options)} ago` : ''),
    },
  ]
  return table(
    columns,
    nodes.toSorted(
      (a, b) => NODE_ORDER[a.state] - NODE_ORDER[b.state] || (a.name < b.name ? -1 : 1),
    ),
    options,
  )
}

const last = (job: JobView): AttemptView | undefined => job.attempts.at(-1)

export function jobLines(jobs: readonly JobView[], options: ViewOptions): string[] {
  return table(
    [
      { header: 'JOB', cell: ({ id }) => id },
      { header: 'REQUEST', cell: ({ request }) => request },
      { header: 'STATE', cell: (job) => (job.cached ? 'cached' : job.state) },
      { header: 'NODE', cell: (job) => (job.cached ? '' : (last(job)?.node ?? '')) },
      { header: 'TIME', align: 'right', cell: (job) => attemptTime(last(job), options) },
      { header: 'NAME', cell: ({ name }) => name },
      {
        header: 'NOTE',
        cell: (job) =>
          job.why?.text ?? (job.state === 'failed' ? (last(job)?.error ?? '') : retries(job)),
      },
    ],
    jobs,
    options,
  )
}

const retries = (job: JobView): string =>
  job.attempts.length > 1 ? `attempt ${job.attempts.length}` : ''

function attemptTime(attempt: AttemptView | undefined, { nowWallMs }: ViewOptions): string {
  if (attempt === undefined) return ''
  const end = attempt.endedAt === null ? nowWallMs : Date.parse(attempt.endedAt)
  return formatDuration(end - Date.parse(attempt.startedAt))
}

const countCell = (name: keyof RequestView['counts']): Omit<Column<RequestView>, 'header'> => ({
  align: 'right',
  cell: ({ counts }) => String(counts[name]),
})

export function requestLines(requests: readonly RequestView[], options: ViewOptions): string[] {
  return table(
    [
      { header: 'REQUEST', cell: ({ id }) => id },
      { header: 'BY', cell: ({ user }) => user },
      { header: 'AGE', align: 'right', cell: ({ submittedAt }) => since(submittedAt, options) },
      { header: 'STATE', cell: ({ state }) => state },
      { header: 'BUILT', ...countCell('built') },
      { header: 'CACHED', ...countCell('cached') },
      { header: 'RUN', ...countCell('running') },
      { header: 'WAIT', ...countCell('waiting') },
      { header: 'FAIL', ...countCell('failed') },
      {
        header: 'COPIES',
        align: 'right',
        cell: ({ replicas }) => (replicas === null ? '' : String(replicas)),
      },
      { header: 'NAME', cell: ({ name }) => name },
    ],
    requests,
    options,
  )
}

/** One screen: this node, the mesh, the queue, the store; then what is wrong. */
export function statusLines(status: Status, style: Style): string[] {
  const { root } = status
  const nodes = Object.entries(status.nodes).filter(([, count]) => count > 0)
  const total = nodes.reduce((sum, [, count]) => sum + count, 0)
  const rootText = status.roles.includes('root')
    ? 'this node is the root'
    : `root ${root.name ?? 'unknown'} (${root.connected ? 'connected' : 'not connected'})`
  const lines = [
    `mesh  node ${paint(style, 'strong', printableLine(status.name))} (${status.peerId})  ${rootText}`,
    `  roles    ${status.roles.join(', ')}${status.draining ? '; draining: takes nothing new' : ''}  version ${printableLine(status.version)}`,
    `  nodes    ${total}: ${nodes.map(([state, count]) => `${count} ${state}`).join(', ')}  cpus ${status.cpus.busy} of ${status.cpus.total} busy`,
    `  queue    ${status.jobs.waiting} waiting, ${status.jobs.running} running  ${plural(status.requests.active, 'active request')}${status.requests.local > 0 ? `, ${status.requests.local} kept here until the root answers` : ''}`,
    `  store    ${plural(status.store.blobs, 'blob')}, ${formatSize(status.store.bytes)}; ${formatSize(status.store.freeBytes)} free on the disk`,
  ]
  for (const { address, connected, error } of status.parents)
    lines.push(
      `  parent   ${printableLine(address)}  ${connected ? 'connected' : `not connected${error === null ? '' : `: ${printableLine(error)}`}`}`,
    )
  for (const problem of status.problems)
    lines.push(`${paint(style, 'warn', '!')} ${printableLine(problem)}`)
  return lines
}
