/** What `mesh submit` says at once of what could start nowhere. */
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { DEFAULT_LIMITS } from '../../src/wire/derivation.ts'
import type { DryRun } from '../../src/wire/api.ts'
import { FakeDaemon } from './fake-daemon.ts'
import { Workplace } from './mesh-process.ts'

function outlookOf(...states: DryRun['derivations'][number]['state'][]): DryRun {
  const derivations = states.map((state, at) => ({
    name: `d${at}`,
    state,
    nodes: [],
    inputBytes: 0,
    run: DEFAULT_LIMITS,
    reason: 'no node matches; closest is arm-1: memory >= 32 GiB asked, 16 GiB in all',
  }))
  return { derivations, criticalPath: [], unsatisfiable: derivations.map(({ name }) => name) }
}

function place(): Workplace {
  const made = new Workplace()
  made.write(
    'a.mesh.toml',
    'mesh = 1\n[derivation.a]\nbuilder = "/bin/sh"\nargs = ["-c", "echo a > $out"]\n',
  )
  return made
}

test('submit: what no node can build is told at once, also of what waits for inputs', async () => {
  await using daemon = await FakeDaemon.start()
  using work = place()
  daemon.outlook = outlookOf('build', 'unknown')
  const detached = await work.mesh('submit', '-d', 'a.mesh.toml', '--socket', daemon.socket)
  assert.equal(detached.code, 0, detached.stderr)
  const id = detached.stdout.trim()
  assert.match(id, /^r-\w+$/)
  assert.deepEqual(
    detached.stderr.split('\n').filter((line) => line.startsWith('!')),
    ['d0', 'd1'].map(
      (name) =>
        `! ${name} cannot start anywhere: no node matches; closest is arm-1: memory >= 32 GiB asked, 16 GiB in all  mesh why ${id}/${name}`,
    ),
  )
  const quiet = await work.mesh(
    'submit',
    '--progress=quiet',
    'a.mesh.toml',
    '--socket',
    daemon.socket,
  )
  assert.equal(quiet.code, 0, quiet.stderr)
  assert.equal(quiet.stderr.match(/cannot start anywhere/g)?.length, 2)
  // What waits already is told of by the progress display itself.
  const plain = await work.mesh('submit', 'a.mesh.toml', '--socket', daemon.socket)
  assert.deepEqual(plain.stderr.match(/d\d cannot start anywhere/g), ['d1 cannot start anywhere'])
})

test('submit: of very many only some are told one by one', async () => {
  await using daemon = await FakeDaemon.start()
  using work = place()
  daemon.outlook = outlookOf(...Array.from({ length: 40 }, () => 'build' as const))
  const { stderr } = await work.mesh('submit', '-d', 'a.mesh.toml', '--socket', daemon.socket)
  assert.equal(stderr.match(/cannot start anywhere/g)?.length, 5)
  assert.match(stderr, /so it is with 35 more; to fail at once: mesh submit --no-wait/)
})

test('submit: a daemon that cannot tell is no error', async () => {
  await using daemon = await FakeDaemon.start()
  using work = place()
  const { code, stderr } = await work.mesh('submit', '-d', 'a.mesh.toml', '--socket', daemon.socket)
  assert.equal(code, 0)
  assert.doesNotMatch(stderr, /cannot start anywhere|error/)
})
