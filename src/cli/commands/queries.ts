/** The commands that show state, and `cancel`. */
import { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { NodeView, RequestView, Status } from '../../wire/api.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { jobLines, nodeLines, requestLines, statusLines, type ViewOptions } from '../query-views.ts'
import { fetchJobs } from '../resolve-job.ts'

export async function status(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const answer = await client.json(Status, '/api/status')
  if (args.flag('json')) await printJson(context.stdout, answer)
  else await printLines(context.stdout, statusLines(answer, context.stdout.style))
  return 0
}

export async function nodes(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const answer = await client.json(z.array(NodeView), '/api/nodes')
  if (args.flag('json')) await printJson(context.stdout, answer)
  else await printLines(context.stdout, nodeLines(answer, viewOptions(context)))
  return 0
}

export async function jobs(context: Context, args: Arguments): Promise<number> {
  const [request] = args.operands
  using client = await openClient(context, args)
  if (args.flag('requests')) {
    const all = await client.json(z.array(RequestView), '/api/requests')
    const answer = all.filter(({ id }) => request === undefined || id.startsWith(request))
    if (args.flag('json')) await printJson(context.stdout, answer)
    else await printLines(context.stdout, requestLines(answer, viewOptions(context)))
    return 0
  }
  const answer = await fetchJobs(client, request)
  if (args.flag('json')) await printJson(context.stdout, answer)
  else await printLines(context.stdout, jobLines(answer, viewOptions(context)))
  return 0
}

export async function cancel(context: Context, args: Arguments): Promise<number> {
  const id = args.operand(0)
  if (id.startsWith('j-'))
    throw new MeshError('MESH0002', `${id} is a job: only a whole request can be cancelled`, {
      hints: ['mesh jobs shows the request of each job'],
    })
  using client = await openClient(context, args)
  const request = await client.send(
    RequestView,
    'POST',
    `/api/requests/${encodeURIComponent(id)}/cancel`,
  )
  if (args.flag('json')) await printJson(context.stdout, request)
  else
    await context.stdout.write(
      `${request.id} ${request.state === 'cancelled' ? 'is cancelled' : `is ${request.state}`}\n`,
    )
  return 0
}

function viewOptions(context: Context): ViewOptions {
  return {
    style: context.stdout.style,
    width: context.stdout.columns(),
    nowWallMs: context.clock.wallMs(),
  }
}
