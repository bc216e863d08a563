/** The end of a daemon, step by step: each has a limit, and none can keep the process from ending. */
import type { Logger } from 'pino'
import { sleep, type Clock } from '../../base/clock.ts'
import type { Config } from '../config/config.ts'
import type { Daemon } from '../daemon.ts'
import { noticeDrain, type Draining } from '../process/drain-notice.ts'

/** How long `stop` may take before the process ends without it. */
const STOP_MS_MAX = 10_000
/** How long it may take to end builds and to tell their owner. */
const HAND_BACK_MS_MAX = 5_000

interface Ending {
  readonly clock: Clock
  readonly log: Logger
}

/** No new builds; waits for those that run, and tells what it waits for. */
export async function drain(
  daemon: Daemon,
  ending: Ending,
  { drainDeadlineMs }: Config,
  tell: (text: string, draining: Draining) => void,
): Promise<undefined> {
  using notice = noticeDrain(
    { clock: ending.clock, running: () => daemon.running(), tell },
    { deadlineMs: drainDeadlineMs },
  )
  void notice
  const late = 'running builds did not end in time'
  await within(drainDeadlineMs, daemon.drain(), ending, { late, failed: 'draining failed' })
}

/** What did not end in time, or was not waited for, is run elsewhere. */
export async function handBack(daemon: Daemon, ending: Ending): Promise<void> {
  const late = 'running builds were not handed back in time'
  await within(HAND_BACK_MS_MAX, daemon.handBack(), ending, {
    late,
    failed: 'handing back failed',
  })
}

export async function stop(daemon: Daemon, ending: Ending): Promise<void> {
  const late = 'the daemon did not stop in time'
  await within(STOP_MS_MAX, daemon.stop(), ending, { late, failed: 'stopping failed' })
}

/** Waits for `work`, but no longer than `limitMs`. What goes wrong is logged: the end comes in any case. */
async function within(
  limitMs: number,
  work: Promise<void>,
  { clock, log }: Ending,
  messages: { readonly late: string; readonly failed: string },
): Promise<void> {
  const limit = new AbortController()
  const late = sleep(clock, limitMs, limit.signal).then(
    () => log.warn(messages.late),
    () => undefined,
  )
  const done = work.catch((error: unknown) => log.error({ err: error }, messages.failed))
  await Promise.race([done, late])
  limit.abort()
}
