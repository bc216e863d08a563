/** The executor process and its daemon: plain builds, deaths on either side, and full disks. */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdir, mkdtemp, readFile, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { openExecutor } from '../../src/build/executor.ts'
import { removeTree } from '../../src/files/workers/remove-job.ts'
import { SEALED_METHODS, Builds, processesWith, readRun, uniqueSleep, until } from './builds.ts'

test('executor: a plain build runs in a directory of the node', async () => {
  await using builds = await Builds.open(SEALED_METHODS)
  assert.equal(builds.sandbox.method, 'none')
  assert.equal(builds.sandbox.reasons.length, 3)
  const store = join(builds.directory, 'store')
  await mkdir(join(store, 'tree'), { recursive: true })
  await writeFile(join(store, 'tree', 'file'), 'file', { mode: 0o444 })
  const inputs = [
    { path: '/build/in/a', source: { kind: 'file', hostPath: join(store, 'tree/file') } },
    { path: '/build/in/dir', source: { kind: 'dir', hostPath: join(store, 'tree') } },
    { path: '/build/work/link.x', source: { kind: 'symlink', target: '../in/a' } },
  ] as const
  const env = {
    PATH: '/usr/bin:/bin',
    a: '/build/in/a',
    out: '/build/out/out',
    other: '/buildings',
  }
  const ran = await builds.run(
    'pwd; echo "$other"; cat "$a" link.x > "$out"; chmod u+w "$a"; echo changed > "$a"; echo err >/dev/stderr',
    { inputs, env },
  )
  assert.deepEqual(ran.outcome.end, { kind: 'exited', code: 0 }, ran.stderr)
  assert.equal(ran.stdout, `${ran.directory}/work\n/buildings\n`)
  assert.equal(ran.stderr, 'err\n')
  assert.equal(await readFile(join(ran.directory, 'out/out'), 'utf8'), 'filefile')
  assert.equal(await readFile(join(store, 'tree/file'), 'utf8'), 'file')
})

test('executor: the ends of plain builds', async () => {
  await using builds = await Builds.open(SEALED_METHODS)
  const end = async (...argv: string[]): Promise<unknown> => (await builds.run(argv)).outcome.end
  assert.deepEqual(await end('sh', '-c', 'exit 127'), { kind: 'exited', code: 127 })
  assert.deepEqual(await end('sh', '-c', 'kill -9 $$'), { kind: 'signalled', signal: 'SIGKILL' })
  for (const builder of ['nowhere', './nowhere', '/etc/passwd', '/build/in/nowhere']) {
    const { outcome } = await builds.run([builder])
    assert.equal(outcome.end.kind, 'builder-not-found', builder)
  }
  const sealed = await builds.run('true', { isolation: 'namespace' }).catch(() => undefined)
  assert.equal(sealed, undefined, 'there is no log of what never began')
  const { build } = await builds.start('true', { isolation: 'namespace' })
  assert.match(
    JSON.stringify((await build.outcome).end),
    /infrastructure.*helper: not allowed here/,
  )
})

test('executor: all processes of a plain build die with it, those that left its group too', async () => {
  await using builds = await Builds.open(SEALED_METHODS)
  const mark = uniqueSleep()
  const { outcome } = await builds.run(
    `(setsid sleep ${mark} &) ; setsid sleep ${mark} > /dev/null & sleep ${mark} & exit 0`,
  )
  assert.deepEqual(outcome.end, { kind: 'exited', code: 0 })
  assert.deepEqual(await processesWith(mark), [])
  const timeout = await builds.run(`(setsid sleep ${mark} &); sleep ${mark}`, {
    limits: { timeoutMs: 200, maxSilentMs: 60_000, maxLogBytes: 4096 },
  })
  assert.deepEqual(timeout.outcome.end, { kind: 'limit', limit: 'timeout' })
  assert.deepEqual(await processesWith(mark), [])
})

test('executor: a killed executor process is replaced, and its plain builds die', async () => {
  await using builds = await Builds.open(SEALED_METHODS)
  const mark = uniqueSleep()
  const { build } = await builds.start(`(setsid sleep ${mark} &); echo begin; sleep ${mark}`)
  await new Promise<void>((resolve) => build.onLog(() => resolve()))
  const [pid] = await processesWith(
    JSON.stringify({ directory: builds.directory, forbid: SEALED_METHODS }),
  )
  assert(pid !== undefined)
  process.kill(pid, 'SIGKILL')
  const { end } = await build.outcome
  assert(end.kind === 'infrastructure')
  assert.match(end.message, /SIGKILL/)
  assert.deepEqual(await processesWith(mark), [])
  // Started while there is no process: it waits for the next one.
  assert.equal(await builds.output('echo again'), 'again\n')
})

for (const victim of ['daemon', 'daemon and its executor'] as const) {
  test(`executor: kill -9 of the ${victim} leaves no build running`, async () => {
    const directory = await mkdtemp(join(tmpdir(), 'mesh-doomed-'))
    const mark = uniqueSleep()
    const daemon = spawn(
      process.execPath,
      [join(import.meta.dirname, 'doomed-daemon.ts'), directory, mark],
      { stdio: ['pipe', 'pipe', 'inherit'] },
    )
    await once(daemon.stdout, 'data')
    assert((await processesWith(mark)).length >= 2)
    if (victim !== 'daemon') {
      const [executor] = await processesWith(JSON.stringify({ directory, forbid: [] }))
      assert(executor !== undefined)
      daemon.kill('SIGSTOP') // so that it cannot clean up
      process.kill(executor, 'SIGKILL')
    }
    daemon.kill('SIGKILL')
    if (victim !== 'daemon') {
      // Nobody was there for the plain ones: the next executor of this data directory kills them.
      await using next = await openExecutor(
        { clock: systemClock(), log: { info() {}, warn() {} } },
        { directory },
      )
      assert(next.sandbox.method !== undefined)
      assert.deepEqual(await processesWith(mark), [])
    }
    await until('all builds are dead', async () => (await processesWith(mark)).length === 0)
    await removeTree(directory)
  })
}

test('executor: stopping ends running builds as cancelled', async () => {
  const builds = await Builds.open()
  const { build } = await builds.start('echo begin; sleep 1000')
  await new Promise<void>((resolve) => build.onLog(() => resolve()))
  await builds[Symbol.asyncDispose]()
  assert.deepEqual((await build.outcome).end, { kind: 'cancelled' })
  const { outcome } = builds.executor.start({ ...unused, directory: builds.directory })
  assert.equal((await outcome).end.kind, 'infrastructure')
})

test('executor: a full disk is a failure of the infrastructure, with the log up to there', async (context) => {
  await using builds = await Builds.open()
  const directory = join(builds.directory, 'small')
  await mkdir(directory)
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'small', directory], {
      stdio: 'ignore',
    })
  } catch {
    context.skip('mounting a small tmpfs needs root')
    return
  }
  try {
    const { build } = await builds.start('yes', {
      directory,
      limits: { timeoutMs: 60_000, maxSilentMs: 60_000, maxLogBytes: 2 ** 30 },
    })
    const { end } = await build.outcome
    assert(end.kind === 'infrastructure', JSON.stringify(end))
    assert.match(end.message, /ENOSPC/)
  } finally {
    execFileSync('umount', ['-l', directory])
  }
})

test('executor: one attempt runs once', async () => {
  await using builds = await Builds.open()
  const first = await builds.start('sleep 1000', { attempt: 'a-same' })
  const second = await builds.start('true', { attempt: 'a-same' })
  assert.match(JSON.stringify((await second.build.outcome).end), /a-same runs already/)
  first.build.cancel()
  await readRun(await first.build.outcome, first.directory)
})

const unused = {
  attempt: 'a-late',
  isolation: 'host',
  argv: ['true'],
  env: {},
  cwd: '/build/work',
  inputs: [],
  network: false,
  limits: { timeoutMs: 1, maxSilentMs: 1, maxLogBytes: 1 },
} as const
