/** `mesh logs`: what jobs printed, in the order in which they printed it, live or from long ago. */
import { parseDuration } from '../../base/units.ts'
import { EXIT, MeshError } from '../../base/errors.ts'
import type { AttemptView, JobView } from '../../wire/api.ts'
import { LogView, patternProblem, TAIL_LINES_MAX } from '../../wire/log-view.ts'
import { FOLLOW_PATIENCE_MS, openClient, type Client } from '../client.ts'
import type { Arguments } from '../command.ts'
import type { Context } from '../context.ts'
import { buildStartMs, logPrinter, type LogSubject } from '../log-printer.ts'
import { readLog } from '../read-log.ts'
import { fetchJobs, resolveJob } from '../resolve-job.ts'
import { paint, printable, printableLine } from '../text/style.ts'

/** Logs of failed jobs that are shown one after the other. */
const FAILED_MAX = 1_000

interface Reading {
  readonly client: Client
  readonly context: Context
  readonly args: Arguments
  readonly signal: AbortSignal
}

export async function logs(context: Context, args: Arguments): Promise<number> {
  const wanted = parseWanted(args, context.clock.wallMs())
  if (args.flag('offset') && args.flag('failed'))
    throw new MeshError('MESH0002', 'mesh logs: --offset and --failed contradict each other')
  using client = await openClient(
    context,
    args,
    args.flag('follow') ? { patienceMs: FOLLOW_PATIENCE_MS } : undefined,
  )
  const reading = { client, context, args, signal: new AbortController().signal }
  if (args.flag('failed')) return await failedLogs(reading, args.operand(0), wanted)
  const { text, n } = splitNumber(args.operand(0))
  const number = n ?? args.parsed('attempt', wholeNumber, 'a number')
  const job = await resolveJob(client, text)
  const attempt = attemptOf(job, number, text)
  await show(reading, { job, attempt }, wanted)
  // Who follows a job wants it to its end, also when its first node was lost.
  if (args.flag('follow') && number === undefined && attempt?.id !== text)
    await followOn(reading, job, attempt, wanted)
  return EXIT.ok
}

/** What is asked for, but for the time, which counts from the beginning of each attempt. */
interface Wanted {
  readonly view: LogView
  readonly sinceWall: number | undefined
}

function parseWanted(args: Arguments, nowWall: number): Wanted {
  const streams = args.parsed(
    'stream',
    (text) => LogView.shape.streams.safeParse(text.split(',')).data,
    'stdout, stderr or mesh, several with commas',
  )
  const tail = args.parsed(
    'tail',
    (text) => LogView.shape.tail.safeParse(wholeNumber(text)).data,
    `a number from 1 to ${TAIL_LINES_MAX}`,
  )
  const sinceWall = args.parsed(
    'since',
    (text) => parseSince(text, nowWall),
    'a time ago such as 5m, or an ISO time',
  )
  const grep = args.text('grep')
  const problem = grep === undefined ? undefined : patternProblem(grep)
  if (problem !== undefined)
    throw new MeshError('MESH0002', `mesh logs: --grep ${JSON.stringify(grep)}: ${problem}`)
  const view: LogView = {
    ...(streams === undefined ? {} : { streams }),
    ...(grep === undefined ? {} : { grep }),
    ...(args.flag('ignore-case') ? { ignoreCase: true } : {}),
    ...(tail === undefined ? {} : { tail }),
  }
  return { view, sinceWall }
}

function parseSince(text: string, nowWall: number): number | undefined {
  const ms = parseDuration(text)
  if (ms !== undefined) return nowWall - ms
  const wall = /^\d{4}-\d\d-\d\dT/.test(text) ? Date.parse(text) : Number.NaN
  return Number.isNaN(wall) ? undefined : wall
}

function wholeNumber(text: string): number | undefined {
  return /^\d{1,15}$/.test(text) ? Number(text) : undefined
}

/** `JOB#2` is the second attempt of JOB. */
function splitNumber(text: string): { readonly text: string; readonly n: number | undefined } {
  const match = /^(.+)#(\d{1,9})$/.exec(text)
  if (match?.[1] === undefined) return { text, n: undefined }
  return { text: match[1], n: Number(match[2]) }
}

/** Undefined before the first one, and for a result that was in the cache. */
function attemptOf(
  job: JobView,
  number: number | undefined,
  text: string,
): AttemptView | undefined {
  if (number === undefined) return job.attempts.find(({ id }) => id === text) ?? job.attempts.at(-1)
  const attempt = job.attempts.find(({ n }) => n === number)
  if (attempt === undefined)
    throw new MeshError('MESH0601', `${job.name} (${job.id}) has no attempt ${number}`, {
      hints: [`it has ${job.attempts.length}: mesh jobs show ${job.id}`],
    })
  return attempt
}

async function show(
  { client, context, args, signal }: Reading,
  subject: LogSubject,
  { view, sinceWall }: Wanted,
): Promise<void> {
  const { job, attempt } = subject
  const offsetBytes = args.parsed('offset', wholeNumber, 'a number of bytes')
  const startMs = buildStartMs(attempt)
  const sinceMs =
    sinceWall === undefined || startMs === undefined ? 0 : Math.max(0, sinceWall - startMs)
  const whole = { ...view, ...(sinceMs === 0 ? {} : { sinceMs: Math.round(sinceMs) }) }
  const printer = logPrinter(context, subject, {
    isJson: args.flag('json'),
    hasTimes: args.flag('timestamps'),
    isRaw: args.flag('raw'),
  })
  for await (const record of readLog(client, context, {
    job: job.id,
    ...(attempt === undefined ? {} : { attempt: attempt.id }),
    ...(offsetBytes === undefined ? {} : { offsetBytes }),
    ...(Object.keys(whole).length === 0 ? {} : { view: whole }),
    follow: args.flag('follow'),
    signal,
  }))
    await printer.print(record)
  await printer.end()
}

/** Further attempts, as long as the job goes on. */
async function followOn(
  reading: Reading,
  before: JobView,
  shown: AttemptView | undefined,
  wanted: Wanted,
): Promise<void> {
  const { client, context, args } = reading
  let last = shown
  for (;;) {
    const job = await resolveJob(client, before.id)
    const at = job.attempts.findIndex(({ id }) => id === last?.id)
    // The log of a first attempt was followed before it was known which one it is.
    const next = last === undefined ? job.attempts[1] : job.attempts[at + 1]
    if (next !== undefined) {
      if (!args.flag('json')) await printHead(context, { job, attempt: next })
      await show(reading, { job, attempt: next }, wanted)
      last = next
    } else if (job.state === 'done' || job.state === 'failed' || job.state === 'cancelled') return
    else if (last === undefined) last = job.attempts[0]
    else await awaitNews(client, job)
  }
}

/** Resolves when something about the job changes, or its request has ended. */
async function awaitNews(client: Client, job: JobView): Promise<void> {
  const stop = new AbortController()
  const before = JSON.stringify([job.state, job.attempts.length])
  try {
    for await (const event of client.events(job.request, stop.signal, () => undefined)) {
      if (event.type === 'end') return
      if (event.type !== 'job' || event.job.id !== job.id) continue
      if (JSON.stringify([event.job.state, event.job.attempts.length]) !== before) return
    }
  } finally {
    stop.abort()
  }
}

/** The logs of all that failed of a request, each behind a line that says whose it is. */
async function failedLogs(reading: Reading, text: string, wanted: Wanted): Promise<number> {
  const { client, context, args } = reading
  const request = text.includes('/') || !text.startsWith('r-') ? undefined : text
  const jobs =
    request === undefined ? [await resolveJob(client, text)] : await fetchJobs(client, { request })
  const failed = jobs.filter(
    ({ attempts, state }) =>
      state === 'failed' || attempts.some((attempt) => attempt.state === 'failed'),
  )
  for (const [at, job] of failed.slice(0, FAILED_MAX).toReversed().entries()) {
    const attempt = job.attempts.findLast(({ state }) => state === 'failed') ?? job.attempts.at(-1)
    if (!args.flag('json')) {
      if (at > 0) await context.stdout.write('\n')
      await printHead(context, { job, attempt })
    }
    if (attempt !== undefined) await show(reading, { job, attempt }, wanted)
  }
  if (failed.length === 0 && !args.flag('json'))
    await context.stderr.write(`nothing of ${text} has failed\n`)
  return EXIT.ok
}

async function printHead({ stdout }: Context, { job, attempt }: LogSubject): Promise<void> {
  const whose = `${job.request}/${job.name}  ${job.id}`
  const where =
    attempt === undefined
      ? 'never begun'
      : `attempt ${attempt.n}  ${attempt.node}  ${attempt.arch}-${attempt.platform}  ${attempt.environment}  ${attempt.state}`
  const why = attempt?.error ?? ''
  const line = `==> ${whose}  ${where}${why === '' ? '' : `: ${printableLine(printable(why))}`} <==`
  await stdout.write(`${paint(stdout.style, 'strong', line)}\n`)
}
