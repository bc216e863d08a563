/** The commands on the disk of this node: du, gc, pin, unpin. */
import { z } from 'zod'
import { MeshError } from '../../base/errors.ts'
import { formatSize, parseSize } from '../../base/units.ts'
import { cidOf, parseCid } from '../../wire/digest.ts'
import { GcReport, Pin, Storage } from '../../wire/storage.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { gcLines, pinLines, storageLines } from '../storage-views.ts'

export async function du(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const storage = await client.json(Storage, '/api/storage')
  if (args.flag('json')) await printJson(context.stdout, storage)
  else await printLines(context.stdout, storageLines(storage, context.stdout.style))
  return 0
}

export async function gc(context: Context, args: Arguments): Promise<number> {
  const text = args.text('free')
  const freeBytes = text === undefined ? undefined : parseSize(text)
  if (text !== undefined && freeBytes === undefined)
    throw new MeshError(
      'MESH0002',
      `mesh gc: --free ${JSON.stringify(text)} is no size such as "20 GiB"`,
    )
  using client = await openClient(context, args)
  const report = await client.send(GcReport, 'POST', '/api/gc', {
    dryRun: args.flag('dry-run'),
    ...(freeBytes === undefined ? {} : { freeBytes }),
  })
  if (args.flag('json')) await printJson(context.stdout, report)
  else await printLines(context.stdout, gcLines(report))
  return 0
}

/** Without a CID lists the pins. */
export async function pin(context: Context, args: Arguments): Promise<number> {
  const [cid] = args.operands
  using client = await openClient(context, args)
  if (cid === undefined) {
    const pins = await client.json(z.array(Pin), '/api/pins')
    if (args.flag('json')) await printJson(context.stdout, pins)
    else
      await printLines(
        context.stdout,
        pinLines(pins, {
          style: context.stdout.style,
          width: context.stdout.columns(),
          nowWallMs: context.clock.wallMs(),
        }),
      )
    return 0
  }
  const object = objectOf(cid)
  const pinned = await client.send(Pin, 'POST', '/api/pins', {
    digest: object.digest,
    kind: object.kind === 'object' ? 'dir' : 'file',
    label: args.text('label') ?? '',
  })
  if (args.flag('json')) await printJson(context.stdout, pinned)
  else
    await context.stdout.write(
      `pinned ${cidOf(pinned.digest, object.kind)} (${pinned.kind === 'dir' ? 'a directory with all that is in it' : formatSize(pinned.size)})\n`,
    )
  return 0
}

export async function unpin(context: Context, args: Arguments): Promise<number> {
  const { digest, kind } = objectOf(args.operand(0))
  using client = await openClient(context, args)
  const removed = await client.send(Pin, 'POST', '/api/pins/remove', { digest })
  if (args.flag('json')) await printJson(context.stdout, removed)
  else await context.stdout.write(`unpinned ${cidOf(digest, kind)}; mesh gc frees its room\n`)
  return 0
}

function objectOf(text: string): NonNullable<ReturnType<typeof parseCid>> {
  const object = parseCid(text)
  if (object === undefined)
    throw new MeshError(
      'MESH0002',
      `${JSON.stringify(text)} is no CID of a file or directory (bafkrei…, bafyrei… or 64 hex digits)`,
    )
  return object
}
