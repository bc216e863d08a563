/** What a build may not have too much of, besides time, output and memory: each limit kills all of it and is named. */
import assert from 'node:assert/strict'
import { test, type TestContext } from 'node:test'
import { describeLimit, diskLimitOf } from '../../src/build/limit-failure.ts'
import { SEALED_METHODS, Builds, processesWith, uniqueSleep, until } from './builds.ts'

const MIB = 2 ** 20
const LIMITS = { timeoutMs: 60_000, maxSilentMs: 60_000, maxLogBytes: MIB }

/** On the strongest walls of this machine, and without any. */
function check(what: string, body: (builds: Builds, context: TestContext) => Promise<void>): void {
  for (const walls of ['sealed', 'plain'] as const)
    test(`bounds: ${what} (${walls})`, async (context) => {
      await using builds = await Builds.open(walls === 'sealed' ? [] : SEALED_METHODS)
      await body(builds, context)
    })
}

/** Where a plain build and a sealed one both find their output. */
const env = { PATH: '/usr/bin:/bin', out: '/build/out/out' }

check(
  'a fork bomb is told how many processes it may have, and the machine goes on',
  async (builds, context) => {
    const { of, reasons } = builds.executor.controls
    if (of.processes === undefined) return context.skip(reasons.join('; '))
    const neighbour = builds.run('sleep 0.5; echo fine')
    const { outcome } = await builds.run('bomb() { bomb | bomb & }; bomb; sleep 1000', {
      processesMax: 100,
    })
    assert.deepEqual(outcome.end, { kind: 'limit', limit: 'processes', value: 100 })
    assert(outcome.usage.wallMs < 20_000)
    assert.equal((await neighbour).stdout, 'fine\n')
  },
)

check(
  'a build that got by without a refused process is told all the same',
  async (builds, context) => {
    const { of, reasons } = builds.executor.controls
    if (of.processes === undefined) return context.skip(reasons.join('; '))
    const { outcome } = await builds.run(
      `perl -e 'for (1..60) { my $pid = fork; last unless defined $pid; if (!$pid) { sleep 5; exit } } kill 9, -getpgrp if 0; exit 0'`,
      { processesMax: 30 },
    )
    assert.deepEqual(outcome.end, { kind: 'limit', limit: 'processes', value: 30 })
  },
)

check('more outputs than allowed', async (builds) => {
  const { outcome } = await builds.run(
    'mkdir $out; i=0; while :; do head -c 1000000 /dev/zero > $out/$i; i=$((i+1)); sleep 0.02; done',
    { env, limits: { ...LIMITS, maxOutputBytes: 5 * MIB } },
  )
  assert.deepEqual(outcome.end, { kind: 'limit', limit: 'output', value: 5 * MIB })
  assert((outcome.diskBytes ?? 0) < 500 * MIB)
})

check('outputs that are all holes are as large as they say', async (builds) => {
  const { outcome } = await builds.run('truncate -s 1P $out || truncate -s 8T $out', {
    env,
    limits: { ...LIMITS, maxOutputBytes: 5 * MIB },
  })
  assert.deepEqual(outcome.end, { kind: 'limit', limit: 'output', value: 5 * MIB })
  const undeclared = await builds.run('truncate -s 8T $out', { env, diskLimitBytes: 50 * MIB })
  assert.deepEqual(undeclared.outcome.end, { kind: 'limit', limit: 'disk', value: 50 * MIB })
  const within = await builds.run('head -c 1000000 /dev/zero > $out; truncate -s 8T $HOME/sparse', {
    env: { ...env, HOME: '/build/home' },
    limits: { ...LIMITS, maxOutputBytes: 5 * MIB },
  })
  assert.deepEqual(within.outcome.end, { kind: 'exited', code: 0 })
})

check(
  'a disk bomb ends before the disk is full, and its neighbour does not notice',
  async (builds) => {
    const neighbour = builds.run('head -c 3000000 /dev/zero > work; sleep 1; cat work | wc -c', {
      diskLimitBytes: 20 * MIB,
    })
    const { outcome } = await builds.run('cat /dev/zero > bomb', { diskLimitBytes: 20 * MIB })
    assert.deepEqual(outcome.end, { kind: 'limit', limit: 'disk', value: 20 * MIB })
    assert.equal((await neighbour).stdout, '3000000\n')
    const few = await builds.run('head -c 30000000 /dev/zero > bomb', { diskLimitBytes: 20 * MIB })
    assert.deepEqual(
      few.outcome.end,
      { kind: 'limit', limit: 'disk', value: 20 * MIB },
      'at its end at last',
    )
  },
)

check('empty files are not nothing', async (builds) => {
  const { outcome } = await builds.run(
    `mkdir $out; perl -e 'for (1..40000) { open my $f, ">", "$ENV{out}/$_" or die }'`,
    { env, diskLimitBytes: 8 * MIB },
  )
  assert.deepEqual(outcome.end, { kind: 'limit', limit: 'disk', value: 8 * MIB })
})

check('one that opens all the files that it can does not take those of others', async (builds) => {
  const { outcome, stdout } = await builds.run(
    `perl -e 'my @all; for (1..3_000_000) { open my $f, "<", "/dev/null" or last; push @all, $f } print scalar(@all), "\\n"'`,
  )
  assert.deepEqual(outcome.end, { kind: 'exited', code: 0 })
  assert(Number(stdout) > 500 && Number(stdout) < 1_100_000, stdout)
  assert.equal(await builds.output('echo still here'), 'still here\n')
})

check('who holds the pipes open after the end holds nobody up', async (builds) => {
  const mark = uniqueSleep()
  const { outcome, stdout } = await builds.run(
    `echo said; (setsid sh -c 'sleep ${mark}; echo never' &); nohup sleep ${mark} & exit 0`,
  )
  assert.deepEqual(outcome.end, { kind: 'exited', code: 0 })
  assert.match(stdout, /^said\n/)
  assert(outcome.usage.wallMs < 20_000)
  assert.deepEqual(await processesWith(mark), [])
})

check('frozen, it does nothing and its limits of time stand still', async (builds, context) => {
  const { of, reasons } = builds.executor.controls
  if (of.freeze === undefined) return context.skip(reasons.join('; '))
  const limits = { ...LIMITS, timeoutMs: 4000, maxSilentMs: 2000 }
  const { build, directory } = await builds.start(
    'i=0; while [ $i -lt 100000 ]; do echo $i; i=$((i+1)); sleep 0.01; done',
    { limits },
  )
  let loggedBytes = 0
  const first = new Promise<void>((resolve) =>
    build.onLog((sizeBytes) => {
      loggedBytes = sizeBytes
      resolve()
    }),
  )
  await first
  build.freeze(true)
  // Another build, begun and ended meanwhile, takes longer than the frozen one may be silent.
  await builds.run('sleep 0.2')
  const frozenBytes = loggedBytes
  await builds.run('sleep 2.5')
  assert.equal(loggedBytes, frozenBytes, directory)
  build.freeze(false)
  await until('it goes on', () => loggedBytes > frozenBytes)
  build.freeze(true)
  build.cancel()
  assert.deepEqual((await build.outcome).end, { kind: 'cancelled' })
})

test('bounds: a limit is named with its value', () => {
  const limits = { timeoutMs: 1500, maxSilentMs: 2000, maxLogBytes: 4096 }
  const texts = (['timeout', 'silent', 'log', 'output', 'disk', 'processes'] as const).map(
    (limit) => describeLimit({ kind: 'limit', limit, value: 3 * MIB }, limits),
  )
  assert.deepEqual(
    texts.map(({ message }) => message),
    [
      'ran longer than run.timeout (1.5 s) and was killed',
      'printed nothing for run.max-silent (2 s) and was killed',
      'printed more than run.max-log (4 KiB) and was killed',
      'made more outputs than run.max-output (3 MiB) and was killed',
      'took more of the disk than needs.disk (3 MiB) and was killed',
      'tried to have more than 3145728 processes and was killed',
    ],
  )
  assert.deepEqual(
    texts.map(({ limit, exceeded }) => limit?.name ?? exceeded?.name),
    ['timeout', 'silent', 'log', 'output', 'disk', 'processes'],
  )
})

test('bounds: a build that did not say how much disk it needs leaves the store what that wants, or half', () => {
  const space = { freeBytes: 100, floorBytes: 20 }
  assert.equal(diskLimitOf(7, space), 7)
  assert.equal(diskLimitOf(0, space), 80)
  assert.equal(diskLimitOf(0, { freeBytes: 22, floorBytes: 20 }), 11)
  assert.equal(diskLimitOf(0, undefined), undefined)
})
