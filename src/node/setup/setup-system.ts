/** What the commands that set a machine up are given of their process. */
import type { Clock } from '../../base/clock.ts'
import type { ConfigIo, Env } from '../config/config-io.ts'
import type { Terminal } from './terminal.ts'

/** The process in which a machine is set up, and its machine. */
export interface SetupSystem {
  readonly env: Env
  readonly io: ConfigIo
  readonly clock: Clock
  readonly out: (text: string) => void
  readonly err: (text: string) => void
  readonly onSignal: (listener: (signal: 'SIGTERM' | 'SIGINT') => void) => void
  /** Undefined when nobody can be asked. */
  readonly openTerminal?: () => Terminal | undefined
}
