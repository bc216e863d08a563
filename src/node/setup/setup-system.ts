/** What the commands that set a machine up are given of their process. */
import type { NodeSystem } from '../node-system.ts'

/** The process in which a machine is set up, and its machine. */
export type SetupSystem = Pick<
  NodeSystem,
  'env' | 'io' | 'clock' | 'out' | 'err' | 'onSignal' | 'openTerminal'
>
