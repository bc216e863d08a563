/**
 * Tells systemd how the daemon is: ready, its status, stopping, alive. See sd_notify(3).
 *
 * Node cannot send datagrams to a unix socket, so systemd-notify(1) does it. Without NOTIFY_SOCKET
 * nothing is sent. A message that fails is logged once and is no reason to stop.
 */
import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import type { Logger } from 'pino'
import type { Clock, Timer } from '../../base/clock.ts'
import type { Env } from '../config/config-io.ts'

const NOTIFY_MS_MAX = 10_000

export interface ServiceManager {
  ready(status: string): Promise<void>
  status(text: string): Promise<void>
  stopping(): Promise<void>
  /** From now on says "alive" in time, as long as `isAlive` says so. Nothing without a watchdog. */
  startWatchdog(isAlive: () => Promise<boolean>): void
  /** Ends the watchdog's timer. */
  stop(): void
}

export function createServiceManager(
  deps: { readonly log: Logger; readonly clock: Clock },
  options: { readonly env: Env; readonly pid: number },
): ServiceManager {
  const { log, clock } = deps
  const { env, pid } = options
  const socket = env['NOTIFY_SOCKET']
  const run = promisify(execFile)
  let hasFailed = false
  let last: Promise<void> = Promise.resolve()
  let timer: Timer | undefined
  let isStopped = false

  const send = async (assignments: readonly string[]): Promise<void> => {
    try {
      await run('systemd-notify', [`--pid=${pid}`, ...assignments], {
        env: { NOTIFY_SOCKET: socket, PATH: env['PATH'] },
        timeout: NOTIFY_MS_MAX,
      })
    } catch (error) {
      if (!hasFailed) log.warn({ err: error }, 'the service manager could not be notified')
      hasFailed = true
    }
  }
  /** One after the other, so that a later state is never overtaken by an earlier one. */
  const notify = (...assignments: readonly string[]): Promise<void> => {
    if (!socket) return Promise.resolve()
    last = last.then(() => send(assignments))
    return last
  }

  const watch = (everyMs: number, isAlive: () => Promise<boolean>): void => {
    if (isStopped) return
    timer = clock.setTimer(everyMs, () => {
      void isAlive()
        .then((alive) => (alive ? notify('WATCHDOG=1') : undefined))
        .catch((error: unknown) => log.warn({ err: error }, 'the daemon did not answer itself'))
        .finally(() => watch(everyMs, isAlive))
    })
  }

  return {
    ready: (status) => notify('READY=1', statusLine(status)),
    status: (text) => notify(statusLine(text)),
    stopping: () => notify('STOPPING=1'),
    startWatchdog(isAlive) {
      const everyMs = watchdogMs(env, pid)
      if (socket && everyMs !== undefined) watch(everyMs, isAlive)
    },
    stop() {
      isStopped = true
      timer?.cancel()
    },
  }
}

const statusLine = (text: string): string => `STATUS=${text.replaceAll('\n', ' ')}`

/** Half of what the watchdog waits, as sd_watchdog_enabled(3) advises; undefined when none waits for us. */
function watchdogMs(env: Env, pid: number): number | undefined {
  const usec = Number(env['WATCHDOG_USEC'] ?? '')
  const isOurs = [undefined, String(pid)].includes(env['WATCHDOG_PID'])
  return isOurs && Number.isSafeInteger(usec) && usec > 0 ? Math.floor(usec / 2000) : undefined
}
