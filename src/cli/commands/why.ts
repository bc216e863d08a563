/** `mesh why`: the daemon's explanation of one waiting job. */
import { MeshError } from '../../base/errors.ts'
import { Why, type JobView } from '../../wire/api.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { resolveJobs } from '../resolve-job.ts'
import { nearestOf } from '../../base/nearest.ts'
import { plural } from '../../base/units.ts'
import { whyLines } from '../why-view.ts'

const OTHERS_SHOWN_MAX = 5

export async function why(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const jobs = await resolveJobs(client, args.operand(0))
  const waiting = jobs
    .filter(({ state }) => state === 'waiting')
    .toSorted((a, b) => rank(a) - rank(b))
  const [job = jobs[0], ...others] = args.operand(0).startsWith('r-') ? waiting : []
  const node = args.operands[1]
  const path = `/api/jobs/${job.id}/why`
  const shown = await client.json(
    Why,
    node === undefined ? path : `${path}?node=${encodeURIComponent(node)}`,
  )
  if (node !== undefined && shown.nodes.length === 0)
    throw unknownNode(node, await client.json(Why, path))
  if (args.flag('json')) {
    await printJson(context.stdout, shown)
    return 0
  }
  await printLines(
    context.stdout,
    whyLines(shown, {
      style: context.stdout.style,
      width: context.stdout.columns(),
      onlyNode: node,
    }),
  )
  if (others.length > 0)
    await printLines(context.stderr, [
      `${plural(others.length, 'more job')} of this request wait${others.length === 1 ? 's' : ''}: ${others
        .slice(0, OTHERS_SHOWN_MAX)
        .map(({ id, name }) => `${name} (${id})`)
        .join(', ')}${others.length > OTHERS_SHOWN_MAX ? ', …' : ''}`,
    ])
  return 0
}

/** What waits for inputs has its reason in another job: last. */
const rank = ({ why: reason }: JobView): number =>
  reason?.class === 'unsatisfiable' ? 0 : reason?.class === 'inputs' ? 2 : 1

function unknownNode(name: string, { nodes }: Why): MeshError {
  const names = nearestOf(
    name,
    nodes.map(({ node }) => node),
    2,
  )
  return new MeshError(
    'MESH0601',
    `there is no node ${JSON.stringify(name)} among those that were asked`,
    {
      hints: names.length === 0 ? ['list them: mesh nodes'] : [`the nearest: ${names.join(', ')}`],
    },
  )
}
