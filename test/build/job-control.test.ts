/** Real make and ninja under the jobserver of their build, in every kind of walls: more and fewer jobs while they run. */
import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { SEALED_METHODS, Builds, readRun, until, type SealedMethod } from './builds.ts'
import {
  count,
  lastOver,
  mostAtOnce,
  NEWER_TOOLS,
  NO_NEWER_TOOLS,
  parallelWork,
  WorkEvents,
  type WorkTool,
} from './parallel-work.ts'

/**
 * Ends of jobs within which a build of 6 comes down to 2. How soon that is (bench/jobs.bench.ts) hangs on what
 * else the machine does; a tool whose tokens nobody takes would run all of its 2000 jobs.
 */
const ENDS_MAX = 400
const SHOW =
  'env | sort; [ -e /proc/self/fd/198 ] && echo has 198; [ -e /proc/self/fd/8 ] && echo has 8; :'

type Kind = 'plain' | SealedMethod

function forbidden(kind: Kind): SealedMethod[] {
  return kind === 'plain' ? [...SEALED_METHODS] : SEALED_METHODS.filter((name) => name !== kind)
}

async function growAndShrink(builds: Builds, tool: WorkTool): Promise<void> {
  const { script, path, inputs } = parallelWork(tool, { jobs: 2000, seconds: 0.2 })
  const { build, directory } = await builds.start(script, {
    jobs: 2,
    inputs,
    env: { PATH: path, HOME: '/build/home' },
  })
  const work = new WorkEvents(directory)
  await until('some jobs ran', () => work.started >= 6)
  assert.equal(mostAtOnce(work.read()), 2, 'before it was given more')
  build.setJobs(6)
  await until('it runs six at once', () => work.running === 6)
  build.setJobs(2)
  const from = work.read().length
  await until('it runs no more than two at once', () => {
    const events = work.read()
    return count(events.slice(lastOver(events, 2)), 's') >= 10
  })
  const events = work.read()
  const ends = count(events.slice(from, lastOver(events, 2)), 'e')
  assert(ends <= ENDS_MAX, `${ends} jobs ended before it ran only two`)
  build.cancel()
  const ran = await readRun(await build.outcome, directory)
  assert.doesNotMatch(ran.stderr, /make|ninja|jobserver/)
}

for (const kind of ['plain', ...SEALED_METHODS] as const) {
  test(`job control: make of this machine gets more and fewer jobs while it runs (${kind})`, async (context) => {
    await using builds = await Builds.open(forbidden(kind))
    if (kind !== 'plain' && builds.sandbox.method !== kind)
      context.skip(builds.sandbox.reasons.join('; '))
    else await growAndShrink(builds, 'make')
  })
}

for (const tool of ['newer make', 'newer ninja'] as const)
  for (const kind of ['plain', 'helper'] as const)
    test(`job control: ${tool} gets more and fewer jobs while it runs (${kind})`, async (context) => {
      if (NEWER_TOOLS === undefined) return context.skip(NO_NEWER_TOOLS)
      await using builds = await Builds.open(forbidden(kind))
      await growAndShrink(builds, tool)
    })

test('job control: a build is told by the way that the make in its PATH understands', async (context) => {
  await using builds = await Builds.open()
  const older = await builds.output(SHOW, { jobs: 3 })
  assert.match(older, /^BUILDTOKEN=1-[0-9a-f]{24}$/m)
  assert.match(older, /^NIX_BUILD_CORES=3$/m)
  const isOld = /^GNU Make 4\.[23]\b/m.test(await builds.output('make --version'))
  if (isOld) {
    const fd = builds.sandbox.method === 'helper' || builds.sandbox.method === 'none' ? 198 : 8
    assert.match(older, new RegExp(`^MAKEFLAGS=-j --jobserver-auth=${fd},${fd + 1}$`, 'm'))
    assert.match(older, new RegExp(`^has ${fd}$`, 'm'))
  }
  if (NEWER_TOOLS === undefined) return context.skip(NO_NEWER_TOOLS)
  const { inputs, path } = parallelWork('newer make', { jobs: 1, seconds: 0 })
  const newer = await builds.output(SHOW, { jobs: 3, inputs, env: { PATH: path } })
  assert.match(newer, /^MAKEFLAGS=-j --jobserver-auth=fifo:\/build\/control\/jobserver$/m)
  assert.match(newer, /^CARGO_MAKEFLAGS=-j --jobserver-auth=fifo:\/build\/control\/jobserver$/m)
  assert.doesNotMatch(newer, /^has/m)
})

test('job control: what a derivation says of MAKEFLAGS stands', async () => {
  await using builds = await Builds.open()
  const env = { PATH: '/usr/bin:/bin', MAKEFLAGS: '-k', NIX_BUILD_CORES: '99' }
  const shown = await builds.output('echo "$MAKEFLAGS $NIX_BUILD_CORES"', { jobs: 3, env })
  assert.equal(shown, '-k 99\n')
})

test('job control: nothing of the environment of the daemon reaches a build', async () => {
  const kept = process.env['MAKEFLAGS']
  process.env['MAKEFLAGS'] = '-j --jobserver-auth=fifo:/nowhere'
  process.env['BUILDSOCKET'] = '/nowhere'
  try {
    await using builds = await Builds.open()
    assert.doesNotMatch(await builds.output('env'), /nowhere|MAKEFLAGS|BUILDSOCKET/)
    assert.doesNotMatch(await builds.output('env', { jobs: 2 }), /nowhere/)
  } finally {
    if (kept === undefined) delete process.env['MAKEFLAGS']
    else process.env['MAKEFLAGS'] = kept
    delete process.env['BUILDSOCKET']
  }
})

test('job control: what a killed build had is the other one’s, and nothing of it stays', async () => {
  await using builds = await Builds.open()
  const hog = parallelWork('make', { jobs: 50, seconds: 1000 })
  const first = await builds.start(hog.script, { jobs: 6 })
  const eaten = new WorkEvents(first.directory)
  await until('it has taken all of its tokens', () => eaten.running === 6)
  const other = parallelWork('make', { jobs: 2000, seconds: 0.1 })
  const second = await builds.start(other.script, { jobs: 2, jobsMost: 8 })
  const work = new WorkEvents(second.directory)
  await until('the other one runs', () => work.started > 4)
  assert.equal(mostAtOnce(work.read()), 2)
  first.build.cancel()
  await first.build.outcome
  assert(!existsSync(join(first.directory, 'control', 'buildsocket')))
  assert(!existsSync(join(first.directory, 'control', 'jobserver')))
  // What the dead one was granted is the node's to grant again.
  second.build.setJobs(8)
  await until('it runs eight at once', () => work.running === 8)
  second.build.cancel()
  await second.build.outcome
})

test('job control: tokens that one build leaves idle are lent to another', async () => {
  await using builds = await Builds.open()
  const idle = await builds.start('sleep 1000', { jobs: 6 })
  const { script } = parallelWork('make', { jobs: 2000, seconds: 0.1 })
  const busy = await builds.start(script, { jobs: 2, jobsMost: 10 })
  const work = new WorkEvents(busy.directory)
  // Two of its own, and all of the other's five tokens but the one that shows when it wants them back.
  await until('it runs six at once', () => work.running === 6)
  assert.equal(mostAtOnce(work.read()), 6)
  for (const { build } of [idle, busy]) build.cancel()
  await Promise.all([idle.build.outcome, busy.build.outcome])
})

test('job control: a build that runs more jobs than it was given is told so in its log, once', async () => {
  await using builds = await Builds.open()
  const spin = 'for i in 1 2 3 4 5 6; do (while :; do :; done) & done; wait'
  const { build, directory } = await builds.start(spin, { jobs: 1 })
  let sizeBytes = 0
  build.onLog((size) => {
    sizeBytes = size
  })
  await until('it is told', () => sizeBytes > 0)
  build.cancel()
  const ran = await readRun(await build.outcome, directory)
  assert.match(ran.notes, /^note: it keeps \d+\.\d processors busy and was given 1: /)
  assert.equal(ran.notes.split('note: ').length, 2)
})

test('job control: BUILDSOCKET is reached from within, and told each number', async (context) => {
  await using builds = await Builds.open()
  if (!(await builds.output('command -v perl || :')).includes('perl'))
    return context.skip('no perl, which the client in the build is written in')
  const client = `use IO::Socket::UNIX;
my $s = IO::Socket::UNIX->new(Peer => $ENV{BUILDSOCKET}) or die "connect: $!";
syswrite $s, $ENV{BUILDTOKEN}; syswrite $s, "\\r\\n";
while (<$s>) { s/\\r\\n//; syswrite STDOUT, "$_\\n"; exit 0 if $_ == 3 }
exit 1`
  const { build, directory } = await builds.start(['perl', '-e', client], { jobs: 8 })
  const sizes = new Set<number>()
  build.onLog((sizeBytes) => {
    sizes.add(sizeBytes)
    build.setJobs(sizes.size === 1 ? 5 : 3)
  })
  const ran = await readRun(await build.outcome, directory)
  assert.deepEqual(ran.outcome.end, { kind: 'exited', code: 0 }, ran.stderr)
  assert.equal(ran.stdout, '8\n5\n3\n')
})
