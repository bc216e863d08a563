/** The commands on the store: put, get, cat, ls, stat. */
import { lstatSync } from 'node:fs'
import { mkdir, rm } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { hasCode, MeshError } from '../../base/errors.ts'
import { ingest } from '../../files/ingest.ts'
import { layOut } from '../../files/lay-out.ts'
import { RequestView } from '../../wire/api.ts'
import { cidOf, Hasher, parseCid, type BlobRef } from '../../wire/digest.ts'
import { OBJECT_BYTES_MAX } from '../../wire/cbor.ts'
import { decodeTree, type Entry, type Tree } from '../../wire/tree.ts'
import { openClient, type Client } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { outputPlaces } from '../output-place.ts'
import { formatSize } from '../../base/units.ts'
import { table } from '../text/table.ts'
import { Upload } from '../upload.ts'

export async function put(context: Context, args: Arguments): Promise<number> {
  const path = resolve(context.cwd, args.operand(0))
  mustExist(path)
  using client = await openClient(context, args)
  const upload = new Upload()
  const entry = await ingest(upload.sink, path)
  if (entry.kind === 'symlink')
    throw new MeshError(
      'MESH0207',
      `${path} is a symbolic link to ${JSON.stringify(entry.target)}: put what it points to`,
    )
  await upload.send(client)
  if (args.flag('json')) await printJson(context.stdout, describe(entry))
  else await context.stdout.write(`${entryCid(entry)}\n`)
  return 0
}

function mustExist(path: string): void {
  try {
    lstatSync(path)
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR'))
      throw new MeshError('MESH0205', `${path} does not exist`)
    throw error
  }
}

export async function get(context: Context, args: Arguments): Promise<number> {
  const out = args.text('out')
  if (out === undefined) throw new MeshError('MESH0002', 'mesh get: -o PATH is missing')
  const path = resolve(context.cwd, out)
  using client = await openClient(context, args)
  const object = parseCid(args.operand(0).split('/')[0] ?? '')
  if (object !== undefined) {
    const entry = await entryAt(client, args.operand(0))
    await layOut(client.blob, entry, path)
    if (args.flag('json')) await printJson(context.stdout, { path, ...describe(entry) })
    return 0
  }
  const request = await client.json(
    RequestView,
    `/api/requests/${encodeURIComponent(args.operand(0))}`,
  )
  const places = outputPlaces(request.outputs)
  const [only] = places
  if (only === undefined)
    throw new MeshError(
      'MESH0601',
      `the request ${request.id} has no outputs: it is ${request.state}`,
    )
  if (places.length === 1) await layOut(client.blob, only.entry, path)
  else {
    await mkdir(path).catch((error: unknown) => {
      throw hasCode(error, 'EEXIST')
        ? new MeshError('MESH0209', `${path} exists already`, { where: path })
        : error
    })
    try {
      for (const { name, entry } of places) await layOut(client.blob, entry, join(path, name))
    } catch (error) {
      await rm(path, { recursive: true, force: true })
      throw error
    }
  }
  if (args.flag('json'))
    await printJson(context.stdout, {
      path,
      request: request.id,
      outputs: places.map(({ name, entry }) => ({ name, ...describe(entry) })),
    })
  return 0
}

export async function cat(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const entry = await entryAt(client, args.operand(0))
  if (entry.kind !== 'file')
    throw new MeshError('MESH0601', `${args.operand(0)} is a ${KINDS[entry.kind]}, not a file`)
  const hasher = new Hasher()
  for await (const piece of client.blob(entry)) {
    hasher.update(piece)
    await context.stdout.write(piece)
  }
  if (hasher.digest() !== entry.digest)
    throw new MeshError('MESH0502', `the daemon sent other bytes than ${entryCid(entry)} names`)
  return 0
}

export async function ls(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const entry = await entryAt(client, args.operand(0))
  const entries: Tree =
    entry.kind === 'dir'
      ? await readTree(client, entry)
      : [{ name: args.operand(0).split('/').at(-1) ?? '', entry }]
  if (args.flag('json')) {
    await printJson(
      context.stdout,
      entries.map(({ name, entry: one }) => ({ name, ...describe(one) })),
    )
    return 0
  }
  const { stdout } = context
  await printLines(
    stdout,
    table(
      [
        {
          header: 'KIND',
          cell: ({ entry: one }) => (one.kind === 'file' && one.executable ? 'exec' : one.kind),
        },
        {
          header: 'SIZE',
          cell: ({ entry: one }) => (one.kind === 'file' ? formatSize(one.size) : '-'),
          align: 'right',
        },
        { header: 'CID', cell: ({ entry: one }) => entryCid(one) ?? '-' },
        {
          header: 'NAME',
          cell: ({ name, entry: one }) =>
            one.kind === 'symlink' ? `${name} -> ${one.target}` : name,
        },
      ],
      entries,
      { style: stdout.style },
    ),
  )
  return 0
}

export async function stat(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const entry = await entryAt(client, args.operand(0))
  if (args.flag('json')) await printJson(context.stdout, describe(entry))
  else
    await printLines(
      context.stdout,
      Object.entries(describe(entry)).map(([key, value]) => `${key.padEnd(10)} ${String(value)}`),
    )
  return 0
}

const KINDS = { file: 'file', dir: 'directory', symlink: 'symbolic link' } as const

/** The CID towards people; a symbolic link has none. */
export function entryCid(entry: Entry): string | undefined {
  return entry.kind === 'symlink'
    ? undefined
    : cidOf(entry.digest, entry.kind === 'dir' ? 'object' : 'raw')
}

function describe(entry: Entry): Record<string, unknown> {
  return entry.kind === 'symlink'
    ? { kind: entry.kind, target: entry.target }
    : { cid: entryCid(entry), ...entry }
}

/** The entry that `CID/PATH` names. Throws MESH0601. */
async function entryAt(client: Client, text: string): Promise<Entry> {
  const [cid = '', ...segments] = text.split('/')
  let entry = await entryOfCid(client, cid)
  for (const segment of segments.filter((name) => name !== '')) {
    const tree = entry.kind === 'dir' ? await readTree(client, entry) : []
    const found = tree.find(({ name }) => name === segment)
    if (found === undefined)
      throw new MeshError('MESH0601', `there is no ${JSON.stringify(segment)} in ${text}`)
    entry = found.entry
  }
  return entry
}

/** The entry that a CID stands for: a file without its executable bit, or a directory. Throws MESH0203 for no CID. */
export async function entryOfCid(client: Client, text: string): Promise<Entry> {
  const object = parseCid(text)
  if (object === undefined)
    throw new MeshError(
      'MESH0002',
      `${JSON.stringify(text)} is no CID of a file or directory (bafkrei…, bafyrei… or 64 hex digits)`,
    )
  const size = await client.sizeOf(object.digest)
  return object.kind === 'object'
    ? { kind: 'dir', digest: object.digest, size }
    : { kind: 'file', digest: object.digest, size, executable: false }
}

/** With `isTree` all that is in it is brought to the daemon as well. Throws MESH0210, MESH0502. */
export async function readTree(
  client: Client,
  ref: BlobRef & { readonly isTree?: boolean },
): Promise<Tree> {
  const pieces: Uint8Array[] = []
  const hasher = new Hasher()
  let length = 0
  for await (const piece of client.blob(ref)) {
    length += piece.byteLength
    if (length > OBJECT_BYTES_MAX)
      throw new MeshError(
        'MESH0210',
        `${cidOf(ref.digest, 'object')} is over ${OBJECT_BYTES_MAX} bytes: not a directory`,
      )
    hasher.update(piece)
    pieces.push(piece)
  }
  if (hasher.digest() !== ref.digest)
    throw new MeshError(
      'MESH0502',
      `the daemon sent other bytes than ${cidOf(ref.digest, 'object')} names`,
    )
  return decodeTree(Buffer.concat(pieces))
}
