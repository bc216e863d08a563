/** What the commands of `mesh-node` ask of their process and its machine. main.ts has the real one, tests a small one. */
import type { Logger } from 'pino'
import type { Clock } from '../base/clock.ts'
import type { Random } from '../base/random.ts'
import type { ConfigIo, Env } from './config/config-io.ts'
import type { Config } from './config/config.ts'
import type { Daemon, DaemonDeps } from './daemon.ts'
import type { Terminal } from './setup/terminal.ts'

export type StartDaemon = (deps: DaemonDeps, config: Config) => Promise<Daemon>

export type Signal = 'SIGTERM' | 'SIGINT'

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
