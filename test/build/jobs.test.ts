/** The number of processors that a running build is told, in every kind of sandbox. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { JOBS_FILE } from '../../src/build/executor-protocol.ts'
import { SEALED_METHODS, Builds, readRun, type SealedMethod } from './builds.ts'

/** Prints the number whenever it is another, until it is 3. */
const WATCH = `last=
while :; do
  read now < "$MESH_JOBS_FILE" || exit 9
  if [ "$now" != "$last" ]; then echo "$now"; last=$now; fi
  [ "$now" = 3 ] && exit 0
  sleep 0.02
done`
const env = { PATH: '/usr/bin:/bin', MESH_JOBS_FILE: JOBS_FILE }

function others(method: SealedMethod): SealedMethod[] {
  return SEALED_METHODS.filter((name) => name !== method)
}

for (const kind of ['plain', ...SEALED_METHODS] as const) {
  test(`jobs: a running build reads its number as it changes (${kind})`, async (context) => {
    await using builds = await Builds.open(kind === 'plain' ? SEALED_METHODS : others(kind))
    if (kind !== 'plain' && builds.sandbox.method !== kind) {
      context.skip(builds.sandbox.reasons.join('; '))
      return
    }
    const { build, directory } = await builds.start(WATCH, { env, jobs: 8 })
    const sizes: number[] = []
    // Each line is one record, so that a growth of the log is a number read.
    build.onLog((sizeBytes) => {
      if (sizeBytes === sizes.at(-1)) return
      sizes.push(sizeBytes)
      if (sizes.length === 1) build.setJobs(5)
      if (sizes.length === 2) build.setJobs(3)
    })
    const ran = await readRun(await build.outcome, directory)
    assert.deepEqual(ran.outcome.end, { kind: 'exited', code: 0 }, ran.stderr)
    assert.equal(ran.stdout, '8\n5\n3\n')
  })
}

test('jobs: a build cannot change its own number', async (context) => {
  await using builds = await Builds.open()
  if (builds.sandbox.method === 'none') {
    context.skip('it takes walls to keep a build from writing')
    return
  }
  const script = `(echo 99 > "$MESH_JOBS_FILE") 2>/dev/null && exit 1
rm -f "$MESH_JOBS_FILE" 2>/dev/null; cat "$MESH_JOBS_FILE"`
  assert.equal(await builds.output(script, { env, jobs: 4 }), '4\n')
})

test('jobs: a number that changes before the build has begun is the one that it begins with', async () => {
  await using builds = await Builds.open()
  const { build, directory } = await builds.start('cat "$MESH_JOBS_FILE"; sleep 0.1', {
    env,
    jobs: 8,
  })
  build.setJobs(2)
  const { stdout } = await readRun(await build.outcome, directory)
  // It is told at once or while it starts; a build may have looked in between.
  assert.match(stdout, /^[28]\n$/)
})

test('jobs: a build that is told of no number has no such file', async () => {
  await using builds = await Builds.open()
  const { build } = await builds.start('[ ! -e /build/control ]')
  build.setJobs(7)
  assert.deepEqual((await build.outcome).end, { kind: 'exited', code: 0 })
})
