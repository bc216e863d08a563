/** What starts a sandbox, and what it is to hold: the same for each method. */
import type { Place } from '../sandbox-layout.ts'

export interface SandboxCommand {
  readonly command: string
  readonly args: readonly string[]
  /** Written to descriptor 3, which is then closed for writing. */
  readonly input: string
  /** Written to the attempt's directory before the start; `fd` is how the program finds it. */
  readonly files: readonly {
    readonly name: string
    readonly content: string
    readonly fd?: 4 | 5
  }[]
}

/** What a build finds behind its walls. */
export interface Inside {
  /** In the order in which they are made. */
  readonly places: readonly Place[]
  /** A FIFO in the sandbox that has to be open in the build; undefined: none. */
  readonly inherited: string | undefined
}
