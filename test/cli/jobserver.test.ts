/** `mesh jobserver` without a daemon: a real make, its number of jobs, exit codes and signals. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { withoutJobserver, makeStyleOf } from '../../src/jobs/make-style.ts'
import { until } from '../build/builds.ts'
import { mostAtOnce, NEWER_TOOLS, NO_NEWER_TOOLS } from '../build/parallel-work.ts'

const PROGRAM = join(import.meta.dirname, '../../src/cli/main.ts')

class Bench implements Disposable {
  readonly directory = mkdtempSync(join(tmpdir(), 'mesh-jobserver-'))

  start(args: readonly string[], env: Record<string, string> = {}) {
    const child = spawn(process.execPath, [PROGRAM, 'jobserver', ...args], {
      cwd: this.directory,
      // No daemon is at home here.
      env: { PATH: process.env['PATH'], HOME: this.directory, TMPDIR: this.directory, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    const output = { stdout: '', stderr: '' }
    child.stdout.on('data', (bytes: Buffer) => (output.stdout += bytes.toString()))
    child.stderr.on('data', (bytes: Buffer) => (output.stderr += bytes.toString()))
    const ended = once(child, 'close').then(([code]: unknown[]) => code)
    return { child, output, ended }
  }

  async run(args: readonly string[], env: Record<string, string> = {}) {
    const { output, ended } = this.start(args, env)
    return { code: await ended, ...output }
  }

  /** Of twelve jobs of 0.2 s, how many ran at once. */
  async widthOf(args: readonly string[], env: Record<string, string> = {}): Promise<number> {
    const ids = Array.from({ length: 12 }, (_, at) => `t${at}`).join(' ')
    const recipe = '@echo s >> events; sleep 0.2; echo e >> events'
    writeFileSync(join(this.directory, 'Makefile'), `all: ${ids}\n${ids}:\n\t${recipe}\n`)
    const { code, stderr } = await this.run(args, env)
    assert.equal(code, 0, stderr)
    assert.equal(stderr, '')
    const events = readFileSync(join(this.directory, 'events'), 'latin1').replaceAll('\n', '')
    return mostAtOnce(events)
  }

  [Symbol.dispose](): void {
    rmSync(this.directory, { recursive: true })
  }
}

test('jobserver: make runs as many jobs as it was given', async () => {
  using bench = new Bench()
  assert.equal(await bench.widthOf(['-j', '3', '--', 'make']), 3)
})

test('jobserver: so does a make that is told of a FIFO', async (context) => {
  if (NEWER_TOOLS === undefined) return context.skip(NO_NEWER_TOOLS)
  using bench = new Bench()
  const env = { PATH: `${NEWER_TOOLS}/bin:${process.env['PATH']}` }
  assert.equal(await bench.widthOf(['-j', '4', '--', 'make'], env), 4)
})

test('jobserver: a jobserver above it is not passed on, other words of MAKEFLAGS are', async () => {
  using bench = new Bench()
  const env = { MAKEFLAGS: 'k -j9 --jobserver-auth=3,4 -- CC=clang', MAKELEVEL: '2' }
  const { stdout } = await bench.run(['-j2', '--', 'sh', '-c', 'echo "$MAKEFLAGS|$MAKELEVEL"'], env)
  assert.match(stdout, /^-j --jobserver-auth=\S+ -k -- CC=clang\|\n$/)
})

test('jobserver: its end is that of the command, and nothing stays behind', async () => {
  using bench = new Bench()
  assert.equal((await bench.run(['--', 'sh', '-c', 'exit 7'])).code, 7)
  assert.equal((await bench.run(['--', 'sh', '-c', 'kill -KILL $$'])).code, 137)
  const absent = await bench.run(['--', 'no-such-command'])
  assert.deepEqual([absent.code, absent.stderr], [127, 'mesh: no-such-command: not found\n'])
  assert.equal((await bench.run(['--', '/'])).code, 126)
  const { stdout } = await bench.run(['--', 'sh', '-c', 'ls -d "$TMPDIR"/mesh-jobs-*/*'])
  assert.match(stdout, /mesh-jobs-\w+\/buildsocket\n.*\/jobs\n.*\/jobserver\n/)
  const left = await bench.run([
    '--no-daemon',
    '--',
    'sh',
    '-c',
    'ls -d "$TMPDIR"/mesh-jobs-* | wc -l',
  ])
  assert.equal(left.stdout, '1\n')
})

test('jobserver: signals reach the command, which decides what they mean', async () => {
  using bench = new Bench()
  const script = `trap 'echo asked; exit 3' TERM; echo ready; while :; do sleep 0.05; done`
  const { child, output, ended } = bench.start(['--', 'sh', '-c', script])
  await until('the command runs', () => output.stdout === 'ready\n')
  child.kill('SIGTERM')
  assert.equal(await ended, 3)
  assert.equal(output.stdout, 'ready\nasked\n')
})

test('jobserver: bad numbers and a named daemon that is not there are refused', async () => {
  using bench = new Bench()
  const none = await bench.run(['-j', '0', '--', 'true'])
  assert.equal(none.code, 2)
  assert.match(none.stderr, /MESH0002.*--jobs 0: expected a number of jobs/)
  assert.equal((await bench.run(['-j', '2', '--min', '3', '--', 'true'])).code, 2)
  const away = await bench.run(['--socket', join(bench.directory, 'none'), '--', 'true'])
  assert.equal(away.code, 69)
  assert.match(away.stderr, /MESH0101/)
})

test('jobserver: make is told of a jobserver by its version', () => {
  for (const [version, style] of [
    ['GNU Make 4.4.1\nBuilt for x86_64-pc-linux-gnu\n', 'fifo'],
    ['GNU Make 4.10\n', 'fifo'],
    ['GNU Make 5.0\n', 'fifo'],
    ['GNU Make 4.3\nBuilt for x86_64-pc-linux-gnu\n', 'descriptors'],
    ['GNU Make 4.2.1\n', 'descriptors'],
    ['GNU Make 4.1\n', 'none'],
    ['GNU Make 3.81\n', 'none'],
    ['bmake 20200710\n', 'none'],
    ['', 'none'],
    [undefined, 'fifo'],
  ] as const)
    assert.equal(makeStyleOf(version), style, version)
})

test('jobserver: what is taken out of MAKEFLAGS', () => {
  for (const [flags, left] of [
    ['', ''],
    ['ks', '-ks'],
    ['-j8', ''],
    [' -j --jobserver-auth=fifo:/a', ''],
    ['-k -l2.5 --jobserver-fds=3,4 --output-sync=line', '-k --output-sync=line'],
    ['w -- A=-j8 B=c', '-w -- A=-j8 B=c'],
  ] as const)
    assert.equal(withoutJobserver(flags), left)
})
