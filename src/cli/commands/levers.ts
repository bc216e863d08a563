/** What changes the course of things: `drain`, `undrain`, `boost`, `hold`, `release`, `retry`, `cancel`. */
import { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { parseDuration } from '../../base/units.ts'
import {
  DrainView,
  JobView,
  Priority,
  RequestView,
  Undrained,
  type DrainOrder,
} from '../../wire/api.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { leverTarget } from '../lever-target.ts'
import { drainLines, drainListLines, leverLine, undrainedLine, type Lever } from '../lever-views.ts'
import { viewOptions } from '../query-views.ts'

const PRIORITY_BOOSTED = 100

export async function drain(context: Context, args: Arguments): Promise<number> {
  const [selector] = args.operands
  const isList = args.flag('list')
  if (isList === (selector !== undefined))
    throw new MeshError(
      'MESH0002',
      isList ? 'mesh drain --list takes no selector' : 'mesh drain: NODE|SELECTOR is missing',
      { hints: ['mesh drain --help', 'what is drained now: mesh drain --list'] },
    )
  const deadlineMs = args.parsed('deadline', parseDuration, 'a time such as 30m or 2h')
  using client = await openClient(context, args)
  if (selector === undefined) {
    const drains = await client.json(z.array(DrainView), '/api/drains')
    if (args.flag('json')) await printJson(context.stdout, drains)
    else await printLines(context.stdout, drainListLines(drains, viewOptions(context)))
    return 0
  }
  const order: DrainOrder = {
    selector,
    reason: args.text('reason') ?? '',
    deadlineMs: deadlineMs ?? null,
  }
  const view = await client.send(DrainView, 'POST', '/api/nodes/drain', order)
  if (args.flag('json')) await printJson(context.stdout, view)
  else await printLines(context.stdout, drainLines(view, viewOptions(context)))
  return 0
}

export async function undrain(context: Context, args: Arguments): Promise<number> {
  const selector = args.operand(0)
  using client = await openClient(context, args)
  const undrained = await client.send(Undrained, 'POST', '/api/nodes/undrain', { selector })
  if (args.flag('json')) await printJson(context.stdout, undrained)
  else await printLines(context.stdout, [undrainedLine(selector, undrained)])
  return 0
}

export function boost(context: Context, args: Arguments): Promise<number> {
  const [, text] = args.operands
  const priority =
    text === undefined
      ? PRIORITY_BOOSTED
      : Priority.safeParse(/^\d{1,3}$/.test(text) ? Number(text) : undefined).data
  if (priority === undefined)
    throw new MeshError('MESH0002', `mesh boost: ${text}: expected a number from 0 to 100`)
  return pull(context, args, 'boost', { priority })
}

export const hold = (context: Context, args: Arguments): Promise<number> =>
  pull(context, args, 'hold', { reason: args.text('reason') ?? '' })

export const release = (context: Context, args: Arguments): Promise<number> =>
  pull(context, args, 'release', {})

export const retry = (context: Context, args: Arguments): Promise<number> =>
  pull(context, args, 'retry', { rebind: args.flag('rebind') })

export const cancel = (context: Context, args: Arguments): Promise<number> =>
  pull(context, args, 'cancel', {})

async function pull(
  context: Context,
  args: Arguments,
  lever: Lever,
  body: Readonly<Record<string, unknown>>,
): Promise<number> {
  using client = await openClient(context, args)
  const { kind, id } = await leverTarget(client, args.operand(0))
  const path = `${encodeURIComponent(id)}/${lever}`
  const view =
    kind === 'job'
      ? await client.send(JobView, 'POST', `/api/jobs/${path}`, body)
      : await client.send(RequestView, 'POST', `/api/requests/${path}`, body)
  if (args.flag('json')) await printJson(context.stdout, view)
  else await printLines(context.stdout, [leverLine(lever, view)])
  return 0
}
