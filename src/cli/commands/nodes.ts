/** `mesh nodes`: all nodes as a table, or one of them in full. */
import { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { nearestOf } from '../../base/nearest.ts'
import { JobView, NodeView } from '../../wire/api.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { findNodes, nodeLines, nodeShowLines } from '../node-views.ts'
import { viewOptions } from '../query-views.ts'

export async function nodes(context: Context, args: Arguments): Promise<number> {
  const [verb, name] = args.operands
  if (verb !== undefined && (verb !== 'show' || name === undefined))
    throw new MeshError('MESH0002', `mesh nodes ${args.operands.join(' ')}: expected show NODE`, {
      hints: ['mesh nodes --help'],
    })
  using client = await openClient(context, args)
  const all = await client.json(z.array(NodeView), '/api/nodes')
  if (name === undefined) {
    if (args.flag('json')) await printJson(context.stdout, all)
    else await printLines(context.stdout, nodeLines(all, viewOptions(context)))
    return 0
  }
  const found = findNodes(all, name)
  if (found.length === 0)
    throw new MeshError('MESH0601', `there is no node ${JSON.stringify(name)}`, {
      hints: [
        `the nearest: ${nearestOf(
          name,
          all.map((node) => node.name),
          2,
        ).join(', ')}`,
        'list them: mesh nodes',
      ],
    })
  const nodeName = found[0]?.name ?? name
  const query = new URLSearchParams({ node: nodeName, state: 'leased,running' })
  // An earlier attempt that ended there may be why a job is in the list.
  const running = (await client.json(z.array(JobView), `/api/jobs?${query.toString()}`)).filter(
    ({ attempts }) => attempts.some((one) => one.node === nodeName && one.endedAt === null),
  )
  // Several nodes may have one name; then all of them are shown.
  if (args.flag('json')) await printJson(context.stdout, found)
  else
    await printLines(
      context.stdout,
      found.flatMap((node, at) => [
        ...(at === 0 ? [] : ['']),
        ...nodeShowLines(node, found.length === 1 ? running : undefined, viewOptions(context)),
      ]),
    )
  return 0
}
