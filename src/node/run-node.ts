/**
 * The life of the `mesh-node` process around the daemon: commands, start, ready, signals, drain, stop,
 * and the exit code. main.ts calls it with the real machine, tests with a small one.
 */
import { mkdir } from 'node:fs/promises'
import { get } from 'node:http'
import { constants } from 'node:os'
import type { Logger } from 'pino'
import { sleep, type Clock } from '../base/clock.ts'
import { EXIT, hasCode, MeshError, messageOf } from '../base/errors.ts'
import type { Random } from '../base/random.ts'
import {
  configSchema,
  flagHelp,
  readCommandLine,
  resolveConfig,
  type Config,
  type ConfigIo,
  type Env,
  type Resolution,
} from './config/config.ts'
import { shownPolicy } from './config/policy-settings.ts'
import type { Daemon, DaemonDeps } from './daemon.ts'
import { nearestOf } from '../base/nearest.ts'
import { askReload } from './process/ask-reload.ts'
import { openIdentity } from './process/identity.ts'
import { Reloads } from './process/reload.ts'
import { noticeDrain, type Draining } from './process/drain-notice.ts'
import { createServiceManager } from './process/sd-notify.ts'
import { packageVersion } from './process/version.ts'
import { isSetupCommand, SETUP_COMMANDS } from './setup/setup-flags.ts'
import type { Terminal } from './setup/terminal.ts'

export type StartDaemon = (deps: DaemonDeps, config: Config) => Promise<Daemon>

type Signal = 'SIGTERM' | 'SIGINT'

/** The process and its machine. */
export interface NodeSystem {
  readonly env: Env
  readonly io: ConfigIo
  readonly clock: Clock
  readonly random: Random
  readonly pid: number
  readonly out: (text: string) => void
  readonly err: (text: string) => void
  readonly createLogger: (options: Config['log']) => Promise<Logger>
  /** Loads libp2p and all the rest; nothing else here does. */
  readonly loadDaemon: () => Promise<{ readonly startDaemon: StartDaemon }>
  readonly onSignal: (listener: (signal: Signal) => void) => void
  /** SIGHUP. */
  readonly onReload?: (listener: () => void) => void
  /** Undefined when nobody can be asked. */
  readonly openTerminal?: () => Terminal | undefined
  /** What nobody caught. */
  readonly onCrash: (listener: (error: unknown) => void) => void
  /** Ends the process at once. */
  readonly exit: (code: number) => void
}

/** How long `stop` may take before the process ends without it. */
const STOP_MS_MAX = 10_000
/** How long it may take to end builds and to tell their owner. */
const HAND_BACK_MS_MAX = 5_000
const COMMANDS = [
  'run',
  'id',
  'reload',
  'guess-env',
  'config check',
  'config schema',
  ...SETUP_COMMANDS,
]

/** Resolves to the exit code of the process. */
export async function runNode(argv: readonly string[], system: NodeSystem): Promise<number> {
  try {
    const [first] = argv
    if (isSetupCommand(first)) {
      const { runSetup } = await import('./setup/setup.ts')
      return await runSetup(first, argv, system)
    }
    if (first === 'guess-env') {
      const { guessEnv } = await import('./guess/guess-env.ts')
      return await guessEnv(argv, system)
    }
    const line = readCommandLine(argv)
    const command = line.words.join(' ') || 'run'
    if (line.flags.has('help')) {
      system.out(help())
      return EXIT.ok
    }
    if (line.flags.has('version')) {
      system.out(`mesh-node ${packageVersion()}\n`)
      return EXIT.ok
    }
    if (command === 'config schema') {
      system.out(`${JSON.stringify(configSchema(), null, 2)}\n`)
      return EXIT.ok
    }
    if (!COMMANDS.includes(command)) {
      const [near] = nearestOf(command, COMMANDS, 1)
      throw new MeshError('MESH0002', `there is no command ${JSON.stringify(command)}`, {
        hints: [`did you mean "mesh-node ${near}"?`, 'mesh-node --help'],
      })
    }
    const resolution = resolveConfig(line, system.env, system.io)
    if (resolution.config === undefined) {
      for (const problem of resolution.problems) system.err(reportOf(problem).text)
      return resolution.problems[0]?.exit ?? EXIT.usage
    }
    if (command === 'run') {
      const read = (): Resolution => resolveConfig(line, system.env, system.io)
      return await runDaemon(resolution, resolution.config, { system, read })
    }
    if (command === 'reload') {
      system.out(await askReload(resolution.config.data))
      return EXIT.ok
    }
    system.out(
      command === 'id'
        ? `${await peerIdOf(resolution.config, system)}\n`
        : shownConfig(resolution, resolution.config),
    )
    return EXIT.ok
  } catch (error) {
    const { text, exit } = reportOf(error)
    system.err(text)
    if ((isSetupCommand(argv[0]) || argv[0] === 'guess-env') && argv.includes('--json'))
      system.out(jsonReportOf(error))
    return exit
  }
}

/** The id that other nodes admit this one by; the key is made if there is none yet. */
async function peerIdOf({ data }: Config, { random }: NodeSystem): Promise<string> {
  await mkdir(data, { recursive: true, mode: 0o700 })
  return (await openIdentity({ random }, { directory: data })).peerId
}

async function runDaemon(
  resolution: Resolution,
  config: Config,
  { system, read }: { readonly system: NodeSystem; readonly read: () => Resolution },
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

interface Ending {
  readonly clock: Clock
  readonly log: Logger
}

async function drain(
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
async function handBack(daemon: Daemon, ending: Ending): Promise<void> {
  const late = 'running builds were not handed back in time'
  await within(HAND_BACK_MS_MAX, daemon.handBack(), ending, {
    late,
    failed: 'handing back failed',
  })
}

async function stop(daemon: Daemon, ending: Ending): Promise<void> {
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

/** Whether the daemon answers at its own socket. Waits as long as it takes: then the watchdog bites. */
function answers(socketPath: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    get({ socketPath, path: '/healthz', agent: false }, (response) => {
      response.resume()
      resolve((response.statusCode ?? 500) < 500)
    }).once('error', reject)
  })
}

function announce(
  { settings, file }: Resolution,
  config: Config,
  { ready, summary }: Daemon,
  { log, err }: { readonly log: Logger; readonly err: (text: string) => void },
): void {
  const { data, roles, parents } = config
  const version = packageVersion()
  if (config.log.format === 'json') {
    const { name, peerId, listen, http, socket } = ready
    log.info(
      { version, name, peerId, data, roles, parents, listen, http, socket, summary },
      'the node became ready',
    )
    return
  }
  const isDefault = settings.every(({ source }) => source === 'default')
  const isUsualData = settings.some(({ key, source }) => key === 'data' && source === 'default')
  const client = isUsualData ? 'mesh' : `mesh --data ${data}`
  const place = parents.length === 0 ? 'without a parent' : `with work from ${parents.join(' or ')}`
  err(
    [
      `mesh-node ${version}  node "${ready.name}"  data ${data}`,
      isDefault
        ? `  no configuration found: running as a single machine (${roles.join(', ')})`
        : `  roles     ${roles.join(', ')}, ${place}${file === undefined ? '' : `, as ${file} says`}`,
      ...summary.map((line) => `  ${line}`),
      `  peer id   ${ready.peerId}`,
      `  listening ${ready.listen.join(' ') || 'not for other nodes'}   ${ready.http === '' ? 'no http' : `http ${ready.http}/`}   socket ${ready.socket}`,
      `  ready     try:  ${client} run -- gcc --version`,
      '',
    ].join('\n'),
  )
}

/** A configuration file with the same meaning, and where each value came from. */
function shownConfig({ settings, file }: Resolution, config: Config): string {
  const lines = [`# file: ${file ?? 'none'}`]
  let section = ''
  for (const setting of settings) {
    if (setting.section !== section) lines.push('', `[${setting.section}]`)
    section = setting.section
    const assignment =
      setting.toml === undefined
        ? `# ${setting.key} is not set`
        : `${setting.key} = ${setting.toml}`
    lines.push(`${assignment.padEnd(48)}  # ${setting.source}`)
  }
  lines.push(...shownPolicy(config.policy))
  for (const { name, users, weight } of config.shares.groups)
    lines.push(
      '',
      '[[shares.group]]',
      `name = ${JSON.stringify(name)}`,
      `users = [${users.map((user) => JSON.stringify(user)).join(', ')}]`,
      `weight = ${weight}`,
    )
  if (config.allow === 'any') lines.push('', '# warning: every peer is admitted')
  return `${lines.join('\n')}\n`
}

function help(): string {
  return `${[
    'Usage: mesh-node [run] [flags]',
    '       mesh-node id [--data DIR] | config check [flags] | config schema',
    '       mesh-node guess-env [--root DIR] [--json | --toml] | reload [--data DIR]',
    '       mesh-node init | calibrate | install-service --print     (each has --help)',
    '',
    'Run a node of a build mesh. Without flags this machine alone is one: root, worker and store.',
    '',
    'Examples:',
    '  mesh-node                                        one machine, on loopback',
    '  mesh-node init                                   write a configuration, with proposals',
    '  mesh-node guess-env                              what this machine offers to builds, and why',
    '  mesh-node reload                                 read the configuration again (SIGHUP)',
    '  mesh-node id                                     the peer id of this node, for --allow',
    '  mesh-node --listen /ip4/0.0.0.0/tcp/7421 --allow PEERID',
    '                                                   admit a worker from another machine',
    '  mesh-node --listen none --parent /ip4/10.0.0.7/tcp/7421/p2p/PEERID',
    '                                                   be that worker',
    '',
    'Flags (each also in the environment and in TOML: mesh-node config check, config schema):',
    ...flagHelp(),
    '',
    'Exit status: 0 stopped, 2 bad usage or configuration, 69 address or data directory in use,',
    '70 a bug, 73 disk full, 78 data of a newer version, 130 or 143 stopped by a second signal.',
  ].join('\n')}\n`
}

/** An error as a person reads it, and the exit code that goes with it. */
function reportOf(error: unknown): { readonly text: string; readonly exit: number } {
  const known = asMeshError(error)
  const { code, exit, where, hints } = known
  const [first = '', ...rest] = `${where === undefined ? '' : `${where}: `}${known.message}`.split(
    '\n',
  )
  const lines = [
    `error[${code}]: ${first}`,
    ...rest.map((line) => `  ${line}`),
    ...hints.map((hint) => `  help: ${hint}`),
  ]
  return { text: `${lines.join('\n')}\n`, exit }
}

/** The same for programs: one line. */
function jsonReportOf(error: unknown): string {
  const { code, message, where, hints } = asMeshError(error)
  return `${JSON.stringify({ error: { code, message, ...(where === undefined ? {} : { where }), hints } })}\n`
}

function asMeshError(error: unknown): MeshError {
  if (error instanceof MeshError) return error
  const message = messageOf(error)
  if (hasCode(error, 'ENOSPC', 'EDQUOT'))
    return new MeshError('MESH0503', message, { cause: error })
  if (hasCode(error, 'EADDRINUSE')) return new MeshError('MESH0103', message, { cause: error })
  if (hasCode(error, 'EADDRNOTAVAIL', 'EACCES', 'EPERM', 'EROFS'))
    return new MeshError('MESH0104', message, { cause: error })
  const stack = error instanceof Error ? (error.stack ?? message) : message
  return new MeshError('MESH0001', stack, { cause: error })
}
