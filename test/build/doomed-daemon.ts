/** A process that opens an executor, starts a sealed (where possible) and a plain build, says so, and waits to be killed. */
import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import { systemClock } from '../../src/base/clock.ts'
import { openExecutor } from '../../src/build/executor.ts'

const [directory = '', mark = '', manner = ''] = process.argv.slice(2)
/** Out of its session, without its environment, and with nobody above it. */
const flee = `(env -i setsid sh -c 'sleep 0.2; sleep ${mark} & sleep ${mark} & wait' > /dev/null 2>&1 &); echo begin; env -i sleep 1000`
const stay = `(setsid sleep ${mark} &); echo begin; sleep ${mark}`
const executor = await openExecutor(
  { clock: systemClock(), log: { info() {}, warn() {} } },
  { directory },
)
const isolations =
  executor.sandbox.method === 'none' ? (['host'] as const) : (['host', 'namespace'] as const)
for (const isolation of isolations) {
  const path = join(directory, `a-${isolation}`)
  await mkdir(path)
  const build = executor.start({
    attempt: `a-${isolation}`,
    isolation,
    directory: path,
    argv: ['/bin/sh', '-c', manner === 'fleeing' ? flee : stay],
    env: { PATH: '/usr/bin:/bin' },
    cwd: '/build/work',
    inputs: [],
    network: false,
    limits: { timeoutMs: 600_000, maxSilentMs: 600_000, maxLogBytes: 4096 },
  })
  await new Promise<void>((resolve) => build.onLog(() => resolve()))
}
process.stdout.write('running\n')
process.stdin.resume()
