/** `mesh top`: everything that moves, on the whole screen and again each second; one snapshot where there is none. */
import { sleep } from '../../base/clock.ts'
import { messageOf } from '../../base/errors.ts'
import { Top } from '../../wire/api.ts'
import { openClient, type Client } from '../client.ts'
import type { Arguments } from '../command.ts'
import { printJson, printLines, type Context } from '../context.ts'
import { openScreen } from '../screen.ts'
import { HISTORY_MAX, topLines, type TopOptions } from '../top-view.ts'

const REFRESH_MS = 1000
const FOOTER = 'q quits'

export async function top(context: Context, args: Arguments): Promise<number> {
  using client = await openClient(context, args)
  const first = await client.json(Top, '/api/top')
  const { stdout } = context
  if (args.flag('json')) {
    await printJson(stdout, first)
    return 0
  }
  if (args.flag('once') || !stdout.isTty || context.env['TERM'] === 'dumb') {
    await printLines(
      stdout,
      topLines(first, {
        style: stdout.style,
        width: stdout.columns(),
        height: undefined,
        history: [],
        stale: undefined,
        footer: undefined,
      }),
    )
    return 0
  }
  await follow(context, client, first)
  return 0
}

/** Until somebody quits. A daemon that does not answer is told about, and asked again. */
async function follow(context: Context, client: Client, first: Top): Promise<void> {
  const { clock, stdout } = context
  const quit = new AbortController()
  const history: number[] = []
  let shown = first
  let stale: string | undefined
  const add = (answer: Top): void => {
    shown = answer
    history.push(answer.totals.cpus.busy)
    if (history.length > HISTORY_MAX) history.shift()
  }
  const options = (): TopOptions => ({
    style: stdout.style,
    width: stdout.columns(),
    height: stdout.rows(),
    history,
    stale,
    footer: FOOTER,
  })
  const paint = (): void => screen.paint(topLines(shown, options()))
  using interrupts = context.onInterrupt(() => quit.abort())
  using screen = openScreen(context, {
    onKey: (key) => {
      if (key === 'q' || key === 'Q' || key === '\x03') quit.abort()
    },
    onResize: paint,
  })
  add(first)
  while (!quit.signal.aborted) {
    paint()
    await sleep(clock, REFRESH_MS, quit.signal).catch(() => undefined)
    if (quit.signal.aborted) break
    try {
      add(await client.json(Top, '/api/top', { signal: quit.signal }))
      stale = undefined
    } catch (error) {
      stale = `not answered since ${shown.at.slice(11, 19)} UTC: ${messageOf(error)}`
    }
  }
  void interrupts
}
