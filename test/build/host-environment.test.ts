/** The host's own userland as environments. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { openHostEnvironment } from '../../src/build/host-environment.ts'
import { EnvironmentJson, fingerprintOf } from '../../src/wire/environment.ts'

const none = { method: 'none', reasons: [], program: '' } as const

test('host-environment: two probes agree, and the second reads no file again', async () => {
  await using root = await temporary()
  const first = await openHostEnvironment({ directory: root.path, sandbox: none })
  const cache = await readFile(join(root.path, 'file-hashes.json'), 'utf8')
  // A digest that only the cache has shows that it is used.
  const known: { entries: [string, string, string][] } = JSON.parse(cache)
  const sh = known.entries.find(([path]) => /\/(?:dash|bash|busybox|sh)$/.test(path))
  assert(sh !== undefined)
  assert.equal(await first.probeTool('sh'), sh[2])
  assert.equal(
    sh[2],
    createHash('sha256')
      .update(await readFile('/bin/sh'))
      .digest('hex'),
  )
  await writeFile(join(root.path, 'file-hashes.json'), cache.replaceAll(sh[2], '0'.repeat(64)))
  const second = await openHostEnvironment({ directory: root.path, sandbox: none })
  assert.equal(await second.probeTool('sh'), '0'.repeat(64))
  assert.notEqual(second.environments[0]?.base, first.environments[0]?.base)
  await writeFile(join(root.path, 'file-hashes.json'), '{"v":1,')
  const third = await openHostEnvironment({ directory: root.path, sandbox: none })
  assert.deepEqual(third.environments, first.environments)
})

test('host-environment: environments have the form of the wire', async () => {
  await using root = await temporary()
  const host = await openHostEnvironment({
    directory: root.path,
    sandbox: { ...none, method: 'helper' },
  })
  assert.deepEqual(
    host.environments.map(({ isolation }) => isolation),
    ['host', 'namespace'],
  )
  for (const environment of host.environments) {
    assert.deepEqual(EnvironmentJson.parse(environment), environment)
    assert.match(environment.system, /^(?:x86_64|aarch64)-linux$/)
    assert(fingerprintOf(environment, []) !== undefined)
  }
  assert.equal(await host.probeTool('no-such-program'), null)
  await assert.rejects(host.probeTool('../sh'))
  // At once, as two granters' messages may ask.
  const digests = await Promise.all(['cat', 'ls', 'cp', 'mv'].map((name) => host.probeTool(name)))
  assert.equal(new Set(digests).size, 4)
})

async function temporary(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'mesh-host-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) }
}
