/** `mesh submit`: a file becomes a graph, the graph a request, its outputs files again. */
import { resolve } from 'node:path'
import {
  DryRun,
  FetchAnswer,
  Priority,
  PRIORITY_DEFAULT,
  RequestView as RequestViewSchema,
  WaitLimitMs,
  type RequestView,
  type Submission,
} from '../../wire/api.ts'
import { EXIT, MeshError } from '../../base/errors.ts'
import { VERIFY_MAX, type Graph, type RunLimits } from '../../wire/derivation.ts'
import { FOLLOW_PATIENCE_MS, openClient, type Client } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { dryRunLines } from '../dry-run-view.ts'
import { imageOf } from '../image/name-image.ts'
import { ingestPlan } from '../graph-file/ingest-plan.ts'
import { parseDescription } from '../graph-file/parse-description.ts'
import { planGraph } from '../graph-file/plan.ts'
import { readGraphFile } from '../graph-file/read-graph-file.ts'
import { checkPlaces, outputPlaces, placeName, writePlaces } from '../output-place.ts'
import { tellHopeless } from '../outlook.ts'
import { openProgress, type Progress } from '../progress/progress.ts'
import { cancelOnInterrupt, followRequest, submitGraph, thisSystem } from '../submission.ts'
import { parseDuration } from '../../base/units.ts'
import { differencesOf } from '../tell-differences.ts'
import { Upload } from '../upload.ts'
import { entryCid, entryOfCid } from './objects.ts'

const OUT_DEFAULT = 'result'
/** How often lost outputs are asked to be built again. */
const LOST_MAX = 3

export async function submit(context: Context, args: Arguments): Promise<number> {
  const priority =
    args.parsed('priority', parsePriority, 'a number from 0 to 100') ?? PRIORITY_DEFAULT
  const waitLimitMs = args.parsed('wait-limit', parseWaitLimit, 'a time up to 30d, such as 24h')
  const verify = args.parsed('verify', parseVerify, `a number from 1 to ${VERIFY_MAX}`)
  if (waitLimitMs !== undefined && args.flag('no-wait'))
    throw new MeshError('MESH0002', 'mesh submit: --no-wait and --wait-limit contradict each other')
  if (args.flag('detach') && args.flag('follow'))
    throw new MeshError('MESH0002', 'mesh submit: --detach and --follow contradict each other')
  const file = await readGraphFile(context.cwd, args.operand(0))
  const plan = planGraph(file.located, parseDescription(file.located), {
    attributes: args.all('attr'),
    system: thisSystem(),
  })
  const out = args.text('out') ?? OUT_DEFAULT
  const directory = resolve(context.cwd, out)
  const isDry = args.flag('dry-run')
  const wanted = new Set(plan.wanted)
  const names = plan.derivations
    .filter(({ name }) => wanted.has(name))
    .flatMap(({ name, outputs }) => outputs.map((output) => placeName(name, output)))
  if (!isDry && !args.flag('detach')) await checkPlaces(directory, names)
  using client = await openClient(context, args, { patienceMs: FOLLOW_PATIENCE_MS })
  const upload = new Upload()
  const ingested = await ingestPlan(
    {
      located: file.located,
      directory: file.directory,
      upload,
      entryOfCid: (cid) => entryOfCid(client, cid),
      imageOf: (name) => imageOf(client, name),
    },
    plan,
    file.name,
  )
  const submission: Submission = {
    graph: withRun(ingested, {
      ...(verify === undefined ? {} : { verify }),
      ...(args.flag('keep-failed') ? { keepFailed: true } : {}),
    }),
    priority,
    keepGoing: args.flag('keep-going'),
    noWait: args.flag('no-wait'),
    takesCopy: !args.flag('detach'),
    ...(waitLimitMs === undefined ? {} : { waitLimitMs }),
  }
  if (isDry) return await dryRun(context, args, client, submission)
  const progress = openProgress(context, args.text('progress'))
  const accepted = await submitGraph({ client, context, upload }, submission, (text) =>
    progress.notice(text),
  )
  const isQuiet = (args.text('progress') ?? context.env['MESH_PROGRESS']) === 'quiet'
  const isSilent = args.flag('detach') || isQuiet
  const outlook = tellHopeless(client, accepted.id, {
    isAll: isSilent,
    notice: (text) => (isSilent ? void context.stderr.write(`! ${text}\n`) : progress.notice(text)),
  })
  if (args.flag('detach')) await outlook
  const following = { client, context, progress }
  const [first] = args.flag('detach')
    ? [undefined]
    : await Promise.all([follow(following, accepted.id), outlook])
  const ended = first === undefined ? undefined : await bringOutputs(following, first)
  if (ended === undefined) {
    if (submission.takesCopy) await leave(client, accepted.id)
    await waitDetachable(client, accepted)
    progress.finish(undefined)
    if (args.flag('json')) await printJson(context.stdout, resultJson(accepted))
    else await context.stdout.write(`${accepted.id}\n`)
    return EXIT.ok
  }
  const places = ended.state === 'cancelled' ? [] : outputPlaces(ended.outputs)
  if (places.length > 0)
    await writePlaces({ read: client.blob, random: context.random }, directory, places)
  const differences = await differencesOf(client, ended.failures)
  progress.finish(ended)
  if ((args.text('progress') ?? context.env['MESH_PROGRESS']) !== 'quiet')
    await printLines(
      context.stderr,
      differences.flatMap(({ lines }) => lines),
    )
  if (args.flag('json')) {
    const told = new Map(differences.map(({ job, paths }) => [job, paths]))
    const failures = ended.failures.map((failure) => {
      const differing = told.get(failure.job)
      return differing === undefined ? failure : { ...failure, differing }
    })
    await printJson(context.stdout, { ...resultJson(ended), failures })
  } else
    await printLines(
      context.stdout,
      places.map(({ name }) => `${out}/${name}`),
    )
  return ended.exit
}

function parsePriority(text: string): number | undefined {
  return /^\d{1,3}$/.test(text) ? Priority.safeParse(Number(text)).data : undefined
}

function parseVerify(text: string): number | undefined {
  const count = /^\d$/.test(text) ? Number(text) : 0
  return count >= 1 && count <= VERIFY_MAX ? count : undefined
}

/** For every derivation, whatever the file says. */
function withRun(graph: Graph, run: Pick<RunLimits, 'verify' | 'keepFailed'>): Graph {
  const derivations = graph.derivations.map((derivation) => ({
    ...derivation,
    run: { ...derivation.run, ...run },
  }))
  return { ...graph, derivations }
}

function parseWaitLimit(text: string): number | undefined {
  const ms = parseDuration(text)
  return ms === undefined || ms === 0 ? undefined : WaitLimitMs.safeParse(ms).data
}

interface Following {
  readonly client: Client
  readonly context: Context
  readonly progress: Progress
}

/**
 * Has the daemon fetch the outputs. What nobody has any more is built again, as often as its owner does
 * that. Undefined when the user detached meanwhile; throws MESH0501.
 */
async function bringOutputs(
  following: Following,
  ended: RequestView,
): Promise<RequestView | undefined> {
  const { client, progress } = following
  let request = ended
  for (let tries = 0; request.state !== 'cancelled'; tries++) {
    const lost = await lostOutputs(client, request.outputs)
    if (lost.length === 0) break
    if (tries === LOST_MAX)
      throw new MeshError('MESH0501', `nobody has the outputs of ${lost.join(', ')}`, {
        hints: [`see what became of them: mesh jobs ${request.id}`],
      })
    for (const name of lost) {
      progress.notice(`nobody has the outputs of ${name} any more; it is built again`)
      await client.send(
        RequestViewSchema,
        'POST',
        `/api/requests/${request.id}/lost?derivation=${encodeURIComponent(name)}`,
      )
    }
    const again = await follow(following, request.id)
    if (again === undefined) return undefined
    request = again
  }
  return request
}

/** Names of the derivations whose outputs cannot be had. */
async function lostOutputs(
  client: Client,
  outputs: RequestView['outputs'],
): Promise<readonly string[]> {
  const fetchAll = async (wanted: RequestView['outputs']): Promise<boolean> => {
    const entries = Object.values(wanted).flatMap((named) => Object.values(named))
    try {
      await client.send(FetchAnswer, 'POST', '/api/blobs/fetch', entries)
      return true
    } catch (error) {
      if (error instanceof MeshError && error.code === 'MESH0501') return false
      throw error
    }
  }
  if (await fetchAll(outputs)) return []
  const lost: string[] = []
  for (const [name, named] of Object.entries(outputs))
    if (!(await fetchAll({ [name]: named }))) lost.push(name)
  return lost
}

/** The request at its end, or undefined when its user detached. */
async function follow(
  { client, context, progress }: Following,
  id: string,
): Promise<RequestView | undefined> {
  const detach = new AbortController()
  const onNotice = (text: string): void => progress.notice(text)
  using interrupts = cancelOnInterrupt({ client, context }, id, { onNotice, exit: EXIT.cancelled })
  const keys = readKeys(context, (key) => {
    if (key === 'd') detach.abort()
    if (key === '\x03') interrupts.interrupt()
  })
  try {
    return await followRequest(client, id, {
      onEvent: (event) => progress.event(event),
      onNotice,
      signal: detach.signal,
    })
  } finally {
    keys[Symbol.dispose]()
  }
}

/** Single keys, where there is a terminal to press them at and to show the progress on. */
function readKeys({ stdin, stderr }: Context, onKey: (key: string) => void): Disposable {
  if (!stdin.isTTY || !stderr.isTty) return { [Symbol.dispose]: () => undefined }
  const listener = (bytes: Buffer): void => {
    for (const key of bytes.toString('latin1')) onKey(key)
  }
  stdin.setRawMode(true)
  stdin.on('data', listener)
  const restore = (): void => void stdin.setRawMode(false)
  process.on('exit', restore)
  return {
    [Symbol.dispose]() {
      process.off('exit', restore)
      restore()
      stdin.off('data', listener)
      stdin.pause()
    },
  }
}

/** Says that no copy of the outputs is taken here, so that another is made. */
async function leave(client: Client, id: string): Promise<void> {
  try {
    await client.send(RequestViewSchema, 'POST', `/api/requests/${id}/leave`)
  } catch (error) {
    // The request goes on all the same, with one copy less.
    if (!(error instanceof MeshError) || error.code !== 'MESH0120') throw error
  }
}

/** Returns once no further byte is needed from here. */
async function waitDetachable(client: Client, accepted: RequestView): Promise<void> {
  if (accepted.detachable) return
  const stop = new AbortController()
  for await (const event of client.events(accepted.id, stop.signal, () => undefined))
    if (event.type === 'end' || (event.type === 'request' && event.request.detachable)) break
  stop.abort()
}

/** The object of `mesh submit --json`. Part of the public interface. */
export function resultJson(request: RequestView): Record<string, unknown> {
  const { built, cached, failed, cancelled } = request.counts
  const { state, bytes, wallMs, serialMs, ranLocally, failures, replicas } = request
  const outputs = Object.fromEntries(
    Object.entries(request.outputs).map(([derivation, made]) => [
      derivation,
      Object.fromEntries(
        Object.entries(made).map(([output, entry]) => [
          output,
          entry.kind === 'symlink'
            ? { kind: entry.kind, target: entry.target, executable: false }
            : {
                cid: entryCid(entry),
                kind: entry.kind,
                executable: entry.kind === 'file' && entry.executable,
              },
        ]),
      ),
    ]),
  )
  return {
    v: 1,
    request: request.id,
    state,
    jobs: { built, cached, failed, cancelled },
    outputs,
    replicas,
    bytes,
    wallMs,
    serialMs,
    ranLocally,
    failures,
  }
}

async function dryRun(
  context: Context,
  args: Arguments,
  client: Client,
  submission: Submission,
): Promise<number> {
  const answer = await client.send(DryRun, 'POST', '/api/dry-run', submission)
  if (args.flag('json')) {
    await printJson(context.stdout, { v: 1, ...answer })
    return EXIT.ok
  }
  const { stdout } = context
  await printLines(stdout, dryRunLines(answer, { style: stdout.style, width: stdout.columns() }))
  return EXIT.ok
}
