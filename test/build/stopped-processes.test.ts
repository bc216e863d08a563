/** Stopping whole trees of processes by signals. */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { test } from 'node:test'
import { setTimeout as delay } from 'node:timers/promises'
import { childrenOf } from '../../src/build/process-list.ts'
import { signalTree } from '../../src/build/stopped-processes.ts'

const TIMEOUT_MS = 20_000
const SKIP = process.platform === 'linux' ? false : 'needs /proc of Linux'

/** Empty for one that is gone. */
function stateOf(pid: number): string {
  if (!existsSync(`/proc/${pid}/stat`)) return ''
  const text = readFileSync(`/proc/${pid}/stat`, 'latin1')
  return text.slice(text.lastIndexOf(')') + 2)[0] ?? ''
}

/** A signal takes effect when the kernel next looks at its process. */
async function until(holds: () => boolean, told: () => string): Promise<void> {
  const deadline = performance.now() + TIMEOUT_MS
  while (!holds()) {
    assert(performance.now() < deadline, `it never came true: ${told()}`)
    await delay(1)
  }
}

/** Those of a tree, with their states. */
const statesOf = (pids: readonly number[]): string =>
  pids.map((pid) => `${pid} ${stateOf(pid)}`).join(', ')

/** How many processes of the session have become `sleep`. */
function sleepsOf(session: number): number {
  const stats = readdirSync('/proc').flatMap((pid) => {
    try {
      return /^\d+$/.test(pid) ? [readFileSync(`/proc/${pid}/stat`, 'latin1')] : []
    } catch {
      return [] // it has ended
    }
  })
  return stats.filter((text) => text.includes(' (sleep) ') && text.split(' ')[5] === `${session}`)
    .length
}

/** A shell in a session of its own, its child, its grandchild, and one whose parent has left. */
async function startTree(): Promise<{ pid: number; all: number[]; end: () => void }> {
  const script = 'sh -c "sleep 1000 & echo \\$!; sleep 1000" & (sleep 1000 & echo $!); wait'
  const child = spawn('sh', ['-c', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
    detached: true,
  })
  const { pid } = child
  assert.ok(pid !== undefined)
  let text = ''
  while (text.split('\n').length < 3) {
    const [piece] = await once(child.stdout, 'data')
    text += String(piece)
  }
  // A shell that is stopped while it begins a command (vfork) waits for that in another state for good.
  await until(
    () => sleepsOf(pid) === 3,
    () => `${sleepsOf(pid)} of them sleep`,
  )
  const all = [...new Set([pid, ...text.trim().split('\n').map(Number)])]
  return { pid, all, end: () => process.kill(-pid, 'SIGKILL') }
}

test(
  'stopped processes: all of a build stand still, and go on',
  { skip: SKIP, timeout: 3 * TIMEOUT_MS },
  async () => {
    const { pid, all, end } = await startTree()
    try {
      assert.equal(all.length, 3)
      const count = signalTree(pid, 'SIGSTOP', { isRootIncluded: true })
      assert.ok(count >= 3, `${count} were stopped`)
      await until(
        () => all.every((one) => stateOf(one) === 'T'),
        () => statesOf(all),
      )
      signalTree(pid, 'SIGCONT', { isRootIncluded: true })
      await until(
        () => all.every((one) => stateOf(one) !== 'T'),
        () => statesOf(all),
      )
    } finally {
      end()
    }
  },
)

test(
  'stopped processes: what waits outside of the walls goes on',
  { skip: SKIP, timeout: 3 * TIMEOUT_MS },
  async () => {
    const { pid, end } = await startTree()
    try {
      assert.ok(signalTree(pid, 'SIGSTOP', { isRootIncluded: false }) >= 2)
      // One of its children may just be leaving.
      await until(
        () => childrenOf(pid).some((one) => stateOf(one) === 'T'),
        () => statesOf([pid, ...childrenOf(pid)]),
      )
      assert.notEqual(stateOf(pid), 'T')
    } finally {
      end()
    }
  },
)

test(
  'stopped processes: one that is gone is nobody',
  { skip: SKIP, timeout: 3 * TIMEOUT_MS },
  async () => {
    const child = spawn('true', { stdio: 'ignore' })
    await once(child, 'close')
    assert.ok(child.pid !== undefined)
    assert.equal(signalTree(child.pid, 'SIGSTOP', { isRootIncluded: false }), 0)
  },
)
