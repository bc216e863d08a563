/** What a command works with: streams, environment, clock. Built once by main.ts; tests build their own. */
import type { Clock } from '../base/clock.ts'
import type { Random } from '../base/random.ts'
import type { Style } from './text/style.ts'

export interface Output {
  /** Writes now; on a slow reader the promise waits until more may be written. */
  write(text: string | Uint8Array): Promise<void>
  readonly isTty: boolean
  /** Of the terminal; undefined where it is none. Changes when the window does. */
  columns(): number | undefined
  /** Lines of the terminal; undefined where it is none. */
  rows(): number | undefined
  readonly style: Style
  onResize(listener: () => void): void
}

export interface Context {
  readonly clock: Clock
  readonly random: Random
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
  readonly stdout: Output
  readonly stderr: Output
  /** Standard input. */
  readonly stdin: NodeJS.ReadStream
  /** Calls back at each ^C or SIGTERM until removed; meanwhile they do not end the process. */
  onInterrupt(listener: () => void): Disposable
  /** Ends the process at once. */
  leave(code: number): never
}

/** One line, or several joined by newlines. */
export async function printLines(output: Output, lines: readonly string[]): Promise<void> {
  if (lines.length > 0) await output.write(`${lines.join('\n')}\n`)
}

/** The result of `--json`: one line. */
export function printJson(output: Output, value: unknown): Promise<void> {
  return output.write(`${JSON.stringify(value)}\n`)
}
