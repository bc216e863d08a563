/** What `mesh jobs`, `requests` and `status` print: pure functions from answers to lines. */
import {
  PRIORITY_DEFAULT,
  type AttemptView,
  type JobView,
  type RequestView,
  type Status,
} from '../wire/api.ts'
import type { SlotsMark } from '../wire/slots.ts'
import type { Context } from './context.ts'
import { paint, printableLine, type Style } from './text/style.ts'
import { table, type Column, type TableOptions } from './text/table.ts'
import { formatDuration, formatSize, plural } from '../base/units.ts'

export interface ViewOptions extends TableOptions {
  readonly nowWallMs: number
}

/** How long ago that was. */
export const since = (iso: string, { nowWallMs }: ViewOptions): string =>
  formatDuration(nowWallMs - Date.parse(iso))

/** How the views of this call are laid out. */
export const viewOptions = ({ stdout, clock }: Context): ViewOptions => ({
  style: stdout.style,
  width: stdout.columns(),
  nowWallMs: clock.wallMs(),
})

const last = (job: JobView): AttemptView | undefined => job.attempts.at(-1)

export function jobLines(jobs: readonly JobView[], options: ViewOptions): string[] {
  return table(
    [
      { header: 'JOB', cell: ({ id }) => id },
      { header: 'REQUEST', spare: 1, cell: ({ request }) => request },
      { header: 'STATE', cell: jobStateWord },
      { header: 'NODE', cell: (job) => (job.cached ? '' : (last(job)?.node ?? '')) },
      { header: 'TIME', align: 'right', cell: (job) => attemptTime(last(job), options) },
      { header: 'NAME', cell: ({ name }) => name },
      { header: 'NOTE', cell: jobNote },
    ],
    jobs,
    options,
  )
}

const jobStateWord = (job: JobView): string =>
  job.cached ? 'cached' : job.held !== undefined && job.state === 'waiting' ? 'held' : job.state

function jobNote(job: JobView): string {
  if (job.held !== undefined && job.state === 'waiting') return heldText(job.held)
  if (job.why !== undefined) return job.why.text
  if (job.slots !== undefined && job.state === 'running')
    return `${last(job)?.cpus ?? '?'} of ${plural(job.slots.cpus, 'processor')} (${job.slots.by})`
  return job.state === 'failed' ? (last(job)?.error ?? '') : retries(job)
}

const slotsText = ({ cpus, by, at }: SlotsMark, options: ViewOptions): string =>
  `${plural(cpus, 'processor')}, set by ${by} ${since(at, options)} ago`

const heldText = ({ by, reason }: NonNullable<JobView['held']>): string =>
  `held by ${by}${reason === '' ? '' : `: ${reason}`}`

const retries = (job: JobView): string =>
  job.attempts.length > 1 ? `attempt ${job.attempts.length}` : ''

/** How long it ran, or has run. */
export function attemptTime(attempt: AttemptView | undefined, { nowWallMs }: ViewOptions): string {
  if (attempt === undefined) return ''
  const end = attempt.endedAt === null ? nowWallMs : Date.parse(attempt.endedAt)
  return formatDuration(end - Date.parse(attempt.startedAt))
}

/** One job with its attempts. */
export function jobShowLines(job: JobView, options: ViewOptions): string[] {
  const note = jobNote(job)
  const facts: [string, string][] = [
    ['state', `${jobStateWord(job)}${note === '' ? '' : `: ${note}`}`],
    ['request', job.request],
    ['key', job.key ?? 'not known before its inputs are'],
  ]
  if (job.priority !== undefined) facts.push(['priority', String(job.priority)])
  const cpus = last(job)?.cpus
  if (job.slots !== undefined) facts.push(['slots', slotsText(job.slots, options)])
  if (cpus !== undefined && job.state === 'running') facts.push(['has', plural(cpus, 'processor')])
  if (job.verify !== undefined) {
    const { wanted, builders, isEqual } = job.verify
    const who = builders.length === 0 ? '' : `: ${builders.join(', ')}`
    const how = isEqual ? '' : `, and they differ: mesh jobs diff ${job.id}`
    facts.push(['verify', `${builders.length} of ${wanted} built it${who}${how}`])
  }
  if (job.rewinds > 0) facts.push(['rewinds', `${job.rewinds} (a lost output was built again)`])
  return [
    `${printableLine(job.name)} (${job.id})`,
    ...facts.map(([name, text]) => `  ${name.padEnd(10)}${printableLine(text)}`),
    ...(job.attempts.length === 0
      ? []
      : [
          '',
          ...table(
            [
              { header: 'ATTEMPT', align: 'right', cell: ({ n }) => String(n) },
              { header: 'STATE', cell: ({ state }) => state },
              { header: 'NODE', cell: ({ node }) => node },
              { header: 'TIME', align: 'right', cell: (one) => attemptTime(one, options) },
              {
                header: 'EXIT',
                align: 'right',
                cell: ({ exitCode }) => (exitCode === null ? '' : String(exitCode)),
              },
              { header: 'ENVIRONMENT', spare: 1, cell: ({ environment }) => environment },
              { header: 'NOTE', cell: ({ error }) => error ?? '' },
            ],
            job.attempts,
            options,
          ),
        ]),
  ]
}

const countCell = (name: keyof RequestView['counts']): Omit<Column<RequestView>, 'header'> => ({
  align: 'right',
  cell: ({ counts }) => String(counts[name]),
})

export function requestLines(requests: readonly RequestView[], options: ViewOptions): string[] {
  return table(
    [
      { header: 'REQUEST', cell: ({ id }) => id },
      { header: 'BY', spare: 1, cell: ({ user }) => user },
      { header: 'AGE', align: 'right', cell: ({ submittedAt }) => since(submittedAt, options) },
      {
        header: 'STATE',
        cell: ({ state, held }) => (held !== undefined && isActive(state) ? 'held' : state),
      },
      {
        header: 'PRIO',
        align: 'right',
        spare: 3,
        cell: ({ priority }) =>
          priority === undefined || priority === PRIORITY_DEFAULT ? '' : String(priority),
      },
      { header: 'BUILT', ...countCell('built') },
      { header: 'CACHED', spare: 2, ...countCell('cached') },
      { header: 'RUN', ...countCell('running') },
      { header: 'WAIT', ...countCell('waiting') },
      { header: 'FAIL', ...countCell('failed') },
      {
        header: 'COPIES',
        align: 'right',
        spare: 4,
        cell: ({ replicas }) => (replicas === null ? '' : String(replicas)),
      },
      { header: 'NAME', cell: ({ name }) => name },
      { header: 'NOTE', cell: requestNote },
    ],
    requests,
    options,
  )
}

const isActive = (state: RequestView['state']): boolean =>
  state === 'waiting' || state === 'running'

/** What went wrong or holds it up, in a few words, and the command that tells more. */
function requestNote({ id, state, held, why, failures }: RequestView): string {
  if (held !== undefined && isActive(state)) return heldText(held)
  const [failure] = failures
  if (failure !== undefined)
    return `${failure.name}: ${failure.message}${failures.length > 1 ? `; ${failures.length - 1} more` : ''}`
  return isActive(state) && why !== undefined ? `waiting: ${why.text} (mesh why ${id})` : ''
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
