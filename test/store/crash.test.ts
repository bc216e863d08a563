/** A store whose process is killed at any step of what it does: opened again, it has what it said and nothing wrong (T5). */
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readdirSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { text as readText } from 'node:stream/consumers'
import { systemClock } from '../../src/base/clock.ts'
import { openFsBlobStore } from '../../src/store/fs-blob-store.ts'
import { isDigest } from '../../src/wire/digest.ts'
import { refOf } from '../contract/blob-store.ts'
import { log, temporaryDirectory, turnOver } from './support.ts'

/** Every step is tried with this variable set, a seventh of them without: each costs a process. */
const STRIDE = process.env['MESH_TEST_ALL_STEPS'] === undefined ? 7 : 1
const LANES = 2

interface Run {
  readonly lines: readonly string[]
  readonly isKilled: boolean
}

async function run(directory: string, lastStep: number, seed: number): Promise<Run> {
  const script = join(import.meta.dirname, 'crash-steps.ts')
  const child = spawn(
    process.execPath,
    ['--conditions=source', script, directory, String(lastStep), String(seed)],
    { stdio: ['ignore', 'pipe', 'inherit'] },
  )
  const exited = once(child, 'exit')
  const output = await readText(child.stdout)
  await exited
  assert(child.exitCode === 0 || child.signalCode === 'SIGKILL', `step ${lastStep}`)
  return { lines: output.split('\n').slice(0, -1), isKilled: child.signalCode === 'SIGKILL' }
}

const filesIn = (directory: string): string[] =>
  (existsSync(directory) ? readdirSync(directory, { recursive: true, withFileTypes: true }) : [])
    .filter((entry) => entry.isFile())
    .map(({ name }) => name)

/** What the lines promise holds after the store was opened again. */
async function check(directory: string, lines: readonly string[], where: string): Promise<void> {
  const present = new Map<string, number>()
  const pinned = new Set<string>()
  const unpinned = new Set<string>()
  for (const line of lines) {
    const [word, digest = '', size] = line.split(' ')
    if (word === 'put') present.set(digest, Number(size))
    if (word === 'gone') present.delete(digest)
    if (word === 'pinned') pinned.add(digest)
    // From here on it may be there or not, and after `unpinned` it is not.
    if (word === 'unpinning') pinned.delete(digest)
    if (word === 'unpinned') unpinned.add(digest)
  }
  await using store = await openFsBlobStore({ clock: systemClock(), log }, { directory })
  // Before it has looked at everything it knows what it was told to keep, unless that was just going ...
  if (lines.at(-1) !== 'removing')
    for (const digest of present.keys())
      assert(isDigest(digest) && (await store.has(digest)), `${where}: ${digest} is not known`)
  // ... and gives out no wrong byte.
  for (const digest of filesIn(join(directory, 'blob'))) {
    assert(isDigest(digest), where)
    const bytes = await store.read(digest, 1_000_000)
    if (bytes !== undefined) assert.equal(refOf(bytes).digest, digest, where)
  }
  await store.recovered
  const onDisk = filesIn(join(directory, 'blob'))
  let totalBytes = 0
  for (const digest of onDisk) {
    assert(isDigest(digest), where)
    const bytes = await store.read(digest, 1_000_000)
    assert(bytes !== undefined, `${where}: the file ${digest} leaked`)
    assert.equal(refOf(bytes).digest, digest, where)
    totalBytes += bytes.byteLength
  }
  assert.deepEqual(store.stats(), { count: onDisk.length, bytes: totalBytes }, where)
  for (const [digest, size] of present) {
    assert(isDigest(digest), where)
    assert.equal(await store.sizeOf(digest), size, `${where}: ${digest} was lost`)
  }
  for (const digest of pinned) assert(isDigest(digest) && store.pins.find(digest), where)
  for (const digest of unpinned)
    assert(isDigest(digest) && store.pins.find(digest) === undefined, where)
  assert.deepEqual(readdirSync(join(directory, 'tmp')), [], where)
  const { executables } = await store.usage()
  assert.equal(executables.count, filesIn(join(directory, 'exec')).length, where)
  // The trash goes in the background.
  while (filesIn(join(directory, 'trash')).length > 0) await turnOver()
}

test(
  'fs-blob-store: killed at any step it keeps what it said and serves nothing wrong',
  { timeout: 600_000 },
  async () => {
    using directory = temporaryDirectory()
    const whole = await run(join(directory.path, 'whole'), 0, 0)
    const [word, steps = ''] = whole.lines.at(-1)?.split(' ') ?? []
    assert.equal(word, 'end')
    assert(Number(steps) > 100)
    await check(join(directory.path, 'whole'), whole.lines, 'not killed')

    let killedCount = 0
    const lane = async (first: number): Promise<void> => {
      // Some runs take a few steps more: timers and threads decide who comes first.
      for (let step = first; step < Number(steps) + 10; step += STRIDE * LANES) {
        const store = join(directory.path, String(step))
        const { lines, isKilled } = await run(store, step, step)
        if (isKilled) killedCount++
        await check(store, lines, `killed at step ${step}`)
        // The store goes on where it was stopped.
        if (STRIDE === 1)
          await check(store, (await run(store, 0, step + 1000)).lines, `after step ${step}`)
        rmSync(store, { recursive: true })
      }
    }
    await Promise.all(Array.from({ length: LANES }, (_, at) => lane(1 + at * STRIDE)))
    assert(killedCount >= Math.floor(Number(steps) / STRIDE) - LANES)
  },
)
