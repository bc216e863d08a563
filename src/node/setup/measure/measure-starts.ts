/** How long a build that does nothing takes behind each kind of wall, on the executor that real builds use. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Clock } from '../../../base/clock.ts'
import type { Executor } from '../../../build/executor.ts'
import type { Isolation } from '../../../wire/environment.ts'
import type { Measured } from '../machine.ts'

const ROUNDS = 7
const BUILD_MS_MAX = 10_000

/** `directory` is the executor's. Rejects with the signal's reason. */
export async function measureStarts(
  { clock, executor }: { readonly clock: Clock; readonly executor: Executor },
  directory: string,
  { signal }: { readonly signal: AbortSignal },
): Promise<Measured['starts']> {
  const isolations: Isolation[] =
    executor.sandbox.method === 'none' ? ['host'] : ['host', 'namespace']
  const took = new Map<Isolation, number[]>(isolations.map((isolation) => [isolation, []]))
  const errors = new Map<Isolation, string>()
  // In turns, so that what else goes on meets all alike. The first round warms caches and does not count.
  for (let round = 0; round <= ROUNDS; round += 1)
    for (const isolation of isolations) {
      signal.throwIfAborted()
      if (errors.has(isolation)) continue
      const attempt = `start-${isolation}-${round}`
      const startMs = clock.nowMs()
      const error = await runNothing(executor, {
        attempt,
        isolation,
        directory: join(directory, attempt),
      })
      if (error !== undefined) errors.set(isolation, error)
      else if (round > 0) took.get(isolation)?.push(clock.nowMs() - startMs)
    }
  return isolations.map((isolation) => {
    const error = errors.get(isolation)
    const ms = median(took.get(isolation) ?? [])
    return error === undefined && ms !== undefined
      ? { isolation, ms }
      : { isolation, error: error ?? 'it never ran' }
  })
}

const median = (values: readonly number[]): number | undefined =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]

/** Why it failed, if it did. */
async function runNothing(
  executor: Executor,
  build: { readonly attempt: string; readonly isolation: Isolation; readonly directory: string },
): Promise<string | undefined> {
  await mkdir(build.directory)
  const { end } = await executor.start({
    ...build,
    argv: ['/bin/sh', '-c', ':'],
    env: { PATH: '/usr/bin:/bin' },
    cwd: '/build/work',
    inputs: [],
    network: false,
    limits: { timeoutMs: BUILD_MS_MAX, maxSilentMs: BUILD_MS_MAX, maxLogBytes: 1024 * 1024 },
  }).outcome
  if (end.kind === 'exited') return end.code === 0 ? undefined : `it ended with ${end.code}`
  return 'message' in end ? end.message : end.kind
}
