/** `mesh jobs` and `mesh requests`: lists with filters, one job in full, and the levers under their other names. */
import { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { JobState, JobView, RequestView } from '../../wire/api.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { filterQuery, limitOf } from '../list-filters.ts'
import { jobLines, jobShowLines, requestLines, viewOptions } from '../query-views.ts'
import { resolveJob } from '../resolve-job.ts'
import { diff } from './diff.ts'
import { boost, cancel, hold, release, retry } from './levers.ts'

const REQUEST_STATES = RequestView.shape.state.options

/** `mesh jobs VERB JOB` is `mesh VERB JOB`. */
const VERBS: Readonly<Record<string, (context: Context, args: Arguments) => Promise<number>>> = {
  show,
  boost,
  cancel,
  diff,
  hold,
  release,
  retry,
}

export async function jobs(context: Context, args: Arguments): Promise<number> {
  const [first, ...rest] = args.operands
  const verb = first !== undefined && Object.hasOwn(VERBS, first) ? VERBS[first] : undefined
  if (verb !== undefined && rest.length > 0) return await verb(context, args.withOperands(rest))
  if (rest.length > 0)
    throw new MeshError('MESH0002', `mesh jobs: ${JSON.stringify(first)} is not one of its verbs`, {
      hints: [`there are: ${Object.keys(VERBS).join(', ')}`],
    })
  const asked = first === undefined ? args : args.withValue('request', first)
  if (args.flag('requests')) return await requests(context, asked)
  using client = await openClient(context, args)
  const query = filterQuery(asked, JobState.options)
  const answer = await client.json(z.array(JobView), `/api/jobs${query}`)
  if (args.flag('json')) await printJson(context.stdout, answer)
  else if (args.flag('quiet'))
    await printLines(
      context.stdout,
      answer.map(({ id }) => id),
    )
  else await printLines(context.stdout, jobLines(answer, viewOptions(context)))
  return 0
}

export async function requests(context: Context, args: Arguments): Promise<number> {
  const prefix = args.operands[0] ?? args.text('request')
  for (const name of ['node', 'name'])
    if (args.flag(name))
      throw new MeshError('MESH0002', `--${name} is a filter of jobs: a request has many of them`)
  using client = await openClient(context, args)
  // What is counted is what is left when the prefix was looked at, and that is done here.
  const query = filterQuery(prefix === undefined ? args : args.without('limit'), REQUEST_STATES)
  const all = await client.json(z.array(RequestView), `/api/requests${query}`)
  const answer = all
    .filter(
      ({ id }) => prefix === undefined || id.startsWith(prefix) || id.startsWith(`r-${prefix}`),
    )
    .slice(0, limitOf(args))
  if (args.flag('json')) await printJson(context.stdout, answer)
  else if (args.flag('quiet'))
    await printLines(
      context.stdout,
      answer.map(({ id }) => id),
    )
  else await printLines(context.stdout, requestLines(answer, viewOptions(context)))
  return 0
}

async function show(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const job = await resolveJob(client, args.operand(0))
  if (args.flag('json')) await printJson(context.stdout, job)
  else await printLines(context.stdout, jobShowLines(job, viewOptions(context)))
  return 0
}
