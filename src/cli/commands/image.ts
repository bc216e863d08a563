/** `mesh image`: root file systems that builds run in: put, ls, show, rm, and capture, which makes one of this machine's tools. */
import { statSync } from 'node:fs'
import { resolve } from 'node:path'
import { z } from 'zod'
import { EXIT, hasCode, MeshError } from '../../base/errors.ts'
import { nearestOf } from '../../base/nearest.ts'
import { parseCid } from '../../wire/digest.ts'
import { ImageView } from '../../wire/images.ts'
import { ImageName } from '../../wire/names.ts'
import type { Entry } from '../../wire/tree.ts'
import { openClient, type Client } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { imageLines, imageShowLines } from '../image/image-views.ts'
import { LeftOut } from '../../files/image/left-out.ts'
import { describeImage } from '../../files/image/describe.ts'
import { nameImage, readerOf, systemOption } from '../image/name-image.ts'
import { FileProgress } from '../image/progress.ts'
import { archiveAt, readArchive, Spool } from '../image/read-archive.ts'
import { readDirectory } from '../../files/image/read-directory.ts'
import { viewOptions } from '../query-views.ts'
import { Upload } from '../upload.ts'
import { entryOfCid } from './objects.ts'

const VERBS = { put, ls, show, rm, capture } as const

export function image(context: Context, args: Arguments): Promise<number> {
  const [verb = '', ...operands] = args.operands
  if (!isVerb(verb))
    throw new MeshError('MESH0002', `there is no command "mesh image ${verb}"`, {
      hints: [`did you mean "mesh image ${nearestOf(verb, Object.keys(VERBS), 1)[0]}"?`],
    })
  return VERBS[verb](context, args.withOperands(operands))
}

const isVerb = (text: string): text is keyof typeof VERBS => Object.hasOwn(VERBS, text)

async function capture(context: Context, args: Arguments): Promise<number> {
  return (await import('../image/capture/capture-command.ts')).capture(context, args)
}

async function put(context: Context, args: Arguments): Promise<number> {
  const [name = '', path] = operandsOf(args, 'put', ['NAME', 'PATH'])
  checkName(name)
  const system = systemOption(args.text('system'))
  using client = await openClient(context, args)
  using spool = new Spool()
  const upload = new Upload()
  const leftOut = new LeftOut()
  const progress = new FileProgress(context, 'read')
  const to = { upload, leftOut, progress, spool }
  let entry: Entry
  try {
    entry = await readImage(context, client, to, path ?? '', args)
  } finally {
    await progress.end()
  }
  const described = await describeImage(readerOf(upload, client), entry, system)
  await upload.send(client, (text) => void context.stderr.write(`${text}\n`))
  const view = await nameImage({ client, context }, name, described)
  const { line } = leftOut
  if (line !== undefined) await context.stderr.write(`${line}\n`)
  if (view.stores.length === 0)
    await context.stderr.write(
      `no store node has it yet: ${view.problem ?? 'it is on its way'}; until then it is on ${view.from.name} alone\n`,
    )
  if (args.flag('json')) await printJson(context.stdout, { ...view, leftOut: leftOut.counts })
  else await context.stdout.write(`${view.cid}\n`)
  return EXIT.ok
}

interface To {
  readonly upload: Upload
  readonly leftOut: LeftOut
  readonly progress: FileProgress
  readonly spool: Spool
}

/** PATH is a directory, an archive, `-` for an archive on stdin, or the CID of a tree. */
async function readImage(
  context: Context,
  client: Client,
  to: To,
  path: string,
  args: Arguments,
): Promise<Entry> {
  if (path === '-') return readArchive(to, context.stdin)
  const full = resolve(context.cwd, path)
  const isDirectory = isDirectoryAt(full)
  if (isDirectory === undefined && parseCid(path) !== undefined) return entryOfCid(client, path)
  if (isDirectory === undefined) throw new MeshError('MESH0205', `${full} does not exist`)
  if (!isDirectory) return readArchive(to, archiveAt(full))
  const { sink } = to.upload
  const counting = {
    ...sink,
    async file(file: string) {
      const ref = await sink.file(file)
      await to.progress.add(ref.size)
      return ref
    },
  }
  return readDirectory({ sink: counting, leftOut: to.leftOut }, full, {
    skipsUnreadable: args.flag('skip-unreadable'),
  })
}

/** Undefined where there is nothing. */
function isDirectoryAt(path: string): boolean | undefined {
  try {
    return statSync(path).isDirectory()
  } catch (error) {
    if (hasCode(error, 'ENOENT', 'ENOTDIR', 'ENAMETOOLONG')) return undefined
    throw error
  }
}

async function ls(context: Context, args: Arguments): Promise<number> {
  operandsOf(args, 'ls', [])
  using client = await openClient(context, args)
  const images = await client.json(z.array(ImageView), '/api/images')
  if (args.flag('json')) await printJson(context.stdout, images)
  else await printLines(context.stdout, imageLines(images, viewOptions(context)))
  return EXIT.ok
}

async function show(context: Context, args: Arguments): Promise<number> {
  const [name = ''] = operandsOf(args, 'show', ['NAME'])
  using client = await openClient(context, args)
  const view = await client.json(ImageView, `/api/images/${encodeURIComponent(name)}`)
  if (args.flag('json')) await printJson(context.stdout, view)
  else await printLines(context.stdout, imageShowLines(view))
  return EXIT.ok
}

async function rm(context: Context, args: Arguments): Promise<number> {
  const [name = ''] = operandsOf(args, 'rm', ['NAME'])
  using client = await openClient(context, args)
  const path = `/api/images/${encodeURIComponent(name)}/remove`
  const view = await client.send(ImageView, 'POST', path)
  if (args.flag('json')) await printJson(context.stdout, view)
  else
    await context.stdout.write(
      `${view.name} is no image any more; ${view.cid} stays while jobs need it\n`,
    )
  return EXIT.ok
}

/** Just these operands. Throws MESH0002. */
function operandsOf(args: Arguments, verb: string, names: readonly string[]): readonly string[] {
  const { operands } = args
  if (operands.length === names.length) return operands
  throw new MeshError(
    'MESH0002',
    operands.length < names.length
      ? `mesh image ${verb}: ${names.slice(operands.length).join(' and ')} is missing`
      : `mesh image ${verb}: ${JSON.stringify(operands[names.length])} is one argument too many`,
    { hints: [`mesh image ${[verb, ...names].join(' ')}`] },
  )
}

function checkName(name: string): void {
  const parsed = ImageName.safeParse(name)
  if (parsed.success) return
  throw new MeshError('MESH0002', `${JSON.stringify(name)}: ${parsed.error.issues[0]?.message}`)
}
