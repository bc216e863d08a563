/** Runs a program to see whether it works: bounded in time and output, with a closed environment. */
import { execFile } from 'node:child_process'
import { oneLine } from './known.ts'
import { SEARCH_PATH } from '../tool-path.ts'

/** How long one trial may take, on a machine that is busy with other things. */
const TRIAL_MS_MAX = 10_000
const OUTPUT_BYTES_MAX = 64 * 1024
const WHY_CHARS_MAX = 300

export interface Tried {
  /** Its exit code; undefined where it could not be started, was ended by a signal, or took too long. */
  readonly code: number | undefined
  readonly stdout: string
  /** What it complained of, or what became of it, in one line: its exact words. */
  readonly why: string
}

/** Never rejects. */
export function tryProgram(
  command: string,
  args: readonly string[],
  options: {
    readonly limitMs?: number
    readonly env?: Readonly<Record<string, string>>
    readonly cwd?: string
  } = {},
): Promise<Tried> {
  const { limitMs = TRIAL_MS_MAX, env = {}, cwd = '/' } = options
  return new Promise((resolve) => {
    const settings = {
      cwd,
      env: { PATH: SEARCH_PATH, LC_ALL: 'C', ...env },
      timeout: limitMs,
      killSignal: 'SIGKILL',
      maxBuffer: OUTPUT_BYTES_MAX,
      encoding: 'utf8',
    } as const
    const child = execFile(command, args, settings, (error, stdout, stderr) => {
      const said = oneLine(stderr, WHY_CHARS_MAX)
      if (error === null) resolve({ code: 0, stdout, why: said })
      else if (typeof error.code === 'number')
        resolve({ code: error.code, stdout, why: said || `it ended with ${error.code}` })
      else
        resolve({
          code: undefined,
          stdout,
          why: error.killed
            ? `it did not end within ${limitMs / 1000} s`
            : typeof error.signal === 'string'
              ? `it was ended by ${error.signal}`
              : oneLine(`${command}: ${error.message}`, WHY_CHARS_MAX),
        })
    })
    child.stdin?.end()
  })
}
