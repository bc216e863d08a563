/** What a command of `mesh-node` is. command-table.ts has them all, run-node.ts runs one. */
import type { Config } from '../config/config.ts'
import type { Resolution } from '../config/resolve-config.ts'
import type { NodeSystem } from '../node-system.ts'

interface Described {
  /** One word or two, as on the command line. */
  readonly name: string
  /** Its line in `mesh-node --help`. */
  readonly help: string
}

/** A configuration without problems. */
export interface Configured {
  readonly resolution: Resolution
  readonly config: Config
  /** The same flags and environment, with the file as it is then. */
  readonly read: () => Resolution
}

/** Has flags and a help of its own, and therefore stands before all flags. */
export interface OwnLineCommand extends Described {
  readonly reads: 'its own line'
  /** `argv` begins with the command. */
  readonly run: (argv: readonly string[], system: NodeSystem) => Promise<number>
}

/** Has the flags of the daemon; what is wrong with the configuration is told before it runs. */
interface ConfiguredCommand extends Described {
  readonly reads: 'the configuration'
  readonly run: (configured: Configured, system: NodeSystem) => Promise<number>
}

interface SimpleCommand extends Described {
  readonly reads: 'nothing'
  readonly run: (system: NodeSystem) => number
}

/** Each resolves to the exit code of the process, and throws what is to be told as an error. */
export type NodeCommand = OwnLineCommand | ConfiguredCommand | SimpleCommand
