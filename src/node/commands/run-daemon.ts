/** `mesh-node run`: the life of the process around the daemon: start, ready, signals, drain, stop, and the exit code. */
import { get } from 'node:http'
import { constants } from 'node:os'
import { EXIT } from '../../base/errors.ts'
import type { Config } from '../config/config.ts'
import type { Daemon, DaemonDeps } from '../daemon.ts'
import type { NodeSystem, Signal } from '../node-system.ts'
import { Reloads } from '../process/reload.ts'
import { createServiceManager } from '../process/sd-notify.ts'
import { announce } from './announce.ts'
import { drain, handBack, stop } from './ending.ts'
import type { Configured } from './node-command.ts'

/** Resolves to the exit code once the daemon has ended. */
export async function runDaemon(
  { resolution, config, read }: Configured,
  system: NodeSystem,
): Promise<number> {
  const { clock, random } = system
  const log = await system.createLogger(config.log)
  const [first, second] = signalsOf(system)
  const reloads = new Reloads({ log, read }, resolution)
  system.onReload?.(() => reloads.ask())
  system.onCrash((error) => {
    log.fatal({ err: error }, 'an error was not handled')
    system.exit(EXIT.internal)
  })
  if (config.allow === 'any')
    log.warn(
      { listen: config.listen, http: config.http },
      'every peer is admitted, for --allow any was given',
    )

  const service = createServiceManager({ log, clock }, { env: system.env, pid: system.pid })
  const starting = startDaemon(system, { clock, random, log }, config)
  const started = await Promise.race([starting, second])
  if (typeof started === 'string') return exitOf(started)
  const daemon = started

  announce(resolution, config, daemon, { log, err: system.err })
  void service.ready(`ready as ${daemon.ready.name}`)
  service.startWatchdog(() => answers(daemon.ready.socket))
  reloads.start((next) => daemon.reload(next))
  const signal = await first
  log.info({ signal, deadlineMs: config.drainDeadlineMs }, 'drain started')
  void service.stopping()
  const hurry = await Promise.race([
    drain(daemon, { clock, log }, config, (text, draining) => {
      if (config.log.format === 'json') log.info(draining, 'drain waits for builds')
      else system.err(`mesh-node: ${text}\n`)
      void service.status(text)
    }),
    second,
  ])
  await handBack(daemon, { clock, log })
  await stop(daemon, { clock, log })
  service.stop()
  log.info('stopped')
  return hurry === undefined ? EXIT.ok : exitOf(hurry)
}

async function startDaemon(system: NodeSystem, deps: DaemonDeps, config: Config): Promise<Daemon> {
  try {
    const { startDaemon: start } = await system.loadDaemon()
    return await start(deps, config)
  } catch (error) {
    // A terminal gets the error once, from runNode.
    if (config.log.format === 'json')
      deps.log.fatal({ err: error }, 'the daemon could not be started')
    throw error
  }
}

/** The first signal asks to drain, the second to stop; the third ends the process. */
function signalsOf(system: NodeSystem): [first: Promise<Signal>, second: Promise<Signal>] {
  const first = Promise.withResolvers<Signal>()
  const second = Promise.withResolvers<Signal>()
  let count = 0
  system.onSignal((signal) => {
    count++
    if (count === 1) first.resolve(signal)
    else if (count === 2) second.resolve(signal)
    else system.exit(exitOf(signal))
  })
  return [first.promise, second.promise]
}

const exitOf = (signal: Signal): number => 128 + constants.signals[signal]

/** Whether the daemon answers at its own socket. Waits as long as it takes: then the watchdog bites. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    get({ socketPath, path: '/healthz', agent: false }, (response) => {
      response.resume()
      resolve((response.statusCode ?? 500) < 500)
    }).once('error', reject)
  })
}
