/** A command as a child that stands in for us: our streams, our signals, its exit code. */
import { spawn } from 'node:child_process'
import { closeSync, constants as fileConstants, openSync } from 'node:fs'
import { constants } from 'node:os'
import { hasCode } from '../../base/errors.ts'

/** As `env` and shells have them. */
const EXIT_NOT_FOUND = 127
const EXIT_NOT_EXECUTABLE = 126
const FORWARDED = ['SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2'] as const
/** A terminal sends these to all that run in it, the command too. */
const FROM_TERMINAL = ['SIGINT', 'SIGQUIT'] as const

export interface CommandOptions {
  readonly words: readonly string[]
  readonly env: Readonly<Record<string, string | undefined>>
  readonly cwd: string
  /** Opened for reading and writing in the command, at these descriptors. */
  readonly open?: { readonly path: string; readonly at: readonly [number, number] } | undefined
  /** Whether ^C reaches the command without us. */
  readonly hasTerminal: boolean
}

/** Resolves to its exit code; `problem` tells why it could not be started. */
export async function runCommand(
  options: CommandOptions,
): Promise<{ readonly code: number; readonly problem?: string }> {
  const [command = '', ...args] = options.words
  const stdio: (number | 'inherit' | 'ignore')[] = ['inherit', 'inherit', 'inherit']
  const { open } = options
  if (open !== undefined)
    for (let fd = stdio.length; fd <= open.at[1]; fd++)
      stdio.push(open.at.includes(fd) ? openSync(open.path, fileConstants.O_RDWR) : 'ignore')
  const child = spawn(command, args, { stdio, env: { ...options.env }, cwd: options.cwd })
  for (const fd of stdio) if (typeof fd === 'number') closeSync(fd)
  using forwarding = new DisposableStack()
  for (const signal of [...FORWARDED, ...FROM_TERMINAL]) {
    const isTheirs = options.hasTerminal && FROM_TERMINAL.some((name) => name === signal)
    const listener = (): void => {
      if (!isTheirs) child.kill(signal)
    }
    process.on(signal, listener)
    forwarding.defer(() => void process.off(signal, listener))
  }
  return await new Promise((resolve) => {
    child.once('error', (error) => {
      if (child.pid !== undefined) return
      const isFound = !hasCode(error, 'ENOENT')
      resolve({
        code: isFound ? EXIT_NOT_EXECUTABLE : EXIT_NOT_FOUND,
        problem: isFound ? `${command}: cannot be executed` : `${command}: not found`,
      })
    })
    child.once('close', (code, signal) => {
      resolve({ code: code ?? 128 + (signal === null ? 0 : constants.signals[signal]) })
    })
  })
}
