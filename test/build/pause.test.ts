/** A build that stands still where there is no freezer: by signals, and with its limits of time standing still, too. */
import assert from 'node:assert/strict'
import { mkdir, mkdtemp, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { systemClock, type Clock } from '../../src/base/clock.ts'
import { PipePool } from '../../src/build/pipe-pool.ts'
import { RunningBuild } from '../../src/build/running-build.ts'
import { readHostLayout } from '../../src/build/sandbox-layout.ts'
import { probeSandbox, sandboxDirectory } from '../../src/build/sandbox.ts'
import { readRun } from './builds.ts'
import { removeTree } from '../../src/files/workers/remove-job.ts'

const MINUTES_10 = 600_000
const ROUNDS = 'until [ -e go ]; do echo round; sleep 0.02; done'

/** The system's, moved on by a test. */
class MovedClock implements Clock {
  readonly #system = systemClock()
  aheadMs = 0
  nowMs = (): number => this.#system.nowMs() + this.aheadMs
  wallMs = (): number => this.#system.wallMs() + this.aheadMs
  setTimer: Clock['setTimer'] = (delayMs, fire) => this.#system.setTimer(delayMs, fire)
}

interface Trial {
  readonly build: RunningBuild
  readonly clock: MovedClock
  readonly directory: string
  /** Bytes of its log. */
  logged: number
}

async function trial(
  isolation: 'host' | 'namespace',
  use: (trial: Trial) => Promise<void>,
): Promise<'done' | 'no sandbox'> {
  const data = await mkdtemp(join(tmpdir(), 'mesh-pause-'))
  const clock = new MovedClock()
  try {
    const forbid = isolation === 'host' ? (['helper', 'bwrap', 'unshare'] as const) : []
    const sandbox = await probeSandbox({ clock }, { directory: data, forbid: [...forbid] })
    if (isolation === 'namespace' && sandbox.method === 'none') return 'no sandbox'
    const layout = await readHostLayout(sandboxDirectory(data))
    await using pipes = await PipePool.open(sandboxDirectory(data), layout)
    const directory = join(data, 'a-1')
    await mkdir(directory)
    const build = new RunningBuild(
      { clock, pipes, sandbox, layout },
      {
        attempt: 'a-1',
        isolation,
        directory,
        argv: ['/bin/sh', '-c', ROUNDS],
        env: { PATH: '/usr/bin:/bin' },
        cwd: '/build/work',
        inputs: [],
        network: false,
        limits: { timeoutMs: MINUTES_10, maxSilentMs: MINUTES_10, maxLogBytes: 64 * 1024 * 1024 },
      },
      (sizeBytes) => (one.logged = sizeBytes),
    )
    const one: Trial = { build, clock, directory, logged: 0 }
    try {
      await use(one)
    } finally {
      build.cancel()
      await build.outcome
    }
    return 'done'
  } finally {
    await removeTree(data)
  }
}

async function untilGrown(one: Trial): Promise<void> {
  const before = one.logged
  while (one.logged === before) await delay(2)
}

/** It may have written something before it was stopped. */
async function untilStill(one: Trial): Promise<void> {
  for (let same = 0, before = one.logged; same < 10; same += 1, await delay(20))
    if (one.logged !== before) {
      before = one.logged
      same = 0
    }
}

for (const isolation of ['host', 'namespace'] as const)
  test(
    `pause: a ${isolation} build stands still, no limit ends it, and it goes on`,
    { timeout: 60_000 },
    async (t) => {
      const result = await trial(isolation, async (one) => {
        const { build, clock, directory } = one
        await untilGrown(one)
        build.freeze(true)
        await untilStill(one)
        clock.aheadMs += 10 * MINUTES_10
        build.freeze(false)
        await untilGrown(one)
        await writeFile(join(directory, 'work', 'go'), '')
        const { end, usage } = await build.outcome
        assert.deepEqual(end, { kind: 'exited', code: 0 })
        assert.ok(usage.wallMs < MINUTES_10, `${usage.wallMs} ms`)
        const notes = (await readRun(await build.outcome, directory)).notes
        assert.match(notes, /^note: it stands still, .*\nnote: it goes on\n$/)
      })
      if (result === 'no sandbox') t.skip('needs a sandbox: install bubblewrap or gcc')
    },
  )

for (const isolation of ['host', 'namespace'] as const)
  test(
    `pause: a ${isolation} build that stands still can be ended`,
    { timeout: 60_000 },
    async (t) => {
      const result = await trial(isolation, async (one) => {
        await untilGrown(one)
        one.build.freeze(true)
        one.build.cancel()
        assert.deepEqual((await one.build.outcome).end, { kind: 'cancelled' })
      })
      if (result === 'no sandbox') t.skip('needs a sandbox: install bubblewrap or gcc')
    },
  )
