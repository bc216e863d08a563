/** What a build in the executor process does where something around it fails. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { BuildGroup } from '../../src/build/groups/build-group.ts'
import { kernelControlFiles } from '../../src/build/groups/control-files.ts'
import type { ExecutorGroups } from '../../src/build/groups/executor-groups.ts'
import { PipePool } from '../../src/build/pipe-pool.ts'
import { RunningBuild } from '../../src/build/running-build.ts'
import { readHostLayout } from '../../src/build/sandbox-layout.ts'
import { probeSandbox, sandboxDirectory } from '../../src/build/sandbox.ts'
import { removeTree } from '../../src/files/workers/remove-job.ts'

/** Of a machine that has no control groups. */
const noGroups: ExecutorGroups = {
  places: { of: {}, reasons: [] },
  processesMax: 100,
  open: () => new BuildGroup(kernelControlFiles, {}),
  endLeft: () => Promise.resolve(0),
  close() {},
}

for (const isolation of ['host', 'namespace'] as const)
  test(
    `running-build: a ${isolation} build that cannot be written down ends at once`,
    { timeout: 60_000 },
    async (t) => {
      const data = await mkdtemp(join(tmpdir(), 'mesh-running-'))
      try {
        const clock = systemClock()
        const sandbox = await probeSandbox({ clock }, { directory: data })
        if (isolation === 'namespace' && sandbox.method === 'none')
          return t.skip('needs a sandbox: install bubblewrap or gcc')
        const layout = await readHostLayout(sandboxDirectory(data))
        await using pipes = await PipePool.open(sandboxDirectory(data), layout)
        const directory = join(data, 'a-1')
        await mkdir(directory)
        const dataDirectory = join(data, 'file')
        await writeFile(dataDirectory, 'records cannot be made below it')
        const build = new RunningBuild(
          { clock, pipes, sandbox, layout, groups: noGroups, dataDirectory },
          {
            attempt: 'a-1',
            isolation,
            directory,
            argv: ['/bin/sleep', '50'],
            env: { PATH: '/usr/bin:/bin' },
            cwd: '/build/work',
            inputs: [],
            network: false,
            limits: { timeoutMs: 600_000, maxSilentMs: 600_000, maxLogBytes: 1024 },
          },
          () => {},
        )
        const { end, usage } = await build.outcome
        assert(end.kind === 'infrastructure', JSON.stringify(end))
        assert.match(end.message, /^starting the build: .*ENOTDIR/)
        assert(usage.wallMs < 40_000, `${usage.wallMs} ms`)
      } finally {
        await removeTree(data)
      }
    },
  )
