/** The life of the process: commands, ready, signals, failures, exit codes. A small daemon stands in for the real one. */
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { pino } from 'pino'
import { MeshError } from '../../src/base/errors.ts'
import { systemRandom } from '../../src/base/random.ts'
import { createLogger } from '../../src/node/process/logging.ts'
import type { Daemon } from '../../src/node/daemon.ts'
import type { NodeSystem, StartDaemon } from '../../src/node/node-system.ts'
import { runNode } from '../../src/node/run-node.ts'
import { ManualClock } from './manual-clock.ts'

const READY = {
  v: 1,
  name: 'a',
  peerId: '12D3KooWGatU38nUxa2UFZ9hKsn9ZEjVQZbXrBVcqZMfXhvBVrBe',
  listen: ['/ip4/127.0.0.1/tcp/1'],
  http: 'http://127.0.0.1:2',
  socket: '/d/node.sock',
  pid: 1,
  protocols: [],
} as const

/** A daemon whose steps the test takes. */
function smallDaemon(options: { start?: () => Promise<void> } = {}) {
  const drained = Promise.withResolvers<void>()
  const stopped = Promise.withResolvers<void>()
  const calls: string[] = []
  const daemon: Daemon = {
    ready: { ...READY, listen: [...READY.listen], protocols: [] },
    reload(config) {
      calls.push(`reload ${config.features.join()}`)
      return Promise.resolve()
    },
    drain() {
      calls.push('drain')
      return drained.promise
    },
    running: () => 0,
    handBack: () => Promise.resolve(),
    stop() {
      calls.push('stop')
      return stopped.promise
    },
    summary: ['worker    2 cpus'],
  }
  const startDaemon: StartDaemon = async (_, config) => {
    calls.push(`start ${config.name}`)
    await options.start?.()
    return daemon
  }
  return { startDaemon, calls, drained, stopped }
}

/** A process of which everything is seen. */
function smallSystem(startDaemon: StartDaemon, options: { isTty?: boolean } = {}) {
  const out: string[] = []
  const err: string[] = []
  const exits: number[] = []
  const logs: string[] = []
  const clock = new ManualClock()
  let signal: ((name: 'SIGTERM' | 'SIGINT') => void) | undefined
  let hangUp: (() => void) | undefined
  let crash: ((error: unknown) => void) | undefined
  const system: NodeSystem = {
    env: {},
    io: {
      cwd: '/',
      hostname: 'a',
      home: '/ann',
      isRoot: false,
      isTty: options.isTty ?? false,
      readFile: () => undefined,
    },
    clock,
    random: systemRandom(),
    pid: 7,
    out: (text) => out.push(text),
    err: (text) => err.push(text),
    createLogger: ({ level }) =>
      Promise.resolve(pino({ level }, { write: (line: string) => void logs.push(line) })),
    loadDaemon: () => Promise.resolve({ startDaemon }),
    onSignal: (listener) => (signal = listener),
    onReload: (listener) => (hangUp = listener),
    onCrash: (listener) => (crash = listener),
    exit: (code) => exits.push(code),
  }
  const messages = () => logs.map((line): unknown => JSON.parse(line).msg)
  return {
    system,
    out,
    err,
    exits,
    logs,
    messages,
    clock,
    signal(name: 'SIGTERM' | 'SIGINT') {
      assert(signal !== undefined, 'nobody listens to signals')
      signal(name)
    },
    hangUp() {
      assert(hangUp !== undefined, 'nobody listens to SIGHUP')
      hangUp()
    },
    crash(error: unknown) {
      assert(crash !== undefined, 'nobody listens to crashes')
      crash(error)
    },
  }
}

async function until(isSo: () => boolean): Promise<void> {
  while (!isSo()) await new Promise(setImmediate)
}

test('main: a signal drains, then stops, and ends with 0', async () => {
  const daemon = smallDaemon()
  const process = smallSystem(daemon.startDaemon)
  const code = runNode(['--name', 'x'], process.system)
  await until(() => process.messages().includes('the node became ready'))
  process.signal('SIGTERM')
  await until(() => daemon.calls.includes('drain'))
  assert.deepEqual(daemon.calls, ['start x', 'drain'])
  daemon.drained.resolve()
  await until(() => daemon.calls.includes('stop'))
  daemon.stopped.resolve()
  assert.equal(await code, 0)
  assert.deepEqual(process.messages(), ['the node became ready', 'drain started', 'stopped'])
  assert.deepEqual([process.out, process.err, process.clock.pendingMs()], [[], [], []])
})

test('main: draining ends at its deadline', async () => {
  const daemon = smallDaemon()
  daemon.stopped.resolve()
  const process = smallSystem(daemon.startDaemon)
  const code = runNode(['run', '--drain-deadline', '5s'], process.system)
  await until(() => process.messages().length === 1)
  process.signal('SIGINT')
  await until(() => process.clock.pendingMs().length === 1)
  process.clock.step(4_999)
  assert.deepEqual(process.clock.pendingMs(), [1])
  process.clock.step(1)
  assert.equal(await code, 0)
  assert(process.messages().includes('running builds did not end in time'))
})

for (const [name, expected] of [
  ['SIGTERM', 143],
  ['SIGINT', 130],
] as const) {
  test(`main: a second signal stops now, ${name} with ${expected}`, async () => {
    const daemon = smallDaemon()
    daemon.stopped.resolve()
    const process = smallSystem(daemon.startDaemon)
    const code = runNode([], process.system)
    await until(() => process.messages().length === 1)
    process.signal('SIGTERM')
    await until(() => daemon.calls.includes('drain'))
    process.signal(name)
    assert.equal(await code, expected)
    assert.deepEqual(daemon.calls.slice(1), ['drain', 'stop'])
  })
}

test('main: a daemon that does not stop is left behind, at once by a third signal', async () => {
  const daemon = smallDaemon()
  daemon.drained.resolve()
  const process = smallSystem(daemon.startDaemon)
  const code = runNode([], process.system)
  await until(() => process.messages().length === 1)
  process.signal('SIGTERM')
  await until(() => daemon.calls.includes('stop'))
  process.signal('SIGTERM')
  assert.deepEqual(process.exits, [])
  process.signal('SIGTERM')
  assert.deepEqual(process.exits, [143])
  process.clock.step(10_000)
  assert.equal(await code, 0)
  assert(process.messages().includes('the daemon did not stop in time'))
})

test('main: signals during the start are not lost', async () => {
  const starting = Promise.withResolvers<void>()
  const daemon = smallDaemon({ start: () => starting.promise })
  daemon.drained.resolve()
  daemon.stopped.resolve()
  const process = smallSystem(daemon.startDaemon)
  const code = runNode([], process.system)
  await until(() => daemon.calls.length === 1)
  process.signal('SIGTERM')
  starting.resolve()
  assert.equal(await code, 0)

  const stuck = smallDaemon({ start: () => new Promise(() => {}) })
  const other = smallSystem(stuck.startDaemon)
  const otherCode = runNode([], other.system)
  await until(() => stuck.calls.length === 1)
  other.signal('SIGINT')
  other.signal('SIGINT')
  assert.equal(await otherCode, 130)
})

test('main: an error at the start is told, with its exit code', async () => {
  const cases: readonly (readonly [error: Error, exit: number, text: RegExp])[] = [
    [
      new MeshError('MESH0103', 'cannot listen', { where: '127.0.0.1:1', hints: ['--http'] }),
      69,
      /^error\[MESH0103\]: 127.0.0.1:1: cannot listen\n {2}help: --http\n$/,
    ],
    [new MeshError('MESH0106', 'newer'), 78, /MESH0106/],
    [Object.assign(new Error('full'), { code: 'ENOSPC' }), 73, /MESH0503/],
    [new Error('a bug'), 70, /^error\[MESH0001\]: Error: a bug\n +at /],
  ]
  for (const [error, exit, text] of cases) {
    const daemon = smallDaemon({ start: () => Promise.reject(error) })
    const process = smallSystem(daemon.startDaemon)
    assert.equal(await runNode([], process.system), exit)
    assert.match(process.err.join(), text)
    assert.deepEqual(process.messages(), ['the daemon could not be started'])
  }
})

test('main: what nobody caught ends the process with 70', async () => {
  const daemon = smallDaemon()
  const process = smallSystem(daemon.startDaemon)
  void runNode([], process.system)
  await until(() => process.messages().length === 1)
  process.crash(new Error('oops'))
  assert.deepEqual(process.exits, [70])
  assert.match(process.logs.at(-1) ?? '', /"level":60.*oops/)
})

test('main: a terminal gets a banner', async () => {
  const daemon = smallDaemon()
  const process = smallSystem(daemon.startDaemon, { isTty: true })
  void runNode([], process.system)
  await until(() => process.err.length === 1)
  assert.equal(
    process.err.join().replace(/^mesh-node \S+/, 'mesh-node V'),
    [
      'mesh-node V  node "a"  data /ann/.local/share/mesh',
      '  no configuration found: running as a single machine (root, worker, store)',
      '  worker    2 cpus',
      `  peer id   ${READY.peerId}`,
      '  listening /ip4/127.0.0.1/tcp/1   http http://127.0.0.1:2/   socket /d/node.sock',
      '  ready     try:  mesh run -- gcc --version',
      '',
    ].join('\n'),
  )
  assert.deepEqual(process.messages(), [])
})

test('main: --allow any is warned about at every start', async () => {
  const daemon = smallDaemon()
  const process = smallSystem(daemon.startDaemon)
  void runNode(['--allow', 'any'], process.system)
  await until(() => process.messages().length === 2)
  assert.match(process.logs[0] ?? '', /"level":40.*every peer is admitted/)
})

const values = (shown: string) => shown.split('\n').map((line) => line.replace(/ *#.*/, ''))

test('main: what config check prints is a file with the same meaning', async () => {
  const argv = [
    '--name',
    'x',
    '--cpus',
    '3',
    '--listen',
    'none',
    '--mirror',
    'https://m/',
    '--allow',
    'any',
    '--http',
    '0.0.0.0:0',
  ]
  const { startDaemon } = smallDaemon()
  const first = smallSystem(startDaemon)
  assert.equal(await runNode(['config', 'check', ...argv], first.system), 0)
  const text = first.out.join('')
  assert.match(text, /^cpus = 3 +# --cpus$/m)
  assert.match(text, /every peer is admitted/)
  const second = smallSystem(startDaemon)
  const io = { ...second.system.io, readFile: () => text }
  assert.equal(await runNode(['config', 'check'], { ...second.system, io }), 0)
  assert.deepEqual(values(second.out.join('')), values(text))
})

test('main: config check names every problem', async () => {
  const process = smallSystem(smallDaemon().startDaemon)
  const argv = ['config', 'check', '--cpus', 'x', '--memory', 'y']
  assert.equal(await runNode(argv, process.system), 2)
  assert.equal(process.err.length, 2)
  assert.match(
    process.err.join(''),
    /^error\[MESH0104\]: --cpus "x": .*\nerror\[MESH0104\]: --memory "y": /,
  )
})

async function run(...argv: string[]) {
  const process = smallSystem(smallDaemon().startDaemon)
  const code = await runNode(argv, process.system)
  return { code, out: process.out.join(''), err: process.err.join('') }
}

test('main: help, schema, and unknown commands', async () => {
  const help = await run('--help')
  assert.equal(help.code, 0)
  assert.match(help.out, /^Usage: mesh-node \[run\] \[flags\]\n/)
  assert.match(help.out, /--drain-deadline TIME +how long .* \(default: 30s\)/)
  assert.deepEqual((await run('config', '-h')).out, help.out)
  const schema: unknown = JSON.parse((await run('config', 'schema')).out)
  assert(typeof schema === 'object' && schema !== null && 'properties' in schema)
  const unknown = await run('config', 'chekc')
  assert.deepEqual([unknown.code, unknown.out], [2, ''])
  assert.match(
    unknown.err,
    /^error\[MESH0002\]: there is no command "config chekc"\n {2}help: did you mean "mesh-node config check"\?/,
  )
})

test('main: a command with flags of its own stands before all flags', async () => {
  for (const command of ['init', 'calibrate', 'install-service', 'guess-env']) {
    const { code, out, err } = await run('--name', 'x', command)
    assert.deepEqual([code, out], [2, ''])
    assert.match(err, new RegExp(`^error\\[MESH0002\\]: ${command} stands before all flags\n`))
  }
})

test('main: the peer id is told before anything runs, and stays', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'mesh-id-'))
  try {
    const data = join(directory, 'data')
    const first = await run('id', '--data', data)
    assert.match(first.out, /^12D3KooW\w{44}\n$/)
    assert.deepEqual(await run('id', '--data', data), first)
  } finally {
    await rm(directory, { recursive: true })
  }
})

test('main: logs are JSON lines with words for levels, or lines for people', async () => {
  const lines: string[] = []
  const destination = { write: (line: string) => void lines.push(line) }
  const json = await createLogger({ level: 'info', format: 'json' }, destination)
  json.debug('hidden')
  json.child({ component: 'store' }).warn({ peer: 'p' }, 'shown')
  const { time, ...rest } = JSON.parse(lines.join(''))
  assert.deepEqual(rest, { level: 'warn', component: 'store', peer: 'p', msg: 'shown' })
  assert(!Number.isNaN(Date.parse(time)))
})

test('main: the command itself', async () => {
  const directory = await mkdtemp(join(tmpdir(), 'mesh-main-'))
  const command = (...argv: string[]) =>
    new Promise<{ code: unknown; out: string; err: string }>((resolve) => {
      const main = new URL('../../src/node/main.ts', import.meta.url).pathname
      const env = { HOME: directory, PATH: process.env['PATH'] }
      execFile(process.execPath, [main, ...argv], { env, cwd: directory }, (error, out, err) =>
        resolve({ code: error === null ? 0 : error.code, out, err }),
      )
    })
  assert.match((await command('--version')).out, /^mesh-node \d+\.\d+\.\d+\n$/)
  await writeFile(join(directory, 'mesh.toml'), '[node]\nnmae = "a"\n')
  const broken = await command('--config', 'mesh.toml')
  assert.deepEqual([broken.code, broken.out], [2, ''])
  assert.match(
    broken.err,
    /^error\[MESH0104\]: \S+\/mesh.toml:2:1: unknown key "nmae" in \[node\]\n.*\n.*\n {2}help: did you mean "name"\?\n$/,
  )
  const exposed = await command('--http', '0.0.0.0:0')
  assert.equal(exposed.code, 2)
  assert.match(exposed.err, /^error\[MESH0107\]: other machines reach 0.0.0.0:0 \(--http\)/)
  await rm(directory, { recursive: true })
})

test('main: SIGHUP reads the configuration again; what waits for the next start is named', async () => {
  const daemon = smallDaemon()
  let file = '[worker]\nfeatures = ["a"]\n'
  const process = smallSystem(daemon.startDaemon)
  const io = { ...process.system.io, readFile: () => file }
  const code = runNode(['--name', 'x'], { ...process.system, io })
  await until(() => process.messages().includes('the node became ready'))
  file = '[worker]\nfeatures = ["b", "-kvm"]\n[http]\nlisten = "127.0.0.1:1"\n'
  process.hangUp()
  await until(() => process.messages().includes('the configuration was read again'))
  assert.deepEqual(daemon.calls, ['start x', 'reload b,-kvm'])
  const later = process.logs.find((line) => line.includes('wait for the next start'))
  assert.deepEqual(JSON.parse(later ?? '{}').settings, ['http.listen'])
  process.signal('SIGTERM')
  daemon.drained.resolve()
  daemon.stopped.resolve()
  assert.equal(await code, 0)
})

test('main: a wrong configuration changes nothing; SIGHUP before the start is over counts after it', async () => {
  const started = Promise.withResolvers<void>()
  const daemon = smallDaemon({ start: () => started.promise })
  let file = ''
  const process = smallSystem(daemon.startDaemon)
  const io = { ...process.system.io, readFile: () => file }
  const code = runNode([], { ...process.system, io })
  await until(() => daemon.calls.length === 1)
  process.hangUp()
  process.hangUp()
  started.resolve()
  await until(() => process.messages().includes('the configuration was read again'))
  assert.deepEqual(daemon.calls.slice(1), ['reload '])
  file = '[worker]\nfeature = 1\n'
  process.hangUp()
  await until(() => process.messages().includes('the configuration is wrong: nothing was changed'))
  assert.match(process.logs.at(-1) ?? '', /unknown key/)
  assert.deepEqual(daemon.calls.slice(1), ['reload '])
  process.signal('SIGTERM')
  daemon.drained.resolve()
  daemon.stopped.resolve()
  assert.equal(await code, 0)
})
