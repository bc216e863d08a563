/** The command that shows this node and the mesh around it on one screen. */
import { Status } from '../../wire/api.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { statusLines } from '../query-views.ts'

export async function status(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const answer = await client.json(Status, '/api/status')
  if (args.flag('json')) await printJson(context.stdout, answer)
  else await printLines(context.stdout, statusLines(answer, context.stdout.style))
  return 0
}
