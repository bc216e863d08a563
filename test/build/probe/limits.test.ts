/** How much of the machine its control groups leave: version 1, version 2, nested, in containers (T90). */
import assert from 'node:assert/strict'
import { availableParallelism, totalmem } from 'node:os'
import { test } from 'node:test'
import { cpusOf, memoryBytesOf, swapBytesOf } from '../../../src/build/probe/limits.ts'
import { makeRoot } from './roots.ts'

interface Case {
  readonly what: string
  readonly files: Readonly<Record<string, string>>
  readonly cpus: readonly [number, string]
  readonly memory: readonly [number, string]
}

const ALL_CPUS = [availableParallelism(), 'processors that this process may run on'] as const
const ALL_MEMORY = [totalmem(), 'memory of the machine'] as const

const CASES: readonly Case[] = [
  { what: 'no control groups', files: {}, cpus: ALL_CPUS, memory: ALL_MEMORY },
  {
    what: 'version 2: the tightest of the groups above counts',
    files: {
      'proc/self/cgroup': '0::/a/b\n',
      'sys/fs/cgroup/a/b/cpu.max': 'max 100000\n',
      'sys/fs/cgroup/a/cpu.max': '50000 100000\n',
      'sys/fs/cgroup/a/b/memory.max': 'max\n',
      'sys/fs/cgroup/memory.max': '1000000\n',
    },
    cpus: [1, '/sys/fs/cgroup/a/cpu.max'],
    memory: [1_000_000, '/sys/fs/cgroup/memory.max'],
  },
  {
    what: 'version 1: each controller has a hierarchy of its own',
    files: {
      'proc/self/cgroup': '4:memory:/x\n3:cpu,cpuacct:/x\n0::/\n',
      'sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us': '100000',
      'sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_period_us': '100000',
      'sys/fs/cgroup/memory/x/memory.limit_in_bytes': '2000000',
      'sys/fs/cgroup/memory/memory.limit_in_bytes': '9223372036854771712',
    },
    cpus: [1, '/sys/fs/cgroup/cpu,cpuacct/x/cpu.cfs_quota_us'],
    memory: [2_000_000, '/sys/fs/cgroup/memory/x/memory.limit_in_bytes'],
  },
  {
    what: 'version 1: no quota is -1',
    files: {
      'proc/self/cgroup': '3:cpu:/x\n',
      'sys/fs/cgroup/cpu/x/cpu.cfs_quota_us': '-1',
      'sys/fs/cgroup/cpu/x/cpu.cfs_period_us': '100000',
    },
    cpus: ALL_CPUS,
    memory: ALL_MEMORY,
  },
  {
    what: 'a container sees its own group as the top, under a path that it does not see',
    files: {
      'proc/self/cgroup': '0::/kubepods/pod1/c1\n',
      'sys/fs/cgroup/cpu.max': '20000 100000\n',
      'sys/fs/cgroup/memory.max': '536870912\n',
    },
    cpus: [1, '/sys/fs/cgroup/cpu.max'],
    memory: [536_870_912, '/sys/fs/cgroup/memory.max'],
  },
]

for (const { what, files, cpus, memory } of CASES)
  test(`limits: ${what}`, async () => {
    await using root = await makeRoot(files)
    const known = ([value, how]: readonly [number, string]): unknown => ({
      value,
      source: 'probed',
      how,
    })
    assert.deepEqual(await cpusOf(root.path), known(cpus))
    assert.deepEqual(await memoryBytesOf(root.path), known(memory))
  })

test('limits: a machine without /proc/meminfo has no swap, and says why', async () => {
  await using root = await makeRoot()
  assert.deepEqual(await swapBytesOf(root.path), {
    value: 0,
    source: 'probed',
    how: '/proc/meminfo does not tell',
  })
  await using other = await makeRoot({ 'proc/meminfo': 'MemTotal: 9 kB\nSwapTotal:   2048 kB\n' })
  assert.equal((await swapBytesOf(other.path)).value, 2_097_152)
})
