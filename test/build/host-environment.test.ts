/** Probing the machine. */
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { availableParallelism, tmpdir, totalmem } from 'node:os'
import { dirname, join } from 'node:path'
import { test } from 'node:test'
import {
  cpusOf,
  memoryBytesOf,
  openHostEnvironment,
  parseOsRelease,
} from '../../src/build/host-environment.ts'
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

test('host-environment: os-release is read with and without quotes', () => {
  assert.deepEqual(parseOsRelease('ID=debian\nVERSION_ID="12"\n'), { id: 'debian', version: '12' })
  assert.deepEqual(parseOsRelease("NAME='x'\nID='arch'\n"), { id: 'arch', version: '' })
  assert.deepEqual(parseOsRelease(''), { id: 'linux', version: '' })
})

test('host-environment: limits of control groups count, of the own group and of those above', async () => {
  const cases: readonly (readonly [Readonly<Record<string, string>>, number, number])[] = [
    [{}, availableParallelism(), totalmem()],
    [
      {
        'proc/self/cgroup': '0::/a/b\n',
        'sys/fs/cgroup/a/b/cpu.max': 'max 100000\n',
        'sys/fs/cgroup/a/cpu.max': '50000 100000\n',
        'sys/fs/cgroup/a/b/memory.max': 'max\n',
        'sys/fs/cgroup/memory.max': '1000000\n',
      },
      1,
      1_000_000,
    ],
    [
      {
        'proc/self/cgroup': '4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n',
        'sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us': '100000',
        'sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us': '100000',
        'sys/fs/cgroup/memory/x/memory.limit_in_bytes': '2000000',
        'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712',
      },
      1,
      2_000_000,
    ],
    [
      {
        'proc/self/cgroup': '3:cpu:/x\n',
        'sys/fs/cgroup/cpu/x/cpu.cfs_quota_us': '-1',
        'sys/fs/cgroup/cpu/x/cpu.cfs_period_us': '100000',
      },
      availableParallelism(),
      totalmem(),
    ],
  ]
  for (const [files, cpus, memory] of cases) {
    await using root = await temporary()
    for (const [path, text] of Object.entries(files)) {
      await mkdir(dirname(join(root.path, path)), { recursive: true })
      await writeFile(join(root.path, path), text)
    }
    assert.equal(await cpusOf(root.path), cpus)
    assert.equal(await memoryBytesOf(root.path), memory)
  }
})

async function temporary(): Promise<AsyncDisposable & { path: string }> {
  const path = await mkdtemp(join(tmpdir(), 'mesh-host-'))
  return { path, [Symbol.asyncDispose]: () => rm(path, { recursive: true }) }
}
