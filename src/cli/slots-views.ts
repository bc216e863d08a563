/** What `mesh slots` prints. Pure. */
import { formatDuration, plural } from '../base/units.ts'
import type { JobView } from '../wire/api.ts'
import type { JobSlotsView, NodeSlotsView, SlotsView } from '../wire/slots.ts'
import { quoted } from './lever-views.ts'
import { since, type ViewOptions } from './query-views.ts'
import { printableLine } from './text/style.ts'
import { table } from './text/table.ts'

/** All that is set. */
export function slotsLines({ nodes, jobs }: SlotsView, options: ViewOptions): string[] {
  const blocks = [
    ...(nodes.length === 0 ? [] : [nodeTable(nodes, options)]),
    ...(jobs.length === 0 ? [] : [jobTable(jobs, options)]),
  ]
  if (blocks.length === 0)
    return ['nobody has set anything: nodes give what they have, jobs get what they ask for']
  return blocks.flatMap((block, at) => (at === 0 ? block : ['', ...block]))
}

const nodeTable = (nodes: readonly NodeSlotsView[], options: ViewOptions): string[] =>
  table(
    [
      { header: 'NODES', cell: ({ selector }) => selector },
      { header: 'SLOTS', align: 'right', cell: ({ cpus }) => String(cpus) },
      { header: 'BY', cell: ({ by }) => by },
      { header: 'AGE', align: 'right', cell: ({ at }) => since(at, options) },
      { header: 'UNTIL', cell: ({ until }) => (until === null ? '' : untilText(until, options)) },
      { header: 'NOW', spare: 1, cell: ({ nodes: held }) => held.map(nowText).join(', ') },
      { header: 'REASON', cell: ({ reason }) => reason },
    ],
    nodes,
    options,
  )

const jobTable = (jobs: readonly JobSlotsView[], options: ViewOptions): string[] =>
  table(
    [
      { header: 'JOB', cell: ({ job }) => job },
      { header: 'SLOTS', align: 'right', cell: ({ cpus }) => String(cpus) },
      { header: 'HAS', align: 'right', cell: ({ has }) => (has === null ? '' : String(has)) },
      { header: 'STATE', cell: ({ state }) => state },
      { header: 'BY', cell: ({ by }) => by },
      { header: 'AGE', align: 'right', cell: ({ at }) => since(at, options) },
      { header: 'NAME', cell: ({ name }) => name },
    ],
    jobs,
    options,
  )

/** What one selector holds for now; `cpus` is what was asked for. */
export function nodeSlotsLines(
  selector: string,
  { nodes: [order] }: SlotsView,
  options: ViewOptions,
): string[] {
  const name = quoted(printableLine(selector))
  if (order === undefined) return [`${name}: what its nodes give by themselves again`]
  const until = order.until === null ? '' : ` ${untilText(order.until, options)}`
  const { nodes } = order
  return [
    `${name}: ${plural(order.cpus, 'processor')} for builds${until}`,
    ...nodes
      .filter(({ busy }) => busy > order.cpus)
      .map(
        (node) =>
          `  ${printableLine(node.name)} runs ${node.busy} now: that goes on, and nothing new begins before it is less`,
      ),
    ...(nodes.length === 0
      ? ['No node that is seen from here matches; it holds for those that come.']
      : []),
    `End it: mesh slots ${name} auto`,
  ]
}

/** What was said of a job. */
export function jobSlotsLine(job: JobView): string {
  const title = `${printableLine(job.name)} (${job.id})`
  const has = job.attempts.at(-1)?.cpus
  const now =
    job.state === 'running' && has !== undefined ? `; it has ${has} now` : `; it is ${job.state}`
  return job.slots === undefined
    ? `${title} gets what it asks for by itself again${now}`
    : `${title} is to have ${plural(job.slots.cpus, 'processor')}${now}`
}

const nowText = ({ name, busy, cpus }: NodeSlotsView['nodes'][number]): string =>
  `${name} ${busy}/${cpus}`

function untilText(until: string, { nowWallMs }: ViewOptions): string {
  const leftMs = Date.parse(until) - nowWallMs
  return leftMs <= 0 ? 'until now' : `for ${formatDuration(leftMs)} (${until.slice(11, 16)} UTC)`
}
