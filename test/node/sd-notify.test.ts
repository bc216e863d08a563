/** What the service manager is told, through a stand-in for systemd-notify and through the real one. */
import assert from 'node:assert/strict'
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { test } from 'node:test'
import { pino } from 'pino'
import { createServiceManager } from '../../src/node/process/sd-notify.ts'
import { ManualClock } from './manual-clock.ts'

/** A `systemd-notify` that writes down its arguments and environment. */
async function standIn(options: { exit?: number } = {}) {
  const directory = await mkdtemp(join(tmpdir(), 'mesh-notify-'))
  const program = join(directory, 'systemd-notify')
  const seen = join(directory, 'seen')
  const script = `#!/bin/sh\nprintf '%s|' "$@" "$NOTIFY_SOCKET" >>${seen}\necho >>${seen}\nexit ${options.exit ?? 0}\n`
  await writeFile(program, script)
  await chmod(program, 0o755)
  return {
    env: { NOTIFY_SOCKET: '/run/n', PATH: `${directory}:/usr/bin:/bin` },
    seen: async () => (await readFile(seen, 'utf8').catch(() => '')).split('\n').slice(0, -1),
    [Symbol.asyncDispose]: () => rm(directory, { recursive: true }),
  }
}

/** Lines of a log, and a way to wait for nothing in particular but turns of the event loop. */
function logged() {
  const lines: string[] = []
  return { lines, log: pino({}, { write: (line: string) => void lines.push(line) }) }
}

async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  while (!(await isSo())) await new Promise(setImmediate)
}

test('sd-notify: states are sent in order, for the pid of the daemon', async () => {
  await using program = await standIn()
  const { log, lines } = logged()
  const service = createServiceManager(
    { log, clock: new ManualClock() },
    { env: program.env, pid: 7 },
  )
  void service.ready('ready\nnow')
  void service.status('2 builds')
  await service.stopping()
  assert.deepEqual(await program.seen(), [
    '--pid=7|READY=1|STATUS=ready now|/run/n|',
    '--pid=7|STATUS=2 builds|/run/n|',
    '--pid=7|STOPPING=1|/run/n|',
  ])
  assert.deepEqual(lines, [])
})

test('sd-notify: without a service manager nothing is run', async () => {
  await using program = await standIn()
  const clock = new ManualClock()
  const env = { PATH: program.env.PATH, WATCHDOG_USEC: '1000000' }
  const service = createServiceManager({ log: logged().log, clock }, { env, pid: 7 })
  await service.ready('x')
  service.startWatchdog(() => Promise.resolve(true))
  assert.deepEqual([await program.seen(), clock.pendingMs()], [[], []])
})

test('sd-notify: a failure is logged once', async () => {
  await using program = await standIn({ exit: 1 })
  const { log, lines } = logged()
  const service = createServiceManager(
    { log, clock: new ManualClock() },
    { env: program.env, pid: 7 },
  )
  await service.ready('x')
  await service.stopping()
  assert.equal((await program.seen()).length, 2)
  assert.equal(lines.length, 1)
})

test('sd-notify: the watchdog is fed at half its time while the daemon answers', async () => {
  await using program = await standIn()
  const { log, lines } = logged()
  const clock = new ManualClock()
  const env = { ...program.env, WATCHDOG_USEC: '60000000', WATCHDOG_PID: '7' }
  const service = createServiceManager({ log, clock }, { env, pid: 7 })
  const answers = [
    () => Promise.resolve(true),
    () => Promise.resolve(false),
    () => Promise.reject(new Error('gone')),
  ]
  let asked = 0
  service.startWatchdog(() => answers[asked++]?.() ?? Promise.resolve(true))
  for (const count of [1, 2, 3]) {
    assert.deepEqual(clock.pendingMs(), [30_000])
    clock.step(30_000)
    await until(() => asked === count && clock.pendingMs().length === 1)
  }
  await until(async () => (await program.seen()).length === 1)
  assert.deepEqual(await program.seen(), ['--pid=7|WATCHDOG=1|/run/n|'])
  assert.match(lines.join(), /did not answer/)
  service.stop()
  assert.deepEqual(clock.pendingMs(), [])
  const other = createServiceManager({ log, clock }, { env: { ...env, WATCHDOG_PID: '8' }, pid: 7 })
  other.startWatchdog(() => Promise.resolve(true))
  assert.deepEqual(clock.pendingMs(), [], 'the watchdog of another process')
})

/** Receives like systemd: prints each datagram, and closes the descriptors that a barrier sends. */
const RECEIVER = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
print("bound", flush=True)
while True:
    data, fds, _, _ = socket.recv_fds(s, 4096, 4)
    for fd in fds: os.close(fd)
    print(data.decode().replace("\\n", " "), flush=True)
`

test('sd-notify: systemd-notify delivers it', async (t) => {
  for (const [program, flag] of [
    ['systemd-notify', '--version'],
    ['python3', '--version'],
  ] as const) {
    try {
      execFileSync(program, [flag], { stdio: 'ignore' })
    } catch {
      t.skip(`SKIPPED: ${program} is not installed`)
      return
    }
  }
  const directory = await mkdtemp(join(tmpdir(), 'mesh-notify-'))
  const socket = join(directory, 'notify')
  const receiver = spawn('python3', ['-c', RECEIVER, socket], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const received: string[] = []
  createInterface(receiver.stdout).on('line', (line) => received.push(line))
  await until(() => received.length === 1)
  const { log, lines } = logged()
  const env = { NOTIFY_SOCKET: socket, PATH: process.env['PATH'] }
  const service = createServiceManager({ log, clock: new ManualClock() }, { env, pid: process.pid })
  await service.ready('ready')
  assert.deepEqual(lines, [])
  const text = received.join(' ')
  for (const part of [`MAINPID=${process.pid}`, 'READY=1', 'STATUS=ready'])
    assert(text.includes(part), text)
  const exited = once(receiver, 'exit')
  receiver.kill()
  await exited
  await rm(directory, { recursive: true })
})
