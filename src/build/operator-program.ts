/**
 * Runs a program of the node's operator: an acceptance check, or one that tells facts of the machine.
 *
 * As the daemon's user and without walls, but bounded in time and output, and ended with all that it began.
 */
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { LogDecoder } from '../wire/log-record.ts'
import type { BuildEnd, Executor } from './executor.ts'

/** How long one may take. */
export const OPERATOR_MS_MAX = 10_000
export const OPERATOR_OUTPUT_BYTES_MAX = 4 * 1024

/** Never rejects for what the program does; after `signal` it ends as `cancelled`. */
export async function runOperatorProgram(
  executor: Executor,
  options: {
    /** Names the run among the builds of the executor. */
    readonly attempt: string
    readonly path: string
    readonly env: Readonly<Record<string, string>>
    /** Exists, is empty, and is its own. */
    readonly directory: string
    readonly limitMs: number
    readonly signal: AbortSignal
  },
): Promise<{ readonly end: BuildEnd; readonly output: string }> {
  const { attempt, path, env, directory, limitMs, signal } = options
  const build = executor.start({
    attempt,
    isolation: 'host',
    directory,
    argv: [path],
    env,
    cwd: '/build/work',
    inputs: [],
    network: true,
    limits: {
      timeoutMs: limitMs,
      maxSilentMs: limitMs,
      maxLogBytes: OPERATOR_OUTPUT_BYTES_MAX,
    },
  })
  const onAbort = (): void => build.cancel()
  signal.addEventListener('abort', onAbort, { once: true })
  const { end } = await build.outcome
  signal.removeEventListener('abort', onAbort)
  return { end, output: await outputOf(join(directory, 'log')) }
}

/** What came on stdout, as text; empty where the program could not even be started. */
async function outputOf(path: string): Promise<string> {
  const decoder = new LogDecoder()
  await using file = await open(path, 'r').catch(() => undefined)
  if (file === undefined) return ''
  const { buffer, bytesRead } = await file.read({
    buffer: Buffer.alloc(2 * OPERATOR_OUTPUT_BYTES_MAX),
  })
  const parts = decoder
    .push(buffer.subarray(0, bytesRead))
    .filter(({ stream }) => stream === 'stdout')
    .map(({ bytes }) => bytes)
  return Buffer.concat(parts).toString('utf8').replaceAll('\ufffd', '?')
}
