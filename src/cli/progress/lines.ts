/** The words of the progress display: pure functions from state to lines, shared by all modes. */
import type { Failure, JobView, RequestView } from '../../wire/api.ts'
import {
  displayWidth,
  padEnd,
  padStart,
  paint,
  printable,
  printableLine,
  rule,
  symbol,
  truncate,
  type Style,
  type SymbolName,
  type Tone,
} from '../text/style.ts'
import { formatDuration, formatSize, plural } from '../../base/units.ts'
import { decisiveAttempt, type ProgressState, type Transition } from './state.ts'

const NAME_WIDTH = 24
export const REGION_LINES_MAX = 8
/** rule, counts and keys. */
const REGION_FIXED_LINES = 3
const FAILURES_SHOWN_MAX = 20

/** One line without its time: symbol and word, name, duration, node. */
export function transitionLine(style: Style, transition: Transition): string {
  switch (transition.kind) {
    case 'accepted': {
      const { request } = transition
      return `${symbol(style, 'running')} request ${request.id}  ${printableLine(request.name)}  ${plural(request.counts.total, 'derivation')}`
    }
    case 'started': {
      const { job, attempt } = transition
      return jobLine(
        style,
        'running',
        attempt.state === 'fetching' ? 'fetch' : 'build',
        job.name,
        '',
        attempt.node,
      )
    }
    case 'lost': {
      const { job, attempt } = transition
      return jobLine(
        style,
        'notice',
        'lost',
        job.name,
        '',
        `${attempt.node}  attempt ${attempt.n}${attempt.error === null ? '' : `: ${printableLine(attempt.error)}`}`,
        'warn',
      )
    }
    case 'waiting':
      return jobLine(
        style,
        'waiting',
        'wait',
        transition.job.name,
        '',
        `${printableLine(transition.reason)}  mesh why ${transition.job.id}`,
        'warn',
      )
    case 'done': {
      const attempt = decisiveAttempt(transition.job)
      return jobLine(
        style,
        'done',
        'done',
        transition.job.name,
        attemptTime(transition.job),
        attempt?.node ?? '',
        'good',
      )
    }
    case 'cached':
      return jobLine(style, 'cached', 'cached', transition.job.name, '', '')
    case 'cancelled':
      return jobLine(style, 'cancelled', 'cancel', transition.job.name, '', '')
    case 'failed': {
      const { failure, job } = transition
      return jobLine(
        style,
        'failed',
        'failed',
        failure.name,
        job === undefined ? '' : attemptTime(job),
        failure.node === null
          ? printableLine(failure.message)
          : `${failure.node}  ${printableLine(failure.message)}  mesh logs ${failure.job}`,
        'bad',
      )
    }
    case 'notice':
      return `${paint(style, 'warn', symbol(style, 'notice'))} ${printableLine(transition.text)}`
  }
}

function jobLine(
  style: Style,
  sign: SymbolName,
  word: string,
  name: string,
  time: string,
  rest: string,
  tone?: Tone,
): string {
  const head = `${symbol(style, sign)} ${padEnd(word, 6)}`
  return `${tone === undefined ? head : paint(style, tone, head)} ${padEnd(name, NAME_WIDTH)} ${padStart(time, 6)}  ${rest}`.trimEnd()
}

function attemptTime(job: JobView): string {
  const attempt = decisiveAttempt(job)
  if (attempt === undefined || attempt.endedAt === null) return ''
  return formatDuration(Date.parse(attempt.endedAt) - Date.parse(attempt.startedAt))
}

/** The end of a failed job's log, each line behind a bar: no line of it can pass for one of ours. */
export function logTailLines(style: Style, failure: Failure, linesMax: number): string[] {
  const lines = printable(failure.logTail.replaceAll('\r\n', '\n'), style)
    .replace(/\n+$/, '')
    .split('\n')
  if (lines.length === 1 && lines[0] === '') return []
  // A colour that a log leaves on must not run into what follows.
  const reset = style.colour ? '\x1b[0m' : ''
  return lines.slice(-linesMax).map((line) => `   | ${line}${line.includes('\x1b') ? reset : ''}`)
}

/** All failures again, so that they stand together at the end. */
export function failureLines(
  style: Style,
  failures: readonly Failure[],
  linesMax: number,
): string[] {
  const shown = failures.slice(0, FAILURES_SHOWN_MAX).flatMap((failure) => [
    '',
    `${paint(style, 'bad', `${symbol(style, 'failed')} error[${printableLine(failure.code)}]`)}: ${failure.name}${failure.node === null ? '' : ` on ${printableLine(failure.node)}`}: ${printable(failure.message)}`,
    ...logTailLines(style, failure, linesMax),
    ...(failure.kept === undefined
      ? []
      : [`   what it left is kept: mesh get ${printableLine(failure.kept)} -o DIR`]),
    // What never ran has no log.
    `   ${failure.node === null ? '' : `full log: mesh logs ${failure.job}   `}explained: mesh explain ${printableLine(failure.code)}`,
  ])
  const hidden = failures.length - FAILURES_SHOWN_MAX
  return hidden > 0
    ? [...shown, '', `   and ${plural(hidden, 'more failure')}: mesh jobs --json`]
    : shown
}

/** The last lines, always: counts, where each ran, bytes moved, time. */
export function summaryLines(style: Style, state: ProgressState, request: RequestView): string[] {
  const { counts, bytes } = request
  const tones = {
    done: 'good',
    failed: 'bad',
    cancelled: 'warn',
    waiting: 'warn',
    running: 'warn',
  } as const
  const parts = [`${counts.built} built`, `${counts.cached} cached`, `${counts.failed} failed`]
  if (counts.cancelled > 0) parts.push(`${counts.cancelled} cancelled`)
  const lines = [
    `${paint(style, tones[request.state], `${request.id} ${request.state}`)} in ${formatDuration(request.wallMs)}: ${parts.join(', ')}`,
  ]
  const perNode = new Map<string, number>()
  for (const job of state.jobs.values()) {
    const attempt = decisiveAttempt(job)
    if (job.state === 'done' && !job.cached && attempt !== undefined)
      perNode.set(attempt.node, (perNode.get(attempt.node) ?? 0) + 1)
  }
  if (perNode.size > 0)
    lines.push(
      `  built on   ${[...perNode]
        .toSorted(([, a], [, b]) => b - a)
        .map(([node, count]) => `${printableLine(node)} ${count}`)
        .join(', ')}; ran locally: ${request.ranLocally}`,
    )
  lines.push(
    `  moved      ${formatSize(bytes.peer)} from peers, ${formatSize(bytes.mirror)} from mirrors, ${formatSize(bytes.local)} were there; through the root: ${formatSize(bytes.root)}`,
  )
  if (request.state === 'done' && request.replicas !== null && request.replicas < 2)
    lines.push(
      `  copies     ${request.replicas} of 2; what is missing is made when a store node can take it`,
    )
  // Of one job it says nothing.
  if (request.counts.built > 1 && request.wallMs > 0)
    lines.push(
      `  time       ${formatDuration(request.wallMs)}; one after the other ${formatDuration(request.serialMs)}: speed-up ${(request.serialMs / request.wallMs).toFixed(1)}x`,
    )
  return lines
}

/** The heartbeat of plain mode. */
export function heartbeatLine(
  state: ProgressState,
  request: RequestView,
  nowWallMs: number,
): string {
  const { counts } = request
  const [longest] = runningJobs(state)
  const attempt = longest?.attempts.at(-1)
  const detail =
    longest === undefined || attempt === undefined
      ? ''
      : ` (longest ${longest.name} ${formatDuration(nowWallMs - Date.parse(attempt.startedAt))} on ${printableLine(attempt.node)})`
  return `${request.id} ${finished(request)}/${counts.total} done, ${counts.running} running${detail}, ${counts.waiting} waiting`
}

const finished = ({ counts }: RequestView): number =>
  counts.built + counts.cached + counts.failed + counts.cancelled

const startOf = (job: JobView): string => job.attempts.at(-1)?.startedAt ?? ''

/** The longest-running first. */
function runningJobs(state: ProgressState): JobView[] {
  return [...state.jobs.values()]
    .filter(({ state: jobState }) => jobState === 'running' || jobState === 'leased')
    .toSorted((a, b) => (startOf(a) < startOf(b) ? -1 : startOf(a) > startOf(b) ? 1 : 0))
}

export interface RegionOptions {
  readonly style: Style
  /** Columns of the terminal: no line is as long, so that none ever wraps. */
  readonly width: number
  readonly nowWallMs: number
  /** Whether single keys are read. */
  readonly hasKeys: boolean
}

/** The live part at the bottom of a terminal: at most REGION_LINES_MAX lines. */
export function regionLines(
  state: ProgressState,
  { style, width, nowWallMs, hasKeys }: RegionOptions,
): string[] {
  const { request } = state
  if (request === undefined) return []
  const { counts } = request
  const room = width - 1
  const elapsed = formatDuration(nowWallMs - Date.parse(request.submittedAt))
  const left = ` ${request.id}  ${finished(request)}/${counts.total}  ${symbol(style, 'done')}${counts.built} built ${symbol(style, 'cached')}${counts.cached} cached ${symbol(style, 'failed')}${counts.failed} failed  run ${counts.running}  wait ${counts.waiting}`
  const lines = [
    rule(style, Math.min(room, 80)),
    `${padEnd(left, Math.min(room, 80) - elapsed.length - 1)} ${elapsed}`,
  ]
  const waiting = [...state.jobs.values()].filter(
    (job) =>
      job.state === 'waiting' &&
      job.why !== undefined &&
      job.why.class !== 'inputs' &&
      job.why.class !== 'lookup',
  )
  for (const job of [...runningJobs(state), ...waiting].slice(
    0,
    REGION_LINES_MAX - REGION_FIXED_LINES,
  )) {
    const attempt = job.attempts.at(-1)
    lines.push(
      job.state === 'waiting' || attempt === undefined
        ? ` ${symbol(style, 'waiting')} ${padEnd(job.name, NAME_WIDTH)} waiting  ${printableLine(job.why?.text ?? '')}`
        : ` ${symbol(style, 'running')} ${padEnd(job.name, NAME_WIDTH)} ${padEnd(PHASES[attempt.state] ?? attempt.state, 7)} ${padStart(formatDuration(nowWallMs - Date.parse(attempt.startedAt)), 6)}  ${printableLine(attempt.node)}`,
    )
  }
  if (counts.total === counts.built + counts.cached)
    lines.push(
      ` ${symbol(style, 'running')} ${padEnd('the outputs', NAME_WIDTH)} copied to store nodes, ${request.replicas ?? 0} of 2`,
    )
  lines.push(` ${hasKeys ? '[d] detach (it goes on)  ' : ''}[Ctrl-C] cancel`)
  return lines.map((line) => (displayWidth(line) > room ? truncate(style, line, room) : line))
}

const PHASES: Readonly<Record<string, string>> = {
  leased: 'start',
  fetching: 'fetch',
  building: 'build',
  uploading: 'upload',
}
