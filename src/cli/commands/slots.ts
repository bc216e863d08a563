/** `mesh slots`: how many processors nodes give builds and jobs have, as people want it. */
import { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { JobView, NodeView } from '../../wire/api.ts'
import { SLOTS_MAX, SlotsView, type SlotsOrder } from '../../wire/slots.ts'
import { openClient, type Client } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { orNothing } from '../or-nothing.ts'
import { resolveJobs } from '../resolve-job.ts'
import { viewOptions } from '../query-views.ts'
import { jobSlotsLine, nodeSlotsLines, slotsLines } from '../slots-views.ts'
import { parseUntil } from '../until.ts'

type Target =
  | { readonly kind: 'nodes'; readonly selector: string }
  | { readonly kind: 'job'; readonly id: string }

export async function slots(context: Context, args: Arguments): Promise<number> {
  const [target, text] = args.operands
  const forMs = args.parsed(
    'until',
    (until) => parseUntil(until, context.clock.wallMs()),
    'a time to come, such as 18:00 or 2026-05-01T18:00, or how long: 90m',
  )
  const reason = args.text('reason')
  const cpus = text === undefined ? undefined : cpusOf(text)
  if (typeof cpus !== 'number' && (forMs !== undefined || reason !== undefined))
    throw new MeshError('MESH0002', 'mesh slots: --until and --reason go with a number', {
      hints: ['mesh slots NODE N --until 18:00'],
    })
  using client = await openClient(context, args)
  if (target === undefined || cpus === undefined) return show(context, args, client, target)
  const meant = await targetOf(client, target)
  if (meant.kind === 'job') {
    if (forMs !== undefined || reason !== undefined)
      throw new MeshError(
        'MESH0002',
        `mesh slots: ${target} is a job: --until and --reason are for nodes`,
      )
    if (cpus === 0)
      throw new MeshError('MESH0002', 'mesh slots: a job has at least one processor', {
        hints: [`to have it wait: mesh hold ${target}`, `to end it: mesh cancel ${target}`],
      })
    const job = await client.send(
      JobView,
      'POST',
      `/api/jobs/${encodeURIComponent(meant.id)}/slots`,
      { cpus },
    )
    if (args.flag('json')) await printJson(context.stdout, job)
    else await printLines(context.stdout, [jobSlotsLine(job)])
    return 0
  }
  const { selector } = meant
  const order: SlotsOrder = { selector, cpus, forMs: forMs ?? null, reason: reason ?? '' }
  const view = await client.send(SlotsView, 'POST', '/api/nodes/slots', order)
  if (args.flag('json')) await printJson(context.stdout, view)
  else await printLines(context.stdout, nodeSlotsLines(selector, view, viewOptions(context)))
  return 0
}

/** What is set, of all or of what `target` names. */
async function show(
  context: Context,
  args: Arguments,
  client: Client,
  target: string | undefined,
): Promise<number> {
  const all = await client.json(SlotsView, '/api/slots')
  const view: SlotsView =
    target === undefined
      ? all
      : {
          nodes: all.nodes.filter(
            ({ selector, nodes }) =>
              selector === target || nodes.some(({ name }) => name === target),
          ),
          jobs: all.jobs.filter(
            ({ job, request, name }) =>
              job.startsWith(target) || `${request}/${name}` === target || name === target,
          ),
        }
  if (args.flag('json')) await printJson(context.stdout, view)
  else await printLines(context.stdout, slotsLines(view, viewOptions(context)))
  return 0
}

/** A number of processors, or null for `auto`. Throws MESH0002. */
function cpusOf(text: string): number | null {
  if (text === 'auto') return null
  const cpus = /^\d{1,4}$/.test(text) ? Number(text) : Number.NaN
  if (cpus <= SLOTS_MAX) return cpus
  throw new MeshError(
    'MESH0002',
    `mesh slots: "${text}": expected a number of processors from 0 to ${SLOTS_MAX}, or auto`,
    { hints: ['mesh slots --help'] },
  )
}

/**
 * Nodes by name, pattern or KEY=VALUE, a job as everywhere. A name that both a node and a job have is refused.
 * Throws MESH0601, MESH0602.
 */
async function targetOf(client: Client, text: string): Promise<Target> {
  if (text.startsWith('j-') || text.startsWith('r-') || text.includes('/'))
    return { kind: 'job', id: await jobIdOf(client, text) }
  if (/[*=,]/.test(text) || text.startsWith('12D3KooW')) return { kind: 'nodes', selector: text }
  const isNode = (await client.json(z.array(NodeView), '/api/nodes')).some(
    ({ name }) => name === text,
  )
  const jobs = await orNothing(resolveJobs(client, text))
  const job = jobs?.find(({ state }) => state === 'running' || state === 'waiting')
  if (isNode && job !== undefined)
    throw new MeshError('MESH0602', `"${text}" may be the node, or the job ${job.id}`, {
      hints: [`the node: mesh slots name=${text} N`, `the job: mesh slots ${job.id} N`],
    })
  if (isNode) return { kind: 'nodes', selector: text }
  const [first] = jobs ?? []
  const meant = job ?? first
  if (meant !== undefined) return { kind: 'job', id: meant.id }
  throw new MeshError('MESH0601', `there is neither a node nor a job "${text}"`, {
    hints: [
      'nodes: mesh nodes',
      'jobs: mesh jobs',
      `a node that is yet to come: mesh slots name=${text} N`,
    ],
  })
}

async function jobIdOf(client: Client, text: string): Promise<string> {
  const jobs = await resolveJobs(client, text)
  const ahead = jobs.filter(({ state }) => state !== 'done' && state !== 'failed')
  const [first] = ahead.length > 0 ? ahead : jobs
  if (ahead.length > 1 && text.startsWith('r-') && !text.includes('/'))
    throw new MeshError(
      'MESH0602',
      `the request ${text} has ${ahead.length} jobs that wait or run: ${ahead
        .slice(0, 10)
        .map(({ id, name }) => `${name} (${id})`)
        .join(', ')}`,
    )
  return (first ?? jobs[0]).id
}
