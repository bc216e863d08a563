/** A disk that is really full: a small tmpfs, mounted where that is allowed (T8). */
import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { readdirSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'node:test'
import { systemClock } from '../../src/base/clock.ts'
import { openBlobIndex } from '../../src/store/blob-index.ts'
import { openFsBlobStore } from '../../src/store/fs-blob-store.ts'
import { sha256, type BlobRef } from '../../src/wire/digest.ts'
import { bytesOf, inPieces, readAll, refOf } from '../contract/blob-store.ts'
import { log, StepClock, temporaryDirectory } from './support.ts'

const HOUR_MS = 60 * 60_000

/** Runs on a disk of so many bytes; says why it does not where nothing can be mounted. */
function onSmallDisk(sizeBytes: number, what: string, run: (path: string) => Promise<void>): void {
  test(what, async (context) => {
    using directory = temporaryDirectory()
    const options = `size=${sizeBytes},mode=755`
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', options, 'none', directory.path])
    if (mounted.status !== 0) {
      context.skip('a tmpfs cannot be mounted here: run as root')
      return
    }
    try {
      await run(directory.path)
    } finally {
      assert.equal(spawnSync('umount', [directory.path]).status, 0)
    }
  })
}

/** Takes all room but this. */
function fillUp(path: string, leftBytes: number): void {
  const { bavail, bsize } = statfsSync(path)
  writeFileSync(join(path, 'filler'), Buffer.alloc(bavail * bsize - leftBytes))
}

onSmallDisk(8e6, 'full-disk: is told, leaves nothing, and passes', async (directory) => {
  {
    await using store = await openFsBlobStore({ clock: systemClock(), log }, { directory })
    const small = await store.put(bytesOf(100_000))
    await assert.rejects(store.put(inPieces(bytesOf(20_000_000))), { code: 'MESH0503' })
    await assert.rejects(store.put(bytesOf(20_000_000)), { code: 'MESH0503' })
    assert.deepEqual(readdirSync(join(directory, 'tmp')), [])
    assert.deepEqual(Buffer.from((await store.read(small.digest, 100_000)) ?? []), bytesOf(100_000))
    await store.put(bytesOf(1_000_000))
  }
  await using store = await openFsBlobStore({ clock: systemClock(), log }, { directory })
  assert.equal(store.stats().count, 2)
})

onSmallDisk(
  24e6,
  'full-disk: what nobody needs makes room for a put, also where the numbers were wrong',
  async (directory) => {
    const clock = new StepClock()
    await using store = await openFsBlobStore(
      // The store never learns how little room there is.
      { clock, log, measureDisk: async () => ({ totalBytes: 1e12, freeBytes: 1e12 }) },
      { directory, floorBytes: 0 },
    )
    const idle = [await store.put(bytesOf(4e6, 1)), await store.put(bytesOf(4e6, 2))]
    clock.step(2 * HOUR_MS)
    const kept = await store.put(bytesOf(4e6, 3))
    fillUp(directory, 1e6)
    const bytes = bytesOf(3e6, 4)
    await store.put(bytes)
    assert.deepEqual(await readAll(await store.open(refOf(bytes).digest)), bytes)
    const isHere = (refs: readonly BlobRef[]): Promise<boolean[]> =>
      Promise.all(refs.map(({ digest }) => store.has(digest)))
    assert.equal((await isHere(idle)).filter(Boolean).length, 1)
    // A stream comes once: it fails, and the next one finds room.
    const stream = bytesOf(4e6, 5)
    await assert.rejects(store.put(inPieces(stream), refOf(stream)), { code: 'MESH0503' })
    await store.put(inPieces(stream), refOf(stream))
    assert.deepEqual(await isHere([...idle, kept]), [false, false, true])
    await assert.rejects(store.put(bytesOf(10e6, 6)), { code: 'MESH0503' })
    assert.deepEqual(await store.missing([kept, refOf(bytes), refOf(stream)]), [])
    assert.deepEqual(readdirSync(join(directory, 'tmp')), [])
  },
)

onSmallDisk(40e6, 'full-disk: the index goes on when there is room again', async (directory) => {
  const options = { directory: join(directory, 'index') }
  const record = { sizeBytes: 1, usedAtMs: 1, isSynced: false }
  let at = 0
  const { index } = await openBlobIndex({ log }, options)
  const fill = async (count: number): Promise<void> => {
    for (const end = at + count; at < end; at++) {
      index.set(sha256(String(at)), record)
      await index.settle()
    }
    await index.sync()
  }
  await fill(1_000)
  // Enough for the log, not for the table that is made of it: after that LevelDB refuses for ever.
  fillUp(directory, 5e6)
  await assert.rejects(fill(200_000), { code: 'MESH0503' })
  await assert.rejects(fill(1), { code: 'MESH0503' })
  assert.deepEqual(index.find(sha256('0')), record)
  rmSync(join(directory, 'filler'))
  await fill(1_000)
  assert.deepEqual(index.stats(), { count: at, bytes: at })
  await index.close()
  const again = await openBlobIndex({ log }, options)
  assert.equal(again.isNew, false)
  assert.deepEqual(again.index.stats(), { count: at, bytes: at })
  assert.equal((await again.index.unsynced()).length, at)
  await again.index.close()
})
