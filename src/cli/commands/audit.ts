/** `mesh audit ls`: jobs that are built again on idle nodes, and all whose builds were found to differ. */
import { formatDuration, plural } from '../../base/units.ts'
import { MeshError } from '../../base/errors.ts'
import { Audits } from '../../wire/comparisons.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { table } from '../text/table.ts'

export async function audit(context: Context, args: Arguments): Promise<number> {
  const [verb = 'ls'] = args.operands
  if (verb !== 'ls')
    throw new MeshError('MESH0002', `mesh audit: ${JSON.stringify(verb)} is not one of its verbs`, {
      hints: ['there is: ls'],
    })
  using client = await openClient(context, args)
  const answer = await client.json(Audits, '/api/audits')
  if (args.flag('json')) await printJson(context.stdout, answer)
  else await printLines(context.stdout, auditLines(context, answer))
  return 0
}

function auditLines(
  { stdout, clock }: Context,
  { share, candidates, running, audited, diverged }: Audits,
): string[] {
  const mode =
    share === 0
      ? 'audits are off: mesh-node --audit 5% at the root turns them on'
      : `audits: ${Math.round(share * 1000) / 10} % of the finished jobs, ${plural(candidates, 'job')} to go`
  const total = audited.equal + audited.different + audited.failed
  const options = { style: stdout.style, width: stdout.columns() }
  return [
    mode,
    `built again: ${total}: ${audited.equal} equal, ${audited.different} different, ${audited.failed} failed`,
    ...running.map(
      ({ job, name, node, builtBy, forMs }) =>
        `running: ${name} (${job}) on ${node} for ${formatDuration(forMs)}, built first by ${builtBy}`,
    ),
    ...(diverged.length === 0
      ? ['nothing was found to differ']
      : table(
          [
            { header: 'JOB', cell: ({ job }) => job },
            {
              header: 'AGE',
              align: 'right',
              cell: ({ at }) => formatDuration(clock.wallMs() - Date.parse(at)),
            },
            { header: 'FOUND BY', cell: ({ found }) => found },
            { header: 'NODES', cell: ({ nodes }) => nodes.join(',') },
            {
              header: 'OUTPUTS',
              cell: ({ outputs }) => (outputs.length === 0 ? 'one failed' : outputs.join(',')),
            },
            { header: 'NAME', cell: ({ name }) => name },
          ],
          diverged,
          options,
        )),
  ]
}
