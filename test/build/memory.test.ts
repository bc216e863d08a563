/** What builds are seen to have of memory and disk, and how the kernel's end for want of it is told. */
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { test } from 'node:test'
import { SEALED_METHODS, Builds } from './builds.ts'

const MIB = 2 ** 20

/** Holds `mib` of memory for a moment, in two processes if told so. */
const hold = (mib: number): string =>
  `perl -e 'my $x = "a" x (${mib} * 1024 * 1024); select undef, undef, undef, 0.7; print length $x'`

test('memory: all processes of a build count together', async () => {
  await using builds = await Builds.open()
  const { outcome } = await builds.run(`${hold(60)} & ${hold(60)} & wait`)
  const { memory, usage } = outcome
  assert(memory !== undefined)
  // A string that is made takes its size twice for a moment.
  assert(memory.peakBytes > 110 * MIB && memory.peakBytes < 300 * MIB, `${memory.peakBytes}`)
  assert.equal(memory.isOut, false)
  if (builds.sandbox.method === 'helper') assert(usage.maxRssBytes < memory.peakBytes)
})

test('memory: plain builds are measured, too', async () => {
  await using builds = await Builds.open(SEALED_METHODS)
  // Without walls it begins before it is in its group: what it takes first may be missed.
  const { outcome } = await builds.run(`sleep 0.2; ${hold(60)}`)
  assert((outcome.memory?.peakBytes ?? 0) > 55 * MIB)
})

test('memory: files that were read and written are no memory', async (context) => {
  await using builds = await Builds.open()
  const { outcome } = await builds.run(
    'head -c 100000000 /dev/zero > big && cat big > /dev/null && sleep 0.6',
  )
  if (outcome.memory?.from !== 'cgroup') context.diagnostic('there are no control groups here')
  assert((outcome.memory?.peakBytes ?? 0) < 50 * MIB)
  assert((outcome.diskBytes ?? 0) >= 100_000_000)
})

test('memory: beyond its limit the kernel ends it, and that is told', async (context) => {
  await using builds = await Builds.open()
  if (builds.executor.controls.of.memory === undefined) {
    context.skip(
      `no control group can be made here: ${builds.executor.controls.reasons.join('; ')}`,
    )
    return
  }
  const limited = { memoryLimitBytes: 64 * MIB }
  const within = await builds.run(hold(20), limited)
  assert.deepEqual(within.outcome.end, { kind: 'exited', code: 0 })
  assert.equal(within.outcome.memory?.isOut, false)
  // The shell outlives what it started: the build itself ends with an exit code.
  const beyond = await builds.run(`${hold(400)} || exit 7`, limited)
  assert.equal(beyond.outcome.memory?.isOut, true)
  assert.notDeepEqual(beyond.outcome.end, { kind: 'exited', code: 0 })
  const ours = ['/sys/fs/cgroup', '-name', `build-a-${process.pid}x*`]
  assert.equal(execFileSync('find', ours, { encoding: 'utf8' }), '', 'its groups are gone')
})
