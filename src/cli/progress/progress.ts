/** The progress display of `mesh submit` on stderr: which mode, and what each mode does with an event. */
import type { Timer } from '../../base/clock.ts'
import { MeshError } from '../../base/errors.ts'
import type { Event, RequestView } from '../../wire/api.ts'
import type { Context, Output } from '../context.ts'
import { displayWidth } from '../text/style.ts'
import {
  failureLines,
  heartbeatLine,
  logTailLines,
  regionLines,
  summaryLines,
  transitionLine,
} from './lines.ts'
import { ProgressState, type Transition } from './state.ts'

const MODES = ['auto', 'tty', 'plain', 'json', 'quiet'] as const

const TTY_LOG_LINES = 12
const PLAIN_LOG_LINES = 20
const HEARTBEAT_MS = 30_000
/** At most ten repaints a second; at least one, for the times that it shows. */
const REPAINT_MS = 100
const TICK_MS = 1000
const COLUMNS_DEFAULT = 80

export interface Progress {
  event(event: Event): void
  /** Something of the client's own. */
  notice(text: string): void
  /** Stops what is live; prints failures and the summary when the request has ended. */
  finish(request: RequestView | undefined): void
}

/** `--progress`, else MESH_PROGRESS, else by what stderr is. Throws MESH0002. */
export function openProgress(context: Context, asked: string | undefined): Progress {
  const mode = MODES.find(
    (candidate) => candidate === (asked ?? (context.env['MESH_PROGRESS'] || 'auto')),
  )
  switch (mode) {
    case undefined:
      throw new MeshError(
        'MESH0002',
        `--progress ${asked ?? context.env['MESH_PROGRESS']}: expected ${MODES.join(', ')}`,
      )
    case 'auto':
      return context.stderr.isTty && context.env['TERM'] !== 'dumb'
        ? new TtyProgress(context)
        : new PlainProgress(context)
    case 'tty':
      return new TtyProgress(context)
    case 'plain':
      return new PlainProgress(context)
    case 'json':
      return new JsonProgress(context.stderr)
    case 'quiet':
      return { event: () => undefined, notice: () => undefined, finish: () => undefined }
  }
}

/** Progress is never waited for: a terminal that is slow must not slow the work. */
function writeLines(output: Output, lines: readonly string[]): void {
  if (lines.length > 0) void output.write(`${lines.join('\n')}\n`)
}

class JsonProgress implements Progress {
  readonly #output: Output
  constructor(output: Output) {
    this.#output = output
  }
  event(event: Event): void {
    writeLines(this.#output, [JSON.stringify(event)])
  }
  notice(): void {}
  finish(): void {}
}

/** A line for each transition, and a sign of life when there was none: for files and CI. */
class PlainProgress implements Progress {
  readonly #context: Context
  readonly #state = new ProgressState()
  readonly #folds: boolean
  #heartbeat: Timer | undefined
  #isFinished = false

  constructor(context: Context) {
    this.#context = context
    this.#folds = context.env['GITHUB_ACTIONS'] === 'true'
    this.#rearm()
  }

  event(event: Event): void {
    for (const transition of this.#state.apply(event)) this.#print(transition, event.at)
  }

  notice(text: string): void {
    this.#print({ kind: 'notice', text }, this.#nowIso())
  }

  finish(request: RequestView | undefined): void {
    this.#isFinished = true
    this.#heartbeat?.cancel()
    if (request === undefined) return
    const { stderr } = this.#context
    writeLines(stderr, [
      ...failureLines(stderr.style, request.failures, PLAIN_LOG_LINES),
      ...summaryLines(stderr.style, this.#state, request),
    ])
  }

  #print(transition: Transition, at: string): void {
    const { stderr } = this.#context
    const lines = [`${at} ${transitionLine(stderr.style, transition)}`]
    if (transition.kind === 'failed') {
      const log = logTailLines(stderr.style, transition.failure, PLAIN_LOG_LINES)
      lines.push(
        ...(this.#folds && log.length > 0
          ? [`::group::log of ${transition.failure.name}`, ...log, '::endgroup::']
          : log),
      )
    }
    writeLines(stderr, lines)
    this.#rearm()
  }

  #rearm(): void {
    this.#heartbeat?.cancel()
    if (this.#isFinished) return
    this.#heartbeat = this.#context.clock.setTimer(HEARTBEAT_MS, () => {
      const { request } = this.#state
      if (request !== undefined)
        writeLines(this.#context.stderr, [
          `${this.#nowIso()} ${heartbeatLine(this.#state, request, this.#context.clock.wallMs())}`,
        ])
      this.#rearm()
    })
  }

  #nowIso(): string {
    return new Date(this.#context.clock.wallMs()).toISOString()
  }
}

/** Finished jobs scroll by; below them a few live lines, without the alternate screen. */
class TtyProgress implements Progress {
  readonly #context: Context
  readonly #state = new ProgressState()
  #shown: readonly string[] = []
  #timer: Timer | undefined
  #paintedAtMs = -Infinity
  #isFinished = false

  constructor(context: Context) {
    this.#context = context
    context.stderr.onResize(() => this.#schedule(REPAINT_MS))
    this.#schedule(TICK_MS)
  }

  event(event: Event): void {
    // What only begins is shown in the region.
    const lines = this.#state
      .apply(event)
      .filter(({ kind }) => kind !== 'started' && kind !== 'accepted')
      .flatMap((transition) => this.#scrolled(transition, event.at))
    if (lines.length > 0) this.#paint(lines)
    else this.#schedule(REPAINT_MS)
  }

  notice(text: string): void {
    this.#paint(
      this.#scrolled(
        { kind: 'notice', text },
        new Date(this.#context.clock.wallMs()).toISOString(),
      ),
    )
  }

  finish(request: RequestView | undefined): void {
    this.#isFinished = true
    this.#timer?.cancel()
    const { style } = this.#context.stderr
    this.#paint(
      request === undefined
        ? []
        : [
            ...failureLines(style, request.failures, TTY_LOG_LINES),
            ...summaryLines(style, this.#state, request),
          ],
    )
  }

  #scrolled(transition: Transition, at: string): string[] {
    const { style } = this.#context.stderr
    const time = new Date(at).toTimeString().slice(0, 8)
    const lines = [`${time} ${transitionLine(style, transition)}`]
    if (transition.kind === 'failed')
      lines.push(...logTailLines(style, transition.failure, TTY_LOG_LINES))
    return lines
  }

  #schedule(delayMs: number): void {
    if (this.#isFinished) return
    const { clock } = this.#context
    const dueInMs = Math.max(0, this.#paintedAtMs + delayMs - clock.nowMs())
    this.#timer?.cancel()
    this.#timer = clock.setTimer(Math.min(dueInMs, TICK_MS), () => this.#paint([]))
  }

  /** Removes the region, prints what scrolls by, draws the region again. */
  #paint(scrolled: readonly string[]): void {
    const { stderr, clock } = this.#context
    const width = stderr.columns() ?? COLUMNS_DEFAULT
    const region = this.#isFinished
      ? []
      : regionLines(this.#state, {
          style: stderr.style,
          width,
          nowWallMs: clock.wallMs(),
          hasKeys: this.#context.stdin.isTTY,
        })
    const lines = [...scrolled, ...region]
    void stderr.write(
      `${erase(this.#shown, width)}${lines.map((line) => `${line}\x1b[K\n`).join('')}`,
    )
    this.#shown = region
    this.#paintedAtMs = clock.nowMs()
    this.#schedule(TICK_MS)
  }
}

/** Up to the first line of what is shown, and erase from there. A window made narrower has wrapped its lines. */
function erase(shown: readonly string[], width: number): string {
  const rows = shown.reduce(
    (sum, line) => sum + Math.max(1, Math.ceil(displayWidth(line) / Math.max(1, width))),
    0,
  )
  return rows === 0 ? '' : `\x1b[${rows}A\r\x1b[J`
}
