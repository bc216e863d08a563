/** With workers, the main thread does no big piece of work with files at a time. */
import assert from 'node:assert/strict'
import crypto from 'node:crypto'
import fs, { mkdirSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { syncBuiltinESMExports } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { test, type TestContext } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { openMaterialised } from '../../src/build/materialised.ts'
import { openFileWorkers } from '../../src/files/workers/file-workers.ts'
import { openFsBlobStore } from '../../src/store/fs-blob-store.ts'
import { log } from '../store/support.ts'

const MIB = 1024 * 1024
/** What the main thread may read, write, copy or hash in one call: one byte more shows that a file is longer. */
const BYTES_PER_CALL_MAX = 64 * 1024 + 1
/** Calls to the file system that block, between two turns of the event loop. */
const CALLS_PER_TURN_MAX = 2000

/** Watches the calls of this thread; those of workers have functions of their own. */
function watchCalls(context: TestContext): { bytesMax: number; callsMax: number } {
  const seen = { bytesMax: 0, callsMax: 0 }
  let calls = 0
  const note = (byteCount: number): void => {
    seen.bytesMax = Math.max(seen.bytesMax, byteCount)
    seen.callsMax = Math.max(seen.callsMax, ++calls)
  }
  const sizeOf = (data: unknown): number =>
    ArrayBuffer.isView(data) ? data.byteLength : String(data).length
  const watch = <A extends unknown[], R>(
    call: (...args: A) => R,
    bytes: (args: A, result: R) => number = () => 0,
  ): ((...args: A) => R) =>
    function watched(this: unknown, ...args: A): R {
      const result = call.apply(this, args)
      note(bytes(args, result))
      return result
    }
  const { mock } = context
  const { statSync } = fs
  mock.method(
    fs,
    'readSync',
    watch(fs.readSync, (_, count) => count),
  )
  mock.method(
    fs,
    'writeSync',
    watch(fs.writeSync, (_, count) => count),
  )
  mock.method(
    fs,
    'copyFileSync',
    watch(fs.copyFileSync, ([from]) => statSync(from).size),
  )
  mock.method(fs, 'statSync', watch(fs.statSync))
  mock.method(fs, 'lstatSync', watch(fs.lstatSync))
  mock.method(fs, 'openSync', watch(fs.openSync))
  mock.method(fs, 'renameSync', watch(fs.renameSync))
  mock.method(fs, 'linkSync', watch(fs.linkSync))
  mock.method(fs, 'unlinkSync', watch(fs.unlinkSync))
  mock.method(fs, 'readdirSync', watch(fs.readdirSync))
  mock.method(
    crypto,
    'hash',
    watch(crypto.hash, ([, data]) => sizeOf(data)),
  )
  const { createHash } = crypto
  mock.method(crypto, 'createHash', (algorithm: string) => {
    const made = createHash(algorithm)
    mock.method(
      made,
      'update',
      watch(made.update.bind(made), ([data]) => sizeOf(data)),
    )
    return made
  })
  syncBuiltinESMExports()
  let isOver = false
  const turn = (): void => {
    calls = 0
    if (!isOver) setImmediate(turn)
  }
  turn()
  context.after(() => {
    isOver = true
    mock.restoreAll()
    syncBuiltinESMExports()
  })
  return seen
}

test('files/workers: the main thread neither hashes nor writes what is big', async (context) => {
  const directory = mkdtempSync(join(tmpdir(), 'mesh-'))
  context.after(() => rmSync(directory, { recursive: true, force: true }))
  await using workers = openFileWorkers({ log })
  await using store = await openFsBlobStore(
    { clock: systemClock(), log, workers },
    { directory: join(directory, 'store') },
  )
  await using trees = await openMaterialised(
    { store, log, workers },
    { directory: join(directory, 'trees') },
  )
  const output = join(directory, 'out')
  for (let at = 0; at < 2000; at++) {
    if (at % 1000 === 0) mkdirSync(join(output, String(at)), { recursive: true })
    writeFileSync(join(output, String(at - (at % 1000)), `f${at}`), `${at}`)
  }
  writeFileSync(join(output, 'big'), Buffer.alloc(8 * MIB, 'big'), { mode: 0o755 })
  writeFileSync(join(directory, 'file'), '')
  truncateSync(join(directory, 'file'), 16 * MIB)

  const delay = monitorEventLoopDelay({ resolution: 1 })
  const seen = watchCalls(context)
  delay.enable()
  const stream = async function* (): AsyncGenerator<Uint8Array> {
    for (let at = 0; at < 64; at++) yield Buffer.alloc(MIB, at)
  }
  const [streamed] = await Promise.all([
    store.put(stream()),
    store.put(Buffer.alloc(8 * MIB, 'x')),
    store.putFile(join(directory, 'file'), { move: false }),
  ])
  const entry = await store.putTree(output)
  assert(entry.kind === 'dir')
  const laid = await trees.acquire(entry)
  await trees.copyOut(entry, join(directory, 'copy'))
  for await (const piece of (await store.open(streamed.digest)) ?? assert.fail())
    assert.notEqual(piece.byteLength, 0)
  delay.disable()
  laid.release()

  assert(seen.bytesMax > 0, 'nothing was watched')
  assert(seen.bytesMax <= BYTES_PER_CALL_MAX, `one call took ${seen.bytesMax} bytes`)
  assert(
    seen.callsMax > 0 && seen.callsMax <= CALLS_PER_TURN_MAX,
    `${seen.callsMax} calls in a turn`,
  )
  context.diagnostic(
    `event loop delay: p99 ${delay.percentile(99) / 1e6} ms, max ${delay.max / 1e6} ms; ` +
      `at most ${seen.bytesMax} bytes in a call, ${seen.callsMax} calls in a turn`,
  )
})
