/** `mesh image capture`: tools of this machine as an image: stored, named, or written to a directory. */
import { resolve } from 'node:path'
import { EXIT, MeshError } from '../../../base/errors.ts'
import { formatSize, plural } from '../../../base/units.ts'
import { ingest } from '../../../files/ingest.ts'
import { layOut, type ReadBlob } from '../../../files/lay-out.ts'
import { mapLimited } from '../../../files/map-limited.ts'
import { sha256 } from '../../../wire/digest.ts'
import { ImageName } from '../../../wire/names.ts'
import { encodeTree, type Entry } from '../../../wire/tree.ts'
import { openClient } from '../../client.ts'
import type { Arguments } from '../../command.ts'
import { entryCid } from '../../commands/objects.ts'
import { composeTree } from '../../compose-tree.ts'
import { printJson, printLines, type Context } from '../../context.ts'
import { table } from '../../text/table.ts'
import { Upload } from '../../upload.ts'
import { describeImage } from '../../../files/image/describe.ts'
import { nameImage, systemOption } from '../name-image.ts'
import { FileProgress } from '../progress.ts'
import { captureTools } from './capture.ts'
import type { Picked } from './picked.ts'

const FILES_AT_ONCE = 16

export async function capture(context: Context, args: Arguments): Promise<number> {
  const tools = args.operands
  const [name, out] = [args.text('name'), args.text('out')]
  if (tools.length === 0)
    throw new MeshError('MESH0002', 'mesh image capture: TOOL is missing', {
      hints: ['mesh image capture gcc make --name cc'],
    })
  if (name !== undefined && out !== undefined)
    throw new MeshError('MESH0002', 'mesh image capture: --name and --out exclude each other')
  if (name !== undefined && !ImageName.safeParse(name).success)
    throw new MeshError('MESH0002', `--name ${name}: 1-64 of a-z 0-9 _ . + -`)
  const system = systemOption(args.text('system'))
  const { clock, env } = context
  const { picked, warnings } = await captureTools({ clock }, tools, {
    hasBase: !args.flag('no-base'),
    path: env['PATH'],
  })
  for (const warning of warnings) await context.stderr.write(`warning: ${warning}\n`)
  const groups = groupsOf(picked)
  const isJson = args.flag('json')
  if (!isJson) await printLines(context.stderr, groupLines(groups, context))
  const report = { groups, warnings }
  if (args.flag('dry-run')) {
    if (isJson) await printJson(context.stdout, report)
    return EXIT.ok
  }
  const upload = new Upload()
  const progress = new FileProgress(context, 'packed')
  let entry: Entry
  try {
    entry = await pack(upload, picked, progress)
  } finally {
    await progress.end()
  }
  const read: ReadBlob = (ref) => {
    const blob = upload.find(ref.digest)
    if (blob === undefined) throw new MeshError('MESH0001', 'a part of the image was not packed')
    return blob.open()
  }
  const image = await describeImage(read, entry, system)
  const cid = entryCid(entry)
  if (out !== undefined) await layOut(read, entry, resolve(context.cwd, out))
  else {
    using client = await openClient(context, args)
    await upload.send(client, (text) => void context.stderr.write(`${text}\n`))
    if (name !== undefined) await nameImage({ client, context }, name, image)
  }
  if (isJson) await printJson(context.stdout, { cid, ...image, ...report, name, out })
  else await context.stdout.write(`${cid}\n`)
  return EXIT.ok
}

/** Throws MESH0207 for a file that cannot be read. */
async function pack(upload: Upload, picked: Picked, progress: FileProgress): Promise<Entry> {
  const empty = encodeTree([])
  const emptyRef = { digest: sha256(empty), size: empty.byteLength }
  upload.addBytes(emptyRef.digest, empty)
  const entries = await mapLimited(
    [...picked.all],
    FILES_AT_ONCE,
    async ([path, pick]): Promise<[string, Entry]> => {
      const relative = path.slice(1)
      if (pick.kind === 'link') return [relative, { kind: 'symlink', target: pick.target }]
      if (pick.kind === 'dir') return [relative, { kind: 'dir', ...emptyRef }]
      await progress.add(pick.size)
      return [relative, await ingest(upload.sink, path)]
    },
  )
  return composeTree(upload, new Map(entries))
}

interface Group {
  readonly what: string
  readonly files: number
  readonly bytes: number
}

function groupsOf(picked: Picked): Group[] {
  const groups = new Map<string, { files: number; bytes: number }>()
  for (const pick of picked.all.values()) {
    if (pick.kind !== 'file') continue
    const group = groups.get(pick.group) ?? { files: 0, bytes: 0 }
    group.files += 1
    group.bytes += pick.size
    groups.set(pick.group, group)
  }
  return [...groups].map(([what, counts]) => ({ what, ...counts }))
}

function groupLines(groups: readonly Group[], { stderr }: Context): string[] {
  const files = groups.reduce((sum, group) => sum + group.files, 0)
  const bytes = groups.reduce((sum, group) => sum + group.bytes, 0)
  return [
    ...table(
      [
        { header: 'TAKEN FOR', cell: ({ what }) => what },
        { header: 'FILES', cell: (group) => String(group.files), align: 'right' },
        { header: 'SIZE', cell: (group) => formatSize(group.bytes), align: 'right' },
      ],
      groups,
      { style: stderr.style },
    ),
    `together ${plural(files, 'file')}, ${formatSize(bytes)}`,
  ]
}
