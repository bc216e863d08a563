/** What a killed executor left is found and ended, and no stranger is. */
import assert from 'node:assert/strict'
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test, type TestContext } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { readBuildRecords, writeBuildRecord } from '../../src/build/build-records.ts'
import { openExecutor } from '../../src/build/executor.ts'
import { endAllOrphans } from '../../src/build/orphans.ts'
import { findProcess, killProcess } from '../../src/build/process-list.ts'
import { processesWith, uniqueSleep, until } from './builds.ts'

const clock = systemClock()

/** A data directory, and processes that are ended with the test. */
function openDesk(t: TestContext): {
  readonly directory: string
  readonly start: (script: string) => Promise<ChildProcess & { readonly pid: number }>
} {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-orphans-'))
  const children: ChildProcess[] = []
  t.after(() => {
    for (const { pid } of children) if (pid !== undefined) killProcess(-pid)
    rmSync(directory, { recursive: true })
  })
  return {
    directory,
    async start(script) {
      // Like a plain build: a session of its own, here with nothing in its environment.
      const child = spawn('/bin/sh', ['-c', `echo up; ${script}`], {
        stdio: ['ignore', 'pipe', 'ignore'],
        env: {},
        detached: true,
      })
      children.push(child)
      await once(child.stdout, 'data')
      const { pid } = child
      assert(pid !== undefined)
      return Object.assign(child, { pid })
    },
  }
}

const record = (directory: string, pid: number): void =>
  writeBuildRecord(directory, {
    attempt: 'a-1',
    directory: join(directory, 'a-1'),
    pid,
    groups: {},
  })

function changeRecord(directory: string, change: Record<string, unknown>): void {
  const path = join(directory, 'sandbox', 'running', 'a-1')
  writeFileSync(path, JSON.stringify({ ...JSON.parse(readFileSync(path, 'utf8')), ...change }))
}

test('orphans: the first process and all that hangs on it are ended without an environment to know them by', async (t) => {
  const { directory, start } = openDesk(t)
  const mark = uniqueSleep()
  const first = await start(`sleep ${mark} & (sleep ${mark} &) ; setsid sleep ${mark} & wait`)
  await until('all are up', async () => (await processesWith(mark)).length === 3)
  record(directory, first.pid)
  assert.equal(await endAllOrphans(clock, directory), 0)
  assert.deepEqual(await processesWith(mark), [])
  assert.deepEqual(readBuildRecords(directory), [])
})

test('orphans: a stranger with the same number is left alone', async (t) => {
  const { directory, start } = openDesk(t)
  const mark = uniqueSleep()
  const stranger = await start(`sleep ${mark}`)
  const facts = findProcess(stranger.pid)
  assert(facts !== undefined)
  const bootOf = (): unknown => readBuildRecords(directory)[0]?.boot
  for (const change of [
    { startTicks: facts.startTicks - 1 },
    { startTicks: facts.startTicks + 1 },
    { boot: '00000000-0000-0000-0000-000000000000' },
  ]) {
    record(directory, stranger.pid)
    changeRecord(directory, change)
    assert.equal(typeof bootOf(), 'string')
    assert.equal(await endAllOrphans(clock, directory), 0)
    assert.deepEqual(readBuildRecords(directory), [], 'and nobody looks again')
    assert.notEqual(findProcess(stranger.pid), undefined)
    assert.equal((await processesWith(mark)).length >= 1, true)
  }
  // The very same record, as it was written, does end it.
  record(directory, stranger.pid)
  await endAllOrphans(clock, directory)
  await until('it is gone', () => findProcess(stranger.pid) === undefined)
})

test('orphans: somebody who looks into an attempt is no process of it', async (t) => {
  const { directory, start } = openDesk(t)
  const attempt = join(directory, 'a-1')
  mkdirSync(attempt)
  const visitor = await start(`cd ${attempt}; exec 3> file; sleep ${uniqueSleep()}`)
  const build = await start(`exit 0`)
  if (findProcess(build.pid) !== undefined) record(directory, build.pid)
  assert.equal(await endAllOrphans(clock, directory), 0)
  assert.notEqual(findProcess(visitor.pid), undefined)
})

test('orphans: a record that was cut off is thrown away', async (t) => {
  const { directory } = openDesk(t)
  const running = join(directory, 'sandbox', 'running')
  mkdirSync(running, { recursive: true })
  writeFileSync(join(running, 'a-2'), '{"attempt":"a-2","dire')
  writeFileSync(join(running, 'a-3'), '{"attempt":"a-3","pid":1}')
  assert.equal(await endAllOrphans(clock, directory), 0)
  assert.deepEqual(readdirSync(running), [])
})

test('orphans: builds that cleared their environment, left their session and lost their parents die with their executor', async (t) => {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-orphans-'))
  const mark = uniqueSleep()
  const daemon = spawn(
    process.execPath,
    [join(import.meta.dirname, 'doomed-daemon.ts'), directory, mark, 'fleeing'],
    { stdio: ['pipe', 'pipe', 'inherit'] },
  )
  t.after(async () => {
    daemon.kill('SIGKILL')
    for (const pid of await processesWith(mark)) process.kill(pid, 'SIGKILL')
  })
  let said = ''
  daemon.stdout.on('data', (bytes: Buffer) => (said += bytes.toString()))
  await until('its builds run', () => said.includes('running'))
  await until('they have fled', async () => (await processesWith(mark)).length >= 2)
  const [executor] = await processesWith(JSON.stringify({ directory, forbid: [] }))
  assert(executor !== undefined)
  daemon.kill('SIGSTOP') // so that it cannot clean up
  process.kill(executor, 'SIGKILL')
  daemon.kill('SIGKILL')
  {
    await using next = await openExecutor({ clock, log: { info() {}, warn() {} } }, { directory })
    if (next.controls.of.kill === undefined) {
      t.skip('no control group can be made here, and nothing else holds such a process')
    } else assert.deepEqual(await processesWith(mark), [])
    assert.deepEqual(readBuildRecords(directory), [])
  }
  rmSync(directory, { recursive: true })
})
