/** `mesh mirror`: writes a static mirror, lists the mirrors of a node, tries them. */
import { resolve } from 'node:path'
import { z } from 'zod'
import { EXIT, MeshError } from '../../base/errors.ts'
import { nearestOf } from '../../base/nearest.ts'
import { formatDuration, formatSize, plural } from '../../base/units.ts'
import { parseCid } from '../../wire/digest.ts'
import { MirrorTest, MirrorView, type MirrorTestQuery } from '../../wire/mirrors.ts'
import { openClient } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { exportMirror, type Exported } from '../export-mirror.ts'
import { table } from '../text/table.ts'

const VERBS = { export: exportTo, ls, test } as const

export function mirror(context: Context, args: Arguments): Promise<number> {
  const verb = args.operand(0)
  if (!isVerb(verb))
    throw new MeshError('MESH0002', `there is no command "mesh mirror ${verb}"`, {
      hints: [`did you mean "mesh mirror ${nearestOf(verb, Object.keys(VERBS), 1)[0]}"?`],
    })
  return VERBS[verb](context, args)
}

const isVerb = (text: string): text is keyof typeof VERBS => Object.hasOwn(VERBS, text)

async function exportTo(context: Context, args: Arguments): Promise<number> {
  const [, directory, ...names] = args.operands
  const isPinned = args.flag('pinned')
  if (directory === undefined || (names.length === 0 && !isPinned))
    throw new MeshError('MESH0002', 'mesh mirror export: DIR and what to export are missing', {
      hints: [
        'mesh mirror export /srv/mirror CID|REQUEST…',
        'mesh mirror export /srv/mirror --pinned',
      ],
    })
  using client = await openClient(context, args)
  const path = resolve(context.cwd, directory)
  const exported = await exportMirror({ context, client }, path, { names, isPinned })
  if (args.flag('json')) await printJson(context.stdout, { directory: path, ...exported })
  else await printLines(context.stdout, [summary(path, exported)])
  return EXIT.ok
}

function summary(path: string, { blobs, results, chunkLists }: Exported): string {
  return [
    `wrote ${plural(blobs.written, 'blob')} (${formatSize(blobs.bytes)}) to ${path}`,
    ...(blobs.present === 0 ? [] : [`${blobs.present} were there`]),
    ...(chunkLists === 0 ? [] : [plural(chunkLists, 'chunk list')]),
    ...(results.written + results.absent === 0
      ? []
      : [`${results.written} of ${plural(results.written + results.absent, 'result')}`]),
  ].join(', ')
}

async function ls(context: Context, args: Arguments): Promise<number> {
  const [, extra] = args.operands
  if (extra !== undefined)
    throw new MeshError(
      'MESH0002',
      `mesh mirror ls: ${JSON.stringify(extra)} is one argument too many`,
    )
  using client = await openClient(context, args)
  const mirrors = await client.json(z.array(MirrorView), '/api/mirrors')
  if (args.flag('json')) await printJson(context.stdout, mirrors)
  else if (mirrors.length === 0)
    await printLines(context.stdout, ['this node uses no mirror: start it with --mirror URL'])
  else
    await printLines(
      context.stdout,
      table(
        [
          { header: 'MIRROR', cell: ({ url }) => url },
          { header: 'STATE', cell: ({ state }) => state },
          { header: 'LATENCY', cell: (row) => milliseconds(row.latencyMs), align: 'right' },
          { header: 'RATE', cell: (row) => rate(row.bytesPerS), align: 'right' },
          {
            header: 'HITS',
            cell: ({ hits, asks }) => (asks === 0 ? '-' : `${hits}/${asks}`),
            align: 'right',
          },
          { header: 'BYTES', cell: ({ bytes }) => formatSize(bytes), align: 'right' },
          { header: 'NOTE', cell: (row) => note(row, context.clock.wallMs()) },
        ],
        mirrors,
        { style: context.stdout.style, width: context.stdout.columns() },
      ),
    )
  return EXIT.ok
}

function note({ reason, until }: MirrorView, nowWallMs: number): string {
  if (until === null) return ''
  return `${reason ?? ''}; asked last for ${formatDuration(Date.parse(until) - nowWallMs)}`
}

const milliseconds = (value: number | null): string => (value === null ? '-' : `${value} ms`)
const rate = (value: number | null): string => (value === null ? '-' : `${formatSize(value)}/s`)
const yesNo = (value: boolean | null): string => (value === null ? '-' : value ? 'yes' : 'no')

async function test(context: Context, args: Arguments): Promise<number> {
  const [, url = 'all', extra] = args.operands
  if (extra !== undefined)
    throw new MeshError(
      'MESH0002',
      `mesh mirror test: ${JSON.stringify(extra)} is one argument too many`,
    )
  if (url !== 'all' && !/^https?:\/\//.test(url))
    throw new MeshError(
      'MESH0002',
      `mesh mirror test ${url}: expected an http or https URL, or all`,
    )
  const cid = args.parsed('cid', parseCid, 'a CID (bafkrei…, bafyrei…) or 64 hex digits')
  const query: MirrorTestQuery = {
    ...(url === 'all' ? {} : { url }),
    ...(cid === undefined ? {} : { digest: cid.digest }),
  }
  using client = await openClient(context, args)
  const tests = await client.send(z.array(MirrorTest), 'POST', '/api/mirrors/test', query)
  if (args.flag('json')) await printJson(context.stdout, tests)
  else if (tests.length === 0)
    await printLines(context.stdout, ['this node uses no mirror: name one, mesh mirror test URL'])
  else {
    const { style } = context.stdout
    await printLines(context.stdout, [
      ...table(
        [
          { header: 'MIRROR', cell: (row: MirrorTest) => row.url },
          { header: 'OK', cell: ({ ok }) => yesNo(ok) },
          { header: 'LAYOUT', cell: ({ layout }) => layout ?? '-' },
          { header: 'RANGE', cell: ({ range }) => yesNo(range) },
          { header: 'LATENCY', cell: (row) => milliseconds(row.latencyMs), align: 'right' },
          { header: 'RATE', cell: (row) => rate(row.bytesPerS), align: 'right' },
          { header: 'COMPARED', cell: ({ blob }) => compared(blob), align: 'right' },
        ],
        tests,
        { style, width: context.stdout.columns() },
      ),
      ...tests.flatMap(({ url: tried, problems }) =>
        problems.map((problem) => `${tried} ${problem}`),
      ),
    ])
  }
  return tests.every(({ ok }) => ok) ? EXIT.ok : EXIT.temporary
}

const compared = (blob: MirrorTest['blob']): string =>
  blob === null ? 'no blob' : formatSize(blob.size)
